"""Signatures of a job as files: one each, public, beside the job file as ``<job file>.<name>.sig``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from confide.canonical import canonical, parse_object
from confide.errors import ConfideError, GrantError, JobError, UsageError
from confide.ids import check_name
from confide.job import MAX_SIGNATURES, Job
from confide.keys.job_signatures import JobSignature
from confide.regular_file import read_regular

_MAX_BYTES = 16 * 1024


def signature_path(job_file: Path, name: str) -> Path:
    """Where the signature of somebody called ``name`` is looked for."""
    return job_file.with_name(f"{job_file.name}.{check_name(name, 'signer')}.sig")


def save_signature(path: Path, signature: JobSignature) -> None:
    """Write a signature's file; an older one in its place is of an older job, or the same.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        path.write_bytes(canonical(signature.to_json()) + b"\n")
    except OSError as cause:
        raise UsageError(f"cannot write {path}: {cause.strerror}", path=str(path)) from cause


def load_signature(path: Path, job: Job) -> JobSignature:
    """Read a signature of exactly ``job``.

    Raises:
        JobError: the file cannot be read.
        GrantError: it holds no signature, one of another job, or one that does not verify.
    """
    try:
        data = read_regular(path, _MAX_BYTES)
    except OSError as cause:
        raise JobError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause
    try:
        found = parse_object(data)
    except ConfideError as cause:
        raise GrantError(f"{path.name} is not a signature of a job", hint="`confide job sign` makes one", path=str(path)) from cause
    return JobSignature.verify(found, job.digest)


def beside(job_file: Path, job: Job) -> tuple[list[JobSignature], list[Path]]:
    """The signatures beside a job file that are of ``job`` as it is now, and the files that are not."""
    found, others = [], []
    for path in sorted(job_file.parent.glob("*.sig")):
        if not path.name.startswith(f"{job_file.name}."):
            continue
        try:
            found.append(load_signature(path, job))
        except (GrantError, JobError):
            others.append(path)
    return found, others


def with_signatures(job: Job, signatures: Sequence[JobSignature]) -> Job:
    """``job`` as it carries these signatures to its nodes.

    Raises:
        JobError: there are too many.
    """
    if len(signatures) > MAX_SIGNATURES:
        raise JobError(f"a job carries at most {MAX_SIGNATURES} signatures", hint="name those that owners ask for with --signature")
    return job.model_copy(update={"signatures": tuple(signature.to_json() for signature in signatures)})

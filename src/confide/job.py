"""The frozen description of a job, its canonical form and its digest.

A job says *what* runs on *which* datasets under *which* policy.  Where things lie (paths, addresses) and how much of a
machine is used is carried along but is not part of the digest: an owner approves what a job does, not where it runs.
Knows nothing of attestation, keys, engines or files on disk beyond reading the job file and its code.
"""

from __future__ import annotations

import tomllib
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from confide.canonical import Json, b64url, digest_of, from_b64url, sha256_hex
from confide.errors import JobError, UsageError
from confide.ids import JobDigest, check_name

JOB_FORMAT = "confide-job-v1"
MAX_CODE_BYTES = 8 * 1024 * 1024
"""Cap on a job's code, in bytes: a job carries a program, not data."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputSpec(_Value):
    """One input dataset.  ``dataset`` and ``signer`` (from its manifest) are in the digest, ``path`` is not."""

    path: str
    dataset: str = ""
    signer: str = ""


class OutputSpec(_Value):
    """One output dataset.  ``recipients`` (who may open it, if every input's owner agrees) are in the digest, ``path`` is not."""

    path: str
    recipients: tuple[str, ...] = ()


class BrokerSpec(_Value):
    """Where the broker is (not in the digest) and the SHA-256 of its public key (in the digest)."""

    url: str
    spki: str = Field(pattern=r"^[0-9a-f]{64}$")


class Resources(_Value):
    """How much of the machines a run may use; not in the digest.

    ``verify_inputs`` says when a changed byte is noticed: ``whole`` compares every input file with its manifest before the program
    starts (one read of all data by the driver); ``as-read`` leaves it to the authenticated reads, which see only what the program reads.
    What a program gets is authentic either way.
    """

    workers: int = Field(default=2, ge=1, le=1000)
    min_workers: int = Field(default=1, ge=1)
    cores: int = Field(default=1, ge=1, le=256)
    memory_mb: int = Field(default=1024, ge=256)
    driver_memory_mb: int = Field(default=1024, ge=256)
    refused_worker: Literal["continue", "fail"] = "continue"
    verify_inputs: Literal["whole", "as-read"] = "whole"


class Job(_Value):
    """A job: code, arguments, engine, inputs, outputs, policy and broker.

    ``files`` maps relative POSIX paths to the code's bytes; ``program`` is the one that is run.  ``policy`` is an appraisal
    policy as JSON (``confide.attest.policy`` builds and checks it): it says which nodes the client, driver and workers accept.
    """

    name: str
    program: str
    files: dict[str, bytes] = Field(repr=False)
    engine: Literal["spark"] = "spark"
    arguments: tuple[str, ...] = ()
    inputs: dict[str, InputSpec] = Field(default_factory=dict)
    outputs: dict[str, OutputSpec] = Field(default_factory=dict)
    policy: dict[str, Any]
    broker: BrokerSpec
    resources: Resources = Resources()

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return check_name(name, "job name")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.program not in self.files:
            raise ValueError(f"program {self.program!r} is not among the job's files")
        if sum(map(len, self.files.values())) > MAX_CODE_BYTES:
            raise ValueError(f"the job's code is larger than {MAX_CODE_BYTES} bytes")
        for path in self.files:
            parts = PurePosixPath(path)
            if parts.is_absolute() or ".." in parts.parts or "\\" in path or str(parts) != path:
                raise ValueError(f"not a plain relative path: {path!r}")
        for name in (*self.inputs, *self.outputs):
            check_name(name, "dataset name")
        if set(self.inputs) & set(self.outputs):
            raise ValueError("an input and an output have the same name")
        if self.resources.min_workers > self.resources.workers:
            raise ValueError("min_workers is larger than workers")
        return self

    def canonical_form(self) -> Json:
        """What the digest is over: everything that decides what the job does and whom it trusts.

        Raises:
            JobError: an input is not pinned to a dataset and signer yet (``confide.jobs.submit.pin_inputs`` does that).
        """
        unpinned = sorted(name for name, spec in self.inputs.items() if not spec.dataset or not spec.signer)
        if unpinned:
            raise JobError(f"inputs are not pinned to a dataset: {', '.join(unpinned)}", hint="pin them from their manifests first")
        return {
            "format": JOB_FORMAT,
            "name": self.name,
            "engine": self.engine,
            "program": self.program,
            "files": {path: sha256_hex(data) for path, data in self.files.items()},
            "arguments": list(self.arguments),
            "inputs": {name: {"dataset": i.dataset, "signer": i.signer} for name, i in self.inputs.items()},
            "outputs": {name: {"recipients": sorted(o.recipients)} for name, o in self.outputs.items()},
            "policy": self.policy,
            "broker": {"spki": self.broker.spki},
        }

    @property
    def digest(self) -> JobDigest:
        """SHA-384 of the canonical form (RFC 8785), lower-case hex."""
        return JobDigest(digest_of(self.canonical_form()))

    def to_json(self) -> Json:
        """The whole job, code included, as JSON for the attested channel."""
        data = self.model_dump(mode="json", exclude={"files"})
        return {**data, "files": {path: b64url(code) for path, code in self.files.items()}}

    @classmethod
    def from_json(cls, data: Json) -> Job:
        """The inverse of :meth:`to_json`.

        Raises:
            JobError: the object is not a job.
        """
        files = data.get("files")
        if not isinstance(files, dict) or not all(isinstance(code, str) for code in files.values()):
            raise JobError("a job needs its files")
        return cls.build({**data, "files": {path: from_b64url(code) for path, code in files.items()}})

    @classmethod
    def build(cls, data: Json) -> Job:
        """Validate ``data`` as a job.

        Raises:
            JobError: with the first field that is wrong.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as cause:
            first = cause.errors(include_input=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "job"
            raise JobError(f"{field}: {first['msg']}", field=field) from None
        except UsageError as cause:
            raise JobError(cause.message, hint=cause.hint) from None

    @classmethod
    def load(cls, path: Path) -> Job:
        """Read a job file (TOML).  Paths in it are relative to the file's folder; see ``docs/reference/job-file.md``.

        ``program`` and ``files`` name the code; ``policy`` is a table, or the name of a policy file (JSON or TOML).

        Raises:
            JobError: the file or a file that it names cannot be read, or is not a valid job.
        """
        table = _read_table(path)
        folder = path.parent
        data = dict(table)
        names = [str(data.get("program", "")), *map(str, data.get("files", []))]
        data["files"] = {str(PurePosixPath(name)): _read(folder / name) for name in names if name}
        if isinstance(data.get("policy"), str):
            data["policy"] = _read_table(folder / data["policy"])
        for kind in ("inputs", "outputs"):
            for name, spec in dict(data.get(kind, {})).items():
                if isinstance(spec, dict) and isinstance(spec.get("path"), str):
                    data[kind] = {**data[kind], name: {**spec, "path": str((folder / spec["path"]).resolve())}}
        return cls.build(data)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as cause:
        raise JobError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause


def _read_table(path: Path) -> Json:
    text = _read(path).decode("utf-8", errors="replace")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as cause:
        raise JobError(f"{path.name} is not TOML: {cause}", path=str(path)) from cause

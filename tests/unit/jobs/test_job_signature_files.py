"""Signatures of a job as files beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from confide.crypto.sign import SigningKey
from confide.errors import GrantError, JobError, UsageError
from confide.job import Job
from confide.jobs.signatures import beside, load_signature, save_signature, signature_path, with_signatures
from confide.keys.job_signatures import JobSignature

KEY = SigningKey.generate()


def job(code: bytes = b"pass") -> Job:
    spki = "5a" * 32
    policy = {"name": "p", "measurements": {"sgx": ["ab" * 32]}}
    return Job.build({
        "name": "j", "program": "main.py", "files": {"main.py": code}, "policy": policy, "broker": {"url": "https://h", "spki": spki},
    })  # fmt: skip


def test_signature_is_the_same_after_its_file_and_an_older_one_is_replaced(tmp_path: Path) -> None:
    path = signature_path(tmp_path / "job.toml", "ada")
    for one in (job(b"older"), job()):
        made = JobSignature.sign(KEY, one.digest)
        save_signature(path, made)
    assert path.name == "job.toml.ada.sig"
    assert load_signature(path, job()) == made


def test_those_beside_the_file_that_are_of_the_job_are_found_and_others_named(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    save_signature(signature_path(file, "ada"), JobSignature.sign(KEY, job().digest))
    save_signature(signature_path(file, "old"), JobSignature.sign(KEY, job(b"older").digest))
    save_signature(signature_path(tmp_path / "other.toml", "ada"), JobSignature.sign(KEY, job().digest))
    (tmp_path / "job.toml.text.sig").write_text("no signature")
    (tmp_path / "job.toml.folder.sig").mkdir()
    found, others = beside(file, job())
    assert [signature.signer_digest for signature in found] == [KEY.spki_digest]
    assert [path.name for path in others] == ["job.toml.folder.sig", "job.toml.old.sig", "job.toml.text.sig"]


def test_job_carries_its_signatures_and_keeps_its_digest() -> None:
    signed = with_signatures(job(), [JobSignature.sign(KEY, job().digest)])
    assert signed.digest == job().digest
    assert Job.from_json(signed.to_json()) == signed
    assert len(signed.signatures) == 1


def test_more_signatures_than_a_job_carries_are_refused() -> None:
    many = [JobSignature.sign(KEY, job().digest)] * 17
    with pytest.raises(JobError, match="at most 16"):
        with_signatures(job(), many)
    with pytest.raises(JobError, match="signatures"):
        Job.from_json({**job().to_json(), "signatures": [one.to_json() for one in many]})


def test_what_cannot_be_read_or_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JobError):
        load_signature(tmp_path / "none.sig", job())
    (tmp_path / "long.sig").write_bytes(b"{" + b" " * 20_000 + b"}")
    (tmp_path / "other.sig").write_bytes(b"{")
    for name, error in (("long.sig", JobError), ("other.sig", GrantError)):
        with pytest.raises(error):
            load_signature(tmp_path / name, job())
    with pytest.raises(UsageError):
        save_signature(tmp_path / "nowhere" / "x.sig", JobSignature.sign(KEY, job().digest))
    with pytest.raises(UsageError):
        signature_path(tmp_path / "job.toml", "../x")

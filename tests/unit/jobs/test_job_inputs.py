"""A job's inputs on a node: whole files are compared with the manifest, and all nodes must see the same manifest."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.commit import create_dataset
from confide.errors import DataError, ManifestError
from confide.ids import new_dataset_id
from confide.job import InputSpec, Job
from confide.jobs.inputs import VerifiedInput, digests, open_inputs, require_same, verify_whole


@pytest.fixture
def job(tmp_path: Path) -> Job:
    dataset, secret, signer = new_dataset_id(), SecretBytes.random(), SigningKey.generate()
    wrapped = wrap(SecretBytes.random(), secret, key="airline/people", version=1, dataset=dataset)
    create_dataset(
        pa.table({"name": ["a", "b"], "unread": ["c", "d"]}), tmp_path / "people", name="people", owner="airline", dataset=dataset,
        dataset_key=secret, wrapped=wrapped, signer=signer, now=datetime.now(UTC), register=lambda _: None,
    )  # fmt: skip
    spec = InputSpec(path=str(tmp_path / "people"), dataset=dataset, signer=signer.spki_digest)
    broker = {"url": "https://127.0.0.1:1", "spki": "0" * 64}
    return Job.build({"name": "j", "program": "p.py", "files": {"p.py": b""}, "inputs": {"people": spec}, "policy": {}, "broker": broker})


def only(opened: dict[str, VerifiedInput]) -> VerifiedInput:
    (found,) = opened.values()
    return found


def test_untouched_files_are_accepted(job: Job) -> None:
    opened = open_inputs(job)
    verify_whole(opened.values())
    require_same(opened, digests(opened))


def test_any_changed_byte_is_noticed_whether_or_not_it_would_be_read(job: Job) -> None:
    opened = open_inputs(job)
    file = only(opened).folder / only(opened).manifest.files[0].path
    good = file.read_bytes()
    for at in range(0, len(good), len(good) // 20):
        file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(DataError):
            verify_whole(opened.values())


def test_a_node_that_sees_another_manifest_than_the_driver_refuses(job: Job) -> None:
    with pytest.raises(ManifestError, match="another manifest here"):
        require_same(open_inputs(job), {"people": "0" * 96})
    with pytest.raises(ManifestError):
        require_same(open_inputs(job), {})

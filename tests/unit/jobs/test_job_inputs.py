"""A job's inputs on a node: whole files are compared with the manifest, and all nodes must see the same manifest."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from confide.canonical import canonical
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.commit import add_snapshot, create_dataset
from confide.data.manifest import MANIFEST_NAME, Written, sign_manifest
from confide.data.next_snapshot import Mode, following
from confide.data.snapshots import commit_snapshot, load_manifest
from confide.errors import DataError, ManifestError, UsageError
from confide.ids import RunId, new_dataset_id
from confide.job import InputSpec, Job
from confide.jobs.inputs import InputLengths, VerifiedInput, as_on_driver, digests, open_inputs, verify_whole

SIGNER, SECRET = SigningKey.generate(), SecretBytes.random()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    dataset, secret, signer = new_dataset_id(), SECRET, SIGNER
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
    assert as_on_driver(opened, digests(opened)) == opened


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
        as_on_driver(open_inputs(job), {"people": "0" * 96})
    with pytest.raises(ManifestError):
        as_on_driver(open_inputs(job), {})


def add(job: Job, mode: Mode = "append", signer: SigningKey = SIGNER) -> None:
    """Another snapshot of the job's input."""
    parent = load_manifest(Path(job.inputs["people"].path))
    rows = pa.table({"name": ["e"], "unread": ["f"]})
    add_snapshot(rows, parent, mode, dataset_key=SECRET, signer=signer, now=datetime.now(UTC))


def at_snapshot(job: Job, number: int) -> Job:
    spec = job.inputs["people"].model_copy(update={"snapshot": number})
    return job.model_copy(update={"inputs": {"people": spec}})


def test_a_job_reads_the_newest_snapshot_or_the_one_that_it_names(job: Job) -> None:
    add(job)
    assert [only(open_inputs(one)).manifest.rows for one in (job, at_snapshot(job, 1), at_snapshot(job, 2))] == [3, 2, 3]
    with pytest.raises(UsageError, match="no snapshot 3"):
        open_inputs(at_snapshot(job, 3))
    assert len({job.digest, at_snapshot(job, 1).digest, at_snapshot(job, 2).digest}) == 3


def test_what_the_broker_is_shown_is_the_newest_snapshot_as_of_then(job: Job) -> None:
    found = only(open_inputs(job))
    assert found.vouched() == found.envelope
    add(job)
    add(job, "overwrite")
    assert found.vouched() == load_manifest(found.folder).envelope != found.envelope
    assert only(open_inputs(at_snapshot(job, 2))).vouched() == load_manifest(found.folder).envelope


def test_a_newest_snapshot_that_does_not_come_after_this_one_is_not_shown_for_it(job: Job, tmp_path: Path) -> None:
    found = only(open_inputs(job))
    shutil.copytree(found.folder, tmp_path / "copy")
    add(job)
    mine = only(open_inputs(job))
    other = job.inputs["people"].model_copy(update={"path": str(tmp_path / "copy")})
    forked = job.model_copy(update={"inputs": {"people": other}})
    add(forked, "overwrite")
    add(forked)
    shutil.rmtree(found.folder)
    (tmp_path / "copy").rename(found.folder)
    with pytest.raises(ManifestError, match="not a snapshot before"):
        mine.vouched()


def test_a_newest_snapshot_of_another_signer_is_not_shown(job: Job) -> None:
    found = only(open_inputs(job))
    add(job, signer=SigningKey.generate())
    with pytest.raises(ManifestError):
        found.vouched()
    with pytest.raises(ManifestError, match="another key than the job pins"):
        open_inputs(job)


def test_a_later_runs_snapshot_vouches_for_an_earlier_one_of_a_run(job: Job, tmp_path: Path) -> None:
    """Each run signs with a key of its own; the broker knows which of them signs for the dataset."""
    first = load_manifest(Path(job.inputs["people"].path))
    made = replace(first.unverified, owner=None, run=RunId("first-1"))
    (first.folder / MANIFEST_NAME).write_bytes(canonical(sign_manifest(made, SIGNER)))
    parent, later = load_manifest(first.folder), SigningKey.generate()
    written = Written(made.kind, (replace(made.files[0], path="v-2/other.parquet"),), made.schema)
    following_one = following(written, parent, "overwrite", signer=later, now=datetime.now(UTC), run=RunId("second-1"))
    found = only(open_inputs(job))
    commit_snapshot(parent, following_one, staged=tmp_path)
    assert found.vouched() == following_one.envelope
    assert only(open_inputs(job)).manifest == found.manifest
    with pytest.raises(ManifestError):
        found.wrapped()


def test_a_node_that_comes_later_reads_what_the_driver_reads(job: Job) -> None:
    on_driver = open_inputs(job)
    add(job)
    here = open_inputs(job)
    assert only(here).manifest.rows == 3
    agreed = only(as_on_driver(here, digests(on_driver)))
    assert (agreed.manifest.rows, agreed.digest) == (2, only(on_driver).digest)


def test_files_of_a_snapshot_that_is_being_written_do_not_stop_a_run(job: Job) -> None:
    opened = open_inputs(job)
    (only(opened).folder / "part-of-another.parquet").write_bytes(b"PARE....PARE")
    verify_whole(opened.values())


def test_a_snapshot_that_another_key_signed_is_not_read_although_the_newest_vouches_for_it(job: Job) -> None:
    add(job, signer=SigningKey.generate())
    add(job)
    assert only(open_inputs(job)).manifest.snapshot == 3
    with pytest.raises(ManifestError):
        open_inputs(at_snapshot(job, 2))


def test_folders_of_inputs_are_listed_as_the_manifest_has_them(job: Job) -> None:
    opened = open_inputs(job)
    found = only(opened)
    (found.folder / "stray").write_bytes(b"")
    entries = [replace(found.manifest.files[0], path=path) for path in ("a/b/2.csv", "a/b/1.csv", "a/3.csv", "4.csv")]
    lengths = InputLengths()
    lengths.know([replace(found, manifest=replace(found.manifest, files=tuple(entries)))])

    def names(folder: str, after: str = "") -> object:
        return lengths.listing({"path": f"{found.folder}{folder}", "after": after})["names"]

    assert (names(""), names("/a"), names("/a/b")) == (["4.csv", "a"], ["3.csv", "b"], ["1.csv", "2.csv"])
    assert (names("/a/b", "1.csv"), names("/a/b", "2.csv")) == (["2.csv"], [])
    assert names("/other") is None
    assert lengths.listing({"path": str(found.folder.parent)})["names"] is None


def test_a_long_listing_comes_in_pieces(job: Job) -> None:
    found = only(open_inputs(job))
    entries = tuple(replace(found.manifest.files[0], path=f"{n:05}.csv") for n in range(5000))
    lengths = InputLengths()
    lengths.know([replace(found, manifest=replace(found.manifest, files=entries))])
    seen, last = [], ""
    while names := lengths.listing({"path": str(found.folder), "after": last})["names"]:
        assert len(names) <= 4096
        seen, last = seen + names, names[-1]
    assert seen == [entry.path for entry in entries]

"""Runs that go on with a dataset at a URL: the same rules as in folders, one conditional write commits, and who loses leaves nothing."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pytest
from support.lineage import Lineage, Run, X
from support.manifests import listed
from support.outputs import output_key
from support.remote_world import LATER
from support.s3_gate import S3Gate

from confide.canonical import canonical
from confide.crypto.sign import SigningKey
from confide.data.folder import listed_files, refuse_foreign
from confide.data.manifest import MANIFEST_NAME, SNAPSHOTS
from confide.data.next_snapshot import Mode
from confide.data.outside import look
from confide.data.places import RemoteFolder, remote_folder
from confide.data.remote_cleaning import clean_remote
from confide.data.schema import schema_json
from confide.data.snapshots import history, load_manifest, manifest_path, snapshot_numbered, verify_manifests
from confide.errors import (
    ConfideError,
    DataError,
    ExtraMissingError,
    IntegrityError,
    JobError,
    JobFailedError,
    ManifestError,
    OutputExistsError,
    SnapshotConflictError,
    UnavailableError,
    UsageError,
)
from confide.ids import new_dataset_id
from confide.job import Job
from confide.jobs.parents import Parent, open_parents
from confide.jobs.sending import open_sending
from confide.jobs.submit import pin_datasets

FIRST, SECOND = f"{SNAPSHOTS}/1.json", f"{SNAPSHOTS}/2.json"
OTHER = pa.schema([("x", pa.int64()), ("y", pa.int64())])


class Remote(Lineage):
    """One at a URL, which is right in every file whenever it is looked at."""

    url: str

    @property
    def there(self) -> RemoteFolder:
        return remote_folder(self.url)

    def appended(self, name: str, *rows: int, mode: Mode = "append", schema: pa.Schema = X) -> Run:
        run = self.run(name, mode)
        run.save(*rows, schema=schema)
        return run

    def check(self, *, foreign: bool = False) -> list[int]:
        """The rows of the newest snapshot, if everything there is right; ``foreign``: files may be there that none lists."""
        newest = load_manifest(self.there)
        chain = [one.unverified for one in verify_manifests(newest)]
        if not foreign:
            refuse_foreign(self.there, {*listed_files(*chain), *map(manifest_path, chain)})
        assert not list(self.place.parent.iterdir())  # nothing of a run is left where it was staged
        return self.newest()[1]


@pytest.fixture
def lineage(remote_url: str, tmp_path: Path) -> Remote:
    return Remote(tmp_path / "staging", remote_url)


@pytest.fixture
def gated(gate: S3Gate, tmp_path: Path) -> Remote:
    """Behind a gate, which says no when it is told to."""
    return Remote(tmp_path / "staging", "s3://bkt/d")


# --- append and overwrite ---------------------------------------------------------------------------------------------


def test_two_runs_append_and_all_rows_are_read_in_every_snapshot(lineage: Remote) -> None:
    for name, row in (("second", 3), ("third", 4)):
        before = load_manifest(lineage.there)
        run = lineage.appended(name, row)
        run.publish()
        manifest, _ = lineage.newest()
        assert (manifest.parent, manifest.run, manifest.signer) == (before.digest, name, run.signer.public)
    newest = load_manifest(lineage.there)
    assert lineage.check() == [1, 2, 3, 4]
    assert [lineage.rows(snapshot_numbered(newest, number).unverified) for number in (1, 2, 3)] == [[1, 2], [1, 2, 3], [1, 2, 3, 4]]
    assert look(newest, newest.unverified).snapshots == (3, 2, 1)
    assert (lineage.there / MANIFEST_NAME).open().read() == canonical(newest.envelope)


def test_a_run_overwrites_and_the_earlier_snapshot_stays(lineage: Remote) -> None:
    lineage.appended("second", 7, mode="overwrite", schema=OTHER).publish()
    assert (lineage.check(), len(lineage.newest()[0].files)) == ([7], 1)
    (earlier,) = history(load_manifest(lineage.there))
    assert lineage.rows(earlier.unverified) == [1, 2]


def test_nothing_is_visible_before_the_commit_and_only_the_runs_own_files_are_sent(lineage: Remote, monkeypatch: Any) -> None:
    write, sent = type(lineage.there).write, list[str]()

    def watched(self: RemoteFolder, path: str, source: BinaryIO) -> None:
        sent.append(path)
        write(self, path, source)

    before, run = lineage.listed(), lineage.appended("second", 3)
    monkeypatch.setattr(type(lineage.there), "write", watched)
    run.outputs.send()
    assert lineage.newest()[1] == [1, 2]
    assert sorted(lineage.listed()) == sorted([*before, *sent])
    assert [Path(path).name for path in sent] == ["part-3.parquet"]
    run.outputs.publish()
    run.outputs.close()
    assert lineage.check() == [1, 2, 3]


def test_what_does_not_fit_is_refused_before_anything_is_sent(lineage: Remote) -> None:
    before, run = lineage.listed(), lineage.run("second", "append")
    with pytest.raises(DataError, match="the columns are not those of the dataset: y"):
        run.save(3, schema=OTHER)
    run.outputs.close()
    with pytest.raises(UsageError, match="the job file says append"):
        lineage.run("third", "append").begin(mode="overwrite")
    assert lineage.listed() == before


def test_what_was_not_sent_is_not_committed(lineage: Remote) -> None:
    before, run = lineage.listed(), lineage.appended("second", 3)
    with pytest.raises(JobFailedError, match="not sent"):
        run.outputs.publish()
    run.outputs.close()
    assert lineage.listed() == before


def test_a_run_that_ends_after_it_has_sent_takes_its_files_away_and_no_others(lineage: Remote) -> None:
    """As one that the broker tells that another was first, or whose key is withdrawn."""
    before, run = lineage.listed(), lineage.appended("second", 3)
    run.outputs.send()
    assert len(lineage.listed()) == len(before) + 1
    run.outputs.close()
    assert lineage.listed() == before
    assert lineage.check() == [1, 2]


# --- two runs ---------------------------------------------------------------------------------------------------------


def test_of_two_runs_one_wins_and_the_files_of_the_other_are_gone(lineage: Remote) -> None:
    one, two = lineage.appended("one", 3), lineage.appended("two", 4)
    two.outputs.send()
    one.publish()
    with pytest.raises(SnapshotConflictError, match="snapshot 2 first") as told:
        two.outputs.publish()
    two.outputs.close()
    assert "nothing of this run is visible" in str(told.value.hint)
    assert lineage.check() == [1, 2, 3]


def test_the_storage_decides_in_the_last_moment(lineage: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other run commits after this one has looked: only one can make the snapshot's file."""
    one, two = lineage.appended("one", 3), lineage.appended("two", 4)
    coming = [one]

    def another_is_faster(_: Parent) -> None:
        if coming and two.outputs._sending._whole:  # it has sent, and is about to commit
            coming.pop().publish()

    monkeypatch.setattr(Parent, "require_unchanged", another_is_faster)
    with pytest.raises(SnapshotConflictError, match="snapshot 2 first"):
        two.publish()
    assert lineage.check() == [1, 2, 3]


def test_a_run_that_lost_before_it_sends_does_not_send(lineage: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = lineage.appended("one", 3), lineage.appended("two", 4)
    one.publish()
    monkeypatch.setattr(type(lineage.there), "write", lambda *_: pytest.fail("it was sent"))
    with pytest.raises(SnapshotConflictError):
        two.publish()
    assert lineage.check() == [1, 2, 3]


def test_an_end_in_the_very_moment_of_the_commit_takes_no_file_of_it_away(lineage: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    create = type(lineage.there).create

    def interrupted(self: RemoteFolder, path: str, data: bytes) -> bool:
        made = create(self, path, data)
        if path == SECOND:
            raise KeyboardInterrupt
        return made

    run = lineage.appended("second", 3)
    monkeypatch.setattr(type(lineage.there), "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.publish()
    assert lineage.check() == [1, 2, 3]


def test_a_new_output_of_a_run_that_loses_is_not_there_either(lineage: Remote, tmp_path: Path) -> None:
    place, key = tmp_path / "here" / "b", output_key()
    run = Run(lineage, "second", Parent(load_manifest(lineage.there), "append"), others={"b": place})
    run.hold("b", key)
    run.save(3)
    run.task(run.begin("b"), 9, key=key, root=place)
    run.outputs.commit("b", "parquet", schema_json(X)["spark"])
    run.outputs.send()
    lineage.appended("faster", 5).publish()
    with pytest.raises(SnapshotConflictError):
        run.outputs.publish()
    run.outputs.close()
    assert not list(place.parent.iterdir())
    assert lineage.check() == [1, 2, 5]


# --- a storage that fails, or lies --------------------------------------------------------------------------------------


def test_a_storage_that_ignores_conditional_writes_is_refused(gated: Remote, gate: S3Gate) -> None:
    """It would let two runs win, and the snapshot of one be lost."""
    gate.drops = frozenset({"if-none-match"})
    with pytest.raises(UnavailableError, match="told not to"):
        gated.appended("second", 3).publish()
    gate.drops = frozenset()
    assert gated.check() == [1, 2]
    gated.appended("third", 4).publish()
    gate.drops = frozenset({"if-none-match"})
    with pytest.raises(UnavailableError, match="told not to"):
        gated.appended("fourth", 5).publish()
    assert gated.check() == [1, 2, 4]


@pytest.mark.parametrize("at", ["part-4", FIRST])
def test_a_storage_that_fails_in_the_middle_is_left_as_it_was(gated: Remote, gate: S3Gate, at: str) -> None:
    run = gated.appended("second", 3)
    run.save(4, mode="append")
    gate.before = lambda method, path: (503, "SlowDown") if method == "PUT" and at in path else None
    with pytest.raises(UnavailableError, match="SlowDown"):
        run.publish()
    gate.before = lambda *_: None
    assert gated.check() == [1, 2]


def test_a_storage_that_is_busy_is_waited_for(gated: Remote, gate: S3Gate) -> None:
    run = gated.appended("second", 3)
    busy = gate.be_busy("part-", "1.json", "2.json", MANIFEST_NAME, times=2)
    run.publish()
    assert set(busy.values()) == {0}
    assert gated.check() == [1, 2, 3]


@pytest.mark.parametrize("times", [1, 100])
def test_a_commit_whose_answer_is_lost_is_looked_up(gated: Remote, gate: S3Gate, times: int) -> None:
    cut: list[str] = []

    def answer_is_lost(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(SECOND) and len(cut) < times:
            cut.append(path)
            raise ConnectionError

    run = gated.appended("second", 3)
    gate.after = answer_is_lost
    run.publish()
    assert cut
    assert gated.check() == [1, 2, 3]


def test_a_commit_whose_answer_is_lost_with_the_storage_takes_no_file_away(gated: Remote, gate: S3Gate) -> None:
    def all_is_lost(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(SECOND):
            gate.always = (503, "SlowDown")
            raise ConnectionError

    run = gated.appended("second", 3)
    gate.after = all_is_lost
    with pytest.raises(UnavailableError) as told:
        run.publish()
    assert "data log s3://bkt/d" in str(told.value.hint)
    gate.after, gate.always = lambda *_: None, None
    assert gated.check() == [1, 2, 3]


def test_of_a_commit_that_is_refused_in_the_end_nobody_knows_and_a_clean_up_takes_its_files(gated: Remote, gate: S3Gate) -> None:
    run = gated.appended("second", 3)
    gate.before = lambda method, path: (503, "SlowDown") if method == "PUT" and path.endswith(SECOND) else None
    with pytest.raises(UnavailableError, match="SlowDown"):
        run.publish()
    gate.before = lambda *_: None
    assert gated.check(foreign=True) == [1, 2]
    assert len(clean_remote(gated.there, keep=None, before=LATER, remove=True).files) == 1
    assert gated.check() == [1, 2]


def test_what_a_killed_driver_sent_is_removed_by_a_clean_up_and_nothing_else(s3: Any, tmp_path: Path) -> None:
    lineage = Remote(tmp_path / "staging", "s3://bkt/d")
    before, run = lineage.listed(), lineage.appended("second", 3)
    run.outputs.send()
    left = set(lineage.listed()) - set(before)
    assert clean_remote(lineage.there, keep=None, before=LATER, remove=True).files == sorted(left)
    assert lineage.listed() == before
    with pytest.raises(IntegrityError, match="does not have what was sent"):  # it was alive: nothing is committed that is not there
        run.outputs.publish()
    run.outputs.close()
    assert lineage.check() == [1, 2]


def test_a_wrong_byte_at_the_storage_ends_the_run_and_nothing_stays(lineage: Remote, monkeypatch: Any) -> None:
    write = type(lineage.there).write

    def lying(self: RemoteFolder, path: str, source: BinaryIO) -> None:
        data = bytearray(source.read())
        data[len(data) // 2] ^= 1
        write(self, path, io.BytesIO(bytes(data)))

    run = lineage.appended("second", 3)
    monkeypatch.setattr(type(lineage.there), "write", lying)
    with pytest.raises(IntegrityError, match="other bytes"):
        run.publish()
    assert lineage.check() == [1, 2]


def test_a_manifest_that_was_exchanged_since_the_run_began_ends_it(lineage: Remote, tmp_path: Path) -> None:
    other = Remote(tmp_path / "other", f"{lineage.url}-other")
    run = lineage.appended("second", 3)
    run.outputs.send()
    own = load_manifest(lineage.there).envelope
    lineage.there.replace(MANIFEST_NAME, canonical(load_manifest(other.there).envelope))
    with pytest.raises(ManifestError, match="was exchanged"):
        run.outputs.publish()
    run.outputs.close()
    lineage.there.replace(MANIFEST_NAME, canonical(own))
    assert lineage.check() == [1, 2]


def test_another_manifest_in_the_place_of_the_parent_is_refused(lineage: Remote, tmp_path: Path) -> None:
    other = Remote(tmp_path / "other", f"{lineage.url}-other")
    run = lineage.appended("second", 3)
    lineage.there.create(FIRST, canonical(load_manifest(other.there).envelope))
    with pytest.raises(ManifestError, match="to go on from"):
        run.publish()
    lineage.there.remove([FIRST])
    assert lineage.check() == [1, 2]


# --- the job ------------------------------------------------------------------------------------------------------------


def job(url: str, *, inputs: dict[str, Any] | None = None, **output: Any) -> Job:
    given: dict[str, Any] = {"path": url, "mode": "append", **output}
    return Job.build({
        "name": "j", "program": "p.py", "files": {"p.py": b""}, "policy": {"name": "p"}, "engine": "polars", "inputs": inputs or {},
        "broker": {"url": "https://127.0.0.1:1", "spki": "0" * 64}, "outputs": {"a": given},
    })  # fmt: skip


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., str]:
    """Puts a dataset's manifest at a URL; answers its id."""

    def made(url: str, **more: Any) -> str:
        dataset = new_dataset_id()
        listed(tmp_path / "listed", SigningKey.generate(), dataset, **{"owner": None, "run": "first-1", **more})
        remote_folder(url).create(MANIFEST_NAME, (tmp_path / "listed" / MANIFEST_NAME).read_bytes())
        return str(dataset)

    return made


MEMORY = pytest.mark.parametrize("remote_url", ["memory://urls/d"], indirect=True)


@MEMORY
def test_a_client_that_sees_the_storage_pins_what_is_there(remote_url: str, put: Callable[..., str]) -> None:
    assert pin_datasets(job(remote_url)).outputs["a"].dataset == ""
    dataset = put(remote_url)
    assert pin_datasets(job(remote_url)).outputs["a"].dataset == dataset
    assert pin_datasets(job(remote_url, mode="error")).outputs["a"].dataset == ""


@MEMORY
def test_an_owners_own_dataset_is_not_gone_on_with(remote_url: str, put: Callable[..., str]) -> None:
    put(remote_url, owner="airline", run=None)
    with pytest.raises(OutputExistsError, match="a dataset of airline"):
        pin_datasets(job(remote_url))


def test_what_the_job_names_is_not_looked_at_by_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confide.jobs.submit.remote_folder", lambda *_: pytest.fail("the client looked"))
    named = job("memory://nowhere/d", dataset="11" * 16)
    for shares in (True, False):
        assert pin_datasets(named, shares_files=shares).digest == named.digest


@pytest.mark.parametrize("failure", [UnavailableError("no credentials"), ExtraMissingError("no boto3")])
def test_a_client_without_a_credential_is_told_to_name_the_dataset(failure: ConfideError, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> RemoteFolder:
        raise failure

    monkeypatch.setattr("confide.jobs.submit.remote_folder", refuse)
    with pytest.raises(type(failure)) as told:
        pin_datasets(job("memory://nowhere/d"))
    assert "`dataset`" in str(told.value.hint)
    with pytest.raises(UsageError) as told:
        pin_datasets(job("memory://nowhere/d"), shares_files=False)
    assert "`dataset`" in str(told.value.hint)


@MEMORY
def test_the_driver_goes_on_with_the_dataset_that_the_job_pins_and_no_other(remote_url: str, put: Callable[..., str]) -> None:
    dataset = put(remote_url)
    pinned = job(remote_url, dataset=dataset)
    assert open_parents(pinned, open_sending(pinned, None).folders)["a"].manifest.unverified.dataset == dataset
    other = job(remote_url, dataset="11" * 16)
    with pytest.raises(ManifestError, match="another dataset than the job pins"):
        open_parents(other, open_sending(other, None).folders)
    with pytest.raises(OutputExistsError) as told:
        open_sending(job(remote_url), None)
    assert "`dataset`" in str(told.value.hint)


@MEMORY
def test_a_dataset_that_is_not_there_or_not_signed_is_refused_by_the_driver(remote_url: str, put: Callable[..., str]) -> None:
    missing = job(remote_url, dataset="11" * 16)
    folders = open_sending(missing, None).folders
    with pytest.raises(ManifestError, match="no manifest"):
        open_parents(missing, folders)
    pinned = job(remote_url, dataset=put(remote_url))
    folder = remote_folder(remote_url)
    envelope = load_manifest(folder).envelope
    signature = envelope["signatures"][0]
    signature["sig"] = ("B" if signature["sig"][0] != "B" else "C") + signature["sig"][1:]
    folder.replace(MANIFEST_NAME, canonical(envelope))
    folders = open_sending(pinned, None).folders
    with pytest.raises(ConfideError, match="signature"):
        open_parents(pinned, folders)


@MEMORY
def test_a_dataset_may_be_read_and_gone_on_with_by_one_job_and_lies_in_no_other(remote_url: str, put: Callable[..., str]) -> None:
    dataset, signer = put(remote_url), "0" * 64

    def both(place: str) -> Job:
        return job(remote_url, dataset=dataset, inputs={"p": {"path": place, "dataset": dataset, "signer": signer}})

    assert "a" in open_sending(both(f"{remote_url}/"), None)
    for place in (f"{remote_url}/deeper", remote_url.rpartition("/")[0]):
        with pytest.raises(JobError, match="in each other"):
            open_sending(both(place), None)

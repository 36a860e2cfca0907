"""`data encrypt --resume` at URLs: what was sent is not sent again, what others read is never taken away, and nothing is done twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.remote_work import Work
from support.remote_world import LATER, RemoteWorld, table
from support.s3_gate import S3Gate
from tests.support.killed import killed_at, random_calls

from confide.canonical import Json
from confide.data import table_files
from confide.data.journal import Journal
from confide.data.manifest import MANIFEST_NAME, FileEntry
from confide.data.places import RemoteFolder, S3Folder, remote_folder
from confide.data.remote_cleaning import clean_remote
from confide.data.remote_staging import RemoteAttempt
from confide.data.snapshots import load_manifest
from confide.errors import DataError, IntegrityError, OutputExistsError, SnapshotConflictError, UnavailableError, UsageError

ROWS = 10


@pytest.fixture(autouse=True)
def _short_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", ROWS)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Rows of five files."""
    made = tmp_path / "rows.csv"
    made.write_text("x\n" + "".join(f"{n}\n" for n in range(2, 2 + 5 * ROWS)), encoding="utf-8")
    return made


VALUES = [1, *range(2, 2 + 5 * ROWS)]


@pytest.fixture
def work(gate: S3Gate, source: Path, tmp_path: Path) -> Work:
    """An append to a dataset that is there."""
    RemoteWorld("s3://bkt/d")
    return Work("s3://bkt/d", source, tmp_path / "uploads")


@pytest.fixture
def new(gate: S3Gate, source: Path, tmp_path: Path) -> Work:
    """A new dataset."""
    return Work("s3://bkt/new", source, tmp_path / "uploads")


def refuse(gate: S3Gate, *, after: int) -> None:
    """So many files are taken, and then nothing is."""
    taken: list[str] = []

    def busy(method: str, path: str) -> tuple[int, str] | None:
        if method == "PUT" and "part-" in path:
            taken.append(path)
        return (503, "SlowDown") if len(taken) > after else None

    gate.before = busy


def watch(gate: S3Gate) -> list[str]:
    """Paths of files that are written from now on, also by a copy onto themselves."""
    written: list[str] = []
    gate.before = lambda method, path: written.append(path) if method == "PUT" and "part-" in path else None  # type: ignore[func-returns-value]
    return written


def sent(work: Work) -> list[str]:
    listed = {entry.path for entry in load_manifest(work.folder).unverified.files} if MANIFEST_NAME in work.folder.files() else set()
    return sorted(path for path in work.folder.files() if path.startswith("part-") and path not in listed)


# --- what is finished -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["append", "create"])
def test_what_was_sent_is_not_sent_again(kind: str, work: Work, new: Work, gate: S3Gate) -> None:
    one = work if kind == "append" else new
    run = one.append if kind == "append" else one.create
    refuse(gate, after=3)
    with pytest.raises(UnavailableError, match="SlowDown") as told:
        run(resume=True)
    assert "--resume" in str(told.value.hint)
    gate.before = lambda *_: None
    before, there = sent(one), {path: version.token for path, version in one.folder.files().items()}
    assert len(before) == 3
    assert [path.name for path in one.left()] == ["journal"]
    put: list[int] = []
    write = S3Folder.write

    def counted(self: S3Folder, path: str, file: Any) -> None:
        put.append(path.startswith("part-"))
        write(self, path, file)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(S3Folder, "write", counted)
        made, done = run(resume=True)
    assert (sum(put), done, one.left()) == (2, False, [])
    assert set(before) <= {entry.path for entry in made.unverified.files}
    assert all(one.folder.files()[path].token == there[path] for path in before)
    assert one.world.values() == (VALUES if kind == "append" else VALUES[1:])
    assert one.world.check() == ([2, 1] if kind == "append" else [1])
    again, done = run(resume=True)
    assert (done, again.digest, one.world.check()) == (True, made.digest, [2, 1] if kind == "append" else [1])


def test_files_that_are_no_table_are_gone_on_with_at_any_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    source = tmp_path / "photos"
    source.mkdir()
    for name in ("a", "b", "c", "d"):
        (source / name).write_bytes(name.encode() * 1000)
    work, count, folder = Work("memory://resuming/d", source, tmp_path / "uploads"), list[str](), type(remote_folder("memory://x/y"))
    write = folder.write

    def limited(self: RemoteFolder, path: str, file: Any) -> None:
        count.append(path)
        if len(count) == 3:
            raise UnavailableError("gone")
        write(self, path, file)  # type: ignore[arg-type]

    monkeypatch.setattr(folder, "write", limited)
    with pytest.raises(UnavailableError):
        work.create(resume=True)
    made, _ = work.create(resume=True)
    assert len([path for path in count if path.startswith("v-")]) == 5
    assert sorted(entry.path.split("/")[1] for entry in made.unverified.files) == ["a", "b", "c", "d"]
    assert len({entry.path.split("/")[0] for entry in made.unverified.files}) == 1
    assert work.world.check() == [1]
    fsspec.filesystem("memory").rm("/resuming", recursive=True)


@pytest.mark.parametrize("change", ["gone", "longer"])
def test_what_the_storage_has_not_is_sent_again(change: str, work: Work, gate: S3Gate, s3: Any) -> None:
    refuse(gate, after=4)
    with pytest.raises(UnavailableError):
        work.append(resume=True)
    gate.before = lambda *_: None
    second = next(path for path in sent(work) if path.startswith("part-00002"))
    s3.delete_object(Bucket="bkt", Key=f"d/{second}")
    if change == "longer":
        s3.put_object(Bucket="bkt", Key=f"d/{second}", Body=b"x")
    made, _ = work.append(resume=True)
    assert second not in {entry.path for entry in made.unverified.files}
    assert work.world.values() == VALUES
    assert work.world.check() == [2, 1]  # what was after it in order was sent again, too, and is not there twice


def test_what_is_gone_on_with_counts_as_new_for_a_clean_up(work: Work, gate: S3Gate) -> None:
    refuse(gate, after=4)
    with pytest.raises(UnavailableError):
        work.append(resume=True)
    time.sleep(1.1)  # storages count seconds
    between = datetime.now(UTC).replace(microsecond=0)
    found: list[list[str]] = []

    def cleaned(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("_snapshots/1.json") and not found:
            found.append(clean_remote(remote_folder(work.url), keep=None, before=between, remove=True).files)

    gate.before = cleaned
    work.append(resume=True)
    assert found == [[]]
    assert work.world.values() == VALUES
    assert work.world.check() == [2, 1]


def test_a_file_that_is_too_long_for_a_copy_is_sent_again(work: Work, gate: S3Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(gate, after=4)
    with pytest.raises(UnavailableError):
        work.append(resume=True)
    gate.before = lambda *_: None
    before = sent(work)
    monkeypatch.setattr("confide.data.places._MAX_COPY", 10)
    made, _ = work.append(resume=True)
    assert not {*before} & {entry.path for entry in made.unverified.files}
    assert (work.world.values(), work.world.check()) == (VALUES, [2, 1])


# --- what ends it -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.unmeasured
@pytest.mark.usefixtures("scratch_here")
def test_killed_anywhere_an_append_is_made_once_and_nothing_is_left(s3: Any, source: Path, tmp_path: Path) -> None:
    numbers = iter(range(1000))

    def prepared() -> Work:
        number = next(numbers)
        RemoteWorld(f"s3://bkt/d{number}")
        return Work(f"s3://bkt/d{number}", source, tmp_path / f"uploads{number}")

    def run(work: Work, *, resume: bool) -> Callable[[], Callable[[Callable[[bytes], None]], None]]:
        def prepare() -> Callable[[Callable[[bytes], None]], None]:
            load_manifest(work.folder)
            return lambda say: say(str(work.append(resume=resume)[0].unverified.snapshot).encode())

        return prepare

    said, most = killed_at(None, run(prepared(), resume=False))
    assert said == [b"2"]
    gone_on = 0
    for number, call in enumerate(random_calls(10, most)):
        work = prepared()
        said, _ = killed_at(call, run(work, resume=False))
        time.sleep(0.1)  # the last request may be under way
        if number % 2 and sent(work):
            said = killed_at(200, run(work, resume=True))[0] or said
            time.sleep(0.1)
        found = work.world.check(foreign=True)
        assert found in ([[2, 1]] if said else [[1], [2, 1]])
        gone_on += bool(sent(work))
        made, done = work.append(resume=True)
        assert (done, made.unverified.snapshot) == (found == [2, 1], 2)
        assert (work.world.values(), work.world.check(), work.left()) == (VALUES, [2, 1], [])
    print(f"went on {gone_on} times")  # noqa: T201 -- pytest shows it with a failure


def test_what_was_on_its_way_when_a_command_was_killed_is_taken_away(work: Work, gate: S3Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """It arrived, and the journal does not say that it was finished."""
    add, keep = Journal.add, RemoteAttempt.discard

    def killed(self: Journal, entry: FileEntry) -> None:
        if "part-00003" in entry.path:
            raise KeyboardInterrupt
        add(self, entry)

    monkeypatch.setattr(Journal, "add", killed)
    monkeypatch.setattr(RemoteAttempt, "discard", lambda *_, **__: None)  # as after a kill
    with pytest.raises(KeyboardInterrupt):
        work.append(resume=False)
    assert len(sent(work)) == 3
    monkeypatch.setattr(Journal, "add", add)
    monkeypatch.setattr(RemoteAttempt, "discard", keep)
    work.append(resume=True)
    assert (work.world.values(), work.world.check()) == (VALUES, [2, 1])


def test_a_file_that_was_cut_off_once_and_then_finished_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: Any) -> None:
    """Files that are no table have the same names each time."""
    source = tmp_path / "photos"
    source.mkdir()
    for name in ("a", "b", "c", "d"):
        (source / name).write_bytes(name.encode() * 1000)
    work, add, at = Work("s3://bkt/photos", source, tmp_path / "uploads"), Journal.add, "b"

    def killed(self: Journal, entry: FileEntry) -> None:
        if entry.path.endswith(f"/{at}"):
            raise KeyboardInterrupt
        add(self, entry)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", killed)
        patched.setattr(RemoteAttempt, "discard", lambda *_, **__: None)
        for at in ("b", "c", "d"):  # noqa: B007 - `killed` looks
            with pytest.raises(KeyboardInterrupt):
                work.create(resume=True)
    made, _ = work.create(resume=True)
    assert len(made.unverified.files) == 4
    assert work.world.check() == [1]


def test_without_resume_a_failure_leaves_nothing(work: Work, gate: S3Gate) -> None:
    taken: list[str] = []

    def busy(method: str, path: str) -> tuple[int, str] | None:
        if method == "PUT" and "part-" in path:
            taken.append(path)
        return (503, "SlowDown") if method == "PUT" and len(taken) > 3 else None

    gate.before = busy
    with pytest.raises(UnavailableError):
        work.append(resume=False)
    gate.before = lambda *_: None
    assert (work.left(), work.world.check()) == ([], [1])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("a row")])
def test_after_ctrl_c_and_refusals_nothing_stays(error: BaseException, work: Work, gate: S3Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(gate, after=3)
    with pytest.raises(UnavailableError):
        work.append(resume=True)
    gate.before = lambda *_: None
    write = S3Folder.write

    def interrupted(self: S3Folder, path: str, file: Any) -> None:
        write(self, path, file)
        raise error

    monkeypatch.setattr(S3Folder, "write", interrupted)
    with pytest.raises(type(error)):
        work.append(resume=True)
    assert (work.left(), work.world.check()) == ([], [1])


def test_a_new_dataset_has_the_key_and_the_manifest_that_the_broker_knows(new: Work, gate: S3Gate) -> None:
    told: list[Json] = []
    gate.before = lambda method, path: (503, "SlowDown") if method == "PUT" and path.endswith(MANIFEST_NAME) else None
    with pytest.raises(UnavailableError):
        new.create(resume=True, register=told.append)
    gate.before = lambda *_: None
    made, _ = new.create(resume=True, register=told.append)
    assert told == [made.envelope, made.envelope]
    assert (new.world.values(), new.world.check(), new.left()) == (VALUES[1:], [1], [])


def test_other_things_at_the_place_of_a_new_dataset_are_refused(new: Work, gate: S3Gate, s3: Any) -> None:
    refuse(gate, after=3)
    with pytest.raises(UnavailableError):
        new.create(resume=True)
    gate.before = lambda *_: None
    s3.put_object(Bucket="bkt", Key="new/foreign", Body=b"x")
    with pytest.raises(OutputExistsError):
        new.create(resume=True)
    assert list(new.folder.files()) == ["foreign"]


# --- what others read is never taken away -----------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [True, False])
def test_a_commit_that_nobody_knows_of_is_found_done(work: Work, gate: S3Gate, resume: bool) -> None:
    def all_is_lost(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("_snapshots/2.json"):
            gate.always = (503, "SlowDown")
            raise ConnectionError

    gate.after = all_is_lost
    with pytest.raises(UnavailableError) as told:
        work.append(resume=resume)
    assert "--resume" in str(told.value.hint)
    gate.after, gate.always = lambda *_: None, None
    assert work.world.values() == VALUES
    _, done = work.append(resume=True)
    assert (done, work.world.values(), work.world.check(), work.left()) == (True, VALUES, [2, 1], [])


def test_a_commit_that_arrives_late_keeps_its_files(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    create, late = S3Folder.create, list[tuple[str, bytes]]()

    def under_way(self: S3Folder, path: str, data: bytes) -> bool:
        if path.endswith("2.json") and not late:
            late.append((path, data))
            raise UnavailableError("S3 does not answer")
        if path.endswith("2.json"):
            create(self, *late[0])
        return create(self, path, data)

    monkeypatch.setattr(S3Folder, "create", under_way)
    with pytest.raises(UnavailableError):
        work.append(resume=True)
    assert work.world.values() == [1]
    with pytest.raises(SnapshotConflictError):
        work.append(resume=True)
    assert (work.world.values(), work.world.check()) == (VALUES, [2, 1])
    assert work.append(resume=True)[1] is True


def test_what_an_earlier_command_committed_is_not_taken_away_though_its_snapshot_was_dropped(work: Work, gate: S3Gate) -> None:
    """Killed after the commit; others have added to it, and only the newest snapshot is kept: nothing is known of the work any more."""

    def killed(_: Json) -> None:
        raise UnavailableError("the broker does not answer")

    with pytest.raises(UnavailableError):
        work.append(resume=True, register=killed)
    assert work.left()
    work.world.add(table(99))
    clean_remote(work.folder, keep=1, before=LATER, remove=True)
    with pytest.raises(IntegrityError, match="an earlier snapshot's"):
        work.append(resume=True)
    assert (work.world.values(), work.world.check()) == ([*VALUES, 99], [3])


def test_work_that_is_done_takes_nothing_away_if_the_broker_is_down(work: Work, gate: S3Gate) -> None:
    def down(_: Json) -> None:
        raise UnavailableError("the broker does not answer")

    for _ in range(2):
        with pytest.raises(UnavailableError):
            work.append(resume=True, register=down)
        written = watch(gate)
        assert (work.world.values(), work.world.check()) == (VALUES, [2, 1])

    def refused(_: Json) -> None:
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        work.append(resume=True, register=refused)
    assert work.left() == []
    assert (work.world.values(), work.world.check(), written) == (VALUES, [2, 1], [])


def test_of_a_commit_that_is_known_no_journal_stays_without_resume(work: Work) -> None:
    def down(_: Json) -> None:
        raise UnavailableError("the broker does not answer")

    with pytest.raises(UnavailableError, match="broker"):
        work.append(resume=False, register=down)
    assert (work.left(), work.world.values(), work.world.check()) == ([], VALUES, [2, 1])


# --- whose work it is -------------------------------------------------------------------------------------------------


def test_input_that_was_changed_and_work_of_another_url_are_not_gone_on_with(work: Work, gate: S3Gate, source: Path) -> None:
    refuse(gate, after=3)
    with pytest.raises(UnavailableError):
        work.append(resume=True)
    gate.before = lambda *_: None
    RemoteWorld("s3://bkt/e")
    other = Work("s3://bkt/e", source, work.journals)
    written = watch(gate)
    other.append(resume=True)
    assert len([path for path in written if path.startswith("/bkt/e/")]) == 5
    source.write_text(source.read_text(encoding="utf-8") + "77\n", encoding="utf-8")
    with pytest.raises(DataError, match="something else"):
        work.append(resume=True)


def test_a_command_that_is_at_work_is_left_alone(work: Work, gate: S3Gate) -> None:
    seen: list[str] = []

    def second(method: str, path: str) -> None:
        if method == "PUT" and "part-00003" in path and not seen:
            with pytest.raises(UsageError, match="right now") as told:
                work.append(resume=True)
            seen.append(str(told.value))

    gate.before = second
    work.append(resume=False)
    assert (len(seen), work.world.values(), work.world.check()) == (1, VALUES, [2, 1])


def test_a_journal_of_another_dataset_or_that_was_changed_is_refused(work: Work, gate: S3Gate) -> None:
    refuse(gate, after=3)
    with pytest.raises(UnavailableError):
        work.append(resume=True)
    gate.before = lambda *_: None
    (journal,) = work.left()
    lines = journal.read_bytes().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if b'"sending"' in line)
    journal.write_bytes(b"".join([*lines[:at], lines[at].replace(b"part-00001", b"part-00000"), *lines[at + 1 :]]))
    before = work.folder.files()
    with pytest.raises(IntegrityError, match="journal"):
        work.append(resume=True)
    assert work.folder.files() == before


def test_clean_up_removes_what_nobody_goes_on_with(work: Work, gate: S3Gate) -> None:
    refuse(gate, after=3)
    with pytest.raises(UnavailableError):
        work.append(resume=True)
    gate.before = lambda *_: None
    young = clean_remote(work.folder, keep=None, before=datetime.now(UTC) - timedelta(hours=1), remove=True, journals=work.journals)
    assert (young.files, len(work.left())) == ([], 1)
    shown = clean_remote(work.folder, keep=None, before=LATER, remove=False, journals=work.journals)
    assert (len(shown.files), len(work.left())) == (4, 1)
    assert clean_remote(work.folder, keep=None, before=LATER, remove=True, journals=work.journals) == shown
    assert (list(work.journals.iterdir()), work.world.check()) == ([], [1])
    work.append(resume=True)
    assert (work.world.values(), work.world.check()) == (VALUES, [2, 1])


def test_where_no_journal_can_be_kept_there_is_none(gate: S3Gate, source: Path, tmp_path: Path) -> None:
    (tmp_path / "uploads").write_text("a file")
    RemoteWorld("s3://bkt/d")
    work = Work("s3://bkt/d", source, tmp_path / "uploads")
    work.append(resume=False)
    assert (work.world.values(), work.world.check()) == (VALUES, [2, 1])

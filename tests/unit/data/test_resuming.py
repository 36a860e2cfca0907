"""`data encrypt --resume`: killed anywhere, what is there afterwards is nothing or all; tampering with what a kill left is noticed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.volumes import KEK, key_of

from confide.canonical import b64url
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data import files
from confide.data.cleaning import clean
from confide.data.folder import listed_files, refuse_foreign, verify_files
from confide.data.journal import Begun, Journal, OpenedJournal
from confide.data.manifest import verify_manifest
from confide.data.snapshots import history, load_manifest, manifest_path
from confide.data.sources import plain_sources
from confide.data.staging import Attempt, attempt_beside, open_kept, resumed_or_new, task_of
from confide.data.tables import TableInput
from confide.errors import ConfideError, DataError, IntegrityError, UnavailableError, UsageError
from confide.ids import new_dataset_id

ROWS, TESTS = 100, Path(__file__).parents[2]
CANARY = "CANARY-5e1d"


class Place:
    """A source, where its dataset is to be, and a command that encrypts it in a process of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder, self.source = root, root / "out" / "d", root / "in.csv"
        (root / "out").mkdir()
        self.write(range(950))
        self.signer = SigningKey.generate()
        self.pem = root / "key.pem"
        self.signer.save_private(self.pem)

    def write(self, values: range) -> None:
        self.source.write_text("x,s\n" + "".join(f"{n},{CANARY}{n}\n" for n in values), encoding="utf-8")

    def run(self, *options: str, source: Path | None = None) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "support.volumes", str(self.pem), str(self.folder), str(source or self.source), f"--rows={ROWS}"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])}
        return subprocess.run([*words, *options], env=environment, capture_output=True, text=True, check=False)

    def killed(self, at: int, *options: str, source: Path | None = None) -> bool:
        return self.run(f"--kill-at={at}", *options, source=source).returncode == -9

    def left(self) -> list[Path]:
        return [path for path in self.folder.parent.iterdir() if path.name != self.folder.name]

    def resume(self, *options: str, source: Path | None = None) -> str:
        """The rest is done; what may still lie there is the empty folder of a command that was killed before it had a journal."""
        done = self.run(*options, source=source)
        assert done.returncode == 0, done.stderr
        assert [path for left in self.left() for path in left.rglob("*") if path.is_file()] == []
        return done.stdout

    def clean(self) -> None:
        """As ``confide data clean`` does."""
        clean(self.folder, keep=None, before=datetime.now(UTC) + timedelta(hours=1), remove=True)
        assert self.left() == []

    def values(self) -> list[int]:
        """All rows, after everything there was found right."""
        newest = load_manifest(self.folder)
        manifest = verify_manifest(newest.envelope, self.signer.public)
        chain = [manifest, *(one.unverified for one in history(newest))]
        verify_files(self.folder, *chain)
        refuse_foreign(self.folder, {*listed_files(*chain), *map(manifest_path, chain)})
        found: list[int] = files.read_table(self.folder, manifest, key_of(self.folder)).column("x").to_pylist()
        return found

    def journals(self) -> list[Path]:
        return [root / "journal" for root in self.left() if (root / "journal").exists()]

    def journal(self) -> Path:
        (journal,) = self.journals()
        return journal

    def no_plaintext(self) -> None:
        for path in self.folder.parent.rglob("*"):
            assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place where a command was killed while it wrote."""
    made = Place(tmp_path_factory.mktemp("stopped"))
    for at in (30, 40, 25):
        if made.killed(at) and b'"file"' in made.journal().read_bytes():
            shutil.copytree(made.folder.parent, made.root / "left")
            return made
        shutil.rmtree(made.folder.parent)
        made.folder.parent.mkdir()
    pytest.fail("no command was killed while it wrote")


@pytest.fixture
def left(stopped: Place) -> Place:
    """The same again: what lies there is as the kill left it."""
    shutil.rmtree(stopped.folder.parent)
    shutil.copytree(stopped.root / "left", stopped.folder.parent)
    return stopped


def kills(count: int, last: int) -> list[int]:
    """Where to kill this time."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 -- pytest shows it with a failure
    return [random.Random(seed + n).randrange(1, last) for n in range(count)]


@pytest.mark.slow
def test_killed_anywhere_nothing_or_all_is_visible_and_resuming_ends_with_the_same_rows(place: Place) -> None:
    gone_on = all_done = 0
    for at in kills(5, 95):
        if place.killed(at):
            place.no_plaintext()
            if place.folder.exists():
                assert place.values() == list(range(950))
            said = place.resume()
            gone_on += "finished before: 0" not in said
            all_done += "all done before" in said
        place.clean()
        assert place.values() == list(range(950)), at
        shutil.rmtree(place.folder)
    print(f"went on {gone_on} times, {all_done} of them with nothing to do")  # noqa: T201 -- pytest shows it with a failure


@pytest.mark.slow
def test_killed_anywhere_an_append_is_made_once(place: Place) -> None:
    place.resume()
    more = place.root / "more.csv"
    more.write_text("x,s\n" + "".join(f"{n},b\n" for n in range(950, 1500)), encoding="utf-8")
    whole = place.root / "whole"
    shutil.copytree(place.folder, whole)
    for at in kills(3, 95):
        if place.killed(at, "--append", source=more):
            newest = load_manifest(place.folder).unverified
            assert newest.rows == {1: 950, 2: 1500}[newest.snapshot]
            place.resume("--append", source=more)
        place.clean()
        assert load_manifest(place.folder).unverified.snapshot == 2
        assert place.values() == list(range(1500)), at
        shutil.rmtree(place.folder)
        shutil.copytree(whole, place.folder)


def test_killed_while_it_clears_away_the_next_command_finds_the_rest(left: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    whole, removed = left.journal().parent, 0
    assert len([path for path in whole.rglob("*") if path.is_file()]) > 2
    for step in range(100):
        root = shutil.copytree(whole, tmp_path / str(step))
        steps = iter(range(step))

        def remove(*place: Any, _do: Callable[..., None], _steps: Iterator[int] = steps, **more: Any) -> None:
            if next(_steps, None) is None:
                raise Killed
            _do(*place, **more)

        with monkeypatch.context() as patch:
            for name in ("unlink", "rmdir"):
                patch.setattr(os, name, partial(remove, _do=getattr(os, name)))
            try:
                Attempt(root).discard(failed=False)
            except Killed:
                removed += 1
            else:
                break
        assert (root / "journal").exists() or list(root.rglob("*")) == [], step
    assert removed > 4
    assert not root.exists()


def test_what_is_finished_is_not_done_again(left: Place) -> None:
    root = left.journal().parent
    kept = [json.loads(line)["body"]["file"][0] for line in (root / "journal").read_bytes().splitlines() if b'"file"' in line]
    left.no_plaintext()
    assert f"finished before: {len(kept)}" in left.resume()
    paths = [entry.path for entry in load_manifest(left.folder).unverified.files]
    assert paths[: len(kept)] == kept
    assert left.values() == list(range(950))


def test_a_finished_file_that_was_changed_is_done_again(left: Place) -> None:
    root = left.journal().parent
    first = min((root / "dataset").glob("part-00000-*"))
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    assert "finished before: 0" in left.resume()
    assert left.values() == list(range(950))


def changed_digest(lines: list[bytes]) -> list[bytes]:
    at = next(n for n, line in enumerate(lines) if b'"file"' in line)
    said = json.loads(lines[at])
    said["body"]["file"][3] += 1
    return [*lines[:at], json.dumps(said).encode(), *lines[at + 1 :]]


def left_out(lines: list[bytes]) -> list[bytes]:
    return [lines[0], *lines[2:]]


def said_twice(lines: list[bytes]) -> list[bytes]:
    return [*lines, lines[-1]]


def other_columns(lines: list[bytes]) -> list[bytes]:
    said = json.loads(lines[1])
    assert "columns" in said["body"]
    said["body"]["columns"] = b64url(pa.schema([("x", pa.string()), ("s", pa.string())]).serialize().to_pybytes())
    return [lines[0], json.dumps(said).encode(), *lines[2:]]


@pytest.mark.parametrize("change", [changed_digest, left_out, said_twice, other_columns])
def test_a_journal_that_was_changed_is_refused(left: Place, change: Callable[[list[bytes]], list[bytes]]) -> None:
    root = left.journal().parent
    lines = (root / "journal").read_bytes().splitlines()
    (root / "journal").write_bytes(b"".join(line + b"\n" for line in change(lines)))
    done = left.run()
    assert done.returncode != 0
    assert "IntegrityError" in done.stderr
    assert not left.folder.exists()


def test_a_line_that_was_not_written_to_its_end_is_as_if_not_there(left: Place) -> None:
    root = left.journal().parent
    with (root / "journal").open("ab") as file:
        file.write(b'{"body":{"file":["part-0')
    left.resume()
    assert left.values() == list(range(950))


def test_a_key_that_another_user_kept_is_refused(left: Place) -> None:
    task = task_of(TableInput(tuple(plain_sources(left.source)), "csv"))
    other = open_kept(SecretBytes.random())
    with pytest.raises(IntegrityError, match="not this user's"), resumed_or_new(left.folder, task, open_key=other):
        pass
    with resumed_or_new(left.folder, task, open_key=open_kept(KEK)) as attempt:
        assert attempt.finished


def test_input_that_was_changed_since_is_not_gone_on_with(left: Place) -> None:
    root, other = left.journal().parent, left.root / "other" / left.source.name
    other.parent.mkdir()
    shutil.copyfile(left.source, other)
    task = task_of(TableInput(tuple(plain_sources(other)), "csv"))
    with pytest.raises(DataError, match="something else"), resumed_or_new(left.folder, task, open_key=open_kept(KEK)):
        pass
    assert root.exists()


def test_a_command_that_is_at_work_is_left_alone(left: Place) -> None:
    task = task_of(TableInput(tuple(plain_sources(left.source)), "csv"))
    with (
        resumed_or_new(left.folder, task, open_key=open_kept(KEK)),
        pytest.raises(UsageError, match="right now"),
        resumed_or_new(left.folder, task, open_key=open_kept(KEK)),
    ):
        pass


def test_a_journal_is_its_commands_from_its_first_line_on(tmp_path: Path) -> None:
    key = SecretBytes.random()
    journal = Journal.begin(tmp_path / "journal", Begun(new_dataset_id(), "task", None, None), key)
    with pytest.raises(UsageError, match="right now"):
        OpenedJournal.open(tmp_path / "journal")
    journal.close()
    opened = OpenedJournal.open(tmp_path / "journal")
    assert opened is not None
    opened.resume(key).close()


def test_a_stream_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only once"), resumed_or_new(tmp_path / "d", None, open_key=open_kept(KEK)):
        pass


@pytest.mark.parametrize(("error", "stays"), [(UnavailableError("no"), True), (DataError("no"), False), (KeyboardInterrupt(), False)])
def test_what_is_finished_stays_only_if_something_was_unavailable(left: Place, error: BaseException, stays: bool) -> None:
    root = left.journal().parent
    task = task_of(TableInput(tuple(plain_sources(left.source)), "csv"))
    with pytest.raises(type(error)), resumed_or_new(left.folder, task, open_key=open_kept(KEK)):
        raise error
    assert root.exists() == stays
    assert not isinstance(error, UnavailableError) or "--resume" in (error.hint or "")


def test_without_resume_nothing_stays(tmp_path: Path) -> None:
    def fails(error: ConfideError) -> None:
        with attempt_beside(tmp_path / "d"):
            raise error

    with pytest.raises(UnavailableError) as caught:
        fails(UnavailableError("no"))
    assert caught.value.hint == "nothing was left behind"
    assert list(tmp_path.iterdir()) == []

"""Where a command writes a dataset's files before anybody sees them: a hidden folder beside their place, with a journal.

A command that ends in order takes the folder away.  One that was killed leaves it, encrypted files and all, for a later one that is told to
go on (``resume``): that takes over what the journal says is finished, if it is the same work and the files are still what they were.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pyarrow as pa

from confide.canonical import Json, canonical
from confide.crypto.envelope import WrappedKey, unwrap, wrap
from confide.crypto.secret import SecretBytes
from confide.data.column_groups import ColumnGroup, NewGroup
from confide.data.folder import check_encrypted, digest_of_file
from confide.data.journal import Begun, Journal, OpenedJournal
from confide.data.manifest import MANIFEST_NAME, FileEntry
from confide.data.places import Place
from confide.data.snapshots import SignedManifest, local_folder
from confide.data.sources import Source
from confide.data.tables import TableInput
from confide.durable import sync_folder
from confide.errors import ConfideError, DataError, IntegrityError, OutputExistsError, UnavailableError, UsageError
from confide.ids import DatasetId

_JOURNAL: Final = "journal"
_FILES: Final = "dataset"
_KEPT: Final = "local/resume"
"""The name that a kept dataset key is bound to: no key of a broker has an owner without a credential of this name."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new dataset's id and key, and the wrapped form for its manifest; and so for each of its column groups."""

    dataset: DatasetId
    secret: SecretBytes
    wrapped: WrappedKey
    groups: tuple[NewGroup, ...] = ()


@dataclass
class Attempt:
    """A staged folder: data files go to ``files``.  Without a journal it cannot be taken up again."""

    root: Path
    journal: Journal | None = None
    key: NewKey | None = None
    """Of a new dataset that an earlier command began."""
    resumed: bool = False
    task: str | None = None
    """What is done here, for the snapshot's manifest to say: that of the journal, if the caller sets no other."""
    done: SignedManifest | None = None
    """The snapshot that an earlier command made by the same work: nothing is left to do."""

    @property
    def files(self) -> Path:
        """The folder that becomes the dataset's."""
        return self.root / _FILES

    @property
    def signed(self) -> Path:
        """The folder that gets the signed manifest before anybody sees it."""
        return self.files

    @property
    def unsettled(self) -> bool:
        """Whether nobody knows if the work is done, so that another command has to look."""
        return False

    @property
    def finished(self) -> tuple[FileEntry, ...]:
        """Files that an earlier command finished, in its order, still what they were."""
        return tuple(self.journal.files) if self.journal is not None else ()

    @property
    def columns(self) -> pa.Schema | None:
        """The columns that an earlier command found."""
        return self.journal.columns if self.journal is not None else None

    def begin(self, task: str, dataset: DatasetId, secret: SecretBytes) -> None:
        """Start the journal of work on a dataset."""
        self._begin(Begun(dataset, task, None, None), secret)

    def begin_new(self, task: str, key: NewKey, kek: SecretBytes) -> None:
        """Start the journal of work on a new dataset, with its keys, for whoever has ``kek``."""
        groups = tuple({"group": one.group.to_json(), "kept": _kept(kek, one.key, one.group.dataset)} for one in key.groups)
        self._begin(Begun(key.dataset, task, key.wrapped.to_json(), _kept(kek, key.secret, key.dataset), groups), key.secret)

    def _begin(self, begun: Begun, secret: SecretBytes) -> None:
        self.journal, self.task = Journal.begin(self.root / _JOURNAL, begun, secret), begun.task
        sync_folder(self.root)

    def note(self, entry: FileEntry) -> None:
        """Say that a file is finished: its name is made durable first, then the journal says so."""
        if self.journal is not None:
            place = self.files / entry.path
            for above in place.parents:
                sync_folder(above)
                if above == self.root:
                    break
            self.journal.add(entry)

    def name_of(self, folder: Path) -> str:
        """How users call what is made beside ``folder``."""
        return str(folder)

    def take_over(self) -> None:
        """Keep the finished files that are still what they were, and remove everything else."""
        journal = self.journal
        assert journal is not None  # noqa: S101 -- it was found by it
        self.files.mkdir(exist_ok=True)
        whole = self._whole(journal.files)
        if journal.files and journal.files[0].rows is not None:  # of a table only a beginning is worth something: the rest is read in order
            count = next((number for number, (one, two) in enumerate(zip(journal.files, whole, strict=False)) if one != two), len(whole))
            whole = whole[:count]
        self._keep_only(whole)  # first: what is not forgotten is looked at again
        journal.forget([entry for entry in journal.files if entry not in whole])

    def _whole(self, entries: Sequence[FileEntry]) -> list[FileEntry]:
        """Those of which the files are still there, and what they were."""
        return [entry for entry in entries if _is_whole(self.files, entry)]

    def _keep_only(self, whole: Sequence[FileEntry]) -> None:
        """Remove all other files: also what was not written to its end."""
        kept = {entry.path for entry in whole}
        for place in sorted(self.files.rglob("*"), reverse=True):
            path = place.relative_to(self.files).as_posix()
            if path in kept or path == MANIFEST_NAME:
                continue
            if place.is_symlink() or not place.is_dir():
                place.unlink()

    def discard(self, *, failed: bool) -> None:
        """Remove what is staged.  ``failed``: the work was not done.

        The journal goes last: by it the next command finds, and removes, what a kill leaves here.
        """
        del failed
        with contextlib.suppress(OSError):
            for place in self.root.iterdir():
                if place.is_dir() and not place.is_symlink():
                    shutil.rmtree(place, ignore_errors=True)
                elif place.name != _JOURNAL:
                    place.unlink()
        shutil.rmtree(self.root, ignore_errors=True)

    def note_columns(self, columns: pa.Schema) -> None:
        """Say what columns the table has."""
        if self.journal is not None and self.journal.columns is None:
            self.journal.set_columns(columns)

    def publish(self, folder: Place) -> None:
        """Rename the files' folder to ``folder``.

        Raises:
            OutputExistsError: something is there.
        """
        folder = local_folder(folder)
        sync_folder(self.files)
        if os.path.lexists(folder):  # rename(2) would replace an empty folder
            raise OutputExistsError(f"{folder} appeared meanwhile", path=str(folder))
        self.files.rename(folder)
        sync_folder(folder.parent)


def task_of(source: object, **more: str) -> str | None:
    """The digest of what is to be done: which files, in which state, as what.  ``None``: nobody can do it a second time."""
    sources = source.sources if isinstance(source, TableInput) else source
    if not isinstance(sources, list | tuple) or not all(isinstance(one, Source) and one.version and not one.once for one in sources):
        return None
    given = source.columns if isinstance(source, TableInput) else None
    facts: Json = {
        "format": source.format if isinstance(source, TableInput) else "files",
        "columns": None if given is None else given.to_string(),
        "sources": [[one.name, one.size, one.version] for one in sources],
        **more,
    }
    return hashlib.sha256(canonical(facts)).hexdigest()


@contextlib.contextmanager
def attempt_beside(
    folder: Path, *, keep: Callable[[BaseException], bool] = lambda _: False, make: Callable[..., Attempt] = Attempt
) -> Iterator[Attempt]:
    """A new staged folder beside ``folder``, removed on leaving, unless ``keep`` says of an error that it stays.

    ``make`` is :class:`Attempt`, or makes one of another kind.

    Raises:
        UnavailableError: the file system refuses (full, read-only, ...).
    """
    attempt = make(folder.with_name(f".{folder.name}.new-{secrets.token_hex(8)}"))
    with _at_work(attempt, folder, keep):
        folder.parent.mkdir(parents=True, exist_ok=True)
        attempt.root.mkdir(mode=0o700)
        attempt.files.mkdir()
        yield attempt


@contextlib.contextmanager
def resumed_or_new(
    folder: Path,
    task: str | None,
    *,
    open_key: Callable[[Begun], SecretBytes],
    done: SignedManifest | None = None,
    make: Callable[..., Attempt] = Attempt,
) -> Iterator[Attempt]:
    """What an earlier command left of the same work, or else a new staged folder.  ``open_key`` opens the key of a journal's dataset.

    ``done`` is the snapshot that says that the same work made it (:mod:`confide.data.work`): then only what is left of that work has to go.
    If this one cannot go on because something is unavailable, what is finished stays; after Ctrl-C or a refusal nothing does.

    Raises:
        UsageError: the work cannot be done a second time (standard input), or the earlier command is still at it.
        DataError: all that is left is of other work.
        IntegrityError: a journal was changed.
        UnavailableError: the file system refuses.
    """
    if task is None:
        raise UsageError("what is read only once cannot be resumed", hint="leave --resume out, or name files")
    found, others = _find(folder, task, open_key, make)
    if found is None:
        if others and done is None:
            hint = "it is other input, or was changed since: leave --resume out to begin anew (`confide data clean` removes what is left)"
            raise DataError("an earlier command encrypted something else into this place", hint=hint, path=str(folder))
        with attempt_beside(folder, keep=_may_go_on, make=make) as attempt:
            attempt.done = done
            yield attempt
        return
    found.done = done
    with _at_work(found, folder, _may_go_on):
        if done is None:
            found.take_over()
        yield found


def open_kept(kek: SecretBytes) -> Callable[[Begun], SecretBytes]:
    """Opens the key that :meth:`Attempt.begin` kept in a journal.

    The function raises ``IntegrityError`` if the journal has none, or one under another key.
    """

    def opened(begun: Begun) -> SecretBytes:
        try:
            wrapped = WrappedKey.from_json(begun.kept or {})
            if (wrapped.key, wrapped.dataset) != (_KEPT, begun.dataset):
                raise IntegrityError("a journal's key is of another dataset")
            return unwrap(kek, wrapped)
        except ConfideError as cause:
            hint = "leave --resume out to begin anew"
            raise IntegrityError("the journal of the earlier command is not this user's, or was changed", hint=hint) from cause

    return opened


def _kept(kek: SecretBytes, secret: SecretBytes, dataset: DatasetId) -> Json:
    return wrap(kek, secret, key=_KEPT, version=1, dataset=dataset).to_json()


def _may_go_on(error: BaseException) -> bool:
    return isinstance(error, UnavailableError)


@contextlib.contextmanager
def _at_work(attempt: Attempt, folder: Path, keep: Callable[[BaseException], bool]) -> Iterator[None]:
    stays, failed = False, True
    try:
        try:
            yield
            failed = False
        except (OSError, pa.ArrowException) as cause:
            reason = getattr(cause, "strerror", None) or str(cause)
            place = attempt.name_of(folder)
            raise UnavailableError(f"cannot write {place}: {reason}", path=place) from cause
    except ConfideError as error:
        stays = (keep(error) or attempt.unsettled) and bool(attempt.finished)
        if isinstance(error, UnavailableError):
            _say_what_stays(error, stays=stays)
        raise
    finally:
        if not stays:
            attempt.discard(failed=failed)
        if attempt.journal is not None:
            attempt.journal.close()


def _say_what_stays(error: UnavailableError, *, stays: bool) -> None:
    if stays:
        said = "what is finished stays for the same command with --resume"
        error.hint = said if error.hint is None else f"{error.hint}; {said}"
    elif error.hint is None:
        error.hint = "nothing was left behind"


def _find(
    folder: Path, task: str, open_key: Callable[[Begun], SecretBytes], make: Callable[..., Attempt]
) -> tuple[Attempt | None, bool]:
    """The staged folder of the same work, locked, ``None`` if no command left any; and whether one of other work is there."""
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.new-[0-9a-f]{{16}}")
    parent = folder.absolute().parent
    others = False
    for root in sorted(parent.iterdir()) if parent.is_dir() else ():
        if not pattern.fullmatch(root.name) or root.is_symlink() or not (root / _JOURNAL).is_file():
            continue
        opened = OpenedJournal.open(root / _JOURNAL)
        if opened is None:
            continue
        if opened.unverified.task != task:
            opened.close()
            others = True
            continue
        try:
            return _opened(root, opened, open_key, make), others
        except BaseException:
            opened.close()
            raise
    return None, others


def _opened(root: Path, opened: OpenedJournal, open_key: Callable[[Begun], SecretBytes], make: Callable[..., Attempt]) -> Attempt:
    begun = opened.unverified
    secret = open_key(begun)
    journal = opened.resume(secret)
    key = None
    if begun.wrapped is not None:
        groups = tuple(_kept_group(begun, one, open_key) for one in begun.groups)
        key = NewKey(begun.dataset, secret, WrappedKey.from_json(begun.wrapped), groups)
    return make(root, journal, key, resumed=True, task=begun.task)


def _kept_group(begun: Begun, data: Json, open_key: Callable[[Begun], SecretBytes]) -> NewGroup:
    """A column group of a new dataset, whose key was kept as the dataset's was."""
    group = ColumnGroup.from_json(data["group"])
    return NewGroup(group, open_key(replace(begun, dataset=group.dataset, kept=data["kept"])))


def _is_whole(folder: Path, entry: FileEntry) -> bool:
    try:
        check_encrypted(folder / entry.path)
        return digest_of_file(folder / entry.path) == (entry.size, entry.sha256)
    except (OSError, DataError):
        return False

"""The data keys that this node holds, and which file key each path gets.  Answers the local socket; asks nobody by itself.

A file of an input gets a key only if the dataset's manifest lists it; a file of an output only at the place where it will be
committed.  A key is used for its lease only: it is fetched again by the caller's ``refresh`` before that ends, as long as files are asked
for, and a refusal, or a broker that stays away to the end, leaves no key behind.
Bytes in answers are standard base64 with padding (what ``java.util.Base64`` reads).
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from confide.crypto.derive import column_wrapping_key, container_keys, file_key, parquet_aad_prefix
from confide.errors import ConfideError, KeyAccessError, ManifestError, ProtocolError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confide.canonical import Json
    from confide.crypto.secret import SecretBytes
    from confide.ids import DatasetId, RunId
    from confide.node.local_socket import Operation

_ATTEMPT = re.compile(r"(?:attempt|task)_[A-Za-z0-9_]+")
_UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?:\.TID[0-9]+)?\.tmp")
"""Spark's ``CheckpointFileManager`` writes a file under such a name and renames it when it is whole."""
_NO_NAMES: Final = frozenset({"", ".", ".."})
_RENEW_AT: Final = 0.8
"""A key is fetched again when this part of its lease is over."""
_RETRY_S: Final = 5.0
"""Between tries to renew a lease that still runs, while the broker does not answer."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A dataset key, and for how many seconds it may be used.

    ``groups`` are keys of column groups by name, for a table that has some (``None`` for every other dataset): those that the job reads.
    """

    key: SecretBytes
    seconds: float
    groups: Mapping[str, SecretBytes] | None = None

    def wipe(self) -> None:
        """Overwrite all of its keys."""
        for key in (self.key, *(self.groups or {}).values()):
            key.wipe()


Refresh = Callable[[], Lease]


def _in_a_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="confide-renew", daemon=True).start()


@dataclass(slots=True)
class _Held:
    dataset: DatasetId
    lease: Lease | None
    files: frozenset[str] | None
    run: RunId | None
    refresh: Refresh
    renew: float = 0.0
    expires: float = 0.0
    fetching: threading.Lock = field(default_factory=threading.Lock)
    """Held by who asks for the key: others who need it wait for the answer, and nobody else does."""
    answers: int = 0
    refusal: ConfideError | None = None
    """The last of the answers, if it gave no key."""


class Keyring:
    """Dataset keys by folder.  Safe to use from several threads.  ``clock`` counts seconds and never goes back.

    No lease is longer than ``lease_s``, whatever the broker said: a node whose date was set back must not keep a key for longer.
    """

    def __init__(
        self,
        *,
        lease_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        aside: Callable[[Callable[[], None]], None] = _in_a_thread,
    ) -> None:
        """``aside`` has work done that nobody waits for."""
        self._lease_s = lease_s
        self._clock = clock
        self._aside = aside
        self._lock = threading.RLock()
        self._held: dict[str, _Held] = {}
        self._ended: ConfideError | None = None
        self._asked = self._fetched = 0

    def counts(self) -> tuple[int, int]:
        """How many file keys were asked for, and for how many of them a dataset key was here."""
        with self._lock:
            return self._asked, self._asked - self._fetched

    def open_input(self, root: str, dataset: DatasetId, lease: Lease, *, files: frozenset[str], refresh: Refresh) -> None:
        """Hold the key of an input dataset whose verified manifest lists ``files`` (relative POSIX paths).

        For another snapshot of a dataset that is held, its files come to those that may be read.

        Raises:
            ManifestError: the folder is not a plain absolute path, or lies within or around one of another dataset that is held already.
            KeyAccessError: the lease is over.
        """
        self._open(root, _Held(dataset, None, files, None, refresh), lease)

    def open_output(self, root: str, dataset: DatasetId, lease: Lease, *, run: RunId, refresh: Refresh) -> None:
        """Hold the key of an output dataset that this run writes (and may read back).

        Raises:
            ManifestError, KeyAccessError: as :meth:`open_input`.
        """
        self._open(root, _Held(dataset, None, None, run, refresh), lease)

    def operations(self) -> dict[str, Operation]:
        """The local socket's operations ``read-key`` and ``write-key``.

        Both take ``path`` (absolute) and, for containers, ``kind`` ``"container"`` and ``salt``.  The answer is
        ``{dataset, path, key}``, for containers with ``commitment``, for Parquet with ``aad_prefix`` or, of a table with column groups,
        with ``groups``: then ``key`` and those are wrapping keys (``docs/formats/container.md``, section 2.4).
        """
        return {"read-key": self._read_key, "write-key": self._write_key}

    def wipe(self) -> None:
        """Overwrite and forget every key, and hold none from now on: the node ends."""
        with self._lock:
            self._ended = self._ended or UnavailableError("the node is ending")
            for held in self._held.values():
                _forget(held)
            self._held.clear()

    def end(self, error: ConfideError) -> None:
        """Overwrite every key, and answer every question with ``error`` from now on: the keys were withdrawn."""
        with self._lock:
            self._ended = self._ended or error
            for held in self._held.values():
                _forget(held)

    def drop_expired(self) -> None:
        """Overwrite keys whose lease is over and that nobody has asked for since."""
        with self._lock:
            for held in self._held.values():
                if self._clock() >= held.expires:
                    _forget(held)

    def _open(self, root: str, held: _Held, lease: Lease) -> None:
        try:
            self._hold(_absolute(root), held, lease)
        except ConfideError:
            lease.wipe()
            raise

    def _hold(self, folder: str, held: _Held, lease: Lease) -> None:
        with self._lock:
            self._check_not_ended()
            there = self._held.get(folder)
            if there is not None and _is_another_snapshot(there, held):  # they share a folder and a key
                there.refresh = held.refresh
                self._take(there, lease, self._clock())
                there.files = (there.files or frozenset()) | (held.files or frozenset())
                return
            for other in self._held:
                if f"{other}/".startswith(f"{folder}/") or f"{folder}/".startswith(f"{other}/"):
                    raise ManifestError("two datasets lie in one folder", path=folder[:400], other=other)
            self._take(held, lease, self._clock())
            self._held[folder] = held

    def _read_key(self, request: Json) -> Json:
        held, relative = self._find(_text(request, "path"))
        if held.files is not None and relative not in held.files:
            raise ManifestError("the dataset's manifest does not list this file", dataset=held.dataset, path=relative[:400])
        return self._answer(held, relative, request)

    def _write_key(self, request: Json) -> Json:
        held, relative = self._find(_text(request, "path"))
        if held.run is None:
            raise ManifestError("this folder is an input of the job, not an output", dataset=held.dataset, path=relative[:400])
        return self._answer(held, relative, request)

    def _find(self, path: str) -> tuple[_Held, str]:
        """The dataset that ``path`` lies in and its path there, as the manifest (will) have it."""
        end = len(_absolute(path))
        with self._lock:
            while (end := path.rfind("/", 0, end)) > 0:
                held = self._held.get(path[:end])
                if held is not None:
                    relative = path[end + 1 :]
                    return held, committed_path(relative, held.run) if held.run is not None else relative
        raise ManifestError("no dataset of this job is in that folder", path=path[:400])

    def _answer(self, held: _Held, relative: str, request: Json) -> Json:
        salt = _container_salt(request)
        with self._lock:
            self._asked += 1
            before = held.answers
            lease = self._current(held)
            if lease is not None:
                return _file_answer(held.dataset, lease, relative, salt)
        with held.fetching:
            with self._lock:
                lease = self._current(held)  # another thread may have fetched it meanwhile
                if lease is not None:
                    return _file_answer(held.dataset, lease, relative, salt)
                if held.answers != before and held.refusal is not None:
                    raise _again(held.refusal)
                self._fetched += 1
                asked = self._clock()
            lease = _fetched(held)
            with self._lock:
                if self._ended is not None:
                    lease.wipe()
                    raise _again(self._ended)
                return _file_answer(held.dataset, self._take(held, lease, asked), relative, salt)

    def _current(self, held: _Held) -> Lease | None:
        """The dataset's keys, if their lease runs.  What is left of one that is over is wiped: fail closed."""
        self._check_not_ended()
        now = self._clock()
        if held.lease is None or now >= held.expires:
            _forget(held)
        elif held.renew <= now:
            held.renew = now + _RETRY_S
            self._aside(lambda: self._renew(held, now))
        return held.lease

    def _renew(self, held: _Held, asked: float) -> None:
        """Fetch a key again whose lease still runs: nobody waits for this, and a broker that is away has until its end to come back."""
        try:
            lease = held.refresh()
        except UnavailableError:
            return
        except ConfideError:  # who asks next hears of it
            with self._lock:
                _forget(held)
            return
        with self._lock:
            if self._ended is not None:
                lease.wipe()
            elif lease.seconds > 0:
                self._take(held, lease, asked)

    def _take(self, held: _Held, lease: Lease, asked: float) -> Lease:
        """Hold the keys of a lease that was asked for at ``asked``."""
        if held.lease is not None and held.lease.key is not lease.key:
            _forget(held)
        seconds = min(lease.seconds, self._lease_s)
        if seconds <= 0:
            lease.wipe()
            raise KeyAccessError("a key's lease was over when it came", hint="check this node's clock", dataset=held.dataset)
        held.lease, held.renew, held.expires = lease, asked + seconds * _RENEW_AT, asked + seconds
        return lease

    def _check_not_ended(self) -> None:
        if self._ended is not None:
            raise _again(self._ended)


def committed_path(relative: str, run: RunId) -> str:
    """Where a file that a Hadoop committer writes to ``relative`` will be once the job is committed.

    Strips this run's staging folder, Spark's (``.spark-staging-*``, for dynamic partitions), and the committer's
    ``_temporary/N/_temporary/attempt_*/`` and ``_temporary/N/task_*/`` (Hadoop ``FileOutputCommitter``, algorithms 1 and 2), in the
    output itself or in one of its folders, and what the logs and states of streaming queries have in their names until they are whole
    (``.NAME.<uuid>.tmp``, Spark's ``CheckpointFileManager``).  File keys are derived from the result, so a file keeps its key when it is
    renamed.

    Raises:
        ManifestError: the path lies in ``_temporary`` but is not a task's file.
    """
    parts = list(PurePosixPath(relative).parts)
    if parts and parts[0] == f".staging-{run}":
        parts = parts[1:]
    # These are not only at the top: a program may save several things into one output, and an MLlib model is several folders.
    parts = [part for part in parts if not part.startswith(".spark-staging-")]
    at = parts.index("_temporary") if "_temporary" in parts else len(parts)
    match parts[at:]:
        case ["_temporary", number, "_temporary", attempt, name, *rest] if number.isdecimal() and _ATTEMPT.fullmatch(attempt):
            parts = [*parts[:at], name, *rest]
        case ["_temporary", number, task, name, *rest] if number.isdecimal() and _ATTEMPT.fullmatch(task):
            parts = [*parts[:at], name, *rest]
    if not parts or "_temporary" in parts:
        raise ManifestError("not the path of a data file", path=relative[:400])
    unfinished = _UNFINISHED.fullmatch(parts[-1])
    return "/".join(parts if unfinished is None else [*parts[:-1], unfinished[1]])


def _is_another_snapshot(there: _Held, held: _Held) -> bool:
    """Whether both are inputs of one dataset."""
    return there.files is not None and held.files is not None and there.dataset == held.dataset


def _fetched(held: _Held) -> Lease:
    """Ask for the keys: without the keyring's lock, so that who does not answer keeps nobody from other datasets' keys, or from a wipe."""
    held.refusal = None
    try:
        return held.refresh()
    except ConfideError as error:
        held.refusal = error
        raise
    finally:
        held.answers += 1


def _again(error: ConfideError) -> ConfideError:
    """The same for another thread: a traceback belongs to one."""
    return type(error)(error.message, hint=error.hint, **error.facts)


def _file_answer(dataset: DatasetId, lease: Lease, path: str, salt: bytes | None) -> Json:
    """What opens one file."""
    if salt is None and lease.groups is not None:
        return _grouped_answer(dataset, path, lease.key, lease.groups)
    if salt is None:
        key = file_key(lease.key, kind="parquet", dataset=dataset, path=path)
        public = {"aad_prefix": _b64(parquet_aad_prefix(dataset, path))}
    else:
        container = container_keys(lease.key, dataset=dataset, path=path, salt=salt)
        key, public = container.key, {"commitment": _b64(container.commitment)}
    answer: Json = {"dataset": dataset, "path": path, "key": _b64(key.reveal()), **public}
    key.wipe()
    return answer


def _grouped_answer(dataset: DatasetId, path: str, key: SecretBytes, groups: Mapping[str, SecretBytes]) -> Json:
    """What opens a file of a table with column groups.  Of a group that the job does not read there is nothing here to answer with."""
    wrapping = {"": column_wrapping_key(key, dataset=dataset, path=path)}
    wrapping |= {name: column_wrapping_key(secret, dataset=dataset, path=path, group=name) for name, secret in groups.items()}
    answer = {name: _b64(found.reveal()) for name, found in wrapping.items()}
    for found in wrapping.values():
        found.wipe()
    return {"dataset": dataset, "path": path, "key": answer.pop(""), "groups": answer}


def _absolute(path: str) -> str:
    """``path``, if it is below ``/`` and there is no second spelling of it."""
    first, *parts = path.split("/")
    if first or not parts or not _NO_NAMES.isdisjoint(parts) or "\0" in path:
        raise ManifestError("not a plain absolute path", path=path[:400])
    return path


def _container_salt(request: Json) -> bytes | None:
    """The salt of the container that a request is about; None for a Parquet file."""
    kind = request.get("kind", "parquet")
    if kind == "parquet" and "salt" not in request:
        return None
    if kind != "container":
        raise ProtocolError("not a kind of file that keys are made for", kind=str(kind)[:40])
    try:
        return base64.b64decode(_text(request, "salt"), validate=True)
    except (binascii.Error, ValueError) as cause:
        raise ProtocolError("a salt is not base64") from cause


def _text(request: Json, name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise ProtocolError("a request lacks a field", field=name)
    return value


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _forget(held: _Held) -> None:
    if held.lease is not None:
        held.lease.wipe()
        held.lease = None

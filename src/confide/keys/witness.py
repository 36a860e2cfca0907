"""Witnesses: places away from the broker that remember how far its audit log had come, so that a store that was rolled back shows.

A witness keeps signed heads (``keys.audit``), the newest last.  It learns nothing but lengths, roots and times, and cannot make a head up.
A broker asks its witnesses when it starts and tells them of new heads while it serves; what happened between two such times and was lost
with the store is not noticed by a witness, but by whoever has a receipt of it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol, Self
from urllib.parse import urlsplit

import urllib3

from confide.canonical import Json, parse_object
from confide.crypto.timed_http import end_in_time, read_by
from confide.errors import AuditError, ParseError, StoreError, UsageError, WitnessError
from confide.keys.audit import AuditHead, new_event
from confide.keys.records import Owner
from confide.keys.store import Store

INTERVAL_S: Final = 5.0
"""How often a broker looks whether there is a new head to tell of."""
END_S: Final = 25.0
"""How long the end of a broker waits for witnesses, in seconds: for what one is being told just then, and for the last head."""
_TIMEOUT_S: Final = 10.0
"""For all of an exchange with a witness."""
_MAX_HEAD_BYTES: Final = 4096
_MAX_REASON: Final = 500
_OK: Final = (200, 201, 204)
_log = logging.getLogger(__name__)


class Witness(Protocol):
    """Remembers signed heads."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def last(self) -> Json | None:
        """The newest head that it was told of (DSSE envelope), unverified; None if there was none.

        Raises:
            WitnessError: it cannot be asked.
        """
        ...

    def tell(self, head: Json) -> None:
        """Have it remember a head.

        Raises:
            WitnessError: it cannot be told.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileWitness:
    """A file of heads as JSON Lines, only ever appended to: on another machine's disk, or on media that cannot be rewritten."""

    path: Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def last(self) -> Json | None:
        """See :class:`Witness`."""
        try:
            with self.path.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - 2 * _MAX_HEAD_BYTES))
                lines = file.read().splitlines()
        except FileNotFoundError as cause:
            if not self.path.parent.is_dir():
                hint = "is the disk that it is on mounted?  Make the folder if this is a new witness"
                raise WitnessError("the witness's folder is not there", hint=hint, witness=self.name) from cause
            return None
        except OSError as cause:
            raise WitnessError(f"the witness cannot be read: {cause.strerror}", witness=self.name) from cause
        whole = [line for line in lines if line.strip()]
        return _head(whole[-1], self.name) if whole else None

    def tell(self, head: Json) -> None:
        """See :class:`Witness`."""
        line = json.dumps(head, sort_keys=True).encode() + b"\n"
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if os.write(handle, line) != len(line):
                    raise WitnessError("the witness took half a head: its disk is full", witness=self.name)
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as cause:
            raise WitnessError(f"the witness cannot be written: {cause.strerror}", witness=self.name) from cause


class HttpWitness:
    """A witness behind a URL: ``GET`` answers the newest head (200) or that there is none (404); ``POST`` of a head appends it."""

    def __init__(self, url: str, ca: Path | None = None, *, timeout_s: float = _TIMEOUT_S) -> None:
        """``timeout_s`` is for all of an exchange.

        Raises:
            UsageError: that is no address of a witness.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username:
            raise UsageError("a witness has an https address", hint="write https://HOST/PATH; a secret does not go into an address")
        self._url, self._timeout_s = url, timeout_s
        trusted = str(ca) if ca else None  # None: the system's roots
        timeout = urllib3.Timeout(total=timeout_s)
        self._pool = urllib3.PoolManager(retries=False, timeout=timeout, cert_reqs="CERT_REQUIRED", ca_certs=trusted)
        end_in_time(self._pool)

    @property
    def name(self) -> str:
        """The address."""
        return self._url

    def last(self) -> Json | None:
        """See :class:`Witness`."""
        status, body = self._ask("GET", None)
        if status == 404:
            return None
        if status != 200:
            raise WitnessError("the witness answered with something else than a head", witness=self.name, status=status)
        return _head(body, self.name)

    def tell(self, head: Json) -> None:
        """See :class:`Witness`."""
        status, _ = self._ask("POST", json.dumps(head).encode())
        if status not in _OK:
            raise WitnessError("the witness did not take the head", witness=self.name, status=status)

    def _ask(self, method: str, body: bytes | None) -> tuple[int, bytes]:
        headers = {"content-type": "application/json"} if body else {}
        until = time.monotonic() + self._timeout_s
        try:
            answer = self._pool.request(method, self._url, body=body, headers=headers, redirect=False, preload_content=False)
            try:
                found = read_by(answer, until, _MAX_HEAD_BYTES)
            finally:
                answer.close()  # one that was read to its end has given its connection back
        except (urllib3.exceptions.HTTPError, OSError) as cause:
            raise WitnessError(f"the witness cannot be reached: {type(cause).__name__}", witness=self.name) from cause
        return answer.status, found


def witness(where: str, ca: Path | None = None) -> Witness:
    """The witness at an https address or in a file."""
    return HttpWitness(where, ca) if "://" in where else FileWitness(Path(where))


def check(store: Store, witnesses: Iterable[Witness], now: datetime) -> None:
    """Check that the store's log continues what every witness has seen.

    Raises:
        AuditError: the store was rolled back or forked, or the witness holds another broker's heads.
        WitnessError: a witness cannot be asked.
    """
    for one in witnesses:
        envelope = one.last()
        if envelope is None:
            continue
        _continues(store, AuditHead.verify(envelope, store.signing_key.public), now)


def _continues(store: Store, seen: AuditHead, now: datetime) -> None:
    head = store.head(now)
    if seen.size > head.size:
        hint = "the store is an older copy: `confide broker accept-rollback` tells its owners and lets it go on"
        raise AuditError("the witness has seen a longer audit log than the store holds", hint=hint, seen=seen.size, got=head.size)
    head.continues(seen, [] if seen.size == 0 else store.consistency(seen.size, head.size))


def _lost(store: Store, seen: AuditHead, now: datetime) -> bool:
    try:
        _continues(store, seen, now)
    except AuditError:
        return True
    return False


def accept(store: Store, witnesses: Iterable[Witness], reason: str, now: datetime) -> list[Json]:
    """Let the store go on although witnesses have seen a later state of it: its log says what was lost, to all owners, and they are told.

    Returns what each witness had seen that is lost.

    Raises:
        UsageError: the store continues what they have seen, so that nothing is lost and owners would be told of what did not happen.
        AuditError: a witness holds another broker's heads.
        WitnessError: a witness cannot be asked or told.
    """
    heads = [(one, one.last()) for one in witnesses]
    told = {one.name: AuditHead.verify(envelope, store.signing_key.public) for one, envelope in heads if envelope is not None}
    seen = {name: head for name, head in told.items() if _lost(store, head, now)}
    if not seen:
        raise UsageError("the store continues all that these witnesses have seen", hint="nothing is lost, and there is nothing to accept")
    lost: list[Json] = [{"witness": name, "size": head.size, "root": head.root, "epoch": head.epoch} for name, head in seen.items()]
    owners = [owner.name for _, part in store.walk(Owner) for owner in part]
    said = [f"{head.size} {head.root}" for head in seen.values()]
    store.append_audit(new_event("rollback-accepted", owners, now, reason=reason[:_MAX_REASON], seen=said))
    for one, _ in heads:
        one.tell(store.signed_head(now))
    return lost


class Reporter:
    """Tells witnesses of new heads, each in a thread of its own: what one does, or does not, keeps no head from the others.

    A witness that cannot be told is tried again; the log says so.
    """

    def __init__(
        self,
        store: Store,
        witnesses: Sequence[Witness],
        clock: Callable[[], datetime],
        *,
        interval: float = INTERVAL_S,
        end_s: float = END_S,
    ) -> None:
        self._store = store
        self._clock = clock
        self._interval = interval
        self._end_s = end_s
        self._told: dict[str, int] = {}
        self._witnesses = witnesses
        self._stopping, self._over = threading.Event(), threading.Event()
        self._threads = {one.name: threading.Thread(target=self._run, args=(one,), name="witness", daemon=True) for one in witnesses}

    def __enter__(self) -> Self:
        for thread in self._threads.values():
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Tell of the last head before ending, for at most ``end_s`` seconds."""
        self._stopping.set()
        until = time.monotonic() + self._end_s
        for name, thread in self._threads.items():
            thread.join(max(until - time.monotonic(), 0.0))
            if thread.is_alive():
                _log.warning("a witness was not told of the audit log's last head in time: %s", name)
        self._over.set()

    def report(self) -> list[str]:
        """Tell each witness of the newest head unless it knows it; the names of those that could not be told.

        Raises:
            AuditError, StoreError: there is no head to tell of.
        """
        return [one.name for one in self._witnesses if not self._tell(one)]

    def _tell(self, one: Witness) -> bool:
        head = self._store.head(self._clock())
        if self._told.get(one.name) == head.epoch:
            return True
        try:
            one.tell(head.sign(self._store.signing_key))
        except WitnessError as cause:
            _log.warning("a witness was not told of the audit log's head: %s", cause.message)
            return False
        self._told[one.name] = head.epoch
        return True

    def _run(self, one: Witness) -> None:
        while not self._stopping.wait(self._interval):
            self._try(one)
        if not self._over.is_set():  # else the store may be closed by now
            self._try(one)

    def _try(self, one: Witness) -> None:
        try:
            self._tell(one)
        except (AuditError, StoreError) as cause:
            _log.error("the audit log's head cannot be read: %s", cause)


def _head(line: bytes, name: str) -> Json:
    if len(line) > _MAX_HEAD_BYTES:
        raise WitnessError("what the witness holds is too long for a head", witness=name)
    try:
        return parse_object(line)
    except ParseError as cause:
        raise WitnessError("what the witness holds is no head", witness=name) from cause

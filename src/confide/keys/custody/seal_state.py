"""An open root key that the custody can take back: a broker is sealed when its custody refuses, or is silent for too long.

While sealed the key is not in this object any more, and every use of it is a :class:`SealedError`.  It opens again when the custody
gives the same key again, which is no more than a restart would do.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from confide.canonical import Json
from confide.crypto.secret import SecretBytes
from confide.errors import ConfideError, CustodyError, CustodyOfflineError, SealedError
from confide.keys.custody.local import MasterKey
from confide.keys.custody.protocol import Kms
from confide.keys.observation import observed

_log = logging.getLogger(__name__)
_ANSWER_S: Final = 60.0
"""What a question to the custody may take on top, in seconds: a call into an HSM's library cannot be ended from outside."""
_RETRY_S: Final = 15.0
"""How long after a failure the custody is asked again, in seconds, if that is sooner than its turn."""
_LAST_NOTE_S: Final = 5.0
"""How long the end waits for the last change to be noted, in seconds."""
_CHECK_LABEL: Final = b"confide root key check v1"


def boot_time() -> float:
    """Seconds since boot; unlike ``time.monotonic`` it goes on while the machine is suspended (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Patience:
    """How often the custody is asked again, and for how long it may be unreachable.  Seconds; a grace of 0 means not at all."""

    every_s: float = 300.0
    grace_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class SealChange:
    """The custody ``service`` gave the root key (``reason`` is empty) or the broker was sealed, and when."""

    service: str
    reason: str
    at: datetime


Note = Callable[[SealChange], None]
"""Keeps a change where it can be read later; called again if it raises."""


class SealableKms:
    """A :class:`Kms` with a root key that ``ask`` gave and is asked for again.  Safe to use from several threads.

    Whether the custody was silent for too long is looked at in every use, so that a thread that hangs in a question changes nothing.
    """

    def __init__(
        self, ask: Callable[[], SecretBytes], patience: Patience, *, service: str = "custody", clock: Callable[[], float] = boot_time
    ) -> None:
        self._ask = ask
        self._service = service
        self._patience = patience
        self._clock = clock
        self._lock = threading.Lock()
        asked = clock()
        root = ask()
        self._check = _check(root)
        self._key: MasterKey | None = MasterKey(root)
        root.wipe()
        self._answered = asked
        self._reason = ""
        self._changes: deque[SealChange] = deque()
        self.changed = threading.Event()
        """Set when there are changes that nobody has taken note of."""
        self._change("")

    @property
    def sealed(self) -> str | None:
        """Why no key can be used, if so."""
        with self._lock:
            self._seal_if_overdue()
            return self._reason if self._key is None else None

    def wrap(self, secret: SecretBytes, *, context: Json) -> bytes:
        """See :meth:`Kms.wrap`."""
        with observed("custody-wrap"):
            return self._open_key().wrap(secret, context=context)

    def unwrap(self, wrapped: bytes, *, context: Json) -> SecretBytes:
        """See :meth:`Kms.unwrap`."""
        with observed("custody-unwrap"):
            return self._open_key().unwrap(wrapped, context=context)

    def ask_again(self) -> None:
        """Ask the custody once, and seal or open by its answer.  Raises nothing that the custody does."""
        asked = self._clock()
        try:
            with observed("custody-check"):
                root = self._ask()
                if not hmac.compare_digest(_check(root), self._check):
                    raise CustodyError("the custody gives another root key than before")
        except CustodyOfflineError as error:
            _log.warning("the custody of the master key cannot be reached: %s", error.message)
            with self._lock:
                if asked - self._answered >= self._patience.grace_s:
                    self._seal("the custody of the master key could not be reached for too long")
            return
        except ConfideError as error:
            _log.error("the custody of the master key refuses: %s", error.message)
            with self._lock:
                self._seal("the custody of the master key refuses")
            return
        with self._lock:
            if self._key is None:
                _log.warning("unsealed: the custody gives the master key again")
                self._change("")
            self._key, self._answered = MasterKey(root), asked
        root.wipe()

    def next_in(self) -> float:
        """In how many seconds to ask again."""
        with self._lock:
            well = self._key is not None and self._clock() - self._answered < self._patience.every_s
        return self._patience.every_s if well else min(_RETRY_S, self._patience.every_s)

    def _open_key(self) -> MasterKey:
        with self._lock:
            self._seal_if_overdue()
            if self._key is None:
                raise SealedError(f"the broker is sealed: {self._reason}")
            return self._key

    def _seal_if_overdue(self) -> None:
        limit = self._patience.every_s + max(self._patience.grace_s, _ANSWER_S)
        if self._clock() - self._answered > limit:
            self._seal("the custody of the master key could not be reached for too long")

    def _seal(self, reason: str) -> None:
        if self._key is not None:
            _log.error("sealed: %s", reason)
            self._key, self._reason = None, reason
            self._change(reason)

    def _change(self, reason: str) -> None:
        self._changes.append(SealChange(self._service, reason, datetime.now(UTC)))
        self.changed.set()

    def note_changes(self, note: Note) -> None:
        """Have ``note`` keep every change since the last time, in their order.  Not while this thread holds what ``note`` needs.

        Raises what ``note`` does; the change is noted the next time then.
        """
        self.changed.clear()
        while self._changes:
            note(self._changes[0])
            self._changes.popleft()


@contextmanager
def watching(kms: Kms, note: Note) -> Iterator[None]:
    """Ask the custody again and again while inside, if ``kms`` is of one that can take its key back, and ``note`` what comes of it.

    Noting has a thread of its own: a question that hangs in an HSM's library must not keep a sealed broker out of the log, and whoever
    notices that the time is over may hold the store, in which changes are noted.
    """
    if not isinstance(kms, SealableKms):
        yield
        return
    end = threading.Event()

    def ask() -> None:
        while not end.wait(kms.next_in()):
            kms.ask_again()

    def keep() -> None:
        while not end.is_set():
            kms.changed.wait()
            try:
                kms.note_changes(note)
            except ConfideError as error:
                _log.warning("that the broker was sealed or unsealed is not in the audit log yet: %s", error.code)
                end.wait(_RETRY_S)
                kms.changed.set()

    keeper = threading.Thread(target=keep, name="confide-seal-log", daemon=True)
    keeper.start()
    threading.Thread(target=ask, name="confide-custody", daemon=True).start()
    try:
        yield
    finally:
        end.set()
        kms.changed.set()
        keeper.join(_LAST_NOTE_S)


def _check(root: SecretBytes) -> bytes:
    """What tells one root key from another and says nothing else about it."""
    return hmac.digest(root.reveal(), _CHECK_LABEL, hashlib.sha256)

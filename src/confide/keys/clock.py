"""The broker's clock, which never goes back: what has expired once stays so, whatever is done to the machine's clock.

The latest time that any broker on a store has acted at lies in the store's head, authenticated with it, so that a restart or another
broker does not forget it; while a broker runs, the time since the machine's start says how late it must be at least.  A clock that is
behind that by more than :data:`TOLERANCE` was set back, or was ahead before: nobody can tell which, so nothing is decided until the clock
is right again or the operator has said, in the audit log, that the earlier time is the right one.

A clock that is ahead cannot be told from one that was put right.  It ends things early, and begins early what has a time to begin at.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from confide.errors import ClockError, UsageError
from confide.keys.audit import new_event
from confide.keys.custody.seal_state import boot_time
from confide.keys.records import Owner
from confide.keys.store import Store

TOLERANCE: Final = timedelta(seconds=60)
"""How far behind the latest time that was seen a clock may be: those of several machines differ, and are put right in small steps."""
_MAX_REASON: Final = 500


class SteadyClock:
    """Tells the time by ``clock``, and refuses to tell one that is over.  Safe to use from several threads."""

    def __init__(self, store: Store, clock: Callable[[], datetime], *, elapsed: Callable[[], float] = boot_time) -> None:
        """``elapsed`` counts seconds from whenever, and goes on while the machine sleeps."""
        self._store = store
        self._clock = clock
        self._elapsed = elapsed
        self._lock = threading.Lock()
        self._seen: datetime | None = None
        self._seen_at = 0.0

    def __call__(self) -> datetime:
        """The time: never before one that was told earlier, at this broker or at another one on the same store (as far as it has heard).

        Raises:
            ClockError: the machine's clock is behind what it must be.
        """
        with self._lock:
            told, at = self._clock(), self._elapsed()
            least = self._seen or told
            due = least + timedelta(seconds=at - self._seen_at) if self._seen else told
            stored = self._store.latest or told
            if told < max(due, stored) - TOLERANCE:
                behind = max(due, stored)
                raise ClockError(
                    "the broker's clock was set back: it decides nothing until it is right",
                    seen=behind.isoformat(),
                    got=told.isoformat(),
                )
            if told >= due:  # only ever forward, so that many small steps back are found out as well
                self._seen, self._seen_at = told, at
            return max(told, least, stored)


def accept(store: Store, reason: str, now: datetime) -> datetime:
    """Let a store's brokers go on at ``now``, although one has acted at a later time: that one was wrong.  All owners read it in the log.

    Returns that later time.  What has expired by it, and not by now, counts again.

    Raises:
        UsageError: no broker has acted at a later time.
    """
    latest = store.latest
    if latest is None or now >= latest:
        raise UsageError("no broker on this store has acted at a later time than now", hint="there is nothing to accept")
    owners = [owner.name for _, part in store.walk(Owner) for owner in part]
    event = new_event("clock-accepted", owners, now, reason=reason[:_MAX_REASON], seen=latest.isoformat())
    store.append_audit(event, sets_clock=True)
    return latest

"""What was withdrawn from a run, and how brokers that share one store notice: a number in the store, looked at twice a second.

The number says that *something* was withdrawn, anywhere; what that means for a node is decided anew each time, as if it asked for its keys
again.  Every step that takes a right away (a grant, a key version, a node's standing) counts it up, in the same transaction.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final, Self

from confide.attest.evidence import NodeContext
from confide.canonical import Json
from confide.errors import AppraisalError, ConfideError, GrantError, KeyDestroyedError, StoreError
from confide.ids import Purpose, Role
from confide.keys.grants import Grant, Request, check_covered
from confide.keys.hierarchy import KeyHierarchy
from confide.keys.records import CutOff, Dataset, Release, run_ref
from confide.keys.runs import Runs
from confide.keys.standing import Standings
from confide.keys.store import Store

LOOK_EVERY_S: Final = 0.5
"""How late a broker may notice what another one wrote, in seconds."""
_ONLY: Final = "all"


@dataclass(frozen=True, slots=True)
class Withdrawals:
    """How many times something was withdrawn at this store."""

    kind: ClassVar[str] = "withdrawals"
    number: int

    @property
    def id(self) -> str:
        """There is one."""
        return _ONLY

    @property
    def ref(self) -> str:
        """There is one."""
        return _ONLY

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"number": self.number}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["number"])


def withdrawn(store: Store) -> None:
    """Take note that something was withdrawn.  Inside the transaction that does it."""
    store.put(Withdrawals(_number(store) + 1))


def _number(store: Store) -> int:
    found = store.get(Withdrawals, _ONLY)
    return 0 if found is None else found.number


class Bell:
    """Wakes those who wait when the number has changed.  Safe to use from many threads: they look at the store in turn, not each."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._seen = -1
        self._looked = float("-inf")

    def number(self) -> int:
        """The number, not older than :data:`LOOK_EVERY_S`."""
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_EVERY_S:
                self._seen = _number(self._store)
                self._looked = time.monotonic()
            return self._seen

    def wait(self, seen: int, seconds: float, going: Callable[[], bool]) -> None:
        """Return when the number is another one than ``seen``, the time is over, or ``going()`` does not hold any more."""
        until = time.monotonic() + seconds
        while going() and self.number() == seen and (left := until - time.monotonic()) > 0:
            time.sleep(min(LOOK_EVERY_S, left))


def why_withdrawn(
    store: Store, context: NodeContext, role: Role, decide: Callable[[Sequence[str], Purpose], object], now: datetime
) -> ConfideError | None:
    """Why nodes of a run would not be given again what they were given; nothing if they would.

    For what went to nodes of this node's own role, ``decide`` says whether this very node would get it (root keys, purpose).
    """
    try:
        check_not_cut_off(store, context)
        Runs(store).check_not_over(context, now)
        for given in store.find(Release, run_ref(context.run)):
            if given.job == context.job:
                _check_given(store, given, role, decide, now)
    except (GrantError, KeyDestroyedError, AppraisalError) as refusal:
        return refusal
    return None


def _check_given(store: Store, given: Release, role: Role, decide: Callable[[Sequence[str], Purpose], object], now: datetime) -> None:
    dataset = store.get(Dataset, given.dataset)
    if dataset is None:
        raise StoreError("a dataset that was released is not in the store", dataset=given.dataset)
    KeyHierarchy(store).check_there(dataset)
    if given.role is role:
        decide(dataset.roots, given.purpose)
        return
    standings = Standings(store)
    for key in dataset.roots:
        request = Request(key, given.job, given.role, given.purpose, given.run, standings.signers(given.job))
        grants = store.find(Grant, key)
        check_covered(grants, request, now, standings.of(grants, given.job, given.run))


def check_not_cut_off(store: Store, context: NodeContext) -> None:
    """Return if the run's driver has not said that it does not accept this node any more.

    Raises:
        GrantError: it has.
    """
    if store.get(CutOff, CutOff(context.job, context.run, context.node).id) is not None:
        raise GrantError("the run's driver does not accept this node any more", run=context.run, node=context.node)

"""When a run is over, so that what the broker remembers of it can go: its releases, outputs that it goes on with, and cut-offs.

What was released to a run decides what its outputs inherit, so it must not go while the run can still make one.  A run is over when none
of its nodes has asked for anything for seven days; it is refused from then on, and the little that says so is kept for 400 days more.
Nodes of a run that goes on ask all the time: a node that was given a key waits for withdrawals, and says so again every 25 seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, Final, Self, TypeAlias

from confide.attest.evidence import NodeContext
from confide.canonical import Json
from confide.errors import GrantError
from confide.ids import JobDigest, RunId
from confide.keys.lineage import Continuation
from confide.keys.records import CutOff, Release, run_ref
from confide.keys.store import Store

RUN_SILENCE: Final = timedelta(days=7)
"""A run that has been silent for so long is over."""
NAME_KEPT: Final = timedelta(days=400)
"""How long the name of a run that is over is refused: longer than any evidence of its nodes could go on being accepted unrenewed."""
CLEARED: Final = 200
"""What a run or a grant that begins clears away of what others have left, in rows: more than most leave themselves."""
CLOCKS: Final = timedelta(days=1)
"""How far the clocks of brokers on one store may be apart before one forgets a run that another one still takes for alive."""

_OfRun: TypeAlias = Release | CutOff | Continuation
"""What is kept of a run for as long as it may go on."""


@dataclass(frozen=True, slots=True)
class RunSeen:
    """Until when a run may be silent.  Made when it is first given anything."""

    kind: ClassVar[str] = "run"
    job: JobDigest
    run: RunId
    until: datetime

    @property
    def id(self) -> str:
        """Job and run."""
        return f"{self.job}/{self.run}"

    @property
    def ref(self) -> str:
        """The run."""
        return run_ref(self.run)

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"job": self.job, "run": self.run, "until": self.until.isoformat()}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["job"], data["run"], datetime.fromisoformat(data["until"]))


class Runs:
    """What is kept of runs over one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def check_not_over(self, context: NodeContext, now: datetime) -> None:
        """Return if the node's run has not ended by its silence.

        Raises:
            GrantError: it has.
        """
        _check_not_over(self._seen(context), context, now)

    def keep(self, record: _OfRun, context: NodeContext, now: datetime) -> None:
        """Keep what is known of the node's run for as long as that may go on.  Inside the transaction that gives or refuses something.

        Raises:
            GrantError: the run is over.
        """
        until = self.heard(context, now)
        if self._store.get(type(record), record.id) is None:
            self._store.put(record, expires=until + CLOCKS)

    def heard(self, context: NodeContext, now: datetime) -> datetime:
        """Take note that a node of the run has asked for something; until when the run may be silent now.  Inside a transaction.

        Raises:
            GrantError: the run is over.
        """
        seen = self._seen(context)
        _check_not_over(seen, context, now)
        if seen is None:
            self._store.sweep(now, limit=CLEARED)
        elif not _is_due(seen, now):
            return seen.until
        until = now + RUN_SILENCE
        self._store.put(RunSeen(context.job, context.run, until), expires=until + NAME_KEPT)
        ref = run_ref(context.run)
        known: list[_OfRun] = [*self._store.find(Release, ref), *self._store.find(CutOff, ref), *self._store.find(Continuation, ref)]
        for record in known:
            if record.job == context.job:
                self._store.put(record, expires=until + CLOCKS)
        return until

    def is_due(self, context: NodeContext, now: datetime) -> bool:
        """Whether it is time for :meth:`heard`, for a run that was given something: at half of its time, so that this is rare."""
        seen = self._seen(context)
        return seen is not None and _is_due(seen, now)

    def _seen(self, context: NodeContext) -> RunSeen | None:
        return self._store.get(RunSeen, f"{context.job}/{context.run}")


def _check_not_over(seen: RunSeen | None, context: NodeContext, now: datetime) -> None:
    if seen is not None and now >= seen.until:
        hint = f"start a new run: one that asks for nothing for {RUN_SILENCE.days} days has ended"
        raise GrantError("the run has been silent for too long: it is over", hint=hint, run=context.run)


def _is_due(seen: RunSeen, now: datetime) -> bool:
    return seen.until - now < RUN_SILENCE / 2

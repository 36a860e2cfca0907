"""Who of the workers is where, and whether the run can start or go on.  Pure: no IO, no clocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from confide.errors import NodeLostError
from confide.ids import NodeId
from confide.node.workload import Refusal

if TYPE_CHECKING:
    from confide.job import Resources
    from confide.node.record import EvidenceRecord


class Phase(StrEnum):
    """A worker's way.  The last three are final."""

    EXPECTED = "expected"
    ACCEPTED = "accepted"
    READY = "ready"
    STARTED = "started"
    REFUSED = "refused"
    FAILED = "failed"
    LOST = "lost"


PENDING = frozenset({Phase.EXPECTED, Phase.ACCEPTED, Phase.READY})
ENDED = frozenset({Phase.REFUSED, Phase.FAILED, Phase.LOST})
_MAX_REFUSALS = 1000
"""Cap on refusals that are remembered: anybody who reaches the driver can cause them."""
_MAX_RECORDS = 50
"""Cap on refusals whose evidence is kept: some 10 KiB each, in one frame with everything else of the receipt."""
_MAX_RECORD_BYTES = 4 * 1024 * 1024
"""Cap on all that evidence together: a TPM's may be fifty times as long, and a frame that is too large would be none."""
_NEXT = {
    Phase.EXPECTED: {Phase.ACCEPTED},
    # Whoever was refused only *claimed* to be that node: the real one may still come.
    Phase.REFUSED: {Phase.ACCEPTED},
    Phase.ACCEPTED: {Phase.READY},
    Phase.READY: {Phase.STARTED},
}


@dataclass(frozen=True, slots=True)
class Roster:
    """The workers of one run, by id.  Values are replaced, never changed."""

    phases: Mapping[NodeId, Phase]
    codes: Mapping[NodeId, str] = field(default_factory=dict)
    was_accepted: frozenset[NodeId] = frozenset()
    refusals: tuple[Refusal, ...] = ()

    @classmethod
    def of(cls, nodes: Iterable[NodeId]) -> Roster:
        """A roster on which every node is expected."""
        return cls(dict.fromkeys(nodes, Phase.EXPECTED))

    def can_enter(self, node: NodeId) -> bool:
        """Whether a peer may still become this node: it is expected, or whoever claimed to be it was refused."""
        return self.phases.get(node) in {Phase.EXPECTED, Phase.REFUSED}

    def advance(self, node: NodeId, phase: Phase) -> Roster:
        """The roster after ``node`` reached ``phase``; a step out of order, or by an unknown node, changes nothing."""
        if phase not in _NEXT.get(self.phases.get(node, Phase.LOST), set()):
            return self
        accepted = self.was_accepted | {node} if phase is Phase.ACCEPTED else self.was_accepted
        return replace(self, phases={**self.phases, node: phase}, was_accepted=accepted)

    def refuse(self, node: NodeId, code: str, record: EvidenceRecord | None = None) -> Roster:
        """The roster after a peer that called itself ``node`` was refused, with what it showed; an accepted node is not touched."""
        refusal = Refusal(node, code, record if self._has_room_for(record) else None)
        seen = (*self.refusals, refusal)[:_MAX_REFUSALS]
        if not self.can_enter(node):
            return replace(self, refusals=seen)
        return replace(self, phases={**self.phases, node: Phase.REFUSED}, codes={**self.codes, node: code}, refusals=seen)

    def _has_room_for(self, record: EvidenceRecord | None) -> bool:
        records = (record, *(one.record for one in self.refusals[:_MAX_RECORDS]))
        size = sum(len(one.evidence.quote) + len(one.evidence.chain) for one in records if one is not None)
        return len(self.refusals) < _MAX_RECORDS and size <= _MAX_RECORD_BYTES

    def end(self, node: NodeId, phase: Literal[Phase.FAILED, Phase.LOST], code: str) -> Roster:
        """The roster after ``node`` ended; the first end counts."""
        if node not in self.phases or self.phases[node] in ENDED:
            return self
        return replace(self, phases={**self.phases, node: phase}, codes={**self.codes, node: code})

    def count(self, *phases: Phase) -> int:
        """How many workers are in one of ``phases``."""
        return sum(phase in phases for phase in self.phases.values())

    @property
    def settled(self) -> bool:
        """Whether no worker is on its way any more: each has started or ended."""
        return not self.count(*PENDING)

    def check(self, resources: Resources) -> None:
        """Return if the run may go on with whom it has and may still get.

        Raises:
            NodeLostError: too few workers are left, or one was refused and the job asks to fail then.
        """
        refused = self.count(Phase.REFUSED)
        if self.refusals and resources.refused_worker == "fail":
            first = self.refusals[0]
            raise NodeLostError("a worker was refused, and the job asks to fail then", node=first.node, code=first.code)
        left, needed = len(self.phases) - self.count(*ENDED), resources.min_workers
        if left < needed:
            ends = ", ".join(f"{node} {phase} ({self.codes[node]})" for node, phase in sorted(self.phases.items()) if phase in ENDED)
            message = f"too few workers: {left} of {len(self.phases)} left, the job needs {needed}"
            raise NodeLostError(message, hint="see `confide runs logs`", left=left, min_workers=needed, refused=refused, ended=ends)

    def check_started(self, resources: Resources) -> None:
        """Return if enough workers have started for the program to start, now that no more are waited for.

        Raises:
            NodeLostError: too few have.
        """
        started, needed = self.count(Phase.STARTED), resources.min_workers
        if started < needed:
            message = f"too few workers came in time: {started} of {len(self.phases)} started, the job needs {needed}"
            raise NodeLostError(message, hint="see `confide runs logs`", started=started, min_workers=needed)

"""What a run tells its caller: events while it goes on, one result at its end.  Values only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from confide.canonical import Json
from confide.ids import JobDigest, RunId
from confide.jobs.receipt import Verification


class ClientEvent(StrEnum):
    """Types of events that the client itself reports; all others come from the attested driver (``confide.node.control.EventType``)."""

    RUN_CREATED = "run-created"
    NODE_STARTED = "node-started"
    DRIVER_ATTESTED = "driver-attested"
    NODE_WAITING = "node-waiting"
    NODE_ENDED = "node-ended"
    RECEIPT_VERIFIED = "receipt-verified"
    RUN_ENDED = "run-ended"


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened.  ``fields`` are public values; those of a node are that node's word."""

    type: str
    node: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())

    def to_json(self) -> Json:
        """The event as a line of ``events.jsonl``."""
        return {"type": self.type, "node": self.node, "at": self.at, "fields": dict(self.fields)}


OnEvent = Callable[[RunEvent], None]


@dataclass(frozen=True, slots=True)
class OutputResult:
    """One output that is now in its place: a folder, or a URL."""

    name: str
    path: Path | str
    dataset: str
    manifest: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run that succeeded: its outputs are published and its receipt was verified by this client."""

    run: RunId
    job: JobDigest
    folder: Path
    outputs: tuple[OutputResult, ...]
    verification: Verification
    summary: Mapping[str, Any]
    seconds: float

    @property
    def simulated(self) -> bool:
        """Whether the TEEs were simulated, which protects nothing."""
        return self.verification.require().simulated

    @property
    def receipt(self) -> Path:
        """The receipt's file; ``confide verify`` checks it again."""
        return self.folder / "receipt.json"

    def to_json(self) -> Json:
        """The result as JSON: what ``confide run --json`` prints."""
        outputs = [{"name": o.name, "path": str(o.path), "dataset": o.dataset, "manifest": o.manifest} for o in self.outputs]
        statement = self.verification.require()
        return {
            "run": self.run,
            "job": self.job,
            "status": "succeeded",
            "simulated": self.simulated,
            "folder": str(self.folder),
            "receipt": str(self.receipt),
            "outputs": outputs,
            "nodes": [{"node": n.node, "role": n.role, "tee": n.tee, "ended": n.ended} for n in statement.nodes],
            "refused": [{"node": r.node, "code": r.code} for r in statement.refused],
            "data": [asdict(row) for row in statement.data],
            "summary": dict(self.summary),
            "seconds": round(self.seconds, 3),
        }

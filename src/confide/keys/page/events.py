"""Entries of the audit log for people: found from the newest back, and explained.  What was refused is told with what would help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from confide.canonical import Json
from confide.errors import leaf_of
from confide.keys.audit import AuditEntry, AuditHead

PART: Final = 500
"""Entries read at a time."""
MOST_READ: Final = 10_000
"""Entries that one page looks through; its link to older ones goes on from there."""
RELEASES: Final = frozenset({"release", "output", "attest", "open", "cut-off", "withdrawn"})
REFUSED_RELEASES: Final = frozenset({"release", "output", "attest", "open", "session", "evidence", "manifest", "job-signature", "cut-off"})
TITLES: Final[Mapping[str, str]] = {
    "release": "A node was given a dataset's key",
    "output": "A node was given the key of an output",
    "attest": "A node attested",
    "open": "A dataset was opened by its owner or a recipient",
    "cut-off": "A driver cut off a node",
    "withdrawn": "A node was told that its key was withdrawn",
    "manifest": "A new snapshot of a dataset was registered",
    "enrolment": "An enrolment was made ready",
    "cancel-enrolment": "An enrolment was cancelled",
    "enrol": "A credential was enrolled",
    "create-key": "A key was made",
    "rotate-key": "A key got a new version",
    "retire-key": "A key version was retired",
    "destroy-key": "A key version was destroyed",
    "rewrap": "Datasets were put under the newest key version",
    "mint": "A dataset was made",
    "wrapped-form": "A dataset's owner fetched its wrapped key for a new manifest",
    "grant": "A grant was made",
    "revoke": "A grant was ended",
    "approve": "Approved",
    "reject": "Rejected",
    "take-back": "A word on a grant was taken back",
    "approvers": "A rule of who approves came into force",
    "approvers-proposed": "A new rule of who approves was proposed",
    "export-key-proposed": "A key is to be exported, and waits for its approvers",
    "escrow-key-proposed": "A key is to be escrowed, and waits for its approvers",
}
_HEAD: Final = frozenset({"action", "time", "owners", "blind"})
_REFUSAL: Final = frozenset({"refused", "code", "message", "hint", "check", "expected", "got"})


class Log(Protocol):
    """Where entries come from."""

    def audit_page(self, first: int, limit: int) -> tuple[list[AuditEntry], AuditHead]:
        """At most ``limit`` entries from number ``first``, and the log's head."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """Entries, the newest first; ``older`` is where to go on, if there may be more."""

    entries: tuple[AuditEntry, ...]
    older: int | None
    head: AuditHead


def newest(log: Log, wanted: Callable[[Json], bool], *, before: int | None, limit: int, hidden: bool = False) -> Found:
    """The newest entries before number ``before`` whose event is ``wanted``; with ``hidden`` also those that one may not see."""
    _, head = log.audit_page(1, 1)
    end = min(before if before is not None else head.size + 1, head.size + 1)
    least = max(1, end - MOST_READ)
    found: list[AuditEntry] = []
    while end > least:
        first = max(least, end - PART)
        part, _ = log.audit_page(first, end - first)
        for entry in reversed(part):
            if (entry.event is None and hidden) or (entry.event is not None and wanted(entry.event)):
                found.append(entry)
            if len(found) == limit:
                return Found(tuple(found), entry.seq if entry.seq > 1 else None, head)
        end = first
    return Found(tuple(found), end if end > 1 else None, head)


def is_release(event: Json) -> bool:
    """Whether an event is about keys that went, or did not go, to nodes and people."""
    action = event.get("action")
    return action in RELEASES or (action == "refuse" and event.get("refused") in REFUSED_RELEASES)


def concerns_grant(event: Json, grant: str) -> bool:
    """Whether an event is about that grant."""
    used = event.get("grants")
    return grant in (event.get("grant"), event.get("subject"), event.get("change")) or (isinstance(used, list) and grant in used)


@dataclass(frozen=True, slots=True)
class Told:
    """One entry, ready to be shown."""

    seq: int
    event: Json

    @property
    def refused(self) -> bool:
        """Whether it is a refusal."""
        return self.event.get("action") == "refuse"

    @property
    def title(self) -> str:
        """What happened."""
        if self.refused:
            return f"Refused: {self.text('refused')}"
        action = self.text("action")
        return TITLES.get(action, action)

    @property
    def evidence(self) -> str:
        """Of what kind the evidence behind it is: ``simulated``, ``debug``, ``real`` or, where there is none, nothing.

        ``real`` is what the log says was verified as real; anything but the two known words counts as simulated.
        """
        if "evidence" not in self.event and "simulated" not in self.event:
            return ""
        if self.event.get("simulated") != "no":
            return "simulated"
        return "debug" if self.event.get("debug") == "yes" else "real"

    @property
    def meaning(self) -> str:
        """What an error of that code means."""
        leaf = leaf_of(self.event.get("code"))
        return (leaf.__doc__ or "").partition("\n")[0].partition("  ")[0] if leaf is not None else ""

    @property
    def document(self) -> str:
        """The page of the documentation about that error."""
        return f"docs/errors/{leaf.code}.md" if (leaf := leaf_of(self.event.get("code"))) is not None else ""

    def text(self, name: str) -> str:
        """One fact; nothing if it has none."""
        value = self.event.get(name)
        return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    def met(self, policy: str) -> bool:
        """Whether the log says that the node met the policy of that digest."""
        named = self.event.get("policies")
        return isinstance(named, list) and policy in named

    def facts(self) -> list[tuple[str, str]]:
        """All that is not told in the heading or as the refusal."""
        left = _HEAD | (_REFUSAL if self.refused else frozenset())
        return [(name, self.text(name)) for name in sorted(self.event) if name not in left and self.text(name)]

"""What a policy asks, line by line, for people.  Pure.

Every field of a policy has a line unless it asks nothing: who approves a grant signs all of it, so nothing may be left out here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from confide.attest.policy import Policy
from confide.attest.policy_rules import RuleFields
from confide.attest.policy_tree import AnyOf
from confide.canonical import Json

SWITCHES: Final[Mapping[str, str]] = {
    "simulated": "SIMULATED nodes: they protect nothing",
    "debug": "DEBUG nodes: the host can read and change their memory, so that they protect nothing",
    "tdx-no-sept-ve-disable": "TDs that the host can interrupt wherever it takes away a page",
    "tdx-migratable": "TDs that can be moved to another machine while they run",
    "tdx-service-td": "TDs that another TD was bound to, which may act on them",
    "snp-migration-agent": "guests that a migration agent can move to another machine",
    "snp-no-revocation-list": "guests whose processor's keys could not be looked up in AMD's list of revoked ones",
    "tpm-no-memory-protection": "machines that only a TPM speaks for: it protects no memory in use",
}
"""What the named exceptions let in (``attest.policy_values.Switch``)."""
_SHOWN_ELSEWHERE: Final = frozenset({"format", "name"})
_OF_NODE: Final[Mapping[str, tuple[str, ...]]] = {
    "tees": ("tee",),
    "measurements": ("measurement",),
    "statuses": ("tcb_status",),
    "roles": ("role",),
    "jobs": ("job",),
    "allow": ("simulated", "debug"),
}
"""Which facts of a node in the audit log a field is about."""


@dataclass(frozen=True, slots=True)
class Line:
    """One field of a policy: where it stands, what it is about, what is accepted, and whether that weakens what a TEE protects."""

    place: str
    field: str
    meaning: str
    values: tuple[str, ...]
    weakens: bool = False
    got: str = ""
    fits: bool | None = None
    """Whether what the log says of the node fits, where that alone decides the line."""


def lines_of(policy: Policy, event: Json | None = None, *, place: str = "") -> Iterator[Line]:
    """Each line of a policy, members of compositions under their names; with what an ``event`` says of a node, if one is given."""
    here = f"{place}{policy.name}"
    if policy.members:
        kind = "any of" if isinstance(policy, AnyOf) else "all of"
        meaning = "A node must meet one of these." if kind == "any of" else "A node must meet each of these."
        yield Line(here, kind, meaning, tuple(member.name for member in policy.members))
        for member in policy.members:
            yield from lines_of(member, event, place=f"{here} / ")
        return
    said = policy.to_json()
    for name, info in RuleFields.model_fields.items():
        values = tuple(_texts(said[name])) if name in said else ()
        if name in _SHOWN_ELSEWHERE or not values:
            continue
        words = tuple(SWITCHES[value] for value in values) if name == "allow" else values
        fits = None if event is None or not _got(name, event) else _fits(name, said, event)
        yield Line(here, name, info.description or "", words, name == "allow", _got(name, event), fits)


def weakened(policy: Policy) -> tuple[str, ...]:
    """The exceptions that a policy makes, in words."""
    return tuple(SWITCHES[switch] for switch in policy.allow)


def _got(name: str, event: Json | None) -> str:
    found = [(fact, (event or {}).get(fact)) for fact in _OF_NODE.get(name, ())]
    return ", ".join(f"{fact} {value}" for fact, value in found if value not in (None, ""))


def _fits(name: str, said: Json, event: Json) -> bool | None:
    match name:
        case "tees":
            return event.get("tee") in said["tees"]
        case "measurements":
            return event.get("measurement") in said["measurements"].get(event.get("tee"), [])
        case "roles" | "jobs":
            return event.get(name[:-1]) in said[name]
        case "allow":
            return all(event.get(switch) == "no" or switch in said["allow"] for switch in ("simulated", "debug"))
    return None  # ratings depend on the day and the kind of TEE


def _texts(value: object) -> Iterator[str]:
    """The entries of a field; none if it asks nothing."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from (f"{name}: {text}" for text in _texts(inner))
    elif isinstance(value, list):
        for inner in value:
            yield ", ".join(_texts(inner)) if isinstance(inner, dict) else str(inner)
    elif value is not None:
        yield str(value)

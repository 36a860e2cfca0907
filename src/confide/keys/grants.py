"""Grants: which job's nodes an owner lets have a key, and who may open what comes out.  Pure.

A request is granted when one grant of the key covers the job, role and purpose, is in force, and its policy accepts the node's own
evidence.
Knows nothing of sessions, sealing or the store.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import ClassVar, Self

from confide.attest.policy import AttestationResult, Policy
from confide.canonical import Json
from confide.errors import AppraisalError, GrantError, ParseError, UsageError
from confide.ids import JobDigest, KeyRef, Purpose, Role, check_name

_ID = re.compile(r"[0-9a-f]{16}")
_DIGEST = re.compile(r"[0-9a-f]{96}")


@dataclass(frozen=True, slots=True)
class Grant:
    """An owner's permission for one key (``owner/name``, any version) and one job digest.

    ``recipients`` are names of those who may open outputs that derive from the key; nobody by default.
    """

    kind: ClassVar[str] = "grant"
    id: str
    key: str
    job: JobDigest
    policy: Policy
    roles: tuple[Role, ...]
    purposes: tuple[Purpose, ...]
    recipients: tuple[str, ...]
    created: datetime
    not_after: datetime | None = None
    revoked: datetime | None = None

    def __post_init__(self) -> None:
        KeyRef.parse(self.key)
        if not _DIGEST.fullmatch(self.job):
            raise UsageError("a job digest is 96 lower-case hex characters", got=self.job[:100])
        if not self.roles or not self.purposes:
            raise UsageError("a grant must name at least one role and one purpose")
        for name in self.recipients:
            check_name(name, "recipient")
        if self.not_after is not None and self.not_after.tzinfo is None:
            raise UsageError("a grant's end must have a time zone")

    @classmethod
    def new(
        cls,
        key: str,
        *,
        job: JobDigest,
        policy: Policy,
        roles: Sequence[Role],
        purposes: Sequence[Purpose],
        recipients: Sequence[str],
        not_after: datetime | None,
        now: datetime,
    ) -> Self:
        """A new grant.

        Raises:
            UsageError: it names no role or purpose, or has ended already.
        """
        if not_after is not None and not_after.tzinfo is not None and not_after <= now:
            raise UsageError("the grant would have ended already", not_after=not_after.isoformat())
        found = (tuple(sorted(set(roles))), tuple(sorted(set(purposes))), tuple(sorted(set(recipients))))
        return cls(secrets.token_hex(8), key, job, policy, *found, created=now, not_after=not_after)

    @property
    def ref(self) -> str:
        """Grants are found by their key."""
        return self.key

    def revoke(self, now: datetime) -> Grant:
        """The grant, no longer in force.  A revoked grant keeps the time of its first revocation."""
        return self if self.revoked else replace(self, revoked=now)

    def to_json(self) -> Json:
        """The grant as JSON."""
        return {
            "id": self.id,
            "key": self.key,
            "job": self.job,
            "policy": self.policy.to_json(),
            "roles": [role.value for role in self.roles],
            "purposes": [purpose.value for purpose in self.purposes],
            "recipients": list(self.recipients),
            "created": self.created.isoformat(),
            "not_after": self.not_after.isoformat() if self.not_after else None,
            "revoked": self.revoked.isoformat() if self.revoked else None,
        }

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: a field is missing, unknown or wrong.
            PolicyError: the policy is none.
        """
        if set(data) != {"id", "key", "job", "policy", "roles", "purposes", "recipients", "created", "not_after", "revoked"}:
            raise ParseError("not a grant")
        try:
            return cls(
                str(data["id"]),
                str(data["key"]),
                JobDigest(str(data["job"])),
                Policy.from_json(data["policy"]),
                tuple(map(Role, data["roles"])),
                tuple(map(Purpose, data["purposes"])),
                tuple(map(str, data["recipients"])),
                *(None if data[name] is None else _time(data[name]) for name in ("created", "not_after", "revoked")),  # type: ignore[arg-type]
            )
        except (ValueError, TypeError) as cause:
            raise ParseError("a grant has a wrong field") from cause


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time needs a zone")
    return found.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class GrantRef:
    """Which grant let a key be released: its id, and the SHA-384 of the policy that the node met (hex)."""

    grant: str
    policy: str

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.grant) or not _DIGEST.fullmatch(self.policy):
            raise ParseError("not a grant's id and its policy's digest", grant=self.grant[:40])

    def to_json(self) -> Json:
        """The reference as JSON."""
        return {"grant": self.grant, "policy": self.policy}

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: it is not one.
        """
        match data:
            case {"grant": str(grant), "policy": str(policy), **rest} if not rest:
                return cls(grant, policy)
        raise ParseError("not a grant's id and its policy's digest")


@dataclass(frozen=True, slots=True)
class Request:
    """What a node asks for: a key (``owner/name``) for its attested job and role."""

    key: str
    job: JobDigest
    role: Role
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class Decision:
    """A yes: the grant that allows it, and the evidence's appraisal under that grant's policy."""

    grant: Grant
    result: AttestationResult

    def __post_init__(self) -> None:
        # What others say of a node (a token's claims, a certificate's quote) has fields of the same names.
        if type(self.result) is not AttestationResult:
            raise TypeError("keys are granted on results of appraise only")

    @property
    def ref(self) -> GrantRef:
        """What the node, and the receipt, are told of it."""
        return GrantRef(self.grant.id, self.result.policy_digest)


def decide(grants: Iterable[Grant], request: Request, appraise: Callable[[Policy], AttestationResult], now: datetime) -> Decision:
    """The first grant that covers ``request`` and whose policy accepts the node.

    ``appraise`` judges the node's evidence (verified at ``now``) under a policy; see ``confide.attest.policy.appraise``.

    Raises:
        GrantError: no grant covers the request, or none that does is in force.
        AppraisalError: grants cover it, but no grant's policy accepts the evidence; the newest one's refusal.
        BindingError: the evidence is not of this session.
    """
    covering = [g for g in grants if g.key == request.key and g.job == request.job]
    current = in_force(covering, request.purpose, now)
    fitting = sorted((g for g in current if request.role in g.roles), key=lambda g: (g.created, g.id), reverse=True)
    refusal: AppraisalError | None = None
    for grant in fitting:
        try:
            result = appraise(grant.policy)
        except AppraisalError as cause:
            refusal = refusal or cause
            continue
        decision = Decision(grant, result)
        if result.role != request.role or result.context.job != request.job:
            raise GrantError("the attested job or role is not the one asked for", key=request.key)
        return decision
    if refusal is not None:
        raise refusal
    raise GrantError(
        _why_not(covering, current, now), key=request.key, job=request.job, role=request.role.value, purpose=request.purpose.value
    )


def check_covered(grants: Iterable[Grant], request: Request, now: datetime) -> None:
    """Return if a grant that is in force covers ``request``; whether its policy accepts a node is not asked here.

    Raises:
        GrantError: none does.
    """
    covering = [g for g in grants if g.key == request.key and g.job == request.job]
    current = in_force(covering, request.purpose, now)
    if not any(request.role in g.roles for g in current):
        role, purpose = request.role.value, request.purpose.value
        raise GrantError(_why_not(covering, current, now), key=request.key, job=request.job, role=role, purpose=purpose)


def in_force(grants: Iterable[Grant], purpose: Purpose, now: datetime) -> list[Grant]:
    """The grants that are for ``purpose``, not revoked and not past their end."""
    return [g for g in grants if purpose in g.purposes and g.revoked is None and (g.not_after is None or now < g.not_after)]


def recipients(grants: Iterable[Grant], key: str, job: JobDigest, now: datetime) -> set[str]:
    """Who may open outputs that ``job`` derived from data under ``key``, as its grants stand at ``now``."""
    return {name for g in in_force(grants, Purpose.WRITE, now) if g.key == key and g.job == job for name in g.recipients}


def _why_not(covering: Sequence[Grant], current: Sequence[Grant], now: datetime) -> str:
    if current:
        return "no grant of this key is for this role"
    if any(g.revoked for g in covering):
        return "the grant of this key to this job was revoked"
    if any(g.not_after is not None and now >= g.not_after for g in covering):
        return "the grant of this key to this job has ended"
    if covering:
        return "no grant of this key is for this purpose"
    return "no grant of this key covers this job"

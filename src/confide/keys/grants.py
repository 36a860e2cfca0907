"""Grants: which jobs' nodes an owner lets have a key, how often and when, and who may open what comes out.  Pure.

A request is granted when one grant of the key covers the job, role and purpose, is in force and approved, has runs left, and its policy
accepts the node's own evidence.  Knows nothing of sessions, sealing or the store; approvals are counted in ``keys.approvals``.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import ClassVar, Final, Self

from confide.attest.policy import AttestationResult, Policy
from confide.canonical import Json, digest_of
from confide.errors import AppraisalError, GrantError, ParseError, UsageError
from confide.ids import JobDigest, KeyRef, Purpose, Role, RunId, SpkiDigest, check_name
from confide.keys.times import utc, utc_time

GRANT_FORMAT: Final = "confide-grant-v1"
MAX_RUNS: Final = 1_000_000
_ID = re.compile(r"[0-9a-f]{16}")
_DIGEST = re.compile(r"[0-9a-f]{96}")
_SPKI = re.compile(r"[0-9a-f]{64}")
_FIELDS: Final = frozenset({"id", "key", "job", "policy", "roles", "purposes", "recipients", "created", "not_after", "revoked"})
_LATER_FIELDS: Final = frozenset({"signer", "not_before", "max_runs"})
"""Fields that grants of earlier stores lack, which means none of it was asked."""


@dataclass(frozen=True, slots=True)
class Grant:
    """An owner's permission for one key (``owner/name``, any version), and one job digest or every job that ``signer`` has signed.

    ``recipients`` are names of those who may open outputs that derive from the key; nobody by default.  ``max_runs`` counts runs that were
    given a key under it.
    """

    kind: ClassVar[str] = "grant"
    id: str
    key: str
    job: JobDigest | None
    policy: Policy
    roles: tuple[Role, ...]
    purposes: tuple[Purpose, ...]
    recipients: tuple[str, ...]
    created: datetime
    not_after: datetime | None = None
    revoked: datetime | None = None
    signer: SpkiDigest | None = None
    not_before: datetime | None = None
    max_runs: int | None = None

    def __post_init__(self) -> None:
        KeyRef.parse(self.key)
        if (self.job is None) == (self.signer is None):
            raise UsageError("a grant is for one job digest, or for the jobs of one signer")
        if self.job is not None and not _DIGEST.fullmatch(self.job):
            raise UsageError("a job digest is 96 lower-case hex characters", got=self.job[:100])
        if self.signer is not None and not _SPKI.fullmatch(self.signer):
            raise UsageError("a signer is the SHA-256 of a public key in lower-case hex", got=self.signer[:100])
        if not self.roles or not self.purposes:
            raise UsageError("a grant must name at least one role and one purpose")
        for name in self.recipients:
            check_name(name, "recipient")
        if self.not_before is not None and self.not_after is not None and self.not_after <= self.not_before:
            raise UsageError("the grant would end before it begins")
        if self.max_runs is not None and not 1 <= self.max_runs <= MAX_RUNS:
            raise UsageError(f"a grant is for 1 to {MAX_RUNS} runs, or for any number", got=self.max_runs)

    @classmethod
    def new(
        cls,
        key: str,
        *,
        job: JobDigest | None = None,
        signer: SpkiDigest | None = None,
        policy: Policy,
        roles: Sequence[Role],
        purposes: Sequence[Purpose],
        recipients: Sequence[str],
        not_before: datetime | None = None,
        not_after: datetime | None,
        max_runs: int | None = None,
        now: datetime,
    ) -> Self:
        """A new grant.

        Raises:
            UsageError: it names no role or purpose, not one of job and signer, or has ended already.
        """
        begin, end = _utc(not_before), _utc(not_after)
        if end is not None and end <= now:
            raise UsageError("the grant would have ended already", hint="give a later end, or none", not_after=end.isoformat())
        found = (tuple(sorted(set(roles))), tuple(sorted(set(purposes))), tuple(sorted(set(recipients))))
        return cls(
            secrets.token_hex(8),
            key,
            job,
            policy,
            *found,
            created=now.astimezone(UTC),
            not_after=end,
            signer=signer,
            not_before=begin,
            max_runs=max_runs,
        )

    @property
    def ref(self) -> str:
        """Grants are found by their key."""
        return self.key

    @property
    def digest(self) -> str:
        """SHA-384 of everything that the grant says (hex): what approvers sign.  Whether it was revoked is not part of it."""
        terms = {name: value for name, value in self.to_json().items() if name != "revoked"}
        return digest_of({"format": GRANT_FORMAT, **terms})

    def revoke(self, now: datetime) -> Grant:
        """The grant, no longer in force.  A revoked grant keeps the time of its first revocation."""
        return self if self.revoked else replace(self, revoked=now)

    def to_json(self) -> Json:
        """The grant as JSON."""
        return {
            "id": self.id,
            "key": self.key,
            "job": self.job,
            "signer": self.signer,
            "policy": self.policy.to_json(),
            "roles": [role.value for role in self.roles],
            "purposes": [purpose.value for purpose in self.purposes],
            "recipients": list(self.recipients),
            "created": self.created.isoformat(),
            "not_before": self.not_before.isoformat() if self.not_before else None,
            "not_after": self.not_after.isoformat() if self.not_after else None,
            "max_runs": self.max_runs,
            "revoked": self.revoked.isoformat() if self.revoked else None,
        }

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: a field is missing, unknown or wrong.
            PolicyError: the policy is none.
        """
        if not set(data) >= _FIELDS or not set(data) <= _FIELDS | _LATER_FIELDS:
            raise ParseError("not a grant")
        runs = data.get("max_runs")
        if not isinstance(runs, int | None) or isinstance(runs, bool):
            raise ParseError("a grant's number of runs is not one")
        try:
            return cls(
                str(data["id"]),
                str(data["key"]),
                None if data["job"] is None else JobDigest(str(data["job"])),
                Policy.from_json(data["policy"]),
                tuple(map(Role, data["roles"])),
                tuple(map(Purpose, data["purposes"])),
                tuple(map(str, data["recipients"])),
                utc_time(data["created"]),
                not_after=_time_or_none(data["not_after"]),
                revoked=_time_or_none(data["revoked"]),
                signer=None if data.get("signer") is None else SpkiDigest(str(data["signer"])),
                not_before=_time_or_none(data.get("not_before")),
                max_runs=runs,
            )
        except (ValueError, TypeError) as cause:
            raise ParseError("a grant has a wrong field") from cause


def _utc(time: datetime | None) -> datetime | None:
    """A grant's digest is over its text, so one moment has one text."""
    try:
        return None if time is None else utc(time)
    except ValueError as cause:
        raise UsageError("a grant's begin and end must have a time zone, and be of the years 1 to 9999 in UTC") from cause


def _time_or_none(text: str | None) -> datetime | None:
    return None if text is None else utc_time(text)


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
    """What a node asks for: a key (``owner/name``) for its attested job, run and role.

    ``signers`` are keys of which a signature over that job digest was verified (``keys.job_signatures``).
    """

    key: str
    job: JobDigest
    role: Role
    purpose: Purpose
    run: RunId
    signers: frozenset[SpkiDigest]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a grant stands besides its own words: the approvals that it needs, those that were verified, and how many runs have used it.

    ``counted``: whether the run that is asked about is one of these.
    """

    needed: int = 0
    approved_by: tuple[str, ...] = ()
    runs: int = 0
    counted: bool = False

    @property
    def approved(self) -> bool:
        """Whether enough have approved it."""
        return len(set(self.approved_by)) >= self.needed


@dataclass(frozen=True, slots=True)
class Decision:
    """A yes: the grant that allows it, the evidence's appraisal under that grant's policy, and who had approved the grant."""

    grant: Grant
    result: AttestationResult
    approved_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # What others say of a node (a token's claims, a certificate's quote) has fields of the same names.
        if type(self.result) is not AttestationResult:
            raise TypeError("keys are granted on results of appraise only")

    @property
    def ref(self) -> GrantRef:
        """What the node, and the receipt, are told of it."""
        return GrantRef(self.grant.id, self.result.policy_digest)


def decide(
    grants: Iterable[Grant],
    request: Request,
    appraise: Callable[[Policy], AttestationResult],
    now: datetime,
    standings: Mapping[str, Standing],
) -> Decision:
    """The newest grant that covers ``request`` and whose policy accepts the node; one that has counted this run comes first.

    ``appraise`` judges the node's evidence (verified at ``now``) under a policy; see ``confide.attest.policy.appraise``.  ``standings`` has
    the standing of each grant by its id; a grant without one does not count.

    Raises:
        GrantError: no grant covers the request, or none that does is in force, approved and with runs left.
        AppraisalError: grants cover it, but no grant's policy accepts the evidence; the newest one's refusal.
        BindingError: the evidence is not of this session.
    """
    obstacles = [(obstacle(g, request, standings.get(g.id), now), g) for g in grants if g.key == request.key]
    # A run that one grant has counted already goes on under it: it must not use up another's.
    fitting = [g for why, g in obstacles if why is None]
    fitting.sort(key=lambda g: (standings[g.id].counted, g.created, g.id), reverse=True)
    refusal: AppraisalError | None = None
    for grant in fitting:
        try:
            result = appraise(grant.policy)
        except AppraisalError as cause:
            refusal = refusal or cause
            continue
        decision = Decision(grant, result, standings[grant.id].approved_by)
        if result.role != request.role or result.context.job != request.job:
            raise GrantError("the attested job or role is not the one asked for", key=request.key)
        return decision
    if refusal is not None:
        raise refusal
    raise _uncovered((why for why, _ in obstacles), request)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """The first thing that keeps a grant from covering a request.  ``step`` counts how far it came."""

    step: int
    message: str
    hint: str | None = None


def obstacle(grant: Grant, request: Request, standing: Standing | None, now: datetime) -> Obstacle | None:
    """Why ``grant`` does not cover ``request`` as of ``now``; ``None`` if it does, and its policy has the last word."""
    stands = standing or Standing(needed=1)
    begin, end, runs = grant.not_before, grant.not_after, stands.runs + (not stands.counted)
    this = "the grant of this key to this job"
    steps = (
        (covers(grant, request.job, request.signers), "no grant of this key covers this job", None),
        (request.purpose in grant.purposes, "no grant of this key is for this purpose", None),
        (request.role in grant.roles, "no grant of this key is for this role", None),
        (grant.revoked is None, f"{this} was revoked", None),
        (end is None or now < end, f"{this} has ended", None),
        (begin is None or now >= begin, f"{this} has not begun yet", f"it begins at {begin}"),
        (
            stands.approved,
            f"{this} waits for approvals: it has {len(stands.approved_by)} of {stands.needed}",
            "its approvers run `confide keys approve`",
        ),
        (
            grant.max_runs is None or runs <= grant.max_runs,
            f"{this} was used by all the runs that it is for: {grant.max_runs}",
            "ask the key's owner for another grant",
        ),
    )
    return next((Obstacle(step, message, hint) for step, (ok, message, hint) in enumerate(steps) if not ok), None)


def check_covered(grants: Iterable[Grant], request: Request, now: datetime, standings: Mapping[str, Standing]) -> None:
    """Return if a grant that is in force and approved covers ``request``; whether its policy accepts a node is not asked here.

    Raises:
        GrantError: none does.
    """
    obstacles = [obstacle(g, request, standings.get(g.id), now) for g in grants if g.key == request.key]
    if all(why is not None for why in obstacles):
        raise _uncovered(obstacles, request)


def _uncovered(obstacles: Iterable[Obstacle | None], request: Request) -> GrantError:
    """The grant that came farthest says the most about what is missing."""
    nothing = Obstacle(0, "no grant of this key covers this job")
    why = max((why for why in obstacles if why is not None), key=lambda why: why.step, default=nothing)
    facts = {"key": request.key, "job": request.job, "role": request.role.value, "purpose": request.purpose.value}
    return GrantError(why.message, hint=why.hint, **facts)


def covers(grant: Grant, job: JobDigest, signers: frozenset[SpkiDigest]) -> bool:
    """Whether the grant is for ``job``, of which these signers' signatures were verified."""
    if grant.job is not None:
        return grant.job == job
    return grant.signer in signers


def recipients(
    grants: Iterable[Grant], key: str, job: JobDigest, now: datetime, *, standings: Mapping[str, Standing], signers: frozenset[SpkiDigest]
) -> set[str]:
    """Who may open outputs that ``job`` derived from data under ``key``, as its grants stand at ``now``.

    ``signers``: whose signatures over that job were verified.  Runs that are used up do not matter: what they made stays theirs.
    """
    allowed: set[str] = set()
    for grant in grants:
        standing = standings.get(grant.id)
        if grant.key == key and covers(grant, job, signers) and _is_for_writing(grant, now) and standing is not None and standing.approved:
            allowed |= set(grant.recipients)
    return allowed


def _is_for_writing(grant: Grant, now: datetime) -> bool:
    begun = grant.not_before is None or now >= grant.not_before
    ended = grant.revoked is not None or (grant.not_after is not None and now >= grant.not_after)
    return Purpose.WRITE in grant.purposes and begun and not ended

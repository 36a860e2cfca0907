"""An owner's and an approver's requests about grants.  Part of ``keys.client.OwnerClient``; fails closed as that does.

What an approver signs is computed here, from what the broker shows and this program prints: never a digest that the broker names.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from confide.attest.policy import Policy
from confide.canonical import Json
from confide.errors import BrokerError, ConfideError, CredentialError, UsageError
from confide.ids import JobDigest, Purpose, Role, SpkiDigest
from confide.keys.approvals import ApprovalRule, RuleChange, Verdict, sign_vote
from confide.keys.connection import Answer
from confide.keys.departures import Departure
from confide.keys.grants import Grant
from confide.keys.key_client import KeyClient

_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class StandingView:
    """The broker's word on how a grant, a new rule or a leaving stands: approvals needed and given, rejections, runs that were counted."""

    needed: int
    approved: tuple[str, ...]
    rejected: tuple[str, ...]
    approvers: tuple[str, ...]
    runs: int

    @property
    def pending(self) -> bool:
        """Whether approvals are missing."""
        return len(self.approved) < self.needed

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """Read it.

        Raises:
            BrokerError: it is none.
        """
        approved, rejected, approvers = (answer.texts(name) for name in ("approved", "rejected", "approvers"))
        return cls(answer.field("needed", int), approved, rejected, approvers, answer.field("runs", int))

    @property
    def votes(self) -> str:
        """Approvals and rejections, for people."""
        said = ", ".join([*self.approved, *(f"not {name}" for name in self.rejected)])
        return f"{len(self.approved)} of {self.needed}" + (f" ({said})" if said else "")

    def to_json(self) -> Json:
        """The standing as JSON."""
        people = {"approved": list(self.approved), "rejected": list(self.rejected), "approvers": list(self.approvers)}
        return {"needed": self.needed, "pending": self.pending, **people, "runs": self.runs}


class _View(ABC):
    """What is voted on, and how it stands."""

    __slots__ = ()
    standing: StandingView

    @property
    @abstractmethod
    def subject(self) -> Grant | RuleChange | Departure:
        """What is voted on."""

    def to_json(self) -> Json:
        """The view as JSON."""
        return {**self.subject.to_json(), "digest": self.subject.digest, "standing": self.standing.to_json()}


@dataclass(frozen=True, slots=True)
class GrantView(_View):
    """A grant and how it stands."""

    grant: Grant
    standing: StandingView

    @property
    def subject(self) -> Grant:
        """What is voted on."""
        return self.grant

    def state(self, now: datetime) -> str:
        """How it stands as of ``now``, for people."""
        made = self.grant
        begins = made.not_before is not None and now < made.not_before
        steps = (
            (made.revoked is not None, "revoked"),
            (made.not_after is not None and now >= made.not_after, "ended"),
            (self.standing.pending, f"waits: {self.standing.votes}"),
            (begins, f"begins {made.not_before:%Y-%m-%d %H:%M}" if made.not_before else ""),
            (made.max_runs is not None and self.standing.runs >= made.max_runs, "runs used up"),
        )
        return next((state for so, state in steps if so), "in force")


@dataclass(frozen=True, slots=True)
class ChangeView(_View):
    """A new rule that waits for approval, and how it stands."""

    change: RuleChange
    standing: StandingView

    @property
    def subject(self) -> RuleChange:
        """What is voted on."""
        return self.change


@dataclass(frozen=True, slots=True)
class DepartureView(_View):
    """A key's leaving that waits for approval, and how it stands."""

    departure: Departure
    standing: StandingView

    @property
    def subject(self) -> Departure:
        """What is voted on."""
        return self.departure


View = GrantView | ChangeView | DepartureView


@dataclass(frozen=True, slots=True)
class GrantList:
    """What somebody sees of grants: those of own keys and of keys that they approve for, the keys' rules, and what waits besides."""

    grants: tuple[GrantView, ...]
    changes: tuple[ChangeView, ...]
    rules: tuple[ApprovalRule, ...]
    departures: tuple[DepartureView, ...] = ()

    def find(self, subject: str) -> View:
        """What has that id.

        Raises:
            CredentialError: nothing that is seen here.
        """
        known: tuple[View, ...] = (*self.departures, *self.changes, *self.grants)
        views = {view.subject.id: view for view in known}
        if subject not in views:
            raise CredentialError(f"there is no grant {subject[:40]} that this credential sees", hint="`confide keys grants` shows them")
        return views[subject]

    def rule(self, key: str) -> ApprovalRule:
        """The rule of a key; one that asks for nobody if it has none."""
        return next((rule for rule in self.rules if rule.key == key), ApprovalRule(key, 0, ()))


def read_grant_list(answer: Answer) -> GrantList:
    """The broker's answer about grants.

    Raises:
        BrokerError: it is none.
    """
    standings = answer.field("standings", dict)
    grants = [_grant(one) for one in answer.objects("grants")]
    return GrantList(
        tuple(GrantView(grant, _standing(standings.get(grant.id))) for grant in grants),
        tuple(_change(one) for one in answer.objects("changes")),
        tuple(_rule(one) for one in answer.objects("rules")),
        tuple(departure_view(one) for one in answer.objects("departures")),
    )


class GrantCalls(KeyClient):
    """The requests.  Errors as in :class:`~confide.keys.key_client.KeyClient`."""

    def grant(
        self,
        name: str,
        *,
        job: JobDigest | None = None,
        signer: SpkiDigest | None = None,
        policy: Policy,
        roles: Sequence[Role] = (Role.DRIVER, Role.WORKER),
        purposes: Sequence[Purpose] = (Purpose.READ, Purpose.WRITE),
        recipients: Sequence[str] = (),
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        max_runs: int | None = None,
    ) -> Grant:
        """Grant an own key under one policy, to one job or to every job that the holder of the key ``signer`` has signed.

        ``recipients`` (enrolled names) may open outputs that derive from it.  Where the key has an approval rule, the grant waits.
        """
        body = {
            "key": self._id(name),
            "job": job,
            "signer": signer,
            "policy": policy.to_json(),
            "roles": [role.value for role in roles],
            "purposes": [purpose.value for purpose in purposes],
            "recipients": list(recipients),
            "not_before": not_before.isoformat() if not_before else None,
            "not_after": not_after.isoformat() if not_after else None,
            "max_runs": max_runs,
        }
        return _grant(self._call("POST", "grants", body).field("grant", dict))

    def grants(self) -> tuple[Grant, ...]:
        """The grants of the owner's keys, and of those that the credential approves for; revoked ones included."""
        return tuple(view.grant for view in self.grant_list().grants)

    def grant_list(self) -> GrantList:
        """The same with how they stand, the keys' rules, and new rules that wait for approval."""
        return read_grant_list(self._call("GET", "grants"))

    def revoke(self, grant_id: str) -> Grant:
        """End a grant now: one of an own key, or of a key that the credential approves for."""
        return _grant(self._call("DELETE", f"grants/{_checked(grant_id)}").field("grant", dict))

    def set_approvers(self, name: str, threshold: int, approvers: Sequence[str]) -> ChangeView | None:
        """Say who approves grants of an own key.  ``None`` if that is in force now; else the change, which waits for the rule in force.

        Raises:
            UsageError: it is no rule, or names somebody who is not enrolled.
        """
        body = {"key": self._id(name), "threshold": threshold, "approvers": list(approvers)}
        answer = self._call("POST", "approvers", body)
        _rule(answer.field("rule", dict))
        return next(map(_change, answer.objects("changes")), None)

    def vote(self, subject: str, verdict: Verdict, *, digest: str | None = None) -> View:
        """Sign an approval or rejection of exactly what the broker shows under that id now, and have it counted.

        ``digest``: what it must be, if the approver was told by another way than the broker's.

        Raises:
            CredentialError: there is nothing to approve under that id, or it is not the one of ``digest``.
        """
        found = self.grant_list().find(_checked(subject))
        thing = found.subject
        if digest is not None and digest != thing.digest:
            raise CredentialError("what the broker shows is not what you have reviewed", expected=digest[:100], got=thing.digest)
        envelope = sign_vote(self._credential.key, thing, verdict, self.broker_key().digest)
        answer = self._call("POST", "approvals/vote", {"subject": thing.id, "verdict": verdict, "envelope": envelope})
        return replace(found, standing=_standing(answer.field("standing", dict)))

    def take_back(self, subject: str) -> StandingView:
        """Take back the credential's own word on a grant, rule or leaving."""
        return _standing(self._call("POST", "approvals/take-back", {"subject": _checked(subject)}).field("standing", dict))


def _checked(text: str) -> str:
    if not _ID.fullmatch(text):
        raise UsageError(f"not a grant id: {text[:80]!r}", hint="`confide keys grants` shows them")
    return text


def _grant(data: Json) -> Grant:
    try:
        return Grant.from_json(data)
    except ConfideError as cause:
        raise BrokerError("the broker's answer holds no grant") from cause


def _standing(data: object) -> StandingView:
    if not isinstance(data, dict):
        raise BrokerError("the broker's answer does not say how a grant stands")
    return StandingView.of(Answer(data))


def _change(data: Json) -> ChangeView:
    fields = dict(data)
    standing = _standing(fields.pop("standing", None))
    try:
        return ChangeView(RuleChange.from_json(fields), standing)
    except (ConfideError, KeyError, TypeError, ValueError) as cause:
        raise BrokerError("the broker's answer holds no rule") from cause


def departure_view(data: Json) -> DepartureView:
    """The broker's word on a key that is to leave.

    Raises:
        BrokerError: it is none.
    """
    fields = dict(data)
    standing = _standing(fields.pop("standing", None))
    try:
        return DepartureView(Departure.from_json(fields), standing)
    except ConfideError as cause:
        raise BrokerError("the broker's answer names no key that is to leave") from cause


def _rule(data: Json) -> ApprovalRule:
    try:
        return ApprovalRule.from_json(data)
    except (ConfideError, KeyError, TypeError, ValueError) as cause:
        raise BrokerError("the broker's answer holds no rule") from cause

"""Approvals: a key may ask that M of N people approve each of its grants.  Records and counting; pure.

An approver signs, with the credential that the key's rule names, the digest of exactly one grant (or of one new rule) at one broker.  Votes
are counted anew at each decision, signatures included, unless every record is the very same: neither who can write the database nor a
mistake in the broker's commands makes one.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar, Final, Literal, Protocol, Self

from confide.canonical import Json, canonical, digest_of
from confide.crypto.sign import PublicKey, SigningKey, dsse_sign, dsse_verify
from confide.errors import ConfideError, CredentialError, ParseError, UsageError
from confide.ids import JobDigest, KeyRef, RunId, SpkiDigest, check_name

VOTE_TYPE: Final = "application/vnd.confide.approval+json"
VOTE_FORMAT: Final = "confide-approval-v1"
RULE_FORMAT: Final = "confide-approval-rule-v1"
MAX_APPROVERS: Final = 32
Verdict = Literal["approve", "reject"]
VERDICTS: Final[tuple[Verdict, ...]] = ("approve", "reject")


class Subject(Protocol):
    """What is voted on: a grant, a new rule of a key, or a key's leaving its broker."""

    kind: ClassVar[str]

    @property
    def id(self) -> str:
        """Its id."""
        ...

    @property
    def key(self) -> str:
        """The key that it is about, ``owner/name``."""
        ...

    @property
    def digest(self) -> str:
        """SHA-384 of everything that it says (hex)."""
        ...


@dataclass(frozen=True, slots=True)
class Approver:
    """One who may approve: the enrolled name, and the public key (DER) that counts.  The name alone would follow a new enrolment."""

    name: str
    spki: bytes

    def to_json(self) -> Json:
        """The approver as JSON."""
        return {"name": self.name, "spki": self.spki.hex()}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: it is none.
        """
        match data:
            case {"name": str(name), "spki": str(spki), **rest} if not rest:
                with suppress(ValueError):
                    return cls(name, bytes.fromhex(spki))
        raise ParseError("not an approver")


@dataclass(frozen=True, slots=True)
class ApprovalRule:
    """The rule of one key: at least ``threshold`` of ``approvers`` approve each grant.  None at all: grants count at once.

    ``before`` is the digest of the rule that it replaces, so that approvals of a change do not outlive the rule that they were given under.
    """

    kind: ClassVar[str] = "approval-rule"
    key: str
    threshold: int
    approvers: tuple[Approver, ...]
    before: str = ""

    def __post_init__(self) -> None:
        KeyRef.parse(self.key)
        for approver in self.approvers:
            check_name(approver.name, "approver")
        if len(self.approvers) > MAX_APPROVERS:
            raise UsageError(f"a key has at most {MAX_APPROVERS} approvers", got=len(self.approvers))
        people, keys = {a.name for a in self.approvers}, {a.spki for a in self.approvers}
        if len(people) != len(self.approvers) or len(keys) != len(self.approvers):
            raise UsageError("an approver is named twice")
        if not (1 <= self.threshold <= len(self.approvers) or (self.threshold == 0 and not self.approvers)):
            raise UsageError(
                "a rule needs at least one approval, and no more than it has approvers",
                hint="for no rule at all, give neither approvers nor a threshold",
                threshold=self.threshold,
                approvers=len(self.approvers),
            )

    @property
    def id(self) -> str:
        """The key."""
        return self.key

    @property
    def ref(self) -> str:
        """The key's owner."""
        return KeyRef.parse(self.key).owner

    @property
    def names(self) -> list[str]:
        """The approvers' names."""
        return [approver.name for approver in self.approvers]

    @property
    def digest(self) -> str:
        """SHA-384 of the rule (hex)."""
        return digest_of({"format": RULE_FORMAT, **self.to_json()})

    def approver(self, spki: bytes) -> Approver:
        """The approver with that key.

        Raises:
            CredentialError: there is none.
        """
        found = next((a for a in self.approvers if a.spki == spki), None)
        if found is None:
            raise CredentialError("this credential is no approver of that key", key=self.key)
        return found

    def to_json(self) -> Json:
        """The rule as JSON."""
        people = [approver.to_json() for approver in self.approvers]
        return {"key": self.key, "threshold": self.threshold, "approvers": people, "before": self.before}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: a field is missing, unknown or wrong.
            UsageError: it is no rule that anybody can have.
        """
        match data:
            case {"key": str(key), "threshold": int(threshold), "approvers": list(people), "before": str(before), **rest}:
                if not rest and all(isinstance(one, dict) for one in people):
                    return cls(key, threshold, tuple(map(Approver.from_json, people)), before)
        raise ParseError("not a rule of who approves")


@dataclass(frozen=True, slots=True)
class RuleChange:
    """A new rule that waits for the approval of the rule in force."""

    kind: ClassVar[str] = "rule-change"
    id: str
    rule: ApprovalRule
    created: datetime

    @classmethod
    def new(cls, rule: ApprovalRule, now: datetime) -> Self:
        """A change to ``rule``."""
        return cls(secrets.token_hex(8), rule, now)

    @property
    def key(self) -> str:
        """The key whose rule it is."""
        return self.rule.key

    @property
    def ref(self) -> str:
        """Changes are found by their key."""
        return self.rule.key

    @property
    def digest(self) -> str:
        """SHA-384 of the change (hex): what approvers sign."""
        return digest_of({"format": RULE_FORMAT, **self.to_json()})

    def to_json(self) -> Json:
        """The change as JSON."""
        return {"id": self.id, "rule": self.rule.to_json(), "created": self.created.isoformat()}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: a field is missing, unknown or wrong.
        """
        match data:
            case {"id": str(name), "rule": dict(rule), "created": str(created), **rest} if not rest:
                with suppress(ValueError):
                    return cls(name, ApprovalRule.from_json(rule), datetime.fromisoformat(created))
        raise ParseError("not a change of a rule")


@dataclass(frozen=True, slots=True)
class Approvership:
    """The fact that somebody is an approver of a key, to be found by the name.  The rule decides; this only leads to it."""

    kind: ClassVar[str] = "approvership"
    name: str
    key: str

    @property
    def id(self) -> str:
        """Name and key."""
        return f"{self.name}/{self.key}"

    @property
    def ref(self) -> str:
        """The approver's name."""
        return self.name

    def to_json(self) -> Json:
        """See ``keys.records.Record``."""
        return {"name": self.name, "key": self.key}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See ``keys.records.Record``."""
        return cls(data["name"], data["key"])


@dataclass(frozen=True, slots=True)
class Vote:
    """What one approver has said of one subject: one vote each, the last one counts.  ``envelope`` (DSSE) is what makes it one."""

    kind: ClassVar[str] = "vote"
    subject: str
    approver: str
    envelope: Json
    at: datetime

    @property
    def id(self) -> str:
        """Subject and approver."""
        return f"{self.subject}/{self.approver}"

    @property
    def ref(self) -> str:
        """The subject."""
        return self.subject

    def to_json(self) -> Json:
        """See ``keys.records.Record``."""
        return {"subject": self.subject, "approver": self.approver, "envelope": self.envelope, "at": self.at.isoformat()}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See ``keys.records.Record``."""
        return cls(data["subject"], data["approver"], dict(data["envelope"]), datetime.fromisoformat(data["at"]))


@dataclass(frozen=True, slots=True)
class GrantRun:
    """The fact that a run was given a key under a grant.  ``driver`` is the key digest of the run's driver, once it has asked."""

    kind: ClassVar[str] = "grant-run"
    grant: str
    job: JobDigest
    run: RunId
    driver: SpkiDigest | None = None

    @property
    def id(self) -> str:
        """Grant, job and run."""
        return f"{self.grant}/{self.job}/{self.run}"

    @property
    def ref(self) -> str:
        """The grant."""
        return self.grant

    def with_driver(self, driver: SpkiDigest) -> GrantRun:
        """This run, once its driver is known."""
        return replace(self, driver=driver)

    def to_json(self) -> Json:
        """See ``keys.records.Record``."""
        return {"grant": self.grant, "job": self.job, "run": self.run, "driver": self.driver}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See ``keys.records.Record``."""
        return cls(data["grant"], data["job"], data["run"], data["driver"])


def sign_vote(key: SigningKey, subject: Subject, verdict: Verdict, broker: SpkiDigest) -> Json:
    """An approver's signed word (DSSE envelope) on exactly this subject, at that broker."""
    (payload,) = (text for text, meaning in _statements(subject, broker).items() if meaning == verdict)
    return dsse_sign(key, VOTE_TYPE, payload)


def verify_vote(envelope: Json, approver: Approver, subject: Subject, broker: SpkiDigest) -> Verdict:
    """What ``approver`` says of exactly this subject.

    Raises:
        CredentialError: the envelope is not signed by that approver's key, or is about something else: another grant, other terms, another
            broker.
    """
    return _read(envelope, approver, _statements(subject, broker))


def approved_by(rule: ApprovalRule, subject: Subject, votes: Iterable[Vote], broker: SpkiDigest) -> tuple[str, ...]:
    """Who of the rule's approvers has approved exactly this subject: each at most once, every signature verified now."""
    return tuple(sorted(name for name, verdict in verdicts(rule, subject, votes, broker).items() if verdict == "approve"))


def verdicts(rule: ApprovalRule, subject: Subject, votes: Iterable[Vote], broker: SpkiDigest) -> dict[str, Verdict]:
    """What each of the rule's approvers has said of exactly this subject.  A vote that does not verify is none."""
    cast = {vote.approver: vote for vote in votes if vote.subject == subject.id}
    meanings = _statements(subject, broker) if cast else {}
    found: dict[str, Verdict] = {}
    for approver in rule.approvers:
        vote = cast.get(approver.name)
        if vote is not None:
            try:
                found[approver.name] = _read(vote.envelope, approver, meanings)
            except CredentialError:
                continue
    return found


def read_approvers(names: Sequence[object]) -> tuple[str, ...]:
    """The names of approvers in a request, sorted.

    Raises:
        ParseError: they are not names.
    """
    if not all(isinstance(name, str) for name in names):
        raise ParseError("approvers are given by their names")
    return tuple(sorted(str(name) for name in names))


def _read(envelope: Json, approver: Approver, meanings: Mapping[bytes, Verdict]) -> Verdict:
    try:
        payload = dsse_verify(envelope, PublicKey.from_spki(approver.spki), VOTE_TYPE)
    except ConfideError as cause:
        raise CredentialError(f"the approval does not verify: {cause.message}", approver=approver.name) from cause
    if payload not in meanings:
        raise CredentialError("the approval is of something else", hint="look at it again and approve it anew", approver=approver.name)
    return meanings[payload]


def _statements(subject: Subject, broker: SpkiDigest) -> dict[bytes, Verdict]:
    """All that can be signed about a subject, and what it means."""
    said = {
        "format": VOTE_FORMAT,
        "broker": broker,
        "subject": subject.kind,
        "id": subject.id,
        "key": subject.key,
        "digest": subject.digest,
    }
    return {canonical({**said, "verdict": verdict}): verdict for verdict in VERDICTS}

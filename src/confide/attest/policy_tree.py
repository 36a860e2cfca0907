"""Policies as values: rules for a node, and policies made of policies.  Reads, names and composes them; judges through ``policy_checks``.

A policy is one of three: :class:`Rules`, :class:`AllOf` (a node must meet each member) and :class:`AnyOf` (a node must meet one member).
All are read by :meth:`Policy.from_json`, so that whatever takes a policy takes each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from confide.attest.policy_checks import Check, checks_of
from confide.attest.policy_rules import RuleFields, plain_name, refused
from confide.canonical import Json, digest_of, parse_object, parse_toml
from confide.errors import ParseError, PolicyError
from confide.regular_file import read_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from confide.attest.policy_values import Switch
    from confide.attest.tokens.verified import VerifiedToken
    from confide.attest.verify import VerifiedEvidence
    from confide.ids import JobDigest, Role, Tee

MAX_DEPTH: Final = 4
"""How many policies deep a policy may be; rules alone are one."""
MAX_POLICIES: Final = 32
"""How many policies a policy may be made of, itself included."""
MAX_POLICY_FILE_BYTES: Final = 16 * 1024 * 1024
"""Cap on a policy file: room for long lists of machines."""


class Policy(ABC):
    """Which nodes are accepted.  Everything that is not named is refused.

    Build one with :meth:`from_json` or :meth:`load`, or as :class:`Rules`, :class:`AllOf` or :class:`AnyOf`.
    """

    if TYPE_CHECKING:

        @property
        @abstractmethod
        def name(self) -> str:
            """What refusals and receipts call the policy."""

        @property
        @abstractmethod
        def tees(self) -> tuple[Tee, ...]:
            """The kinds of TEE that can be accepted."""

        @property
        @abstractmethod
        def allow(self) -> tuple[Switch, ...]:
            """The named exceptions that can be made."""

    @abstractmethod
    def to_json(self) -> Json:
        """The policy as JSON: every field, defaults included."""

    @abstractmethod
    def explain(
        self, verified: VerifiedEvidence | VerifiedToken, *, role: Role | None = None, job: JobDigest | None = None, now: datetime
    ) -> list[Check]:
        """Each check with what was expected and what was found; the policy accepts exactly if all of them are ok.

        Decides nothing: :func:`confide.attest.appraisal.appraise` does.  ``role`` and ``job`` are None for evidence that is shown outside
        of a session.
        """

    @property
    @abstractmethod
    def members(self) -> tuple[Policy, ...]:
        """The policies that this one is made of; none for rules."""

    @cached_property
    def digest(self) -> str:
        """SHA-384 of the RFC 8785 form, lower-case hex."""
        return digest_of(self.to_json())

    def walk(self) -> Iterator[Policy]:
        """The policy and all that it is made of."""
        yield self
        for member in self.members:
            yield from member.walk()

    @staticmethod
    def from_json(data: object) -> Policy:
        """Build a policy from its JSON form.

        Raises:
            PolicyError: a field is unknown or wrong, the policy asks nothing or too little, or is too deep or too large.
        """
        if not isinstance(data, dict):
            raise PolicyError("a policy is an object")
        _check_size(data)
        kind = _KINDS.get(_kind_of(data), Rules)
        return kind(**{str(name): value for name, value in data.items()})

    @staticmethod
    def load(path: Path) -> Policy:
        """Read a policy file: JSON if its name ends so, TOML otherwise.

        Raises:
            PolicyError: the file cannot be read or is not a policy.
        """
        try:
            text = read_regular(path, MAX_POLICY_FILE_BYTES).decode("utf-8")
            return Policy.from_json(parse_object(text) if path.suffix == ".json" else parse_toml(text))
        except OSError as cause:
            raise PolicyError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause
        except (UnicodeDecodeError, ParseError) as cause:
            raise PolicyError(f"{path.name} is not a policy file: {cause}", path=str(path)) from cause


class Rules(RuleFields, Policy):
    """What is asked of one node, without composition: the fields of :class:`confide.attest.policy_rules.RuleFields`."""

    @property
    def members(self) -> tuple[Policy, ...]:
        """None."""
        return ()

    def to_json(self) -> Json:
        """The policy as JSON: every field, defaults included."""
        return self.model_dump(mode="json")

    def explain(
        self, verified: VerifiedEvidence | VerifiedToken, *, role: Role | None = None, job: JobDigest | None = None, now: datetime
    ) -> list[Check]:
        """Each rule beside what was found."""
        return checks_of(self, verified, role, job, now)


def _kind_of(data: Any) -> str:
    if isinstance(data, dict):
        return "all_of" if "all_of" in data else "any_of" if "any_of" in data else "rules"
    return "all_of" if isinstance(data, AllOf) else "any_of" if isinstance(data, AnyOf) else "rules"


Member = Annotated[
    Annotated["Rules", Tag("rules")] | Annotated["AllOf", Tag("all_of")] | Annotated["AnyOf", Tag("any_of")], Discriminator(_kind_of)
]


def _by_name(members: tuple[Policy, ...]) -> tuple[Policy, ...]:
    return tuple(sorted(members, key=lambda member: member.name))


_Members = Annotated[
    tuple[Member, ...], Field(min_length=1, description="At least one policy, each with a name of its own."), AfterValidator(_by_name)
]
"""In the order of their names, so that one composition has one digest."""


class _Composed(BaseModel, Policy):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["confide-policy-v1"] = "confide-policy-v1"
    name: str = Field(description="What refusals and receipts call the policy.")

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as cause:
            raise refused(cause) from None

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return plain_name(name)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        names = [member.name for member in self.members]
        if len(set(names)) != len(names):
            raise ValueError("two policies of a composition have the same name")
        if _depth(self) > MAX_DEPTH or sum(1 for _ in self.walk()) > MAX_POLICIES:
            raise ValueError(f"a policy is at most {MAX_DEPTH} deep and made of at most {MAX_POLICIES} policies")
        return self

    def to_json(self) -> Json:
        """The policy as JSON: every field of every member, defaults included."""
        return self.model_dump(mode="json")


class AllOf(_Composed):
    """Accepts what every member accepts."""

    all_of: _Members

    @property
    def members(self) -> tuple[Policy, ...]:
        """What a node must meet, each."""
        return self.all_of

    @property
    def tees(self) -> tuple[Tee, ...]:
        """What each member accepts."""
        return tuple(sorted(set.intersection(*(set(member.tees) for member in self.all_of))))

    @property
    def allow(self) -> tuple[Switch, ...]:
        """The exceptions that each member makes."""
        return tuple(sorted(set.intersection(*(set(member.allow) for member in self.all_of))))

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if not self.tees:
            raise ValueError("the members of all_of accept no kind of TEE in common")
        return self

    def explain(
        self, verified: VerifiedEvidence | VerifiedToken, *, role: Role | None = None, job: JobDigest | None = None, now: datetime
    ) -> list[Check]:
        """The checks of every member, each under its name."""
        return [check for member in self.all_of for check in _under(member, member.explain(verified, role=role, job=job, now=now))]


class AnyOf(_Composed):
    """Accepts what at least one member accepts."""

    any_of: _Members

    @property
    def members(self) -> tuple[Policy, ...]:
        """What a node must meet, one of them."""
        return self.any_of

    @property
    def tees(self) -> tuple[Tee, ...]:
        """What any member accepts."""
        return tuple(sorted({tee for member in self.any_of for tee in member.tees}))

    @property
    def allow(self) -> tuple[Switch, ...]:
        """The exceptions that any member makes."""
        return tuple(sorted({switch for member in self.any_of for switch in member.allow}))

    def explain(
        self, verified: VerifiedEvidence | VerifiedToken, *, role: Role | None = None, job: JobDigest | None = None, now: datetime
    ) -> list[Check]:
        """Which member accepts, and its checks alone; the checks of all members if none does."""
        names = ", ".join(member.name for member in self.any_of)
        found: list[Check] = []
        why: list[str] = []
        for member in self.any_of:
            checks = _under(member, member.explain(verified, role=role, job=job, now=now))
            failed = [check.name for check in checks if not check.ok]
            if not failed:
                return [Check("any-of", f"one of {names}", member.name, ok=True), *checks]
            found += checks
            why.append(failed[0])
        return [Check("any-of", f"one of {names}", f"none: refused by {', '.join(why)}", ok=False), *found]


_KINDS: Final[dict[str, type[Rules | AllOf | AnyOf]]] = {"rules": Rules, "all_of": AllOf, "any_of": AnyOf}


def _under(member: Policy, checks: list[Check]) -> list[Check]:
    return [Check(f"{member.name}/{check.name}", check.expected, check.got, ok=check.ok) for check in checks]


def _depth(policy: Policy) -> int:
    return 1 + max((_depth(member) for member in policy.members), default=0)


def _check_size(data: Json) -> None:
    """Bound what is read before it is: the models recurse."""
    level, count = [data], 0
    for _ in range(MAX_DEPTH):
        count += len(level)
        level = [
            member
            for policy in level
            for word in ("all_of", "any_of")
            if isinstance(policy.get(word), list | tuple)
            for member in policy[word]
            if isinstance(member, dict)
        ]
        if count + len(level) > MAX_POLICIES:
            break
    if level:
        raise PolicyError(f"a policy is at most {MAX_DEPTH} deep and made of at most {MAX_POLICIES} policies")


def json_schema() -> Json:
    """JSON Schema (2020-12) of policy files.  What spans fields ("a policy for real TDs pins rtmr1 and rtmr2") is not in it."""
    adapter: TypeAdapter[Any] = TypeAdapter(Member)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Confide appraisal policy, version 1",
        **adapter.json_schema(mode="validation"),
    }

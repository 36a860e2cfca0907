"""What a broker keeps for guests, as frozen values: resources, repositories, policies, reference values, owners' token keys.  Pure.

``keys.store`` keeps them.  A repository belongs to the owner who made its first resource; what an owner says counts in own repositories.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from confide.canonical import Json, b64url, canonical, from_b64url
from confide.crypto.secret import SecretBytes
from confide.errors import ParseError, UnwrapError
from confide.ids import check_name

MAX_RESOURCE_BYTES: Final = 1024 * 1024
SAMPLE_POLICY: Final = "sample"
"""The policy that accepts guests of kind ``sample``, and so protects nothing.  No owner's policy has this name."""
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128}")
_MAX_RULES: Final = 256
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_MAX_DEPTH: Final = 24
"""More than any policy of ``attest.policy_tree`` has."""


@dataclass(frozen=True, slots=True)
class ResourceName:
    """``repository/type/tag``: the protocol's name of a resource.  Never a path: each part is one plain word."""

    repository: str
    type: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a name.

        Raises:
            ParseError: not three words of letters, digits, dot, dash and underscore, of 1 to 64 characters, none with a dot in front.
        """
        parts = text.split("/")
        if len(parts) != 3 or not all(_SEGMENT.fullmatch(part) for part in parts):
            raise ParseError("not the name of a resource: repository/type/tag", got=ascii(text[:100]))
        return cls(*parts)

    @property
    def path(self) -> str:
        """The name as text."""
        return f"{self.repository}/{self.type}/{self.tag}"


@dataclass(frozen=True, slots=True)
class Pattern:
    """Names of resources: a repository, and a type and tag that may each be ``*``, which stands for any one word."""

    repository: str
    type: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a pattern.

        Raises:
            ParseError: not a name with ``*`` for type or tag.
        """
        name = ResourceName.parse(text.replace("/*", "/0"))
        parts = text.split("/")
        if any("*" in part and part != "*" for part in parts) or parts[0] == "*":
            raise ParseError("a pattern has * for a whole type or tag, and names its repository", got=ascii(text[:100]))
        return cls(name.repository, parts[1], parts[2])

    def matches(self, name: ResourceName) -> bool:
        """Whether ``name`` is one of them."""
        return self.repository == name.repository and self.type in {"*", name.type} and self.tag in {"*", name.tag}

    def __str__(self) -> str:
        return f"{self.repository}/{self.type}/{self.tag}"


@dataclass(frozen=True, slots=True)
class Rule:
    """Guests that the owner's policy ``policy`` accepts may have ``resource``; with ``init_data``, only those bound to such a digest."""

    resource: Pattern
    policy: str
    init_data: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read a rule.

        Raises:
            ParseError: a field is missing, unknown or wrong.
        """
        match data:
            case {"resource": str(resource), "policy": str(policy), **rest} if set(rest) <= {"init_data"}:
                digests = rest.get("init_data", [])
                if isinstance(digests, list) and all(isinstance(item, str) and _DIGEST.fullmatch(item) for item in digests):
                    return cls(Pattern.parse(resource), check_name(policy, "policy name"), tuple(sorted(set(digests))))
        raise ParseError("a rule has a resource, a policy and, if it names any, init_data digests in hex")

    def to_json(self) -> Json:
        """The rule as JSON."""
        return {"resource": str(self.resource), "policy": self.policy, "init_data": list(self.init_data)}


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource, encrypted under a key of its own, which the store's KMS wraps.  ``sealed`` is empty once it was deleted."""

    kind: ClassVar[str] = "kbs-resource"
    name: ResourceName
    version: int
    wrapped_key: bytes = field(repr=False)
    sealed: bytes = field(repr=False)
    updated: datetime

    @classmethod
    def encrypt(cls, name: ResourceName, version: int, content: bytes, *, key: SecretBytes, wrapped_key: bytes, now: datetime) -> Self:
        """``content`` under ``key``, of which ``wrapped_key`` is what is kept."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + AESGCM(key.reveal()).encrypt(nonce, content, canonical(context_of(name, version)))
        return cls(name, version, wrapped_key, sealed, now)

    def decrypt(self, key: SecretBytes) -> SecretBytes:
        """The content.

        Raises:
            UnwrapError: another key, another name or version, or changed bytes.
        """
        nonce, sealed = self.sealed[:_NONCE_BYTES], self.sealed[_NONCE_BYTES:]
        try:
            return SecretBytes(AESGCM(key.reveal()).decrypt(nonce, sealed, canonical(context_of(self.name, self.version))))
        except (InvalidTag, ValueError):
            raise UnwrapError("a stored resource does not open", resource=self.name.path) from None

    @property
    def size(self) -> int:
        """How many bytes the content has; below zero once it was deleted."""
        return len(self.sealed) - _NONCE_BYTES - _TAG_BYTES if self.sealed else -1

    @property
    def id(self) -> str:
        """The resource's name."""
        return self.name.path

    @property
    def ref(self) -> str:
        """The repository."""
        return f"repository:{self.name.repository}"

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {
            "name": self.name.path,
            "version": self.version,
            "wrapped_key": b64url(self.wrapped_key),
            "sealed": b64url(self.sealed),
            "updated": self.updated.isoformat(),
        }

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        name, updated = ResourceName.parse(data["name"]), datetime.fromisoformat(data["updated"])
        return cls(name, data["version"], from_b64url(data["wrapped_key"]), from_b64url(data["sealed"]), updated)


def context_of(name: ResourceName, version: int) -> Json:
    """What a resource and its key are bound to."""
    return {"use": "kbs-resource", "resource": name.path, "version": version}


@dataclass(frozen=True, slots=True)
class ResourcePolicy:
    """All rules of one owner.  No rule, no resource."""

    kind: ClassVar[str] = "kbs-resource-policy"
    owner: str
    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        if len(self.rules) > _MAX_RULES:
            raise ParseError("a resource policy has too many rules", limit=_MAX_RULES, got=len(self.rules))

    @property
    def id(self) -> str:
        """The owner's name."""
        return self.owner

    @property
    def ref(self) -> str:
        """The same for all, so that all are found."""
        return "all"

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"owner": self.owner, "rules": [rule.to_json() for rule in self.rules]}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["owner"], tuple(Rule.from_json(rule) for rule in data["rules"]))


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """An owner's appraisal policy, as it was written: it may name reference values (``"ref:NAME"`` in a list)."""

    kind: ClassVar[str] = "kbs-policy"
    owner: str
    name: str
    policy: Json = field(hash=False)

    @property
    def id(self) -> str:
        """``owner/name``."""
        return f"{self.owner}/{self.name}"

    @property
    def ref(self) -> str:
        """The owner's name."""
        return self.owner

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"owner": self.owner, "name": self.name, "policy": self.policy}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["owner"], data["name"], data["policy"])


@dataclass(frozen=True, slots=True)
class ReferenceValue:
    """Values that an owner's policies may name."""

    kind: ClassVar[str] = "kbs-reference"
    owner: str
    name: str
    values: tuple[str, ...]

    @property
    def id(self) -> str:
        """``owner/name``."""
        return f"{self.owner}/{self.name}"

    @property
    def ref(self) -> str:
        """The owner's name."""
        return self.owner

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"owner": self.owner, "name": self.name, "values": list(self.values)}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["owner"], data["name"], tuple(data["values"]))


@dataclass(frozen=True, slots=True)
class TokenKey:
    """An Ed25519 key by which an owner's admin tokens are signed, or were until it was revoked."""

    kind: ClassVar[str] = "kbs-token-key"
    owner: str
    public_key: bytes
    revoked: bool = False

    @property
    def id(self) -> str:
        """Owner and key."""
        return f"{self.owner}/{b64url(self.public_key)}"

    @property
    def ref(self) -> str:
        """The owner's name."""
        return self.owner

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"owner": self.owner, "public_key": b64url(self.public_key), "revoked": self.revoked}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["owner"], from_b64url(data["public_key"]), data["revoked"])


def resolved(template: Any, values: dict[str, tuple[str, ...]], depth: int = 0) -> Any:
    """A policy as it was written, with each ``"ref:NAME"`` in a list replaced by the reference values of that name.

    Raises:
        ParseError: it is nested too deeply, or there are none of that name: a policy never becomes laxer, nor empty, by a missing name.
    """
    if depth > _MAX_DEPTH:
        raise ParseError("a policy is nested too deeply", limit=_MAX_DEPTH)
    if isinstance(template, dict):
        return {name: resolved(value, values, depth + 1) for name, value in template.items()}
    if not isinstance(template, list):
        return template
    found: list[Any] = []
    for item in template:
        if isinstance(item, str) and item.startswith("ref:"):
            named = values.get(item.removeprefix("ref:"), ())
            if not named:
                raise ParseError("a policy names reference values that are not there", reference=item[:80])
            found += named
        else:
            found.append(resolved(item, values, depth + 1))
    return found

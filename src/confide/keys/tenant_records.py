"""What the broker remembers of a tenant, of who belongs to it, and of who has a repository.  Pure; ``keys.tenants`` reads and decides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final, Self

from confide.canonical import Json
from confide.errors import UsageError
from confide.ids import check_name

DEFAULT_TENANT: Final = "default"
"""The tenant of everybody whose record names none: those of stores of earlier versions, too."""
EVERY_TENANT: Final = "*"
"""In the place of a tenant's name for those who are of none: operators, and auditors of the whole broker.  No tenant's name."""
_ALL: Final = "all"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A name space of owners, keys and repositories."""

    kind: ClassVar[str] = "tenant"
    name: str
    created: datetime

    @property
    def id(self) -> str:
        """The tenant's name."""
        return self.name

    @property
    def ref(self) -> str:
        """The same for all, so that all are found."""
        return _ALL

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"name": self.name, "created": self.created.isoformat()}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["name"], datetime.fromisoformat(data["created"]))


ALL_TENANTS: Final = _ALL
"""The ref that every tenant is found by."""


@dataclass(frozen=True, slots=True)
class Membership:
    """The fact that somebody is of a tenant, to be found by the tenant.  The person's own record decides; this only leads to it."""

    kind: ClassVar[str] = "membership"
    tenant: str
    name: str

    @property
    def id(self) -> str:
        """Tenant and name."""
        return f"{self.tenant}/{self.name}"

    @property
    def ref(self) -> str:
        """The tenant."""
        return self.tenant

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"tenant": self.tenant, "name": self.name}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["tenant"], data["name"])


@dataclass(frozen=True, slots=True)
class Repository:
    """Who owns a repository."""

    kind: ClassVar[str] = "kbs-repository"
    name: str
    owner: str

    @property
    def id(self) -> str:
        """The repository's name."""
        return self.name

    @property
    def ref(self) -> str:
        """The owner's name."""
        return self.owner

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"name": self.name, "owner": self.owner}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["name"], data["owner"])


def check_tenant(name: str) -> str:
    """Return ``name`` if a tenant can be called so: a plain name without a dot, which ends the tenant's part of a repository's name.

    Raises:
        UsageError: for anything else.
    """
    if "." in check_name(name, "tenant"):
        raise UsageError(f"names of tenants have no dot: {name!r}", hint="names of their repositories are TENANT.NAME")
    return name

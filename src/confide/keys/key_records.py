"""What the broker remembers of a key: its versions, the state of each, and their wrapped bytes.

Pure.  A ``Record`` as in ``keys.records``; ``keys.hierarchy`` wraps and unwraps.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Self

from confide.canonical import Json
from confide.errors import KeyDestroyedError, ManifestError, ParseError, UsageError
from confide.ids import JobDigest, KeyRef


class KeyState(StrEnum):
    """What a version of a key is good for."""

    ACTIVE = "active"
    """New datasets are put under it.  At most one version of a key, and the newest."""
    RETIRED = "retired"
    """It opens what is under it, and takes nothing new."""
    DESTROYED = "destroyed"
    """Its bytes are gone: what is under it can never be opened again."""


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """One version of a key: since when it is in its state, and its bytes as the KMS wrapped them (none once destroyed)."""

    state: KeyState
    since: datetime
    wrapped: bytes | None = field(repr=False)

    def __post_init__(self) -> None:
        if (self.state is KeyState.DESTROYED) != (self.wrapped is None):
            raise ParseError("a key version's state contradicts what is kept of it")

    def to_json(self) -> Json:
        """The version as JSON."""
        return {"state": self.state.value, "since": self.since.isoformat(), "wrapped": self.wrapped.hex() if self.wrapped else None}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`."""
        wrapped = None if data["wrapped"] is None else bytes.fromhex(data["wrapped"])
        return cls(KeyState(data["state"]), datetime.fromisoformat(data["since"]), wrapped)


@dataclass(frozen=True, slots=True)
class Key:
    """A key-encryption key with all its versions, counted from 1.  ``job`` is set for keys that outputs of a job are under."""

    kind: ClassVar[str] = "key"
    owner: str
    name: str
    versions: tuple[KeyVersion, ...]
    created: datetime
    job: JobDigest | None = None

    @property
    def id(self) -> str:
        """``owner/name``."""
        return f"{self.owner}/{self.name}"

    @property
    def ref(self) -> str:
        """The owner's name."""
        return self.owner

    @property
    def newest(self) -> KeyRef:
        """The newest version, whatever its state."""
        return KeyRef(self.owner, self.name, len(self.versions))

    @property
    def active(self) -> KeyRef:
        """The version that new datasets are put under.

        Raises:
            UsageError: the newest version was retired.
        """
        if self.versions[-1].state is not KeyState.ACTIVE:
            raise UsageError("no version of this key is active", hint=f"make one with `confide keys rotate {self.id}`", key=self.id)
        return self.newest

    def state(self, version: int) -> KeyState:
        """The state of one version.

        Raises:
            UsageError: there is no such version.
        """
        if not 1 <= version <= len(self.versions):
            raise UsageError(f"{self.id} has no version {version}", hint=f"its versions are 1 to {len(self.versions)}")
        return self.versions[version - 1].state

    def wrapped(self, version: int) -> bytes:
        """The wrapped form of one version.

        Raises:
            ManifestError: there is no such version.
            KeyDestroyedError: it was destroyed.
        """
        if not 1 <= version <= len(self.versions):
            raise ManifestError("the manifest names a key version that does not exist", key=self.id, version=version)
        kept = self.versions[version - 1].wrapped
        if kept is None:
            raise KeyDestroyedError("the key version that this is under was destroyed", key=self.id, version=version)
        return kept

    def with_version(self, version: int, changed: KeyVersion) -> Key:
        """The key with ``changed`` in place of one version."""
        return replace(self, versions=(*self.versions[: version - 1], changed, *self.versions[version:]))

    def to_json(self) -> Json:
        """See :class:`Record`."""
        versions = [version.to_json() for version in self.versions]
        return {"owner": self.owner, "name": self.name, "versions": versions, "created": self.created.isoformat(), "job": self.job}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`Record`."""
        versions = tuple(KeyVersion.from_json(version) for version in data["versions"])
        return cls(data["owner"], data["name"], versions, datetime.fromisoformat(data["created"]), data["job"])

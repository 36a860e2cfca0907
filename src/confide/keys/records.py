"""What the broker remembers, as frozen values with an exact JSON form: owners, enrolments, keys, datasets, releases, cut-offs.

Pure.  ``keys.store`` keeps them; grants are in ``keys.grants``.  ``ref`` is what a record is looked up by besides its id.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Protocol, Self

from confide.canonical import Json, canonical, sha256_hex
from confide.crypto.envelope import WrappedKey
from confide.errors import KeyDestroyedError, ManifestError, ParseError, RollbackError, UsageError
from confide.ids import DatasetId, JobDigest, KeyRef, NodeId, Purpose, Role, RunId, SpkiDigest
from confide.keys.manifest_claims import ManifestClaims


class Record(Protocol):
    """What the store can keep.  ``from_json`` may raise anything for a damaged body: the store makes it a ``StoreError``."""

    kind: ClassVar[str]

    @property
    def id(self) -> str:
        """The record's name within its kind."""
        ...

    @property
    def ref(self) -> str:
        """What else the record is found by; many records may share it."""
        ...

    def to_json(self) -> Json:
        """The record's body."""
        ...

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`."""
        ...


@dataclass(frozen=True, slots=True)
class Owner:
    """Somebody who may own keys or receive outputs.  ``spki`` is the DER public key of the credential."""

    kind: ClassVar[str] = "owner"
    name: str
    spki: bytes
    enrolled: datetime

    @property
    def id(self) -> str:
        """The owner's name."""
        return self.name

    @property
    def ref(self) -> SpkiDigest:
        """The credential's public name."""
        return SpkiDigest(sha256_hex(self.spki))

    def to_json(self) -> Json:
        """See :class:`Record`."""
        return {"name": self.name, "spki": self.spki.hex(), "enrolled": self.enrolled.isoformat()}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`Record`."""
        return cls(data["name"], bytes.fromhex(data["spki"]), datetime.fromisoformat(data["enrolled"]))


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Permission to enrol once under a name, for whoever shows the token whose SHA-256 is ``token_digest``."""

    kind: ClassVar[str] = "enrolment"
    token_digest: str
    owner: str
    expires: datetime
    used: bool = False

    @property
    def id(self) -> str:
        """The token's digest: the token itself is not kept."""
        return self.token_digest

    @property
    def ref(self) -> str:
        """The owner's name."""
        return self.owner

    def to_json(self) -> Json:
        """See :class:`Record`."""
        return {"token_digest": self.token_digest, "owner": self.owner, "expires": self.expires.isoformat(), "used": self.used}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`Record`."""
        return cls(data["token_digest"], data["owner"], datetime.fromisoformat(data["expires"]), data["used"])


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


@dataclass(frozen=True, slots=True)
class Origin:
    """Which run made an output, what it derives from (``inherits``: root keys), and who may open it if every root's owner agrees."""

    job: JobDigest
    run: RunId
    name: str
    inherits: tuple[str, ...]
    recipients: tuple[str, ...]

    def to_json(self) -> Json:
        """The origin as JSON."""
        return {
            "job": self.job,
            "run": self.run,
            "name": self.name,
            "inherits": list(self.inherits),
            "recipients": list(self.recipients),
        }

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls(data["job"], data["run"], data["name"], tuple(data["inherits"]), tuple(data["recipients"]))


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset's key, wrapped; who signs its manifests (DER SPKI); and the newest snapshot that the broker has seen.

    ``given`` is the digest of the wrapped form that was given out for its manifests, once the key has been put under a newer version:
    they go on to name that one.  What is opened is always ``wrapped``.
    """

    kind: ClassVar[str] = "dataset"
    dataset: DatasetId
    wrapped: WrappedKey
    signer: bytes
    snapshot: int | None = None
    manifest_digest: str | None = None
    origin: Origin | None = None
    given: str | None = None

    @property
    def id(self) -> str:
        """The dataset's id."""
        return self.dataset

    @property
    def ref(self) -> str:
        """The run that made it, or the key version it is under."""
        return run_ref(self.origin.run) if self.origin else version_ref(KeyRef.parse(f"{self.wrapped.key}@{self.wrapped.version}"))

    @property
    def roots(self) -> tuple[str, ...]:
        """The owners' keys whose grants decide over this dataset (``owner/name``): its own key's, or for an output the inputs'."""
        return self.origin.inherits if self.origin else (self.wrapped.key,)

    @property
    def owners(self) -> list[str]:
        """Whose business this dataset is."""
        return owners_of(self.roots)

    def after(self, claims: ManifestClaims) -> Dataset:
        """This dataset once the snapshot in ``claims`` (of a manifest whose signature was verified) has been seen.

        Raises:
            ManifestError: the manifest is of another dataset or key.
            RollbackError: the snapshot is older than one seen before, or another one with the same number.
        """
        known = claims.wrapped == self.wrapped or wrapped_digest(claims.wrapped) == self.given
        if claims.dataset != self.dataset or not known:
            raise ManifestError("the manifest does not belong to this dataset and its key", dataset=self.dataset, got=claims.dataset)
        if self.snapshot is not None and claims.snapshot < self.snapshot:
            raise RollbackError("the manifest is older than one that the broker has seen", newest=self.snapshot, got=claims.snapshot)
        if claims.snapshot == self.snapshot and claims.digest != self.manifest_digest:
            raise RollbackError("the manifest is another one with the same snapshot number", snapshot=claims.snapshot)
        return replace(self, snapshot=claims.snapshot, manifest_digest=claims.digest)

    def rewrapped(self, wrapped: WrappedKey) -> Dataset:
        """This dataset with its key under another version of the same key; its manifests stay as they are."""
        return replace(self, wrapped=wrapped, given=self.given or wrapped_digest(self.wrapped))

    def to_json(self) -> Json:
        """See :class:`Record`."""
        return {
            "dataset": self.dataset,
            "wrapped": self.wrapped.to_json(),
            "signer": self.signer.hex(),
            "snapshot": self.snapshot,
            "manifest_digest": self.manifest_digest,
            "origin": self.origin.to_json() if self.origin else None,
            "given": self.given,
        }

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`Record`."""
        return cls(
            data["dataset"],
            WrappedKey.from_json(data["wrapped"]),
            bytes.fromhex(data["signer"]),
            data["snapshot"],
            data["manifest_digest"],
            Origin.from_json(data["origin"]) if data["origin"] else None,
            data["given"],
        )


@dataclass(frozen=True, slots=True)
class Release:
    """The fact that a run's nodes of one role were given a dataset's key for a purpose.

    Whatever the run writes from then on derives from the dataset.
    """

    kind: ClassVar[str] = "release"
    job: JobDigest
    run: RunId
    dataset: DatasetId
    role: Role
    purpose: Purpose

    @property
    def id(self) -> str:
        """All of it."""
        return f"{self.job}/{self.run}/{self.dataset}/{self.role}/{self.purpose}"

    @property
    def ref(self) -> str:
        """The run."""
        return run_ref(self.run)

    def to_json(self) -> Json:
        """See :class:`Record`."""
        role, purpose = self.role.value, self.purpose.value
        return {"job": self.job, "run": self.run, "dataset": self.dataset, "role": role, "purpose": purpose}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`Record`."""
        return cls(data["job"], data["run"], data["dataset"], Role(data["role"]), Purpose(data["purpose"]))


@dataclass(frozen=True, slots=True)
class CutOff:
    """The fact that a run's driver does not accept one of its nodes any more: it gets no key from then on."""

    kind: ClassVar[str] = "cut-off"
    job: JobDigest
    run: RunId
    node: NodeId

    @property
    def id(self) -> str:
        """Job, run and node."""
        return f"{self.job}/{self.run}/{self.node}"

    @property
    def ref(self) -> str:
        """The run."""
        return run_ref(self.run)

    def to_json(self) -> Json:
        """See :class:`Record`."""
        return {"job": self.job, "run": self.run, "node": self.node}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`Record`."""
        return cls(data["job"], data["run"], data["node"])


def run_ref(run: RunId) -> str:
    """How records of a run are found."""
    return f"run:{run}"


def wrapped_digest(wrapped: WrappedKey) -> str:
    """SHA-256 of a wrapped key's canonical form, hex."""
    return sha256_hex(canonical(wrapped.to_json()))


def version_ref(version: KeyRef) -> str:
    """How datasets under a version of an owner's key are found."""
    return f"key:{version}"


def owners_of(keys: tuple[str, ...]) -> list[str]:
    """The owners of keys given as ``owner/name``, sorted."""
    return sorted({key.partition("/")[0] for key in keys})

"""What the broker remembers, as frozen values with an exact JSON form: owners, enrolments, datasets, releases, cut-offs.

Pure.  ``keys.store`` keeps them; keys are in ``keys.key_records``, grants in ``keys.grants``.
``ref`` is what a record is looked up by besides its id.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar, Protocol, Self

from confide.canonical import Json, canonical, sha256_hex
from confide.crypto.envelope import WrappedKey
from confide.crypto.sign import PublicKey
from confide.errors import ManifestError, RollbackError
from confide.ids import DatasetId, JobDigest, KeyRef, NodeId, Purpose, Role, RunId, SpkiDigest
from confide.keys.lineage import MAX_ANNOUNCED, MAX_EARLIER, Announced, Origin
from confide.keys.manifest_claims import ManifestClaims, ShownManifest
from confide.keys.roles import Office
from confide.keys.tenant_records import DEFAULT_TENANT


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
    """Somebody who is enrolled: an owner (or recipient), an auditor or an operator.  ``spki`` is the DER public key of the credential.

    ``tenant`` is for good, ``"*"`` for those who are of none.  A name that was withdrawn stays taken.
    """

    kind: ClassVar[str] = "owner"
    name: str
    spki: bytes
    enrolled: datetime
    tenant: str = DEFAULT_TENANT
    office: Office = Office.OWNER
    withdrawn: datetime | None = None

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
        return {
            "name": self.name,
            "spki": self.spki.hex(),
            "enrolled": self.enrolled.isoformat(),
            "tenant": self.tenant,
            "role": self.office.value,
            "withdrawn": None if self.withdrawn is None else self.withdrawn.isoformat(),
        }

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`Record`.  Records of earlier versions name neither tenant nor role: they are the default tenant's owners."""
        return cls(
            data["name"],
            bytes.fromhex(data["spki"]),
            datetime.fromisoformat(data["enrolled"]),
            data.get("tenant", DEFAULT_TENANT),
            Office(data.get("role", Office.OWNER)),
            datetime.fromisoformat(data["withdrawn"]) if data.get("withdrawn") else None,
        )


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Permission to enrol once under a name, for whoever shows the token whose SHA-256 is ``token_digest``.  ``by``: who made it."""

    kind: ClassVar[str] = "enrolment"
    token_digest: str
    owner: str
    expires: datetime
    used: bool = False
    tenant: str = DEFAULT_TENANT
    office: Office = Office.OWNER
    by: str = ""

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
        said = {"token_digest": self.token_digest, "owner": self.owner, "expires": self.expires.isoformat(), "used": self.used}
        return {**said, "tenant": self.tenant, "role": self.office.value, "by": self.by}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`Record`."""
        expires, office = datetime.fromisoformat(data["expires"]), Office(data.get("role", Office.OWNER))
        tenant, by = data.get("tenant", DEFAULT_TENANT), data.get("by", "")
        return cls(data["token_digest"], data["owner"], expires, data["used"], tenant, office, by)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset's key, wrapped; who signs its manifests (DER SPKI); and the newest snapshot that the broker has seen.

    ``given`` holds the digests of the wrapped forms that were given out for its manifests, once the key has been put under a newer
    version: manifests go on to name them.  What is opened is always ``wrapped``.  ``announced`` are manifests of runs that go on with the
    dataset, each of which may turn out to be the next snapshot: storage lets one of them be it.  ``earlier`` are the drivers (DER SPKI)
    of runs whose snapshots were the newest before, latest last: what one of them has signed is told from what a stranger has.
    """

    kind: ClassVar[str] = "dataset"
    dataset: DatasetId
    wrapped: WrappedKey
    signer: bytes
    snapshot: int | None = None
    manifest_digest: str | None = None
    origin: Origin | None = None
    given: tuple[str, ...] = ()
    announced: tuple[Announced, ...] = ()
    earlier: tuple[bytes, ...] = ()

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
        current = claims.wrapped == self.wrapped
        if claims.dataset != self.dataset or not self.is_known_as(claims.wrapped):
            raise ManifestError("the manifest does not belong to this dataset and its key", dataset=self.dataset, got=claims.dataset)
        self.check_newest(claims.snapshot, claims.digest)
        seen = self.giving() if current else self
        if claims.snapshot == self.snapshot:
            return seen
        return replace(seen, snapshot=claims.snapshot, manifest_digest=claims.digest, announced=())

    def signed(self, shown: ShownManifest) -> tuple[Dataset, ManifestClaims]:
        """What a manifest of this dataset says, and the dataset, by whose signature it counts: its signer's, or an announced one's.

        With :meth:`after`, the announced snapshot is the newest, its driver the signer, and its job one of those that wrote the dataset.

        Raises:
            ManifestError: it is not signed by either.
            RollbackError: it is of an older snapshot, which an earlier run's driver has signed.
        """
        digest = shown.unverified_digest() if self.announced else ""
        coming = next((one for one in self.announced if one.digest == digest), None)
        if coming is None or self.origin is None:
            return self, self._by_signer(shown)
        claims = shown.claims(PublicKey.from_spki(coming.signer))
        later = self.origin.later if coming.job in self.origin.jobs else (*self.origin.later, coming.job)
        earlier = self.earlier if coming.signer == self.signer else (*self.earlier, self.signer)[-MAX_EARLIER:]
        return replace(self, signer=coming.signer, origin=replace(self.origin, later=later), earlier=earlier), claims

    def _by_signer(self, shown: ShownManifest) -> ManifestClaims:
        """It is refused unless the signer of the newest snapshot has signed it; an earlier one's signature only says why."""
        try:
            return shown.claims(PublicKey.from_spki(self.signer))
        except ManifestError:
            older = shown.claims_of_any(map(PublicKey.from_spki, self.earlier))
            if older is not None and older.snapshot < (self.snapshot or 0):
                self.check_newest(older.snapshot, older.digest)
            raise

    def announcing(self, coming: Announced) -> Dataset:
        """This dataset once a manifest may become its next snapshot."""
        others = [one for one in self.announced if one.digest != coming.digest]
        return replace(self, announced=(*others, coming)[-MAX_ANNOUNCED:])

    def is_known_as(self, wrapped: WrappedKey) -> bool:
        """Whether this is the wrapped form of its key that the broker keeps, or one that it gave out before."""
        return wrapped == self.wrapped or wrapped_digest(wrapped) in self.given

    def check_newest(self, snapshot: int, digest: str) -> None:
        """Return if no newer snapshot than that one, whose manifest has this digest, has been seen.

        Raises:
            RollbackError: the snapshot is older than one seen before, or another one with the same number.
        """
        if self.snapshot is not None and snapshot < self.snapshot:
            raise RollbackError("the manifest is older than one that the broker has seen", newest=self.snapshot, got=snapshot)
        if snapshot == self.snapshot and digest != self.manifest_digest:
            raise RollbackError("the manifest is another one with the same snapshot number", snapshot=snapshot)

    def rewrapped(self, wrapped: WrappedKey) -> Dataset:
        """This dataset with its key under another version of the same key; its manifests stay as they are."""
        return replace(self, wrapped=wrapped, given=self.given or (wrapped_digest(self.wrapped),))

    def giving(self) -> Dataset:
        """This dataset, of which the wrapped form that it has now is given out: a manifest may name it from now on, for good."""
        if not self.given:
            return self  # :meth:`rewrapped` takes note of the first form
        digest = wrapped_digest(self.wrapped)
        return self if digest in self.given else replace(self, given=(*self.given, digest))

    def to_json(self) -> Json:
        """See :class:`Record`."""
        return {
            "dataset": self.dataset,
            "wrapped": self.wrapped.to_json(),
            "signer": self.signer.hex(),
            "snapshot": self.snapshot,
            "manifest_digest": self.manifest_digest,
            "origin": self.origin.to_json() if self.origin else None,
            "given": list(self.given),
            "announced": [one.to_json() for one in self.announced],
            "earlier": [one.hex() for one in self.earlier],
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
            _given(data["given"]),
            tuple(Announced.from_json(one) for one in data.get("announced", ())),
            tuple(bytes.fromhex(one) for one in data.get("earlier", ())),
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


def _given(data: list[str] | str | None) -> tuple[str, ...]:
    """Stores of earlier versions have one digest, or none."""
    if data is None:
        return ()
    return (data,) if isinstance(data, str) else tuple(data)


def wrapped_digest(wrapped: WrappedKey) -> str:
    """SHA-256 of a wrapped key's canonical form, hex."""
    return sha256_hex(canonical(wrapped.to_json()))


def version_ref(version: KeyRef) -> str:
    """How datasets under a version of an owner's key are found."""
    return f"key:{version}"


def owners_of(keys: tuple[str, ...]) -> list[str]:
    """The owners of keys given as ``owner/name``, sorted."""
    return sorted({key.partition("/")[0] for key in keys})


@dataclass(frozen=True, slots=True)
class Swept:
    """Up to when records that expired may have been removed from the store."""

    kind: ClassVar[str] = "swept"
    ONLY: ClassVar[str] = "all"
    until: datetime

    @property
    def id(self) -> str:
        """There is one."""
        return self.ONLY

    @property
    def ref(self) -> str:
        """There is one."""
        return self.ONLY

    def to_json(self) -> Json:
        """See :class:`Record`."""
        return {"until": self.until.isoformat()}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`Record`."""
        return cls(datetime.fromisoformat(data["until"]))

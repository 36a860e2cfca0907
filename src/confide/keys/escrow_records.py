"""What the broker remembers of escrows: trustees' keys, escrows made here, recoveries asked for here, and credentials that were lost.

Pure.  Records as in ``keys.records``; ``keys.escrow_commands`` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Self

from confide.canonical import Json, sha256_hex
from confide.ids import KeyRef
from confide.keys.escrow import Recovery


@dataclass(frozen=True, slots=True)
class KeptTrusteeKey:
    """The key that shares for somebody are sealed to, as its credential signed it (``escrow.TrusteeKey``)."""

    kind: ClassVar[str] = "trustee-key"
    name: str
    envelope: Json

    @property
    def id(self) -> str:
        """The trustee's name."""
        return self.name

    @property
    def ref(self) -> str:
        """The trustee's name."""
        return self.name

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"name": self.name, "envelope": self.envelope}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["name"], data["envelope"])


@dataclass(frozen=True, slots=True)
class KeptEscrow:
    """The fact that an escrow of a key (``owner/name``) was made here: nothing of its shares or of the key is kept."""

    kind: ClassVar[str] = "escrow"
    digest: str
    key: str
    versions: int
    threshold: int
    trustees: tuple[str, ...]
    made: datetime

    @property
    def id(self) -> str:
        """The escrow's digest."""
        return self.digest

    @property
    def ref(self) -> str:
        """The key's owner."""
        return KeyRef.parse(self.key).owner

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`; also what the owner is shown."""
        fields = {"digest": self.digest, "key": self.key, "versions": self.versions, "threshold": self.threshold}
        return {**fields, "trustees": list(self.trustees), "made": self.made.isoformat()}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        trustees, made = tuple(data["trustees"]), datetime.fromisoformat(data["made"])
        return cls(data["digest"], data["key"], data["versions"], data["threshold"], trustees, made)


@dataclass(frozen=True, slots=True)
class KeptRecovery:
    """A recovery that was asked for here, with the private half of its one-time key as the KMS wrapped it."""

    kind: ClassVar[str] = "recovery"
    recovery: Recovery
    wrapped: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """The recovery's digest."""
        return self.recovery.digest

    @property
    def ref(self) -> str:
        """The key's owner."""
        return KeyRef.parse(self.recovery.key).owner

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"recovery": self.recovery.form(), "wrapped": self.wrapped.hex()}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(Recovery.from_form(data["recovery"]), bytes.fromhex(data["wrapped"]))


@dataclass(frozen=True, slots=True)
class FormerCredential:
    """The fact that trustees brought a key back for its owner, who has lost the credential ``spki`` that asked for its escrow.

    Datasets under that key which the lost credential has signed are the owner's from then on.
    """

    kind: ClassVar[str] = "former-credential"
    key: str
    spki: bytes

    @property
    def id(self) -> str:
        """Key and credential."""
        return f"{self.key} {sha256_hex(self.spki)}"

    @property
    def ref(self) -> str:
        """The key."""
        return self.key

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"key": self.key, "spki": self.spki.hex()}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["key"], bytes.fromhex(data["spki"]))

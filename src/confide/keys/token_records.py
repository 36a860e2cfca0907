"""What an issuer calls somebody, tied to who that is at the broker.  A record; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from confide.canonical import Json, canonical, sha256_hex


@dataclass(frozen=True, slots=True)
class TokenLink:
    """The subject of an issuer's tokens is this person.  The same subject of another issuer is somebody else."""

    kind: ClassVar[str] = "token-link"
    issuer: str
    subject: str
    owner: str

    @property
    def id(self) -> str:
        """Digest of issuer and subject, which may be long and of any letters."""
        return link_id(self.issuer, self.subject)

    @property
    def ref(self) -> str:
        """The person's name."""
        return self.owner

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"issuer": self.issuer, "subject": self.subject, "owner": self.owner}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["issuer"], data["subject"], data["owner"])


def link_id(issuer: str, subject: str) -> str:
    """How a link is found."""
    return sha256_hex(canonical({"issuer": issuer, "subject": subject}))

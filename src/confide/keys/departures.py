"""A key that is to leave its broker without attestation, as an export or an escrow, and waits for the key's approvers.  Pure.

Where a key's rule asks for approvals of its grants, it asks for them here too: an export or an escrow gives all that any grant could.  What
is approved is one leaving, to exactly those whom the owner has named.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, Final, Literal, Self

from confide.canonical import Json, digest_of
from confide.crypto.seal import check_public_jwk, jwk_thumbprint
from confide.errors import ConfideError, ParseError
from confide.ids import KeyRef
from confide.keys.escrow import Trustee

DEPARTURE_FORMAT: Final = "confide-key-departure-v1"
DEPARTURE_TTL: Final = timedelta(days=7)
"""How long one waits for its approvals, and an approved one to be used: as long as a recovery waits for its trustees."""
Way = Literal["export", "escrow"]


@dataclass(frozen=True, slots=True)
class Departure:
    """One leaving of a key (``owner/name``, all its versions).  ``terms``: to whom, as the owner's signed request says; never when."""

    kind: ClassVar[str] = "departure"
    id: str
    key: str
    way: Way
    terms: Json
    created: datetime

    @classmethod
    def new(cls, key: str, way: Way, terms: Json, now: datetime) -> Self:
        """A leaving that begins to wait."""
        return cls(secrets.token_hex(8), key, way, terms, now)

    @property
    def ref(self) -> str:
        """Departures are found by their key."""
        return self.key

    @property
    def digest(self) -> str:
        """SHA-384 of all that it says (hex): what approvers sign."""
        return digest_of({"format": DEPARTURE_FORMAT, **self.to_json()})

    @property
    def expires(self) -> datetime:
        """When it counts no more."""
        return self.created + DEPARTURE_TTL

    def is_as(self, other: Departure) -> bool:
        """Whether the key would leave in the same way to exactly the same."""
        return (self.key, self.way, self.terms) == (other.key, other.way, other.terms)

    def told(self) -> dict[str, str]:
        """To whom the key would go, for people: digests of public keys, which they can ask for by another way than the broker's.

        Raises:
            ParseError: the terms are not those of an owner's request.
        """
        try:
            match self.way, self.terms:
                case "export", {"source": str(), "target": str(target), "jwk": dict(jwk), **rest} if not rest:
                    return {"to the broker": target, "wrapped for": jwk_thumbprint(check_public_jwk(jwk))}
                case "escrow", {"source": str(), "threshold": int(threshold), "trustees": list(people), **rest} if not rest:
                    trustees = [Trustee.from_json(one) for one in people if isinstance(one, dict)]
                    if len(trustees) == len(people):
                        enough = f"{threshold} of {len(trustees)} trustees"
                        return {"to": enough, **{f"trustee {one.name}": one.key.digest for one in trustees}}
        except ConfideError as cause:
            raise ParseError(f"to whom a key is to leave cannot be read: {cause.message}") from cause
        raise ParseError("to whom a key is to leave cannot be read")

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"id": self.id, "key": self.key, "way": self.way, "terms": self.terms, "created": self.created.isoformat()}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: a field is missing, unknown or wrong.
        """
        match data:
            case {"id": str(name), "key": str(key), "way": "export" | "escrow" as way, "terms": dict(terms), "created": str(created),
                  **rest} if not rest:  # fmt: skip
                with suppress(ValueError):
                    found = cls(name, KeyRef.parse(key).id, way, terms, datetime.fromisoformat(created))
                    found.told()
                    return found
        raise ParseError("not a leaving of a key")

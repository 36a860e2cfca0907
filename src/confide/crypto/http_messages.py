"""Requests and responses as servers and clients of ours have them, and errors as RFC 7807 objects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from confide.canonical import Json
from confide.errors import (
    AttestationError,
    ClockError,
    ConfideError,
    CredentialError,
    DataError,
    IssuerError,
    KeyAccessError,
    ParseError,
    PolicyError,
    ProtocolError,
    QuotaError,
    RateLimitedError,
    ResourceMissingError,
    RunNotFoundError,
    SealedError,
    StoreError,
    UnavailableError,
    UsageError,
)

JSON_TYPE: Final = "application/json"
PROBLEM_TYPE: Final = "application/problem+json"

# The first class that fits decides; anything else is 500.
_STATUS: Final[tuple[tuple[type[ConfideError], int], ...]] = (
    (RunNotFoundError, 404),
    (UsageError, 400),
    (PolicyError, 400),
    (AttestationError, 401),
    (CredentialError, 401),
    (StoreError, 503),
    (ResourceMissingError, 404),
    (QuotaError, 429),
    (RateLimitedError, 429),
    (KeyAccessError, 403),
    (ParseError, 400),
    (ProtocolError, 400),
    (DataError, 409),
    (ClockError, 423),
    (IssuerError, 424),  # Failed Dependency (RFC 4918, section 11.4), for the same reason as the next
    (SealedError, 423),  # Locked (RFC 4918, section 11.3): the client is to hear why, as of a refusal
    (UnavailableError, 503),
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the server's handler sees it.  ``path`` is as sent, without query; header names are lower-case.

    ``body`` is what was sent; ``json`` the same as an object, ``None`` for no body or where the server takes bytes.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    json: Json | None
    channel: Duplex
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """One response.  Header names are lower-case; content type and length are added when it is sent.

    ``text`` is sent in the place of ``json`` (the headers then say of what type it is); a response that was read has it where text was
    asked for.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Json | None = None
    text: str | None = None


class Duplex(Protocol):
    """What a client call needs of a connection."""

    peer_address: str

    def send(self, data: bytes, *, timeout: float | None = None) -> None:
        """Send all of ``data``."""
        ...

    def recv(self, n: int, *, timeout: float | None = None) -> bytes:
        """The next bytes, at most ``n``; none when the peer has ended its side."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


Handler = Callable[[Request], Response]
"""Answers one request; a ``ConfideError`` that it raises becomes a problem object."""
TakesBytes = Callable[[str, str], bool]
"""Whether the body of a request of that method and path is taken as bytes, of any type."""


def problem(error: ConfideError, status: int | None = None) -> Response:
    """The RFC 7807 form of an error, with our own members ``code``, ``hint``, ``facts`` and ``exit_status``."""
    if status is None:
        status = next((number for kind, number in _STATUS if isinstance(error, kind)), 500)
    body = {**error.to_json(), "type": f"urn:confide:error:{error.code}", "title": error.code, "status": status, "detail": error.message}
    headers = {"content-type": PROBLEM_TYPE}
    wait = error.facts.get("retry_after_s")
    if isinstance(wait, int | float):
        headers["retry-after"] = str(math.ceil(wait))  # RFC 9110, section 10.2.3: whole seconds; the fact has the fraction
    return Response(status, headers, body)

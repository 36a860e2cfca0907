"""Signed JWTs in compact form, read strictly (RFC 7515, RFC 7519, RFC 8725).

The reader fixes the algorithms; a token's ``alg`` can only be one of them.  Nothing in a token's header is followed: keys come from the
caller, and ``jku``, ``x5u``, ``jwk`` and ``x5c`` in a header mean nothing.  Knows nothing of where keys come from.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Self

from jwcrypto.common import JWException
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS

from confide.canonical import Json, from_b64url, parse_object
from confide.errors import ParseError, TokenExpiredError, TokenInvalidError, TokenMisdirectedError, TokenReplayError

Algorithm = Literal["ES256", "ES384", "EdDSA", "PS384", "RS256"]
"""Every algorithm that any token may be signed with; each reader allows some of them.  None is symmetric."""
_KEYS: Final[dict[str, tuple[str, str | None]]] = {
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "EdDSA": ("OKP", "Ed25519"),
    "PS384": ("RSA", None),
    "RS256": ("RSA", None),
}
MAX_TOKEN_BYTES: Final = 64 * 1024
"""Cap on a token, in characters: the largest of Intel Trust Authority, with event logs, has about 30 Ki."""
_MAX_DEPTH: Final = 16
_MIN_RSA_BITS: Final = 2048
TYPES: Final = frozenset({"jwt", "eat+jwt", "application/eat+jwt"})
_MAX_IDS: Final = 100_000
MAX_LEEWAY: Final = timedelta(minutes=5)
_MAX_TIME: Final = 253_402_300_799 - int(MAX_LEEWAY.total_seconds())
"""9999-12-31T23:59:59Z is the last second that a ``datetime`` can hold, and a leeway is added to times."""


@dataclass(frozen=True, slots=True)
class UnverifiedJwt:
    """A token taken apart.  Nothing in it is believed: :meth:`verified` gives the payload if the signature is right."""

    header: Json
    text: str = field(repr=False)
    _payload: Json = field(repr=False)

    @classmethod
    def parse(cls, text: str, *, types: frozenset[str] = TYPES) -> Self:
        """Read header and payload.  ``typ`` has to be one of ``types`` (RFC 8725, section 3.11); without one it is ``jwt``.

        Raises:
            TokenInvalidError: too large, not three parts of canonical base64url, not JSON objects without duplicates, nested too deeply,
                or a header that changes how the rest is read (``crit``, ``b64``, ``zip``).
        """
        parts = text.split(".") if len(text) <= MAX_TOKEN_BYTES else []
        if len(parts) != 3 or not all(parts):
            raise TokenInvalidError("not a signed token of three parts", length=len(text), limit=MAX_TOKEN_BYTES)
        try:
            header, payload = (parse_object(from_b64url(part)) for part in parts[:2])
            from_b64url(parts[2])
        except ParseError as cause:
            raise TokenInvalidError(f"a token does not parse: {cause.message}") from cause
        if not (_shallow(header, _MAX_DEPTH) and _shallow(payload, _MAX_DEPTH)):
            raise TokenInvalidError("a token is nested too deeply", limit=_MAX_DEPTH)
        if {"crit", "b64", "zip", "enc"} & set(header) or str(header.get("typ", "JWT")).lower() not in types:
            raise TokenInvalidError("a token's header asks for what this reader does not do")
        if not isinstance(header.get("alg"), str) or not isinstance(header.get("kid", ""), str):
            raise TokenInvalidError("a token's header has no algorithm, or a key id that is no text")
        return cls(header, text, payload)

    @property
    def kid(self) -> str | None:
        """The key id that the token asks for: a name to look up among the caller's keys, nothing more."""
        return self.header.get("kid")

    def unverified_claims(self) -> Json:
        """What the token would say if it were genuine: for display, and to choose among issuers that are trusted anyway."""
        return dict(self._payload)

    def verified(self, key: JWK, algorithms: tuple[Algorithm, ...]) -> Json:
        """The payload, if ``key`` signed it with one of ``algorithms``.

        Raises:
            TokenInvalidError: another algorithm, a key that is not for it, or a signature that is wrong.
        """
        algorithm = self.header["alg"]
        if algorithm not in algorithms or algorithm not in _KEYS:
            accepted = ", ".join(algorithms)
            raise TokenInvalidError("a token is signed with an algorithm that is not accepted", got=algorithm[:20], expected=accepted)
        _check_key(key, algorithm)
        token = JWS()
        token.allowed_algs = [algorithm]
        try:
            token.deserialize(self.text)
            token.verify(key, alg=algorithm)
        except (JWException, ValueError, TypeError) as cause:
            raise TokenInvalidError("a token's signature is wrong") from cause
        return dict(self._payload)


def _check_key(key: JWK, algorithm: str) -> None:
    """A key of one kind is never used as another: an RSA key's bytes are no HMAC secret (RFC 8725, section 3.1)."""
    public: Json = key.export_public(as_dict=True) if key.has_public else {}
    fits = (public.get("kty"), public.get("crv")) == _KEYS[algorithm]
    if fits and "n" in public:
        fits = int.from_bytes(from_b64url(public["n"])).bit_length() >= _MIN_RSA_BITS
    if not fits or public.get("alg", algorithm) != algorithm or public.get("use", "sig") != "sig":
        raise TokenInvalidError("the key is not one for the token's algorithm", algorithm=algorithm)


def _shallow(value: Any, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_shallow(item, depth - 1) for item in inner)


# --- claims that all tokens have --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Validity:
    """When a token was issued and until when it counts."""

    issued_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, claims: Json, *, now: datetime, leeway: timedelta, longest: timedelta) -> Self:
        """``iat``, ``exp`` and ``nbf`` of genuine claims, held against ``now``.

        Raises:
            TokenInvalidError: ``iat`` or ``exp`` is missing, or one of the three is no time.
            TokenExpiredError: it is past ``exp``, before ``nbf`` or ``iat``, or longer valid than ``longest``.
        """
        if not timedelta(0) <= leeway <= MAX_LEEWAY:
            raise TokenExpiredError("the leeway for clocks is too large", got=str(leeway), limit=str(MAX_LEEWAY))
        issued, expires = _time(claims, "iat"), _time(claims, "exp")
        begins = _time(claims, "nbf") if "nbf" in claims else issued
        if now >= expires + leeway:
            raise TokenExpiredError("the token has expired", expired=expires.isoformat())
        if now < max(issued, begins) - leeway:
            raise TokenExpiredError("the token is not valid yet", begins=max(issued, begins).isoformat())
        if not timedelta(0) < expires - issued <= longest:
            raise TokenExpiredError("the token is valid for longer than tokens may be", limit=str(longest))
        return cls(issued, expires)


def _time(claims: Json, name: str) -> datetime:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_TIME:
        raise TokenInvalidError("a token's time is missing or none", claim=name)
    return datetime.fromtimestamp(value, UTC)


def text_claim(claims: Json, name: str) -> str:
    """A claim that must be there and be text.

    Raises:
        TokenInvalidError: it is not.
    """
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise TokenInvalidError("a token lacks a claim that must be text", claim=name)
    return value


def check_audience(claims: Json, audience: str) -> None:
    """Return if ``aud`` (text or list, RFC 7519 section 4.1.3) names ``audience``.

    Raises:
        TokenMisdirectedError: it does not, or is not there.
    """
    found = claims.get("aud")
    if audience not in (found if isinstance(found, list) else [found]):
        raise TokenMisdirectedError("the token is for another audience", expected=audience)


class TokenBook:
    """Ids of tokens that one reader has taken: each is taken once.  Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[tuple[str, str], datetime] = {}

    def take(self, issuer: str, token_id: str, until: datetime, now: datetime) -> None:
        """Use up an issuer's token id, which is remembered until the token has expired.

        Raises:
            TokenReplayError: it was taken before, or too many are remembered.
        """
        with self._lock:
            if len(self._until) >= _MAX_IDS:
                self._until = {name: end for name, end in self._until.items() if end > now}
            if (issuer, token_id) in self._until or len(self._until) >= _MAX_IDS:
                raise TokenReplayError("the token was used before", id=token_id[:80])
            self._until[issuer, token_id] = until + MAX_LEEWAY

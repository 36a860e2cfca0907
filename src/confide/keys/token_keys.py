"""The public keys of one issuer of owners' tokens: from a file, or by discovery over HTTPS.  Kept for a while, fetched seldom, bounded.

An unknown key id makes the keys be fetched again, once in 30 seconds at most: rotation is noticed, and made-up ids are no flood.
An issuer that is away, slow or talks nonsense costs its own people their tokens, and nobody else anything: each has a lock of its own.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from jwcrypto.jwk import JWK

from confide.attest.tokens.jwks import IssuerKeys
from confide.attest.vendor_http import Http
from confide.canonical import parse_object
from confide.errors import CollateralError, IssuerError, ParseError
from confide.keys.token_issuers import OwnerIssuer
from confide.regular_file import read_regular

TTL: Final = timedelta(minutes=15)
"""How long keys are used without asking again: a key that the issuer took back counts no longer than this."""
RETRY: Final = timedelta(seconds=30)
_TIMEOUT_S: Final = 5.0
_TOTAL_S: Final = 8.0
_MAX_FILE: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an issuer's keys are: what :class:`IssuerKeys` asks for."""

    issuer: str
    jwks: str | None = None
    jwks_url: str | None = None
    x5c_root: str | None = None


class OwnerIssuerKeys:
    """Keys of one issuer.  Safe to use from several threads."""

    def __init__(self, issuer: OwnerIssuer) -> None:
        self._issuer = issuer
        self._http = Http(ca_file=issuer.ca_file, timeout_s=_TIMEOUT_S, retries=0, total_s=_TOTAL_S)
        self._keys = IssuerKeys(self._http, ttl=TTL, retry=RETRY)
        self._lock = threading.Lock()
        self._found: _Place | None = None
        self._looked: datetime | None = None

    def find(self, kid: str | None, now: datetime) -> JWK:
        """The issuer's key of that id.

        Raises:
            TokenInvalidError: it has none, or its keys are none.
            IssuerError: its keys cannot be had.
        """
        try:
            return self._keys.find(self._place(now), kid, now)
        except CollateralError as cause:
            raise IssuerError("the token's issuer does not give its keys", issuer=self._issuer.issuer) from cause

    def _place(self, now: datetime) -> _Place:
        if self._issuer.jwks_file is not None:
            return _Place(self._issuer.issuer, jwks=self._of_file())
        with self._lock:
            if self._found is None:
                if self._looked is not None and now < self._looked + RETRY:
                    raise IssuerError("the token's issuer could not be asked a moment ago", issuer=self._issuer.issuer)
                self._looked = now
                self._found = _Place(self._issuer.issuer, jwks_url=self._discovered())
            return self._found

    def _of_file(self) -> str:
        try:
            return read_regular(self._issuer.jwks_file, _MAX_FILE).decode("utf-8") if self._issuer.jwks_file is not None else ""
        except (OSError, UnicodeDecodeError) as cause:
            raise IssuerError("the file with an issuer's keys cannot be read", issuer=self._issuer.issuer) from cause

    def _discovered(self) -> str:
        """``jwks_uri`` of the issuer's metadata (OpenID Connect Discovery 1.0, section 4), which must name the issuer (section 4.3)."""
        answer = self._http.get(f"{self._issuer.issuer.rstrip('/')}/.well-known/openid-configuration")
        try:
            metadata = parse_object(answer.body) if answer is not None else {}
        except ParseError as cause:
            raise IssuerError("the issuer's metadata does not parse", issuer=self._issuer.issuer) from cause
        place = metadata.get("jwks_uri")
        if metadata.get("issuer") != self._issuer.issuer or not isinstance(place, str) or urlsplit(place).scheme != "https":
            raise IssuerError("the issuer's metadata are another issuer's, or name no keys", issuer=self._issuer.issuer)
        return place

"""Reads tokens that people show instead of an enrolled key: what an issuer says of somebody, and nothing yet of who that is.

Checked here, in this order, by RFC 7519, 8725, 9068 and 8705: (1) form and type; (2) the issuer is one of the broker's, by its exact name;
(3) the signature, by that issuer's key of the token's id, with one of its algorithms; (4) audience; (5) times, at most an hour; (6) client;
(7) subject; (8) the certificate that it is bound to, if it is.  Not checked here: whose subject it is, and for what a token is good
(``keys.token_links``).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from confide.attest.tokens.jwt import UnverifiedJwt, Validity, check_audience, text_claim
from confide.canonical import Json, b64url
from confide.errors import AttestationError, CredentialError
from confide.keys.refusals import refusals_audited
from confide.keys.sessions import Peer, TokenSubject
from confide.keys.store import Store
from confide.keys.token_issuers import OwnerIssuer
from confide.keys.token_keys import OwnerIssuerKeys

LONGEST: Final = timedelta(hours=1)
LEEWAY: Final = timedelta(seconds=30)
_MAX_TEXT: Final = 256


@dataclass(frozen=True, slots=True)
class _Known:
    issuer: OwnerIssuer
    keys: OwnerIssuerKeys


class Tokens:
    """The tokens of a broker's issuers.  Safe to use from several threads."""

    def __init__(self, store: Store, clock: Callable[[], datetime], issuers: Sequence[OwnerIssuer] = ()) -> None:
        self._store = store
        self._clock = clock
        self._known = {one.issuer: _Known(one, OwnerIssuerKeys(one)) for one in issuers}

    def takes(self, text: str) -> bool:
        """Whether a token says that it is from one of the issuers here.  Nothing of it is believed."""
        try:
            issuer = UnverifiedJwt.parse(text, types=_ALL_TYPES).unverified_claims().get("iss")
        except AttestationError:
            return False
        return isinstance(issuer, str) and issuer in self._known

    def identified(self, peer: Peer, text: str) -> Peer:
        """``peer`` with what its token says.  From then on the token alone says who it is, and never the key that it showed.

        Raises:
            CredentialError: the token does not count.
            IssuerError: its issuer's keys cannot be had.
        """
        with refusals_audited(self._store, self._clock, "token", [], {}):
            return replace(peer, token=self.read(text, peer))

    def read(self, text: str, peer: Peer) -> TokenSubject:
        """What a token says of its bearer.  Raises as :meth:`identified`."""
        try:
            return self._read(text, peer, self._clock())
        except AttestationError as cause:  # the reader's own errors speak of attestation, which this is none of
            raise CredentialError(f"the token is refused: {cause.message}", hint="get a new one from its issuer") from cause

    def _read(self, text: str, peer: Peer, now: datetime) -> TokenSubject:
        token = UnverifiedJwt.parse(text, types=_ALL_TYPES)
        known = self._known.get(text_claim(token.unverified_claims(), "iss"))
        if known is None:
            raise CredentialError("the token is of an issuer that this broker does not know")
        issuer = known.issuer
        if str(token.header.get("typ", "")).lower().removeprefix("application/") not in issuer.types:
            raise CredentialError("the token is of another type than this issuer's tokens are here")
        claims = token.verified(known.keys.find(token.kid, now), issuer.algorithms)
        check_audience(claims, issuer.audience)
        Validity.of(claims, now=now, leeway=LEEWAY, longest=LONGEST)
        _check_client(claims, issuer)
        groups = claims.get(issuer.groups_claim, [])
        named = frozenset(one for one in groups if isinstance(one, str)) if isinstance(groups, list) else frozenset()
        return TokenSubject(issuer, _subject(claims, issuer), named, bound=_bound(claims, peer))


_ALL_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})


def _check_client(claims: Json, issuer: OwnerIssuer) -> None:
    """``azp`` and ``client_id``: at least one is there, and each that is there is one of the issuer's clients here."""
    named = [claims[name] for name in ("azp", "client_id") if name in claims]
    if not named or not all(isinstance(one, str) and one in issuer.clients for one in named):
        raise CredentialError("the token was issued to another client")


def _subject(claims: Json, issuer: OwnerIssuer) -> str:
    if issuer.subject == "email" and claims.get("email_verified") is not True:
        raise CredentialError("the token's email address was not verified by its issuer")
    found = text_claim(claims, issuer.subject)
    if len(found) > _MAX_TEXT:
        raise CredentialError("the token's subject is too long", limit=_MAX_TEXT)
    return found


def _bound(claims: Json, peer: Peer) -> bool:
    """Whether the token is bound to the certificate that the client has shown (RFC 8705, section 3.1).

    A token that is bound to anything else is refused: whoever shows it is not whom it was made for, or cannot be told to be.
    """
    if "cnf" not in claims:
        return False
    match claims["cnf"]:
        case {"x5t#S256": str(thumbprint), **rest} if not rest:
            if peer.certificate is not None and hmac.compare_digest(b64url(hashlib.sha256(peer.certificate).digest()), thumbprint):
                return True
    raise CredentialError("the token is bound to another client's certificate", hint="show the certificate that it was issued for")

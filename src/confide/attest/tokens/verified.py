"""Is a token genuine?  Signature, issuer, audience and time; whether its issuer counts is for a policy to say."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from confide.attest.claims import Claims
from confide.attest.tokens.issuers import TokenIssuer
from confide.attest.tokens.jwks import IssuerKeys
from confide.attest.tokens.jwt import TokenBook, UnverifiedJwt, Validity, check_audience, text_claim
from confide.attest.tokens.statement import read_statement
from confide.errors import TokenMisdirectedError

_LEEWAY: Final = timedelta(seconds=30)
_LONGEST: Final = timedelta(hours=24)
"""Azure's tokens count for eight hours, Intel's for five minutes by default."""
_TOKEN = object()


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A genuine token of ``issuer``.  Only :func:`verify_token` can make one.

    ``appraise`` refuses it unless the policy names its issuer.
    """

    claims: Claims
    issuer: TokenIssuer
    token_id: str
    verified_at: datetime
    token: InitVar[object] = None

    def __post_init__(self, token: object) -> None:
        if token is not _TOKEN:
            raise TypeError("VerifiedToken is made by verify_token only")

    def __reduce__(self) -> Any:
        raise TypeError("VerifiedToken does not travel: send the token and verify it there")


def verify_token(text: str, issuer: TokenIssuer, keys: IssuerKeys, *, now: datetime, book: TokenBook | None = None) -> VerifiedToken:
    """Check that a token is genuine, of ``issuer``, of this time, and (if the issuer's entry has an audience) for it.

    Does not check which session its report data is of, nor what it measures: ``appraise`` does.

    Raises:
        TokenInvalidError: it is not genuine, or says nothing that can be judged.
        TokenMisdirectedError: it is of another issuer or for another audience.
        TokenExpiredError: it is not of this time.
        TokenReplayError: ``book`` has seen it.
        CollateralError: the issuer's keys cannot be had.
    """
    parsed = UnverifiedJwt.parse(text)
    payload = parsed.verified(keys.find(issuer, parsed.kid, now), issuer.algorithms)
    if text_claim(payload, "iss") != issuer.issuer:
        raise TokenMisdirectedError("the token is of another issuer", expected=issuer.issuer, got=str(payload["iss"])[:120])
    validity = Validity.of(payload, now=now, leeway=_LEEWAY, longest=_LONGEST)
    if issuer.audience is not None:
        check_audience(payload, issuer.audience)
    claims = read_statement(payload, issuer, validity.expires_at)
    token_id = text_claim(payload, "jti")
    if book is not None:
        book.take(issuer.issuer, token_id, validity.expires_at, now)
    return VerifiedToken(claims, issuer, token_id, now, token=_TOKEN)

"""Tokens at the limits of what is read, and one step beyond."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from jwcrypto.jwk import JWK

from confide.attest.tokens.jwt import Algorithm, TokenBook, UnverifiedJwt, Validity, text_claim
from confide.canonical import b64url
from confide.errors import TokenExpiredError, TokenInvalidError, TokenReplayError

HEADER = {"alg": "ES256"}
MAX_TOKEN_BYTES, MAX_LEEWAY = 64 * 1024, timedelta(minutes=5)
NOW, SECOND, HOUR = datetime(2030, 1, 1, tzinfo=UTC), timedelta(seconds=1), timedelta(hours=1)


def part(value: Any) -> str:
    return b64url(json.dumps(value).encode())


def token(header: Any = HEADER, payload: Any = None, signature: str = "AA") -> str:
    return f"{part(header)}.{part({} if payload is None else payload)}.{signature}"


def test_token_has_a_size() -> None:
    short = token(payload={"a": 11}, signature="")
    assert (MAX_TOKEN_BYTES - len(short)) % 4 != 1, "a signature of this length is base64"
    assert UnverifiedJwt.parse(short + "A" * (MAX_TOKEN_BYTES - len(short)))
    with pytest.raises(TokenInvalidError, match="three parts"):
        UnverifiedJwt.parse(short + "A" * (MAX_TOKEN_BYTES - len(short) + 1))


@pytest.mark.parametrize("text", ["", "..", "AA", "AA.AA", f"{token()}.AA", token(signature=""), f".{part({})}.AA", f"{part(HEADER)}..AA"])
def test_token_has_three_parts(text: str) -> None:
    with pytest.raises(TokenInvalidError, match="three parts"):
        UnverifiedJwt.parse(text)


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_token_is_nested_to_a_depth() -> None:
    assert UnverifiedJwt.parse(token({**HEADER, "deep": nested(15)}, nested(16)))
    for header, payload in (({**HEADER, "deep": nested(16)}, {}), (HEADER, nested(17)), (HEADER, {"a": [nested(15)]})):
        with pytest.raises(TokenInvalidError, match="nested too deeply"):
            UnverifiedJwt.parse(token(header, payload))


@pytest.mark.parametrize("member", [{"crit": []}, {"b64": True}, {"zip": "DEF"}, {"enc": "A128GCM"}, {"typ": "JWE"}, {"typ": None}])
def test_header_that_changes_how_a_token_is_read_is_refused(member: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalidError, match="asks for what"):
        UnverifiedJwt.parse(token({**HEADER, **member}))


@pytest.mark.parametrize("header", [{}, {"alg": 7}, {"alg": None}, {**HEADER, "kid": 7}, {**HEADER, "kid": None}, {**HEADER, "kid": ["a"]}])
def test_algorithm_and_key_id_are_texts(header: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalidError, match="has no algorithm"):
        UnverifiedJwt.parse(token(header))


def test_token_is_not_shown() -> None:
    shown = repr(UnverifiedJwt.parse(token(payload={"secret": "word"})))
    assert "secret" not in shown
    assert part({"secret": "word"}) not in shown


@pytest.mark.parametrize("kind", ["JWT", "jwt", "eat+jwt", "EAT+JWT", "application/eat+jwt"])
def test_types_of_tokens_that_are_read(kind: str) -> None:
    """Media types are compared without regard to case (RFC 7515, section 4.1.9)."""
    assert UnverifiedJwt.parse(token({**HEADER, "typ": kind})).kid is None


KEYS = {
    **{curve: JWK.generate(kty="EC", crv=curve) for curve in ("P-256", "P-384", "P-521", "secp256k1")},
    **{curve: JWK.generate(kty="OKP", crv=curve) for curve in ("Ed25519", "Ed448", "X25519")},
    "RSA": JWK.generate(kty="RSA", size=2048),
    "oct": JWK.generate(kty="oct", size=256),
}


@pytest.mark.parametrize(("algorithm", "fits"), [
    ("ES256", "P-256"), ("ES384", "P-384"), ("EdDSA", "Ed25519"), ("PS384", "RSA"), ("RS256", "RSA"),
])  # fmt: skip
def test_each_algorithm_has_one_kind_of_key(algorithm: Algorithm, fits: str) -> None:
    for name, key in KEYS.items():
        with pytest.raises(TokenInvalidError, match="signature is wrong" if name == fits else "key is not one for"):
            UnverifiedJwt.parse(token({"alg": algorithm})).verified(key, (algorithm,))


@pytest.mark.parametrize("member", [{"use": "enc"}, {"alg": "ES384"}, {"use": "sig", "alg": "PS384"}])
def test_key_for_another_use_is_refused(member: dict[str, str]) -> None:
    public = KEYS["P-256"].export_public(as_dict=True)
    fitting = JWK(**{**public, "use": "sig", "alg": "ES256"})
    for key, words in ((JWK(**{**public, **member}), "key is not one for"), (fitting, "signature is wrong")):
        with pytest.raises(TokenInvalidError, match=words):
            UnverifiedJwt.parse(token()).verified(key, ("ES256",))


def test_algorithm_is_one_that_the_reader_takes() -> None:
    """However well the key would fit."""
    with pytest.raises(TokenInvalidError, match="algorithm that is not accepted"):
        UnverifiedJwt.parse(token({"alg": "ES256"})).verified(KEYS["P-256"], ("ES384", "RS256"))
    with pytest.raises(TokenInvalidError, match="algorithm that is not accepted"):
        UnverifiedJwt.parse(token({"alg": "HS256"})).verified(KEYS["oct"], ("HS256",))  # type: ignore[arg-type]


def valid(begins: datetime, ends: datetime, leeway: timedelta = timedelta(0), now: datetime = NOW) -> Validity:
    claims = {"iat": int(begins.timestamp()), "exp": int(ends.timestamp())}
    return Validity.of(claims, now=now, leeway=leeway, longest=HOUR)


def test_leeway_is_from_none_to_five_minutes() -> None:
    for leeway in (timedelta(0), MAX_LEEWAY):
        assert valid(NOW, NOW + HOUR, leeway) == Validity(NOW, NOW + HOUR)
        assert valid(NOW + leeway, NOW + HOUR, leeway).issued_at == NOW + leeway
        for begins, ends in ((NOW + leeway + SECOND, NOW + HOUR), (NOW - HOUR, NOW - leeway)):
            with pytest.raises(TokenExpiredError, match=r"not valid yet|has expired"):
                valid(begins, ends, leeway)
    for leeway in (-SECOND, MAX_LEEWAY + SECOND):
        with pytest.raises(TokenExpiredError, match="leeway"):
            valid(NOW, NOW + HOUR, leeway)


def test_time_is_one_that_a_clock_can_show() -> None:
    first, last = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 54, 59, tzinfo=UTC)
    assert valid(first, first + HOUR, now=first).issued_at == first
    assert valid(last - HOUR, last, now=last - SECOND).expires_at == last
    with pytest.raises(TokenInvalidError, match="time"):
        valid(last - HOUR, last + SECOND, now=last)


def test_token_is_remembered_until_no_clock_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confide.attest.tokens.jwt._MAX_IDS", 1)
    book = TokenBook()
    book.take("issuer", "one", NOW, NOW)
    for later in (timedelta(0), MAX_LEEWAY - SECOND):
        with pytest.raises(TokenReplayError):
            book.take("issuer", "two", NOW + HOUR, NOW + later)
    book.take("issuer", "two", NOW + HOUR, NOW + MAX_LEEWAY)


@pytest.mark.parametrize("value", [None, "", 7, ["text"], True])
def test_text_is_text(value: Any) -> None:
    with pytest.raises(TokenInvalidError, match="must be text"):
        text_claim({"name": value}, "name")

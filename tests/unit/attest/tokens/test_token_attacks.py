"""Tokens of other verifiers that are forged, of another time, for somebody else, of another issuer, or used twice."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from support.foreign_tokens import ITA_ENTRY, KEY, KEYS, MAA, MAA_ENTRY, NOW, checked, ita, jwk, jwks, maa_snp, policy, sign

from confide.attest.binding import SessionBinding
from confide.attest.policy import appraise
from confide.attest.tokens.issuers import TokenIssuer
from confide.attest.tokens.jwks import KeySet
from confide.attest.tokens.jwt import TokenBook
from confide.attest.tokens.verified import verify_token
from confide.canonical import b64url, sha256_hex
from confide.errors import BindingError, TokenExpiredError, TokenInvalidError, TokenMisdirectedError, TokenReplayError

OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SECOND = timedelta(seconds=1)
LEEWAY, LONGEST = timedelta(seconds=30), timedelta(hours=24)


def seconds(at: datetime) -> int:
    return int(at.timestamp())


@pytest.mark.parametrize(("claims", "good"), [
    ({"exp": NOW - LEEWAY + SECOND, "iat": NOW - LEEWAY, "nbf": NOW - LEEWAY}, True),
    ({"exp": NOW - LEEWAY, "iat": NOW - 2 * LEEWAY}, False),
    ({"nbf": NOW + LEEWAY}, True), ({"nbf": NOW + LEEWAY + SECOND}, False),
    ({"iat": NOW + LEEWAY}, True), ({"iat": NOW + LEEWAY + SECOND}, False), ({"iat": NOW + LEEWAY + SECOND, "nbf": None}, False),
    ({"exp": NOW + LONGEST}, True), ({"exp": NOW + LONGEST + SECOND}, False), ({"exp": NOW, "iat": NOW}, False),
], ids=str)  # fmt: skip
def test_token_is_of_its_time_and_no_longer(binding: SessionBinding, claims: dict[str, datetime | None], good: bool) -> None:
    made = {**ita(binding), **{name: None if at is None else seconds(at) for name, at in claims.items()}}
    made = {name: value for name, value in made.items() if value is not None}
    if good:
        assert checked(made)
        return
    with pytest.raises(TokenExpiredError):
        checked(made)


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", [None, True, "1893456000", -1, [1]])
def test_time_that_is_none_is_refused(binding: SessionBinding, name: str, value: Any) -> None:
    made = {**ita(binding), name: value}
    with pytest.raises(TokenInvalidError):
        checked(made)


def raw(header: dict[str, Any], payload: dict[str, Any], signature: bytes) -> str:
    return ".".join((b64url(json.dumps(header).encode()), b64url(json.dumps(payload).encode()), b64url(signature)))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "HS256", "HS384", "HS512", "RS384", "PS256", "ES256", "EdDSA", "RSA1_5"])
def test_token_does_not_choose_its_algorithm(binding: SessionBinding, algorithm: str) -> None:
    """Above all not one under which the issuer's public key, which everybody has, is a secret (RFC 8725, section 2.1)."""
    payload, header = ita(binding), {"alg": algorithm, "typ": "JWT", "kid": "one"}
    unsigned = raw(header, payload, b"x").rpartition(".")[0].encode()
    public = KEY.public_key()
    secrets = [public.public_bytes(form, kind) for form in (Encoding.PEM, Encoding.DER)
               for kind in (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1)]  # fmt: skip
    secrets += [base64.urlsafe_b64decode(jwk()["n"] + "=="), jwk()["n"].encode(), b""]
    forged = [hmac.new(secret, unsigned, digest).digest() for secret in secrets for digest in ("sha256", "sha384", "sha512")]
    for signature in (*forged, b"\0"):
        with pytest.raises(TokenInvalidError, match="algorithm"):
            verify_token(raw(header, payload, signature), ITA_ENTRY, KEYS, now=NOW)
    with pytest.raises(TokenInvalidError):
        verify_token(f"{unsigned.decode()}.", ITA_ENTRY, KEYS, now=NOW)


def test_issuer_that_was_built_with_a_foreign_algorithm_gives_no_key_for_it(binding: SessionBinding) -> None:
    """The list of algorithms is the owner's; that a key is one for the algorithm is checked all the same."""
    entry = ITA_ENTRY.model_copy(update={"algorithms": ("HS256", "ES256", "none")})
    for algorithm, reason in (("HS256", "algorithm that is not"), ("ES256", "key is not one for"), ("none", "algorithm that is not")):
        with pytest.raises(TokenInvalidError, match=reason):
            verify_token(raw({"alg": algorithm, "kid": "one"}, ita(binding), b"x" * 64), entry, KEYS, now=NOW)
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    weak = ITA_ENTRY.model_copy(update={"jwks": jwks(jwk("one", short))})
    with pytest.raises(TokenInvalidError, match="key is not one for"):
        verify_token(sign(ita(binding), alg="RS256", key=short), weak, KEYS, now=NOW)


@pytest.mark.parametrize(("bits", "zeros"), [(1024, 0), (1024, 128), (2040, 1), (2047, 0)])
def test_rsa_key_is_as_long_as_its_number(binding: SessionBinding, bits: int, zeros: int) -> None:
    """Zeros in front, which RFC 7518 does not allow (section 6.3.1.1), make no key longer."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    number = b64url(bytes(zeros) + key.public_key().public_numbers().n.to_bytes((bits + 7) // 8))
    weak = ITA_ENTRY.model_copy(update={"jwks": jwks({**jwk("one", key), "n": number})})
    with pytest.raises(TokenInvalidError, match="key is not one for"):
        verify_token(sign(ita(binding), alg="RS256", key=key), weak, KEYS, now=NOW)


@pytest.mark.parametrize("audience", [None, "them", ["them"], [], ["us "], "US", 7, {"us": 1}])
def test_token_for_another_audience_is_refused(binding: SessionBinding, audience: Any) -> None:
    entry = ITA_ENTRY.model_copy(update={"audience": "us"})
    made = {**ita(binding), **({} if audience is None else {"aud": audience})}
    with pytest.raises(TokenMisdirectedError, match="audience"):
        checked(made, entry)
    for right in ("us", ["them", "us"]):
        assert checked({**ita(binding), "aud": right}, entry)


def test_key_id_of_another_issuer_opens_nothing(binding: SessionBinding) -> None:
    """Two issuers that a policy names, with one key id: each one's tokens are verified with its own key."""
    second = TokenIssuer(kind="ita", issuer="https://second.example", jwks=jwks(jwk("one", OTHER), jwk("two", OTHER)))
    both = policy(ITA_ENTRY, second)
    assert appraise(checked(ita(binding)), both, binding, now=NOW)
    theirs = {**ita(binding), "iss": second.issuer}
    assert appraise(verify_token(sign(theirs, key=OTHER), second, KEYS, now=NOW), both, binding, now=NOW)
    for kid in ("one", "two"):
        with pytest.raises(TokenInvalidError):
            verify_token(sign(ita(binding), key=OTHER, kid=kid), ITA_ENTRY, KEYS, now=NOW)
    with pytest.raises(TokenMisdirectedError):
        verify_token(sign(ita(binding), key=OTHER, kid="two"), second, KEYS, now=NOW)
    with pytest.raises(TokenMisdirectedError):
        verify_token(sign(theirs), ITA_ENTRY, KEYS, now=NOW)


def test_token_is_taken_once_while_it_counts(binding: SessionBinding) -> None:
    """By issuer and id: another issuer's token may have the same id, and a new signature makes no new token."""
    book = TokenBook()
    take = lambda text, entry: verify_token(text, entry, KEYS, now=NOW, book=book)  # noqa: E731
    take(sign(ita(binding)), ITA_ENTRY)
    for again in (sign(ita(binding)), sign({**ita(binding), "extra": 1})):
        with pytest.raises(TokenReplayError):
            take(again, ITA_ENTRY)
    take(sign({**ita(binding), "jti": "id-2"}), ITA_ENTRY)
    take(sign(maa_snp(binding), alg="RS256"), MAA_ENTRY)
    with pytest.raises(TokenInvalidError):
        take(sign({**ita(binding), "jti": ""}), ITA_ENTRY)
    forged = sign({**ita(binding), "jti": "id-3"}, key=OTHER)
    with pytest.raises(TokenInvalidError):
        take(forged, ITA_ENTRY)
    take(sign({**ita(binding), "jti": "id-3"}), ITA_ENTRY)


def test_book_forgets_no_token_that_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confide.attest.tokens.jwt._MAX_IDS", 2)
    book, later = TokenBook(), NOW + timedelta(hours=1)
    book.take("a", "1", later, NOW)
    book.take("a", "2", NOW, NOW)
    with pytest.raises(TokenReplayError):
        book.take("a", "3", later, NOW)  # full: refused, rather than forget one that counts
    book.take("a", "3", later, NOW + timedelta(minutes=6))
    with pytest.raises(TokenReplayError):
        book.take("a", "1", later, NOW + timedelta(minutes=6))


def test_token_of_another_session_key_role_or_nonce_is_refused(binding: SessionBinding) -> None:
    """Threat T94: what is shown was made for somebody else, however genuine."""
    from dataclasses import replace

    from confide.ids import Nonce, Role

    for other in (
        replace(binding, nonce=Nonce(b"\7" * 32)), replace(binding, exporter=b"\7" * 32), replace(binding, spki=b"another key"),
        replace(binding, role=Role.DRIVER),
    ):  # fmt: skip
        with pytest.raises(BindingError):
            appraise(checked(ita(other)), policy(ITA_ENTRY), binding, now=NOW)


def chain(leaf: rsa.RSAPrivateKey, *, authority: bool | None = True, signer: rsa.RSAPrivateKey = KEY) -> list[bytes]:
    """A certificate of ``leaf``'s key, signed by ``signer``, and a root of KEY, DER."""
    made: list[bytes] = []
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("leaf", MAA)]
    for subject, key, ca in ((names[0], leaf, False), (names[1], KEY, authority)):
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(names[1]).public_key(key.public_key()).serial_number(1)
        builder = builder.not_valid_before(NOW - timedelta(1)).not_valid_after(NOW + timedelta(1))
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        made.append(builder.sign(KEY if subject is names[1] else signer, SHA256()).public_bytes(Encoding.DER))
    return made


def test_certificates_in_a_key_set_are_of_the_key_and_of_the_owners_root() -> None:
    good, foreign = chain(OTHER), chain(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    root = sha256_hex(good[1])

    def parse(x5c: list[bytes], key: rsa.RSAPrivateKey = OTHER, pin: str | None = root) -> KeySet:
        entry = {**jwk("one", key), "x5c": [base64.b64encode(one).decode() for one in x5c]}
        return KeySet.parse(json.dumps({"keys": [entry]}), root=pin, now=NOW)

    assert parse(good).get("one") is not None
    for pin in (root, None):
        with pytest.raises(TokenInvalidError, match=r"4\.7"):
            parse([foreign[0], good[1]] if pin is None else [good[0], good[1]], KEY, pin)
    for wrong in ([good[0]], [good[1], good[0]], chain(OTHER, signer=OTHER)):
        with pytest.raises(TokenInvalidError):
            parse(wrong)
    for authority in (False, None):
        powerless = chain(OTHER, authority=authority)
        with pytest.raises(TokenInvalidError, match="may not issue"):
            parse(powerless, pin=sha256_hex(powerless[1]))


def test_every_part_of_a_token_is_signed(binding: SessionBinding) -> None:
    head, payload, signature = sign(ita(binding)).split(".")
    changed = b64url(json.dumps({**ita(binding), "tdx": {**ita(binding)["tdx"], "tdx_mrtd": "ab" * 48}}).encode())
    other_head = b64url(json.dumps({"alg": "PS384", "typ": "JWT", "kid": "one", "x": 1}).encode())
    flipped = b64url(bytes([hashlib.sha256(b"").digest()[0]]) + base64.urlsafe_b64decode(signature + "==")[1:])
    for text in (f"{head}.{changed}.{signature}", f"{other_head}.{payload}.{signature}", f"{head}.{payload}.{flipped}"):
        with pytest.raises(TokenInvalidError, match="signature"):
            verify_token(text, ITA_ENTRY, KEYS, now=NOW)

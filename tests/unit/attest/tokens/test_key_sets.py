"""Sets of an issuer's keys: what is no public key that signs is left out or refused, and nothing is larger than it may be."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from support.foreign_tokens import KEY, NOW, jwk, jwks

from confide.attest.tokens.jwks import KeySet
from confide.errors import TokenInvalidError


def parse(text: str) -> KeySet:
    return KeySet.parse(text, root=None, now=NOW)


def test_set_has_a_size() -> None:
    many = [jwk(f"key-{number}") for number in range(65)]
    text = jwks(*many[:64])
    assert parse(text).get("key-63")
    assert parse(text.ljust(256 * 1024)).get("key-0")
    for large in (jwks(*many), text.ljust(256 * 1024 + 1)):
        with pytest.raises(TokenInvalidError, match="not a set of keys"):
            parse(large)


def test_keys_are_not_shown() -> None:
    assert "key-1" not in repr(parse(jwks(jwk("key-1"))))


@pytest.mark.parametrize("keys", [[1], [jwk(), 1], {"one": jwk()}, None])
def test_set_is_a_list_of_objects(keys: Any) -> None:
    with pytest.raises(TokenInvalidError, match="not a set of keys"):
        parse(json.dumps({"keys": keys}))


@pytest.mark.parametrize("foreign", [
    {"kty": "oct", "kid": "two", "k": "AAAA"}, {"kty": "AKP", "kid": "two"}, {"kid": "two"}, {"kty": ["RSA"], "kid": "two"},
    {"kty": 7, "kid": "two"}, {**jwk(), "kid": 7}, {name: value for name, value in jwk().items() if name != "kid"},
])  # fmt: skip
def test_kind_of_key_that_is_not_known_is_left_out(foreign: dict[str, Any]) -> None:
    """RFC 7517, section 5: a set may hold what others use."""
    found = parse(jwks(foreign, jwk()))
    assert found.get("one") is not None
    assert found.get("two") is None
    assert found.get(None) is None


@pytest.mark.parametrize("changes", [
    {"n": 7}, {"n": "é"}, {"e": None}, {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"}, {"kty": "EC", "crv": "P-256", "x": "AA"},
])  # fmt: skip
def test_key_that_does_not_parse_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalidError, match="key of the set does not parse"):
        parse(jwks({**jwk(), **changes}))


def certificate() -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "of the key")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key()).serial_number(1)
    made = builder.not_valid_before(NOW - timedelta(1)).not_valid_after(NOW + timedelta(1)).sign(KEY, SHA256())
    return base64.b64encode(made.public_bytes(Encoding.DER)).decode()


def test_chain_of_a_key_is_a_short_list_of_certificates() -> None:
    one = certificate()
    assert parse(jwks({**jwk(), "x5c": [one] * 6})).get("one")
    for wrong in ([one] * 7, [], {one: 1}, one, 7, [7], [one, 7], False):
        with pytest.raises(TokenInvalidError, match="is no chain"):
            parse(jwks({**jwk(), "x5c": wrong}))
    for wrong in ([f"{one}\n"], [one[:-8]], [one, "AAAA"], ["é"], [base64.b64encode(base64.b64decode(one) + b"0").decode()]):
        with pytest.raises(TokenInvalidError, match="certificate does not parse"):
            parse(jwks({**jwk(), "x5c": wrong}))


def test_key_without_a_value_is_refused() -> None:
    with pytest.raises(TokenInvalidError, match="has no value"):
        parse(jwks({"kty": "RSA", "kid": "one", "e": "AQAB"}))

"""Our JWE encryption against two independent implementations, which open it: jwcrypto and joserfc."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwe as jose
from joserfc.jwk import ECKey, RSAKey
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from confide.canonical import b64url, from_b64url
from confide.crypto.jwe import ECDH, ENC, RSA_OAEP, encrypt
from confide.crypto.secret import SecretBytes

SECRET = b"the secret of a dataset, 32 byte"
KEYS = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
}


def sealed(name: str, secret: bytes = SECRET, apv: bytes | None = None) -> str:
    return encrypt(SecretBytes(secret), KEYS[name].public_key(), apv=apv)


def header(token: str) -> dict[str, object]:
    return dict(json.loads(from_b64url(token.split(".", maxsplit=1)[0])))


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("secret", [SECRET, b"x", bytes(40_000)], ids=len)
@pytest.mark.parametrize("apv", [None, b"for one use"], ids=["unbound", "bound"])
def test_jwcrypto_and_joserfc_open_it(name: str, secret: bytes, apv: bytes | None) -> None:
    token, algorithm = sealed(name, secret, None if name == "RSA" else apv), RSA_OAEP if name == "RSA" else ECDH
    assert token.count(".") == 4
    assert "=" not in token
    opened = JWE(algs=[algorithm, ENC])
    opened.deserialize(token, key=JWK.from_pyca(KEYS[name]))
    assert opened.payload == secret
    pem = KEYS[name].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key = RSAKey.import_key(pem) if name == "RSA" else ECKey.import_key(pem)
    assert jose.decrypt_compact(token, key, algorithms=[algorithm, ENC]).plaintext == secret


def test_header_is_what_the_protocol_has_in_its_order() -> None:
    text = from_b64url(sealed("P-521", apv=b"for one use").split(".")[0]).decode()
    found = json.loads(text)
    assert list(found) == ["alg", "enc", "apv", "epk"]
    assert list(found["epk"]) == ["crv", "kty", "x", "y"]
    assert found["apv"] == b64url(b"for one use")
    assert {len(from_b64url(found["epk"][name])) for name in "xy"} == {66}
    assert " " not in text
    assert list(header(sealed("P-256"))) == ["alg", "enc", "epk"]
    assert header(sealed("RSA")) == {"alg": RSA_OAEP, "enc": ENC}


@pytest.mark.parametrize("part", range(5))
def test_nothing_is_used_twice_and_any_changed_part_does_not_open(part: int) -> None:
    first, second = sealed("P-256", apv=b"a").split("."), sealed("P-256", apv=b"a").split(".")
    assert first[part] != second[part]
    first[part] = second[part]
    opened = JWE(algs=[ECDH, ENC])
    with pytest.raises(Exception, match=r".*"):
        opened.deserialize(".".join(first), key=JWK.from_pyca(KEYS["P-256"]))


def test_other_party_info_agrees_on_another_key() -> None:
    """``apv`` enters the key derivation: written over in the header (which is authenticated as well), nothing opens."""
    token = sealed("P-256", apv=b"one use").split(".")
    changed = {**header(".".join(token)), "apv": b64url(b"another")}
    forged = ".".join([b64url(json.dumps(changed, separators=(",", ":")).encode()), *token[1:]])
    with pytest.raises(Exception, match=r".*"):
        JWE(algs=[ECDH, ENC]).deserialize(forged, key=JWK.from_pyca(KEYS["P-256"]))


def test_rsa_binds_to_no_party_info() -> None:
    with pytest.raises(ValueError, match="agrees on no key"):
        sealed("RSA", apv=b"one use")

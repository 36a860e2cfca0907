"""Our JWEs against two independent implementations, jwcrypto and joserfc: they open ours, and we open theirs."""

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
from confide.crypto.jwe import ECDH, ENC, RSA_OAEP, decrypt, encrypt
from confide.crypto.secret import SecretBytes
from confide.errors import UnwrapError

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
    theirs = JWE(algs=[algorithm, ENC])
    theirs.deserialize(token, key=JWK.from_pyca(KEYS[name]))
    assert theirs.payload == secret
    pem = KEYS[name].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key = RSAKey.import_key(pem) if name == "RSA" else ECKey.import_key(pem)
    assert jose.decrypt_compact(token, key, algorithms=[algorithm, ENC]).plaintext == secret


def opened(name: str, token: str, apv: bytes = b"") -> bytes:
    """What we make of a token, with the ``epk`` that it says itself."""
    epk = header(token)["epk"]
    assert isinstance(epk, dict)
    key = KEYS[name]
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    point = ec.EllipticCurvePublicKey.from_encoded_point(key.curve, b"\x04" + from_b64url(epk["x"]) + from_b64url(epk["y"]))
    return decrypt(token, key, point, apv=apv).reveal()


def changed(data: bytes) -> list[bytes]:
    """The same with each byte changed, one byte fewer, and one more."""
    return [*(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))), data[:-1], data + b"\0"]


@pytest.mark.parametrize("name", ["P-256", "P-521"])
@pytest.mark.parametrize("secret", [SECRET, b"x", bytes(40_000)], ids=len)
@pytest.mark.parametrize("apv", [b"", b"for one use"], ids=["unbound", "bound"])
def test_what_jwcrypto_joserfc_and_we_make_is_opened(name: str, secret: bytes, apv: bytes) -> None:
    said = {"alg": ECDH, "enc": ENC, **({"apv": b64url(apv)} if apv else {})}
    theirs = JWE(secret, protected=json.dumps(said), recipient=JWK.from_pyca(KEYS[name].public_key())).serialize(compact=True)
    pem = KEYS[name].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    others = jose.encrypt_compact(said, secret, ECKey.import_key(pem), algorithms=[ECDH, ENC])
    for token in (sealed(name, secret, apv or None), theirs, others):
        assert opened(name, token, apv) == secret
        with pytest.raises(UnwrapError):
            opened(name, token, apv + b"!")


def test_token_with_any_byte_changed_or_with_parts_of_another_length_does_not_open() -> None:
    parts = sealed("P-256", apv=b"a").split(".")
    for at in range(1, 5):
        for part in changed(from_b64url(parts[at])):
            with pytest.raises(UnwrapError):
                opened("P-256", ".".join([*parts[:at], b64url(part), *parts[at + 1 :]]), b"a")
    epk = header(".".join(parts))["epk"]
    reordered = b64url(json.dumps({"epk": epk, "alg": ECDH, "enc": ENC, "apv": b64url(b"a")}, separators=(",", ":")).encode())
    for token in (".".join([reordered, *parts[1:]]), ".".join([*parts, ""]), ".".join(parts[:4]), ".".join([*parts[:4], parts[4] + "="])):
        with pytest.raises(UnwrapError):
            opened("P-256", token, b"a")


def test_token_for_another_key_does_not_open() -> None:
    token = sealed("P-256", apv=b"a")
    epk = ec.generate_private_key(ec.SECP256R1()).public_key()
    key = KEYS["P-256"]
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    with pytest.raises(UnwrapError):
        decrypt(token, key, epk, apv=b"a")
    with pytest.raises(UnwrapError):
        decrypt(token, ec.generate_private_key(ec.SECP256R1()), key.public_key(), apv=b"a")
    with pytest.raises(UnwrapError):
        decrypt(token, key, ec.generate_private_key(ec.SECP521R1()).public_key(), apv=b"a")


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
    theirs = JWE(algs=[ECDH, ENC])
    with pytest.raises(Exception, match=r".*"):
        theirs.deserialize(".".join(first), key=JWK.from_pyca(KEYS["P-256"]))


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


@pytest.mark.parametrize(("constant", "other"), [("_KEY_BYTES", 16), ("_IV_BYTES", 16), ("_TAG_BYTES", 12)])
def test_token_of_other_lengths_than_agreed_does_not_open(constant: str, other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(f"confide.crypto.jwe.{constant}", other)
        token = sealed("P-256", apv=b"a")
    with pytest.raises(UnwrapError):
        opened("P-256", token, b"a")

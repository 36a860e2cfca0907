"""Signing keys, private files and DSSE envelopes."""

from __future__ import annotations

import base64
import copy
import hashlib
import os
import pickle
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from confide.crypto.sign import (
    PublicKey,
    SigningKey,
    dsse_sign,
    dsse_verify,
    read_private_file,
    unverified_keyid,
    unverified_payload,
    write_private_file,
)
from confide.errors import CredentialError, IntegrityError, ParseError, SecretLeakError

TYPE = "application/vnd.confide.manifest+json"


def spki(key: object) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_signature_verifies_with_the_public_half_only() -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    signature = key.sign(b"data")
    PublicKey.from_spki(key.spki_der).verify(signature, b"data")
    for public, data in [(other.public, b"data"), (key.public, b"date"), (key.public, b"")]:
        with pytest.raises(IntegrityError):
            public.verify(signature, data)
    with pytest.raises(IntegrityError):
        key.public.verify(b"not a signature", b"data")


def test_a_key_is_named_by_its_spki() -> None:
    key = SigningKey.generate()
    assert key.spki_digest == key.public.digest == hashlib.sha256(key.spki_der).hexdigest()
    assert repr(key) == f"SigningKey({key.spki_digest})"


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30" * 20,
        bytes(600),
        spki(rsa.generate_private_key(65537, 2048)),
        spki(ed25519.Ed25519PrivateKey.generate()),
        spki(ec.generate_private_key(ec.SECP384R1())),
        SigningKey.generate().spki_der + b"\0",
        SigningKey.generate().unwrapped().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=["empty", "garbage", "long", "rsa", "ed25519", "p384", "trailing", "pem"],
)
def test_anything_but_a_canonical_p256_spki_is_refused(der: bytes) -> None:
    with pytest.raises(ParseError):
        PublicKey.from_spki(der)


def test_compressed_point_is_refused_so_that_a_key_has_one_name() -> None:
    key = SigningKey.generate().unwrapped().public_key()
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    der = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    with pytest.raises(ParseError):
        PublicKey.from_spki(der)


def test_private_key_of_another_curve_is_refused() -> None:
    with pytest.raises(CredentialError):
        SigningKey(ec.generate_private_key(ec.SECP384R1()))


@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy])
def test_private_key_cannot_be_pickled_or_copied(leak) -> None:
    with pytest.raises(SecretLeakError):
        leak(SigningKey.generate())


def test_saved_key_is_private_and_comes_back(tmp_path: Path) -> None:
    key, path = SigningKey.generate(), tmp_path / "owner.key"
    key.save_private(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load_private(path).spki_der == key.spki_der
    assert [entry.name for entry in tmp_path.iterdir()] == ["owner.key"]


def test_private_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "owner.key"
    SigningKey.generate().save_private(path)
    before = path.read_bytes()
    with pytest.raises(CredentialError, match="exists"):
        SigningKey.generate().save_private(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_key_file_in_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CredentialError):
        write_private_file(tmp_path / "none" / "key", b"x")
    with pytest.raises(CredentialError):
        read_private_file(tmp_path / "none" / "key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_key_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "owner.key"
    SigningKey.generate().save_private(path)
    path.chmod(mode)
    with pytest.raises(CredentialError, match="open to other users"):
        SigningKey.load_private(path)


def test_key_file_that_is_no_plain_file_is_refused_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(CredentialError):
            read_private_file(path)


def test_file_that_holds_no_key_is_refused(tmp_path: Path) -> None:
    def pem(key: object, *, encrypted: bool = False) -> bytes:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw") if encrypted else NoEncryption())

    contents = [b"", b"not PEM", bytes(20000), pem(ed25519.Ed25519PrivateKey.generate()), pem(ec.generate_private_key(ec.SECP384R1()))]
    contents.append(pem(ec.generate_private_key(ec.SECP256R1()), encrypted=True))
    for number, data in enumerate(contents):
        path = tmp_path / str(number)
        write_private_file(path, data)
        with pytest.raises(CredentialError):
            SigningKey.load_private(path)


# --- DSSE -------------------------------------------------------------------------------------------------------------


def test_envelope_gives_its_payload_to_the_right_key_and_type() -> None:
    key = SigningKey.generate()
    envelope = dsse_sign(key, TYPE, b'{"a":1}')
    assert dsse_verify(envelope, key.public, TYPE) == b'{"a":1}'
    assert unverified_keyid(envelope) == key.spki_digest
    assert unverified_payload(envelope) == b'{"a":1}'


def test_what_is_signed_is_the_dsse_v1_encoding() -> None:
    key = SigningKey.generate()
    envelope = dsse_sign(key, "http://example.com/HelloWorld", b"hello world")
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    # The example of the DSSE v1 specification.
    key.public.verify(signature, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world")


def test_envelope_of_another_key_is_refused() -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    envelope = dsse_sign(key, TYPE, b"x")
    with pytest.raises(IntegrityError):
        dsse_verify(envelope, other.public, TYPE)
    envelope["signatures"][0]["keyid"] = other.spki_digest
    for public in (other.public, key.public):  # the right signature under another name is refused too
        with pytest.raises(IntegrityError):
            dsse_verify(envelope, public, TYPE)


def test_envelope_of_another_type_is_refused() -> None:
    key = SigningKey.generate()
    envelope = dsse_sign(key, TYPE, b"x")
    with pytest.raises(IntegrityError):
        dsse_verify(envelope, key.public, "application/vnd.in-toto+json")
    envelope["payloadType"] = "application/vnd.in-toto+json"
    with pytest.raises(IntegrityError):
        dsse_verify(envelope, key.public, "application/vnd.in-toto+json")


def test_changed_payload_is_refused() -> None:
    key = SigningKey.generate()
    envelope = dsse_sign(key, TYPE, b"x") | {"payload": base64.b64encode(b"y").decode()}
    with pytest.raises(IntegrityError):
        dsse_verify(envelope, key.public, TYPE)


@pytest.mark.parametrize(
    "change",
    [
        {"signatures": []},
        {"signatures": "x"},
        {"signatures": [{"keyid": "0" * 64, "sig": "eA=="}] * 2},
        {"signatures": [{"keyid": "0" * 64}]},
        {"signatures": [{"keyid": "0" * 64, "sig": "eA==", "more": 1}]},
        {"signatures": [{"keyid": "zz", "sig": "eA=="}]},
        {"payload": 3},
        {"payload": "eA"},
        {"payload": "eB=="},
        {"payload": "e A=="},
        {"more": 1},
    ],
    ids=str,
)
def test_object_that_is_no_envelope_with_one_signature_is_refused(change: dict) -> None:
    key = SigningKey.generate()
    envelope = dsse_sign(key, TYPE, b"x") | change
    with pytest.raises(ParseError):
        dsse_verify(envelope, key.public, TYPE)
    with pytest.raises(ParseError):
        unverified_keyid(envelope)

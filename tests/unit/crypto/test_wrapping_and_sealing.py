"""Wrapped keys (broker at rest) and sealed keys (broker to node)."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from jwcrypto import jwe, jwk

from confide.canonical import b64url, from_b64url
from confide.crypto.envelope import WrappedKey, unwrap, wrap
from confide.crypto.seal import SealKey, check_public_jwk, jwk_thumbprint, seal
from confide.crypto.secret import SecretBytes
from confide.errors import ParseError, SecretLeakError, UnwrapError

KEK = SecretBytes(b"k" * 32)
SECRET = SecretBytes(b"s" * 32)
CONTEXT = {"dataset": "d" * 32, "job": "j" * 96, "run": "r-1", "purpose": "read"}


def wrapped(**changes: object) -> WrappedKey:
    return wrap(KEK, SECRET, **({"key": "airline/flights", "version": 1, "dataset": "d" * 32} | changes))


# --- wrapped keys -----------------------------------------------------------------------------------------------------


def test_wrapped_key_opens_under_its_key_and_survives_json() -> None:
    found = WrappedKey.from_json(json.loads(json.dumps(wrapped().to_json())))
    assert unwrap(KEK, found).reveal() == SECRET.reveal()


def test_two_wrappings_of_one_secret_differ() -> None:
    assert wrapped().ciphertext != wrapped().ciphertext


@pytest.mark.parametrize("field", [{"key": "airline/other"}, {"version": 2}, {"dataset": "e" * 32}], ids=str)
def test_wrapped_key_of_another_use_does_not_open(field: dict) -> None:
    moved = WrappedKey.from_json(wrapped().to_json() | field)
    with pytest.raises(UnwrapError):
        unwrap(KEK, moved)


def test_wrong_key_encryption_key_does_not_open() -> None:
    with pytest.raises(UnwrapError) as refusal:
        unwrap(SecretBytes(b"x" * 32), wrapped())
    assert refusal.value.facts == {"key": "airline/flights", "version": 1}


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_key_encryption_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(UnwrapError):
        wrap(SecretBytes(b"k" * length), SECRET, key="a/b", version=1, dataset="d")
    with pytest.raises(UnwrapError):
        unwrap(SecretBytes(b"k" * length), wrapped())


@pytest.mark.parametrize(
    "change",
    [
        {"format": "confide-wrapped-key-v2"},
        {"more": 1},
        {"key": ""},
        {"key": "x" * 300},
        {"version": 0},
        {"version": -1},
        {"version": True},
        {"version": "1"},
        {"version": 2**60},
        {"dataset": ""},
        {"nonce": b64url(bytes(11))},
        {"nonce": "?"},
        {"ciphertext": b64url(bytes(16))},
        {"ciphertext": b64url(bytes(9000))},
        {"ciphertext": None},
    ],
    ids=lambda change: str(change)[:40],
)
def test_object_that_is_no_wrapped_key_is_refused(change: dict) -> None:
    with pytest.raises(ParseError):
        WrappedKey.from_json(wrapped().to_json() | change)


def test_wrapping_for_a_nameless_key_is_refused() -> None:
    with pytest.raises(ParseError):
        wrapped(key="")


# --- sealed keys ------------------------------------------------------------------------------------------------------


def reprotected(sealed: str, **changes: object) -> str:
    """The sealed key with fields of its header changed (``None`` takes one out)."""
    head, rest = sealed.split(".", 1)
    header = {**json.loads(from_b64url(head)), **changes}
    return b64url(json.dumps({k: v for k, v in header.items() if v is not None}).encode()) + "." + rest


def test_sealed_key_opens_for_its_node_and_context() -> None:
    node = SealKey.generate()
    assert node.open(seal(SECRET, node.public_jwk(), context=CONTEXT), context=dict(reversed(CONTEXT.items()))).reveal() == SECRET.reveal()


def test_sealed_key_does_not_open_for_another_node() -> None:
    sealed = seal(SECRET, SealKey.generate().public_jwk(), context=CONTEXT)
    with pytest.raises(UnwrapError):
        SealKey.generate().open(sealed, context=CONTEXT)


@pytest.mark.parametrize("field", list(CONTEXT))
def test_sealed_key_does_not_open_in_another_context(field: str) -> None:
    node = SealKey.generate()
    sealed = seal(SECRET, node.public_jwk(), context=CONTEXT)
    with pytest.raises(UnwrapError, match="another use"):
        node.open(sealed, context=CONTEXT | {field: "other"})


def test_context_written_over_in_the_header_does_not_open() -> None:
    node = SealKey.generate()
    other = seal(SECRET, node.public_jwk(), context=CONTEXT | {"purpose": "write"})
    apv = json.loads(from_b64url(other.split(".")[0]))["apv"]
    with pytest.raises(UnwrapError):
        node.open(reprotected(seal(SECRET, node.public_jwk(), context=CONTEXT), apv=apv), context=CONTEXT | {"purpose": "write"})


@pytest.mark.parametrize(
    "change",
    [
        {"alg": "ECDH-ES"},
        {"alg": "dir"},
        {"alg": "RSA-OAEP"},
        {"alg": "PBES2-HS256+A128KW"},
        {"enc": "A128GCM"},
        {"enc": "A256CBC-HS512"},
        {"zip": "DEF"},
        {"crit": ["x"]},
        {"kid": "1"},
        {"epk": None},
        {"epk": {"kty": "EC", "crv": "P-384", "x": b64url(bytes(48)), "y": b64url(bytes(48))}},
        {"epk": {"kty": "EC", "crv": "P-256", "x": b64url(bytes(32)), "y": b64url(bytes(32))}},
        {"apv": None},
        {"apv": 3},
    ],
    ids=str,
)
def test_sealed_key_in_any_other_form_is_refused(change: dict) -> None:
    node = SealKey.generate()
    with pytest.raises(UnwrapError):
        node.open(reprotected(seal(SECRET, node.public_jwk(), context=CONTEXT), **change), context=CONTEXT)


@pytest.mark.parametrize("text", ["", "....", "a.b.c", "{}", "x" * 100000, "\udcff.a.a.a.a", "W10.a.a.a.a"])
def test_text_that_is_no_jwe_is_refused(text: str) -> None:
    with pytest.raises(UnwrapError):
        SealKey.generate().open(text, context=CONTEXT)


def test_jwe_made_elsewhere_in_the_agreed_form_opens() -> None:
    node = SealKey.generate()
    apv = json.loads(from_b64url(seal(SECRET, node.public_jwk(), context=CONTEXT).split(".")[0]))["apv"]
    header = json.dumps({"enc": "A256GCM", "alg": "ECDH-ES+A256KW", "apv": apv})
    token = jwe.JWE(b"from elsewhere", protected=header, recipient=jwk.JWK(**node.public_jwk())).serialize(compact=True)
    assert node.open(token, context=CONTEXT).reveal() == b"from elsewhere"
    empty = jwe.JWE(b"", protected=header, recipient=jwk.JWK(**node.public_jwk())).serialize(compact=True)
    with pytest.raises(UnwrapError):
        node.open(empty, context=CONTEXT)


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "RSA"},
        {"crv": "P-384"},
        {"crv": "secp256k1"},
        {"x": b64url(bytes(31))},
        {"x": b64url(bytes(32))},
        {"x": "A" * 44},
        {"x": 1},
        {"d": b64url(bytes(32))},
        {"kid": "me"},
    ],
    ids=str,
)
def test_only_a_public_p256_key_can_be_sealed_to(change: dict) -> None:
    public = SealKey.generate().public_jwk() | change
    with pytest.raises(ParseError):
        seal(SECRET, public, context=CONTEXT)
    with pytest.raises(ParseError):
        check_public_jwk(public)


def test_thumbprint_is_rfc_7638() -> None:
    node = SealKey.generate()
    expected = jwk.JWK(**node.public_jwk()).thumbprint()
    assert bytes.fromhex(node.thumbprint) == from_b64url(expected)
    assert jwk_thumbprint(node.public_jwk()) == node.thumbprint


def test_public_half_holds_nothing_private_and_repr_nothing_at_all() -> None:
    node = SealKey.generate()
    assert set(node.public_jwk()) == {"kty", "crv", "x", "y"}
    assert repr(node) == f"SealKey({node.thumbprint})"


@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy])
def test_seal_key_cannot_be_pickled_or_copied(leak) -> None:
    with pytest.raises(SecretLeakError):
        leak(SealKey.generate())

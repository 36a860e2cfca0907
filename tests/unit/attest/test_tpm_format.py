"""TPM 2.0 structures at the limits of what is accepted, built by hand from TCG's "Part 2: Structures"; no TPM is needed."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from confide.attest.tpm_format import MAGIC, Attest, Public, Reader, Signature, TpmEvidence, qualifying_data
from confide.errors import ParseError

RSA_KEYS = {size: rsa.generate_private_key(65537, size).public_key().public_numbers().n for size in (1024, 2048)}
P256, P384 = (ec.generate_private_key(curve).public_key().public_numbers() for curve in (ec.SECP256R1(), ec.SECP384R1()))


def n(value: int, size: int = 2) -> bytes:
    return value.to_bytes(size)


def sized(data: bytes, size: int = 2) -> bytes:
    return n(len(data), size) + data


# --- the reader ------------------------------------------------------------------------------------------------------


def test_reader_takes_what_is_there_and_not_a_byte_more() -> None:
    reader = Reader(b"\1\2\0\1x", "thing")
    assert (reader.at, reader.number(2), reader.at, reader.sized(), reader.at, reader.more) == (0, 0x0102, 2, b"x", 5, False)
    assert reader.take(0) == b""
    reader.end()
    with pytest.raises(ParseError, match="the thing ends early") as caught:
        reader.take(1)
    assert caught.value.facts == {"offset": 5}
    assert reader.at == 5


def test_reader_looks_ahead_without_taking() -> None:
    reader = Reader(b"abcd", "thing", "little")
    assert reader.take(1) == b"a"
    assert (reader.ahead(), reader.ahead(2), reader.ahead(9), reader.at) == (b"bcd", b"bc", b"bcd", 1)
    assert (reader.number(2), reader.more) == (0x6362, True)
    with pytest.raises(ParseError, match="bytes after its end"):
        reader.end()


# --- TPMS_ATTEST -----------------------------------------------------------------------------------------------------


def attest(**changes: bytes) -> bytes:
    parts = {
        "magic": n(0xFF54_4347, 4), "type": n(0x8018), "signer": sized(b"signer"), "extra": sized(b"extra"), "clock": n(1, 8),
        "resets": n(2, 4), "restarts": n(3, 4), "safe": n(1, 1), "firmware": n(4, 8), "banks": n(1, 4), "bank": n(0x000B),
        "pcrs": sized(b"\x81\x00\x80", 1), "digest": sized(b"digest"), "end": b"",
    }  # fmt: skip
    return b"".join((parts | changes).values())


def test_quote_is_read_field_by_field() -> None:
    assert Attest.parse(attest()) == Attest(b"signer", b"extra", 1, 2, 3, True, 4, (0, 7, 23), b"digest")
    assert not Attest.parse(attest(safe=b"\0")).clock_safe


@pytest.mark.parametrize(
    ("selected", "pcrs"),
    [
        (b"\1\0\0", (0,)), (b"\0\0\x80", (23,)), (b"\xff", tuple(range(8))), (b"\0\1", (8,)), (b"\1\0\0\0", (0,)),
        (b"\xff" * 3, tuple(range(24))),
    ],
)  # fmt: skip
def test_selected_pcrs_are_the_bits_of_the_selection(selected: bytes, pcrs: tuple[int, ...]) -> None:
    assert Attest.parse(attest(pcrs=sized(selected, 1))).pcrs == pcrs


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"magic": n(0xFF54_4346, 4)}, "was not made by a TPM"), ({"type": n(0x8017)}, "another kind"),
        ({"safe": b"\2"}, "neither yes nor no"), ({"banks": n(0, 4)}, "of one bank"), ({"banks": n(2, 4)}, "of one bank"),
        ({"bank": n(0x0004)}, "SHA-256 bank"), ({"bank": n(0x000C)}, "SHA-256 bank"), ({"pcrs": b"\0"}, "selects no PCR"),
        ({"pcrs": sized(bytes(3), 1)}, "selects no PCR"), ({"pcrs": sized(b"\1\0\0\1", 1)}, "one that there is not"),
        ({"end": b"\0"}, "bytes after its end"),
    ],
)  # fmt: skip
def test_quote_of_another_form_is_refused(changes: dict[str, bytes], says: str) -> None:
    with pytest.raises(ParseError, match=says):
        Attest.parse(attest(**changes))


# --- TPMT_SIGNATURE --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "name"), [(0x0014, "rsassa"), (0x0016, "rsapss")])
@pytest.mark.parametrize(("hashed", "hash_name"), [(0x000B, "sha256"), (0x000C, "sha384")])
def test_rsa_signature_is_its_bytes(scheme: int, name: str, hashed: int, hash_name: str) -> None:
    found = Signature.parse(n(scheme) + n(hashed) + sized(b"\0\1"))
    assert (found.scheme, found.hash.name, found.value) == (name, hash_name, b"\0\1")


def test_ecdsa_signature_is_two_numbers() -> None:
    found = Signature.parse(n(0x0018) + n(0x000B) + sized(b"\0\1") + sized(b"\2\0"))
    assert (found.scheme, found.hash.name, found.value) == ("ecdsa", "sha256", (1, 0x200))


@pytest.mark.parametrize("head", [n(0x0014) + n(0x0004), n(0x0014) + n(0x0010), n(0x0015) + n(0x000B), n(0x0010) + n(0x000B)])
def test_signature_of_another_scheme_or_hash_is_refused(head: bytes) -> None:
    with pytest.raises(ParseError, match="scheme or hash that is not accepted"):
        Signature.parse(head + sized(b"x"))


def test_signature_with_a_byte_after_it_is_refused() -> None:
    for raw in (n(0x0014) + n(0x000B) + sized(b"x"), n(0x0018) + n(0x000B) + sized(b"x") + sized(b"y")):
        with pytest.raises(ParseError, match="after its end"):
            Signature.parse(raw + b"\0")


# --- TPMT_PUBLIC -----------------------------------------------------------------------------------------------------


def rsa_public(size: int = 2048, **changes: bytes) -> bytes:
    parts = {
        "kind": n(0x0001), "name": n(0x000B), "attributes": n(0x0005_0072, 4), "policy": sized(b"policy"), "cipher": n(0x0010),
        "scheme": n(0x0014), "hash": n(0x000B), "bits": n(size), "exponent": n(0, 4),
        "modulus": sized(RSA_KEYS[size].to_bytes(size // 8)) if size in RSA_KEYS else b"", "end": b"",
    }  # fmt: skip
    return b"".join((parts | changes).values())


def ecc_public(point: ec.EllipticCurvePublicNumbers = P256, **changes: bytes) -> bytes:
    size = point.curve.key_size // 8
    parts = {
        "kind": n(0x0023), "name": n(0x000B), "attributes": n(0x0005_0072, 4), "policy": sized(b""), "cipher": n(0x0010),
        "scheme": n(0x0018), "hash": n(0x000B), "curve": n(0x0003 if size == 32 else 0x0004), "kdf": n(0x0010),
        "x": sized(point.x.to_bytes(size)), "y": sized(point.y.to_bytes(size)), "end": b"",
    }  # fmt: skip
    return b"".join((parts | changes).values())


def test_key_is_read_with_its_name_and_its_attributes() -> None:
    for raw, scheme in ((rsa_public(), "rsassa"), (rsa_public(scheme=n(0x0016)), "rsapss"), (ecc_public(), "ecdsa")):
        found = Public.parse(raw)
        assert (found.scheme, found.hash.name, found.attributes) == (scheme, "sha256", 0x0005_0072)
        assert found.name == b"\0\x0b" + hashlib.sha256(raw).digest()
    assert Public.parse(rsa_public(hash=n(0x000C))).hash.name == "sha384"


def test_public_numbers_are_the_keys_own() -> None:
    key = Public.parse(rsa_public()).key
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.public_numbers() == rsa.RSAPublicNumbers(65537, RSA_KEYS[2048])
    assert Public.parse(rsa_public(exponent=n(65537, 4))).key == key
    for point in (P256, P384):
        point_key = Public.parse(ecc_public(point)).key
        assert isinstance(point_key, ec.EllipticCurvePublicKey)
        assert point_key.public_numbers() == point


@pytest.mark.parametrize("size", [2048, 3072, 4096])
def test_rsa_key_has_one_of_three_sizes(size: int) -> None:
    """Whether the modulus is a product of primes, nobody but its TPM can tell."""
    least = b"\x80" + bytes(size // 8 - 2) + b"\1"
    assert Public.parse(rsa_public(size, modulus=sized(least))).key.key_size == size
    for modulus in (b"\x7f" + least[1:], least[:-1], least + b"\1", b"\0" + least, b""):
        with pytest.raises(ParseError, match="an RSA key of another size"):
            Public.parse(rsa_public(size, modulus=sized(modulus)))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (rsa_public(kind=n(0x0008)), "another kind than RSA or ECC"), (rsa_public(name=n(0x0004)), "another hash than SHA-256"),
        (ecc_public(name=n(0x000C)), "another hash than SHA-256"), (rsa_public(cipher=n(0x0006)), "has a cipher"),
        (rsa_public(scheme=n(0x0010)), "scheme or hash"), (rsa_public(scheme=n(0x0018)), "scheme or hash"),
        (ecc_public(scheme=n(0x0014)), "scheme or hash"), (ecc_public(scheme=n(0x001A)), "scheme or hash"),
        (rsa_public(hash=n(0x0004)), "scheme or hash"), (ecc_public(hash=n(0x000D)), "scheme or hash"),
        (rsa_public(1024), "another size"), (rsa_public(exponent=n(3, 4)), "another exponent"),
        (rsa_public(exponent=n(65538, 4)), "another exponent"), (ecc_public(curve=n(0x0005)), "curve that is not accepted"),
        (ecc_public(kdf=n(0x0020)), "key derivation scheme"), (ecc_public(y=sized(b"\1")), "not on its curve"),
        (ecc_public(P384, curve=n(0x0003)), "not on its curve"), (rsa_public(end=b"\0"), "after its end"),
        (ecc_public(end=b"\0"), "after its end"),
    ],
)  # fmt: skip
def test_key_of_another_form_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(ParseError, match=says):
        Public.parse(raw)


# --- the container ---------------------------------------------------------------------------------------------------


def container(**changes: Any) -> TpmEvidence:
    parts = {"attest": attest(), "signature": b"signature", "public": b"public", "pcrs": tuple(bytes([at]) * 32 for at in range(3))}
    return TpmEvidence(bytes(range(64)), **{**parts, "log": b"log"} | changes)


def test_container_is_read_as_it_was_written() -> None:
    for one in (container(), container(log=b"", pcrs=(), signature=b"")):
        assert TpmEvidence.parse(one.to_bytes()) == one
    assert container().to_bytes().startswith(b"confide-tpm-v1\n" + bytes(range(64)) + n(len(attest()), 4) + attest())


def test_registers_are_named_by_the_selection() -> None:
    assert container().registers() == {"pcr0": "00" * 32, "pcr7": "01" * 32, "pcr23": "02" * 32}


@pytest.mark.parametrize("number", [0, 2, 4])
def test_another_number_of_values_than_selected_has_no_registers(number: int) -> None:
    with pytest.raises(ParseError, match="one value for each PCR") as caught:
        container(pcrs=(bytes(32),) * number).registers()
    assert caught.value.facts == {"expected": 3, "got": number}


@pytest.mark.parametrize("pcrs", [(bytes(31),), (bytes(33),), (bytes(32), bytes(1))])
def test_value_of_another_length_than_32_bytes_is_refused(pcrs: tuple[bytes, ...]) -> None:
    with pytest.raises(ParseError, match="not 32 bytes"):
        TpmEvidence.parse(container(pcrs=pcrs).to_bytes())


def test_container_of_another_format_is_refused() -> None:
    raw = container().to_bytes()
    for other, says in ((b"confide-tpm-v2\n" + raw[15:], "unknown format"), (raw + b"\0", "after its end"), (raw[:14], "ends early")):
        with pytest.raises(ParseError, match=says):
            TpmEvidence.parse(other)


def test_qualifying_data_is_a_digest_of_the_report_data_under_the_containers_name() -> None:
    data = bytes(range(64))
    assert qualifying_data(data) == hashlib.sha256(b"confide-tpm-v1\n" + data).digest() == hashlib.sha256(MAGIC + data).digest()


def test_parts_of_evidence_are_not_shown() -> None:
    assert repr(container()) == f"TpmEvidence(report_data={bytes(range(64))!r})"

"""The pieces that other tools' collateral is made of, each at its limits: PEM blocks, lists, signed documents, binary fields, TEE types."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from confide.attest.certs import parse_chain
from confide.attest.collateral import Collateral
from confide.attest.collateral_forms import der_list, from_v3, is_v3, pem_blocks, pem_of, rewritten, signed_text
from confide.attest.collateral_sources import load_collateral
from confide.errors import CollateralError, ParseError
from confide.ids import Tee

FOLDER = Path(__file__).parents[2] / "vectors" / "intel" / "collateral"
SET, SGX = (load_collateral(FOLDER / f"{name}.json") for name in ("tdx-B0C0-2026-08", "sgx-A067-2025-06"))
assert isinstance(SET, Collateral)
assert isinstance(SGX, Collateral)
PLAIN: dict[str, Any] = SET.to_json()
CHAIN = SET.tcb_info_issuer_chain.encode()
LIST = x509.load_der_x509_crl(SET.pck_crl).public_bytes(Encoding.PEM)


def block(name: str, content: bytes) -> bytes:
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (name.encode(), base64.b64encode(content), name.encode())


# --- PEM --------------------------------------------------------------------------------------------------------------


def test_blocks_are_sorted_and_what_is_between_them_is_not_read() -> None:
    certificates, lists = pem_blocks(b"issuers:\n" + LIST + b"\n--- and\n" + CHAIN + b"----- BEGIN nothing")
    assert certificates == parse_chain(CHAIN)
    assert lists == [SET.pck_crl]


@pytest.mark.parametrize("other", [block("PRIVATE KEY", b"key"), b"-----BEGIN CERTIFICATE-----\n", block("CERTIFICATE REQUEST", b"x")])
@pytest.mark.parametrize("good", [CHAIN, LIST], ids=["with certificates", "with a list"])
def test_block_of_another_kind_is_refused_beside_good_ones(good: bytes, other: bytes) -> None:
    for text in (good + other, other + good, other):
        with pytest.raises(ParseError, match="neither a certificate nor a revocation list"):
            pem_blocks(text)


@pytest.mark.parametrize("text", [b"", b"no block", b"-----BEGIN"])
def test_text_without_a_block_is_refused(text: bytes) -> None:
    with pytest.raises(ParseError, match="neither a certificate nor a revocation list"):
        pem_blocks(text)


@pytest.mark.parametrize("kind", ["CERTIFICATE", "X509 CRL"])
def test_block_that_does_not_parse_is_refused_and_said_where(kind: str) -> None:
    for content in (b"", b"\x30\x00", b"nonsense"):
        with pytest.raises(ParseError, match="does not parse") as caught:
            pem_blocks(CHAIN + block(kind, content or b"\0"))
        assert caught.value.facts["offset"] == len(CHAIN)


def test_certificates_are_written_as_they_are_read() -> None:
    assert parse_chain(pem_of(parse_chain(CHAIN)).encode()) == parse_chain(CHAIN)


HEX = SET.pck_crl.hex().encode()


@pytest.mark.parametrize(
    "body",
    [SET.pck_crl, LIST, b"\n" + LIST + b"\0", HEX, HEX.upper() + b"\0\0", b" " + HEX + b"\n"],
    ids=["DER", "PEM", "PEM as a C string", "hex", "hex as a C string", "hex between white space"],
)
def test_revocation_list_is_read_in_each_form(body: bytes) -> None:
    assert der_list(body) == SET.pck_crl


@pytest.mark.parametrize("body", [b"", b"\0", b"\x30\x00", b"3000", b"zz", b"\xff", SET.pck_crl[:-1], SET.pck_crl + b"x", CHAIN])
def test_what_is_no_revocation_list_is_refused(body: bytes) -> None:
    with pytest.raises(CollateralError, match="no revocation list is where one belongs"):
        der_list(body)


# --- signed documents -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"doc":%s,"signature":"00"}',
        '{"signature":"00","doc":%s}',
        '{ "doc" \n:\t %s , "signature": "00" }',
        '{"signature":"00","more":{"a":1},"doc":%s}',
    ],
)
@pytest.mark.parametrize("document", ["{}", '{"a" : 1}', '{"a":{"b":"}"}}'])
def test_signature_is_over_the_documents_own_characters(text: str, document: str) -> None:
    assert signed_text(text % document, "doc") == (document, "00")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        '"doc"',
        "[" * 100_000,
        '{"signature":"00"}',
        '{"doc":{}}',
        '{"doc":{},"signature":7}',
        '{"doc":{},"signature":null}',
        '{"doc":"{}","signature":"00"}',
        '{"doc":7,"more":{},"signature":"00"}',
        '{"more":"doc","other":{"a":1},"doc":{},"signature":"00"}',
        '{"doc":{},"doc":{"a":1},"signature":"00"}',
        '[{"doc":{},"signature":"00"}]',
        '{"doc":{},"signature":"00"}}',
    ],
    ids=lambda text: text[:60],
)
def test_what_is_no_signed_document_is_refused(text: str) -> None:
    with pytest.raises(CollateralError, match="no signed document is where one belongs") as caught:
        signed_text(text, "doc")
    assert caught.value.facts["name"] == "doc"


def test_document_is_written_again_as_intel_signs() -> None:
    """Without white space, in the order of its members, each character as itself."""
    assert rewritten({"b": [1, {"c": "é"}], "a": None}) == '{"b":[1,{"c":"é"}],"a":null}'
    for one in (SET, SGX):
        for text in (one.tcb_info, one.qe_identity):
            assert rewritten(json.loads(text)) == text


# --- fields -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [129, "129", "0x81", "0X81", "0b10000001"])
def test_type_of_a_tee_is_a_number_or_its_text(value: object) -> None:
    assert from_v3({**PLAIN, "tee_type": value}) == SET


@pytest.mark.parametrize("value", [0, 1, 128, 130, -1, True, None, "", "TDX", "81", 129.0, [129], {}, "9" * 5000])
def test_another_type_of_tee_is_refused(value: object) -> None:
    with pytest.raises(CollateralError, match="tee_type is not of its TCB info"):
        from_v3({**PLAIN, "tee_type": value})


def test_falsehood_is_no_type_of_sgx() -> None:
    assert SGX.tee is Tee.SGX
    assert from_v3({**SGX.to_json(), "tee_type": 0}) == SGX
    with pytest.raises(CollateralError, match="tee_type is not of its TCB info"):
        from_v3({**SGX.to_json(), "tee_type": False})


SIGNATURE = SET.tcb_info_signature
NUMBERS = list(SIGNATURE)


@pytest.mark.parametrize(
    "value",
    [NUMBERS, SIGNATURE.hex(), f" {SIGNATURE.hex().upper()}\n", base64.b64encode(SIGNATURE).decode(), SIGNATURE.hex() + "\0"],
    ids=["numbers", "hex", "capitals", "base64", "C string"],
)
def test_binary_field_is_read_in_each_form(value: object) -> None:
    assert from_v3({**PLAIN, "tcb_info_signature": value}) == SET


@pytest.mark.parametrize(
    "value",
    [
        [*NUMBERS[1:], -1],
        [*NUMBERS[1:], 256],
        [*NUMBERS[1:], True],
        [*NUMBERS[1:], 1.0],
        [*NUMBERS[1:], None],
        [*NUMBERS[1:], "1"],
        base64.b64encode(SIGNATURE).decode() + "!",
        "!" + base64.b64encode(SIGNATURE).decode(),
        base64.b64encode(SIGNATURE).decode().rstrip("=") + ("" if len(SIGNATURE) % 3 else "A"),
        SIGNATURE.hex()[:-1] + "g!",
        "\0",
        " ",
        7,
        {},
        True,
    ],
    ids=lambda value: str(value)[-20:],
)
def test_binary_field_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(CollateralError, match="neither hex nor base64") as caught:
        from_v3({**PLAIN, "tcb_info_signature": value})
    assert caught.value.facts["field"] == "tcb_info_signature"


def test_numbers_of_a_list_are_bytes_at_both_ends() -> None:
    found = from_v3({**PLAIN, "tcb_info_signature": [0, 255] * 32})
    assert found.tcb_info_signature == b"\x00\xff" * 32


def test_object_is_known_by_any_of_its_fields() -> None:
    assert is_v3({"pckCrl": ""})
    assert is_v3({"tcb_info": "", "more": 1})
    assert not is_v3({"version": 3, "tee_type": 0, "tcb_info_signature": ""})
    assert not is_v3({})


def test_field_that_is_not_known_is_named_at_no_length() -> None:
    with pytest.raises(CollateralError, match="not known") as caught:
        from_v3({**PLAIN, "x" * 100: ""})
    assert caught.value.facts["field"] == "x" * 80


def test_chain_of_one_machine_is_kept_with_its_set() -> None:
    assert from_v3({**PLAIN, "pck_certificate_chain": "PEM"}).pck_certificate_chain == "PEM"
    for nothing in (None, ""):
        assert from_v3({**PLAIN, "pck_certificate_chain": nothing}) == SET
    with pytest.raises(CollateralError):
        from_v3({**PLAIN, "pck_certificate_chain": 7})


def test_signature_may_be_in_its_document_and_beside_it_if_it_is_one() -> None:
    inner = f'{{"tcbInfo":{SET.tcb_info},"signature":"{SIGNATURE.hex()}"}}'
    for beside in (None, SIGNATURE.hex(), NUMBERS):
        assert from_v3({**PLAIN, "tcb_info": inner, "tcb_info_signature": beside}) == SET
    with pytest.raises(CollateralError, match="two signatures"):
        from_v3({**PLAIN, "tcb_info": inner, "tcb_info_signature": "00" * 64})

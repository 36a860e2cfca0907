"""Lengths inside a quote, at their limits."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import pytest

from confide.attest.quote import parse_quote, split_quote, without_padding
from confide.errors import ParseError

INTEL = Path(__file__).parents[2] / "vectors" / "intel"
V3 = (INTEL / "sgx-v3-confighard.quote").read_bytes()


def test_bytes_after_the_certification_data_are_refused() -> None:
    """They are inside of the signature data, whose length says so; nothing signs them."""
    parts = split_quote(V3)
    data = parts.signature + parts.vouching
    for more in (b"\0", b"x" * 40):
        longer = parts.signed_bytes + struct.pack("<I", len(data) + len(more)) + data + more
        with pytest.raises(ParseError, match="after the certification data"):
            parse_quote(longer)


def test_authentication_data_may_have_the_length_of_its_cap() -> None:
    quote = parse_quote(V3)
    largest = dataclasses.replace(quote, signature=dataclasses.replace(quote.signature, auth_data=bytes(1024)))
    assert parse_quote(largest.to_bytes()) == largest
    larger = dataclasses.replace(quote, signature=dataclasses.replace(quote.signature, auth_data=bytes(1025)))
    with pytest.raises(ParseError):
        parse_quote(larger.to_bytes())


def test_signature_data_may_have_the_length_of_its_cap() -> None:
    quote, parts = parse_quote(V3), split_quote(V3)
    room = 24 * 1024 - len(parts.signature + parts.vouching) + len(quote.signature.cert_data)
    largest, larger = (
        dataclasses.replace(quote, signature=dataclasses.replace(quote.signature, cert_data=bytes(length))) for length in (room, room + 1)
    )
    assert parse_quote(largest.to_bytes()) == largest
    with pytest.raises(ParseError, match="signature data is too large"):
        parse_quote(larger.to_bytes())


def test_refusal_says_at_which_byte_of_the_quote() -> None:
    parts = split_quote(V3)
    at = len(parts.signed_bytes) + 4
    data = parts.signature + parts.vouching
    inner = parts.signed_bytes + struct.pack("<I", 127) + data[:127]  # the attestation key has 64 bytes after the signature's 64
    for raw, offset in ((V3[:47], 47), (V3[:48], 48), (V3 + b"x", len(V3)), (inner, at + 127)):
        with pytest.raises(ParseError) as refused:
            parse_quote(raw)
        assert refused.value.facts["offset"] == offset


@pytest.mark.parametrize(
    ("name", "carries"), [("sgx-v3-confighard", True), ("tdx-v4-uptodate", True), ("tdx-v5-uptodate", True), ("sgx-v3-eppid-no-pck", False)]
)
def test_real_quote_carries_its_chain_or_not(name: str, carries: bool) -> None:
    assert parse_quote(without_padding((INTEL / f"{name}.quote").read_bytes())).signature.carries_chain is carries


@pytest.mark.parametrize("version", [0, 4, 6])
def test_quote_of_an_unknown_kind_is_refused_even_without_a_body(version: int) -> None:
    parts = split_quote(V3)
    data = parts.signature + parts.vouching
    raw = struct.pack("<H", version) + V3[2:48] + struct.pack("<I", len(data)) + data
    with pytest.raises(ParseError, match="not an SGX quote of version 3"):
        split_quote(raw)


def test_signature_has_its_64_bytes_before_anything_else_is_read() -> None:
    parts = split_quote(V3)
    with pytest.raises(ParseError, match="ends inside its signature"):
        split_quote(parts.signed_bytes + struct.pack("<I", 63) + bytes(63))
    bare = parts.signed_bytes + struct.pack("<I", 64) + bytes(64)
    assert split_quote(bare).vouching == b""
    with pytest.raises(ParseError, match="ends inside its attestation key"):
        parse_quote(bare)


def test_certificates_of_a_quote_do_not_fill_a_log() -> None:
    quote = parse_quote(V3)
    assert quote.signature.cert_data.startswith(b"-----BEGIN CERTIFICATE")
    assert repr(quote.signature).endswith(", cert_type=5)")
    assert "BEGIN CERTIFICATE" not in repr(quote) + repr(split_quote(V3))

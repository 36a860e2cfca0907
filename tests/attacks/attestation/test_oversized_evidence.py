"""Oversized, padded and nested evidence."""

from __future__ import annotations

import dataclasses
import json
import struct

import pytest
from support.simulated_evidence import BOTH, NOW

from confide.attest import evidence
from confide.attest.evidence import Evidence
from confide.attest.quote import parse_quote
from confide.canonical import b64url, parse_object
from confide.errors import EvidenceInvalidError, ParseError
from confide.ids import Tee


@BOTH
@pytest.mark.parametrize("extra", [b"\0", b"junk", bytes(70)])
def test_trailing_bytes_are_refused(verifier, evidence_of, tee, extra) -> None:
    with pytest.raises(EvidenceInvalidError, match="after the quote"):
        verifier.verify(Evidence(tee, evidence_of(tee).quote + extra), NOW)


def test_second_chain_beside_the_quote_is_refused(verifier, evidence_of) -> None:
    with pytest.raises(EvidenceInvalidError, match="second one"):
        verifier.verify(dataclasses.replace(evidence_of(Tee.SGX), chain=b"x"), NOW)


def test_evidence_over_the_cap_is_refused_before_it_is_read(evidence_of, monkeypatch) -> None:
    small = evidence_of(Tee.SGX)
    large = {**small.to_json(), "quote": b64url(small.quote + bytes(evidence.MAX_EVIDENCE_BYTES))}
    with pytest.raises(ParseError, match="too large"):
        Evidence.from_json(large)
    with pytest.raises(ParseError, match="too large"):
        Evidence.from_json({**small.to_json(), "chain": large["quote"]})
    monkeypatch.setattr(evidence, "MAX_EVIDENCE_BYTES", 2**30)
    assert len(Evidence.from_json(large).quote) > 2**15


@pytest.mark.parametrize("text", ['{"a":' * 100_000, '{"a":' + "[" * 100_000, '{"a":' + "[" * 50_000 + "]" * 50_000 + "}"])
def test_json_nested_too_deep_is_refused_and_ends_nothing(text: str) -> None:
    with pytest.raises(ParseError):
        parse_object(text)
    # The weakened variant, a JSON parser alone, fails with what no caller expects from bytes.
    with pytest.raises(RecursionError):
        json.loads(text)


@pytest.mark.parametrize("depth", [1, 50])
def test_certification_data_nested_in_itself_is_refused(verifier, evidence_of, depth) -> None:
    """Version 4 nests one structure of type 6; a quote that goes on nesting is refused at the second, not followed."""
    quote = parse_quote(evidence_of(Tee.TDX).quote)
    signature = quote.signature
    inner = signature.qe_report.to_bytes() + signature.qe_report_signature + struct.pack("<H", 0)
    data = signature.cert_data
    for _ in range(depth):
        if len(data) > 20_000:
            break
        data = inner + struct.pack("<HI", 5 if data is signature.cert_data else 6, len(data)) + data
    nested = dataclasses.replace(quote, signature=dataclasses.replace(signature, cert_type=6, cert_data=data))
    with pytest.raises(EvidenceInvalidError):
        verifier.verify(Evidence(Tee.TDX, nested.to_bytes()), NOW)

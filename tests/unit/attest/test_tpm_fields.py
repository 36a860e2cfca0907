"""What a TPM's evidence is shown as: every field where it stands, and in words what does not agree."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from confide.attest.tpm_fields import log_offset, rows
from confide.attest.tpm_format import TpmEvidence
from confide.canonical import from_b64url
from confide.errors import ParseError

QUOTE = from_b64url(json.loads((Path(__file__).parents[2] / "vectors/tpm/genuine-ecdsa.json").read_text())["evidence"]["quote"])
PARTS = TpmEvidence.parse(QUOTE)
FIXED = [
    "report data", "magic", "type", "qualifiedSigner", "extraData", "clock", "resetCount", "restartCount", "safe", "firmwareVersion",
    "PCR banks", "PCR bank", "PCRs selected", "pcrDigest", "signature", "attestation key", "attestation key attributes",
    "attestation key name",
]  # fmt: skip


def meanings(**changes: Any) -> dict[str, str]:
    return {name: meaning for name, _, _, meaning in rows(dataclasses.replace(PARTS, **changes).to_bytes())}


def with_attributes(attributes: int) -> bytes:
    return PARTS.public[:4] + attributes.to_bytes(4) + PARTS.public[8:]


def test_every_field_stands_where_it_is_said_to() -> None:
    found = list(rows(QUOTE))
    assert [row[0] for row in found] == [*FIXED, "PCR0 quoted", "PCR4 quoted", "PCR16 quoted", "event log size"]
    for name, offset, value, _ in found[:-1]:
        if offset is not None:
            assert QUOTE[offset : offset + len(value) // 2].hex() == value, name
    assert [row[0] for row in found if row[1] is None] == ["attestation key name"]


def test_sizes_and_offsets_are_those_of_the_structures() -> None:
    """Part 2, sections 10.12.1 and 10.12.8, behind 15 bytes of the container's name, 64 of report data and a length of 4."""
    found = {name: (offset, len(value) // 2) for name, offset, value, _ in rows(QUOTE)}
    assert [found[name] for name in FIXED[:-4]] == [
        (15, 64), (83, 4), (87, 2), (91, 34), (127, 32), (159, 8), (167, 4), (171, 4), (175, 1), (176, 8), (184, 4), (188, 2),
        (191, 3), (196, 32),
    ]  # fmt: skip
    assert log_offset(QUOTE) == found["event log size"][0] + 4 == len(QUOTE) - len(PARTS.log)


def test_what_agrees_is_said_to_agree() -> None:
    found = meanings()
    assert found["extraData"] == "the digest of the report data"
    assert found["pcrDigest"] == "over the values that came with it"
    assert (found["PCR0 quoted"], found["PCR16 quoted"]) == ("what the log leads to", "no event in the log")
    assert found["PCRs selected"] == "0, 4, 16"
    assert found["signature"].endswith("ecdsa with sha256")
    assert found["attestation key"] == "256 bit, ecdsa with sha256"
    assert found["attestation key attributes"] == "fixedTPM, fixedParent, sensitiveDataOrigin, restricted, sign"
    assert found["event log size"] == ""


@pytest.mark.parametrize(
    ("changes", "name", "says"),
    [
        ({"report_data": bytes(64)}, "extraData", "NOT the digest of the report data"),
        ({"pcrs": (bytes(32), *PARTS.pcrs[1:])}, "pcrDigest", "NOT over the values that came with it"),
        ({"pcrs": (bytes(32), *PARTS.pcrs[1:])}, "PCR0 quoted", "NOT what the log leads to"),
        ({"log": b""}, "event log size", "no log came with the quote"),
        ({"log": b""}, "PCR0 quoted", "no event in the log"),
        (
            {"public": with_attributes(0x0006_0072)}, "attestation key attributes",
            "fixedTPM, fixedParent, sensitiveDataOrigin, DECRYPT: no attestation key, sign; NOT RESTRICTED: signs anything",
        ),
        ({"public": with_attributes(0)}, "attestation key attributes", "; NOT RESTRICTED: signs anything"),
    ],
)  # fmt: skip
def test_what_does_not_agree_is_said_in_capitals(changes: dict[str, Any], name: str, says: str) -> None:
    assert meanings(**changes)[name] == says


def test_values_are_shown_as_far_as_they_came() -> None:
    assert [name for name in meanings(pcrs=PARTS.pcrs[:1]) if name.startswith("PCR") and "quoted" in name] == ["PCR0 quoted"]


@pytest.mark.parametrize("data", [b"", QUOTE[:-1], QUOTE + b"\0", dataclasses.replace(PARTS, log=b"x").to_bytes()])
def test_what_is_no_evidence_of_a_tpm_has_no_fields(data: bytes) -> None:
    with pytest.raises(ParseError):
        list(rows(data))

"""Recorded evidence of a real software TPM (tests/support/record_tpm.py): needs no TPM."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.tpm import log_event, log_of

from confide.attest.collateral_sources import FixedCollateral, read_collateral
from confide.attest.event_log import OF_TPM, Event, EventLog
from confide.attest.evidence import Evidence
from confide.attest.policy import Policy
from confide.attest.policy_draft import of_claims
from confide.attest.roots import TrustRoots
from confide.attest.tpm import TpmCollateral, pcr_measurement
from confide.attest.tpm_format import Attest, Public, Signature, TpmEvidence
from confide.attest.tpm_trust import EnrolledKey, TpmTrust
from confide.attest.verify import VerifiedEvidence, Verifier
from confide.errors import CollateralError, EvidenceInvalidError, ParseError, PolicyError
from confide.ids import Tee

VECTORS = sorted((Path(__file__).parents[2] / "vectors/tpm").glob("*.json"))
SAYS = {
    "other-key": "another attestation key",
    "report-data": "other report data",
    "pcr": "not those that the TPM quoted|one value for each PCR",
    "log": "log does not lead|log has events of a PCR",
    "signature": "signature does not verify|another scheme",
    "parse": "made by a TPM|another kind|after its end|ends early",
    "chain": "no root that is trusted",
}
"""The closed list of outcomes beside ``genuine``, and what the refusal says."""


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parents[2] / f"vectors/tpm/{name}.json").read_text())
    return found


def verify(vector: dict[str, Any], evidence: Evidence | None = None) -> VerifiedEvidence:
    verifier = Verifier(TrustRoots(tpm=TpmTrust(issuers=frozenset(vector["roots"]))), FixedCollateral())
    return verifier.verify(evidence or Evidence.from_json(vector["evidence"]), datetime.fromisoformat(vector["at"]))


def parse_log(raw: bytes) -> tuple[Event, ...]:
    return EventLog.parse(raw, OF_TPM).events


@pytest.fixture
def good() -> dict[str, Any]:
    return load("genuine-ecdsa")


@pytest.fixture
def parts(good) -> TpmEvidence:
    return TpmEvidence.parse(Evidence.from_json(good["evidence"]).quote)


def test_all_vectors_are_there() -> None:
    assert len(VECTORS) == 22


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_recorded_evidence_gets_its_verdict(path) -> None:
    vector = load(path.stem)
    assert vector["scenario"] == path.stem
    if vector["expect"] == "genuine":
        claims = verify(vector).claims
        assert claims.measurement == pcr_measurement(claims.registers)
        return
    with pytest.raises(EvidenceInvalidError, match=SAYS[vector["expect"]]):
        verify(vector)


def test_every_byte_of_a_recorded_quote_counts(good) -> None:
    evidence = Evidence.from_json(good["evidence"])
    for at in range(len(evidence.quote)):
        changed = evidence.quote[:at] + bytes([evidence.quote[at] ^ 0x80]) + evidence.quote[at + 1 :]
        # The text of an event explains its digest and is covered by nothing: that is all that may change.
        try:
            verify(good, dataclasses.replace(evidence, quote=changed))
        except EvidenceInvalidError:
            continue
        log, new = parse_log(TpmEvidence.parse(evidence.quote).log), parse_log(TpmEvidence.parse(changed).log)
        unlogged = [dataclasses.replace(event, data=b"", kind=0) for event in new]
        assert unlogged == [dataclasses.replace(event, data=b"", kind=0) for event in log] or _header_differs(evidence.quote, changed)


def _header_differs(one: bytes, other: bytes) -> bool:
    """Platform class, errata and size of a pointer in the log's header, on which nothing depends."""
    at = next(n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    start = one.index(b"Spec ID Event03\0") + 16
    return at - start in {0, 1, 2, 3, 6, 7}


@pytest.mark.parametrize("parse", [TpmEvidence.parse, Attest.parse, Signature.parse, Public.parse, parse_log], ids=lambda p: p.__qualname__)
def test_cut_or_longer_structures_are_refused(good, parts, parse) -> None:
    whole = {
        "TpmEvidence.parse": Evidence.from_json(good["evidence"]).quote, "Attest.parse": parts.attest,
        "Signature.parse": parts.signature, "Public.parse": parts.public, "parse_log": log_of((0, b"x")),
    }[parse.__qualname__]  # fmt: skip
    header = len(log_of())
    parse(whole)
    for length in range(len(whole)):
        if parse is not parse_log or length != header:
            with pytest.raises(ParseError):
                parse(whole[:length])
    with pytest.raises(ParseError):
        parse(whole + b"\0")


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (log_of() + log_event(24, bytes(32), b""), "names a register"),
        (log_of().replace(b"Spec ID Event03", b"Spec ID Event02"), "crypto-agile"),
        (log_of() + log_event(0, bytes(32), b"").replace(b"\x0b\0", b"\x0c\0"), "unlisted bank"),
        (log_of().replace(b"\x0b\0\x20\0", b"\x0b\0\x30\0"), "unknown bank"),
        (log_of().replace(b"\x0b\0\x20\0", b"\x0c\0\x30\0"), "no digests of sha256"),
        (b"\1" + log_of()[1:], "does not begin"),
    ],
)
def test_log_of_another_form_is_refused(log, says) -> None:
    with pytest.raises(ParseError, match=says):
        parse_log(log)


@pytest.mark.parametrize("bit", [1, 4, 5, 16, 18, 17])
def test_key_with_another_attribute_is_refused_even_with_a_certificate(good, parts, bit) -> None:
    """The certificate names the public point only: the attributes are checked at each verification."""
    attributes = int.from_bytes(parts.public[4:8]) ^ (1 << bit)
    public = parts.public[:4] + attributes.to_bytes(4) + parts.public[8:]
    evidence = Evidence(Tee.TPM, dataclasses.replace(parts, public=public).to_bytes(), Evidence.from_json(good["evidence"]).chain)
    with pytest.raises(EvidenceInvalidError, match="signs only what its TPM made"):
        verify(good, evidence)


def test_collateral_of_a_tpm_goes_through_json(good) -> None:
    collateral = verify(good).collateral
    assert read_collateral(collateral.to_json()) == collateral
    assert collateral.platform == (good["roots"][0], "tpm", Tee.TPM)
    for bad in ({"root": "x"}, {"root": "x", "earliest_next_update": "soon"}, {"root": "x", "earliest_next_update": "2026-01-01T00:00:00"}):
        with pytest.raises(CollateralError):
            read_collateral(bad)


@pytest.mark.parametrize("data", [
    None, "text", ["root", "earliest_next_update"], {"root": 7, "earliest_next_update": "2026-01-01T00:00:00+00:00"},
    {"root": "x", "earliest_next_update": 7}, {"root": "x", "earliest_next_update": "2026-01-01T00:00:00+00:00", "more": "x"},
], ids=str)  # fmt: skip
def test_what_is_no_collateral_of_a_tpm_is_refused(data) -> None:
    with pytest.raises(CollateralError, match="not a TPM's collateral"):
        TpmCollateral.from_json(data)


def test_key_is_trusted_by_its_name_or_its_chain_and_not_once_it_is_revoked(good) -> None:
    evidence, now = Evidence.from_json(good["evidence"]), datetime.fromisoformat(good["at"])
    name = verify(good).claims.vendor["key_name"]
    record = EnrolledKey(name, "node-7", "cd" * 32, now, now)
    bare = dataclasses.replace(evidence, chain=b"")
    by_chain, by_name = TpmTrust(issuers=frozenset(good["roots"])), TpmTrust().with_key(record)
    for shown, trust in ((evidence, by_chain), (bare, by_name), (evidence, by_name)):
        assert Verifier(TrustRoots(tpm=trust), FixedCollateral()).verify(shown, now).claims.vendor["key_name"] == name
        with pytest.raises(EvidenceInvalidError, match="is revoked"):
            Verifier(TrustRoots(tpm=trust.without_key(name)), FixedCollateral()).verify(shown, now)
    with pytest.raises(EvidenceInvalidError, match="no root that is trusted"):
        Verifier(TrustRoots(tpm=by_chain), FixedCollateral()).verify(bare, now)


def test_claims_of_a_tpm_say_that_it_protects_no_memory_and_is_rated_by_nobody(good) -> None:
    claims = verify(good).claims
    assert (claims.vendor["protects_memory"], claims.simulated, claims.debug) == (False, False, False)
    assert (claims.tcb_status, claims.tcb_eval, claims.tcb, claims.advisory_ids, claims.signer) == ("Unrated", 0, {}, (), "")


# --- what a policy makes of it ---------------------------------------------------------------------------------------


def tpm_policy(good, **changes: Any) -> Policy:
    claims = verify(good).claims
    data: dict[str, Any] = {"name": "machines", "measurements": {"tpm": [claims.measurement]}, "allow": ["tpm-no-memory-protection"]}
    data["registers"] = {name: [value] for name, value in claims.registers.items() if value.strip("0")}
    return Policy.from_json(data | changes)


def failed(good, policy: Policy) -> list[str]:
    verified = verify(good)
    return [check.name for check in policy.explain(verified, now=datetime.fromisoformat(good["at"])) if not check.ok]


def test_policy_that_names_the_tpm_its_registers_and_its_weakness_accepts_it(good) -> None:
    assert failed(good, tpm_policy(good)) == []


def test_policy_written_from_a_tpms_evidence_accepts_it_and_pins_its_registers(good) -> None:
    draft = of_claims(verify(good).claims)
    assert failed(good, Policy.from_json({"name": "machines", **draft})) == []
    assert draft["registers"].keys() == {name for name, value in verify(good).claims.registers.items() if value.strip("0")}


def test_policy_with_a_highest_age_of_collateral_refuses_a_tpm_whose_chain_has_none(good) -> None:
    assert failed(good, tpm_policy(good, max_collateral_age_days=3650)) == ["collateral-age"]


def test_register_that_the_node_left_out_of_its_quote_is_refused(good) -> None:
    assert failed(good, tpm_policy(good, registers={"pcr7": ["5a" * 32]})) == ["pcr7"]
    assert failed(good, tpm_policy(good, registers={"pcr0": ["5a" * 32]})) == ["pcr0"]


def test_other_measurement_of_a_tpm_is_refused(good) -> None:
    assert failed(good, tpm_policy(good, measurements={"tpm": ["5a" * 32]})) == ["measurement"]


def test_tpm_is_refused_where_the_policy_is_for_a_tee(good) -> None:
    refused = failed(good, Policy.from_json({"name": "enclaves", "measurements": {"sgx": [verify(good).claims.measurement]}}))
    assert {"tee", "measurement", "no-memory-protection"} <= set(refused)


def test_policy_that_names_machines_refuses_other_keys_that_are_trusted_too(good) -> None:
    name = verify(good).claims.vendor["key_name"]
    assert failed(good, tpm_policy(good, platforms={"tpm_key": [name]})) == []
    assert failed(good, tpm_policy(good, platforms={"tpm_key": ["000b" + "5a" * 32]})) == ["tpm-key"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"platforms": {"tpm_key": ["5a" * 32]}}, "platforms.tpm_key"),
        (
            {"measurements": {"sgx": ["5a" * 32]}, "allow": [], "registers": {}, "platforms": {"tpm_key": ["000b" + "5a" * 32]}},
            "tpm_key is a TPM's",
        ),
        ({"allow": []}, "tpm-no-memory-protection"),
        ({"registers": {}}, "must pin registers"),
        ({"registers": {"pcr0": ["5a" * 48]}}, "hex characters"),
        ({"registers": {"pcr24": ["5a" * 32]}}, "pcr24"),
        ({"registers": {"pcr0": ["5a" * 32], "rtmr1": ["5a" * 48]}}, "rtmr registers are a TD's"),
        ({"measurements": {"sgx": ["5a" * 32]}}, "pcr registers a TPM's"),
    ],
)
def test_policy_for_a_tpm_that_asks_too_little_cannot_be_made(good, changes, says) -> None:
    with pytest.raises(PolicyError, match=says):
        tpm_policy(good, **changes)

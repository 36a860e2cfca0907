"""Every real Intel vector gets its verdict through the one verifier, at its own time."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from confide.attest.collateral_sources import FixedCollateral, load_collateral
from confide.attest.evidence import Evidence
from confide.attest.policy import Policy
from confide.attest.quote import _split
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.errors import CollateralError, EvidenceInvalidError, ParseError
from confide.ids import Tee

VECTORS = Path(__file__).parents[2] / "vectors"
ENTRIES = json.loads((VECTORS / "intel" / "manifest.json").read_text())
OUTCOMES = {"verified", "refused"}
REASONS = {"sgx-v3-eppid-no-pck": "does not carry its PCK certificate chain", "tdx-v4-below-all-levels": "after the quote"}
"""Why our verifier refuses genuine quotes."""
CHECKS = {"sgx-v3-debug": "debug", "tdx-v4-debug": "debug", "tdx-v4-azure-sept-ve": "no-sept-ve-disable", "tdx-v5-servicetd": "service-td"}
"""Which check of a policy refuses genuine quotes of TEEs that protect less."""


def _load(entry):
    raw = (VECTORS / entry["quote"]).read_bytes()
    assert hashlib.sha256(raw).hexdigest() == entry["sha256"]
    verifier = Verifier(TrustRoots(), FixedCollateral(load_collateral(VECTORS / entry["collateral"])))
    return raw, verifier, datetime.fromtimestamp(entry["now"], UTC)


def _entry(name):
    return next(entry for entry in ENTRIES if entry["id"] == name)


def test_all_vectors_are_here_with_a_known_outcome() -> None:
    assert len(ENTRIES) == 14
    assert {entry["expect"] for entry in ENTRIES} == OUTCOMES
    assert len(list((VECTORS / "intel").glob("*.quote"))) == 14


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e["expect"] == "verified"], ids=lambda e: e["id"])
def test_real_evidence_is_verified(entry) -> None:
    raw, verifier, now = _load(entry)
    verified = verifier.verify(Evidence.from_device(Tee(entry["tee"].lower()), raw), now)
    claims = verified.claims
    assert claims.tcb_status == entry["tcb_status"]
    assert list(claims.advisory_ids) == entry["advisory_ids"]
    assert not claims.simulated
    assert not claims.debug
    assert claims.vendor["quote_version"] == entry["version"]
    assert len(claims.measurement) == (64 if claims.tee is Tee.SGX else 96)
    assert verified.verified_at == now
    assert _refusals(verified) == []


def test_each_refused_vector_has_its_reason() -> None:
    assert {*REASONS, *CHECKS} == {entry["id"] for entry in ENTRIES if entry["expect"] == "refused"}


@pytest.mark.parametrize("name", REASONS)
def test_real_evidence_is_refused_for_its_reason(name) -> None:
    entry = _entry(name)
    raw, verifier, now = _load(entry)
    with pytest.raises(EvidenceInvalidError, match=REASONS[name]):
        verifier.verify(Evidence(Tee(entry["tee"].lower()), raw), now)


def test_real_quote_below_all_levels_is_refused_for_that_too() -> None:
    entry = _entry("tdx-v4-below-all-levels")
    raw, verifier, now = _load(entry)
    with pytest.raises(EvidenceInvalidError, match="below all levels"):
        verifier.verify(Evidence(Tee.TDX, raw[: _split(raw)[1]]), now)


def _refusals(verified, *switches: str) -> list[str]:
    """What a policy that asks for exactly this software at this TCB, and has the switches, refuses.  Registers are left out."""
    claims = verified.claims
    registers = {"registers": {"rtmr1": ["aa" * 48], "rtmr2": ["aa" * 48]}}
    policy = Policy.from_json(
        {
            "name": "real",
            "measurements": {claims.tee.value: [claims.measurement]},
            **(registers if claims.tee is Tee.TDX else {}),
            "statuses": [claims.tcb_status],
            "min_tcb_eval": claims.tcb_eval,
            "advisories_allowed": list(claims.advisory_ids),
            "allow": list(switches),
        }
    )
    refused = [check.name for check in policy.explain(verified, now=verified.verified_at) if not check.ok]
    return [name for name in refused if not name.startswith("rtmr")]


@pytest.mark.parametrize("name", CHECKS)
def test_real_tee_that_protects_less_needs_a_switch_of_the_policy(name) -> None:
    entry = _entry(name)
    raw, verifier, now = _load(entry)
    verified = verifier.verify(Evidence.from_device(Tee(entry["tee"].lower()), raw), now)
    switch = {"debug": "debug", "no-sept-ve-disable": "tdx-no-sept-ve-disable", "service-td": "tdx-service-td"}[CHECKS[name]]
    assert CHECKS[name] in _refusals(verified)
    assert CHECKS[name] not in _refusals(verified, switch)


def test_real_quote_with_a_foreign_tail_is_refused_at_both_doors() -> None:
    raw, verifier, now = _load(_entry("tdx-v4-below-all-levels"))
    with pytest.raises(ParseError):
        Evidence.from_device(Tee.TDX, raw)
    with pytest.raises(EvidenceInvalidError, match="after the quote"):
        verifier.verify(Evidence(Tee.TDX, raw), now)


def test_real_quote_with_its_padding_is_refused_by_the_verifier() -> None:
    raw, verifier, now = _load(_entry("tdx-v4-uptodate"))
    with pytest.raises(EvidenceInvalidError, match="after the quote"):
        verifier.verify(Evidence(Tee.TDX, raw), now)


def test_report_data_of_a_real_quote_is_read() -> None:
    raw, verifier, now = _load(_entry("sgx-v3-confighard"))
    assert verifier.verify(Evidence(Tee.SGX, raw), now).claims.report_data.rstrip(b"\0") == b"Hello, world!"


@pytest.mark.parametrize("name", ["sgx-v3-swhardening", "tdx-v4-uptodate", "tdx-v5-uptodate"])
def test_real_evidence_is_refused_before_and_after_its_collaterals_time(name) -> None:
    entry = _entry(name)
    raw, verifier, now = _load(entry)
    evidence = Evidence.from_device(Tee(entry["tee"].lower()), raw)
    for moment in (now + timedelta(days=60), now - timedelta(days=60)):
        with pytest.raises((CollateralError, EvidenceInvalidError), match=r"stale|valid"):
            verifier.verify(evidence, moment)


def test_real_evidence_with_the_collateral_of_another_platform_is_refused() -> None:
    raw, _, now = _load(_entry("tdx-v4-uptodate"))
    other = load_collateral(VECTORS / "intel" / "collateral" / "tdx-806F05-2025-07.json")
    with pytest.raises(CollateralError, match="no collateral"):
        Verifier(TrustRoots(), FixedCollateral(other)).verify(Evidence.from_device(Tee.TDX, raw), now)


def test_real_evidence_is_refused_where_only_the_simulated_root_is_known(installation) -> None:
    raw, _, now = _load(_entry("tdx-v4-uptodate"))
    roots = TrustRoots(intel=installation.root_der)
    with pytest.raises(EvidenceInvalidError, match="root"):
        Verifier(roots, installation.collateral_source()).verify(Evidence.from_device(Tee.TDX, raw), now)

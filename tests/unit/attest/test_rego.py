"""Rego policies in Trustee's form: input, reference values, trust claims.  The policy here is our own, in the shape of Trustee's."""

from __future__ import annotations

import importlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.amd import Vendor

from confide.attest.collateral_sources import FixedCollateral, load_collateral
from confide.attest.evidence import Evidence
from confide.attest.rego import MAX_POLICY_BYTES, TRUST_CLAIMS, TrustVector, evaluate, tier, trustee_input
from confide.attest.roots import TrustRoots
from confide.attest.verify import VerifiedEvidence, Verifier
from confide.errors import ExtraMissingError, PolicyError
from confide.ids import Tee

VECTORS = Path(__file__).parents[2] / "vectors"
TDX = {entry["id"]: entry for entry in json.loads((VECTORS / "intel" / "manifest.json").read_text())}["tdx-v4-uptodate"]
POLICY = """
package policy

import rego.v1

default executables := 33
default hardware := 97
default configuration := 36
default file_system := 0

trust_claims := {
    "executables": executables,
    "hardware": hardware,
    "configuration": configuration,
    "file-system": file_system,
}

executables := 3 if input.tdx.quote.body.rtmr_1 in query_reference_value("rtmr_1")
executables := 3 if input.snp.evidence.measurement in query_reference_value("snp_launch_measurement")

hardware := 2 if {
    input.tdx.quote.header.tee_type == "81000000"
    input.tdx.quote.header.vendor_id == "939a7233f79c4ca9940a0db3957f0607"
    input.tdx.quote.body.mr_td in query_reference_value("mr_td")
    input.tdx.tcb_status == "UpToDate"
    input.tdx.collateral_expiration_status == "0"
}

hardware := 2 if input.snp.evidence.reported_tcb.snp in query_reference_value("snp_snp_svn")
configuration := 2 if input.tdx.td_attributes.debug == false

configuration := 3 if {
    input.snp.evidence.policy.debug_allowed == false
    input.snp.evidence.policy.migrate_ma_allowed == false
}
"""


@pytest.fixture(scope="module")
def td() -> VerifiedEvidence:
    evidence = Evidence.from_device(Tee.TDX, (VECTORS / TDX["quote"]).read_bytes())
    source = FixedCollateral(load_collateral(VECTORS / TDX["collateral"]))
    return Verifier(TrustRoots(), source).verify(evidence, datetime.fromtimestamp(TDX["now"], UTC))


def _reference(td: VerifiedEvidence) -> dict[str, Any]:
    return {"mr_td": [td.claims.measurement], "rtmr_1": [td.claims.registers["rtmr1"]]}


def _refused(vector: TrustVector) -> list[str]:
    return [check.name for check in vector.checks() if not check.ok]


def test_policy_affirms_a_td_with_its_reference_values(td: VerifiedEvidence) -> None:
    vector = evaluate(POLICY, td, _reference(td), td.verified_at)
    assert dict(vector.claims) == {"executables": 3, "hardware": 2, "configuration": 2, "file-system": 0}
    assert _refused(vector) == []


@pytest.mark.parametrize(("name", "claim"), [("mr_td", "hardware"), ("rtmr_1", "executables")])
def test_other_or_missing_reference_value_is_not_affirmed(td: VerifiedEvidence, name: str, claim: str) -> None:
    reference = _reference(td)
    assert _refused(evaluate(POLICY, td, {**reference, name: ["ab" * 48]}, td.verified_at)) == [claim]
    del reference[name]
    assert _refused(evaluate(POLICY, td, reference, td.verified_at)) == [claim]


def test_stale_collateral_is_told_to_the_policy(td: VerifiedEvidence) -> None:
    assert _refused(evaluate(POLICY, td, _reference(td), td.claims.epoch.stale_from)) == ["hardware"]


def test_policy_affirms_a_guest_and_sees_its_guest_policy() -> None:
    vendor = Vendor("Genoa")
    now = datetime(2030, 6, 1, tzinfo=UTC)
    verified = Verifier(TrustRoots(amd=vendor.roots), FixedCollateral(vendor.collateral())).verify(vendor.evidence(), now)
    reference = {"snp_launch_measurement": [verified.claims.measurement], "snp_snp_svn": [verified.claims.tcb["snp"]]}
    assert _refused(evaluate(POLICY, verified, reference, now)) == []
    assert trustee_input(verified, now)["snp"]["evidence"]["policy"]["debug_allowed"] is False


def test_policy_without_a_vector_is_read_by_its_rules(td: VerifiedEvidence) -> None:
    text = "package policy\nimport rego.v1\nexecutables := 3\nhardware := 2\nconfiguration := 36\n"
    vector = evaluate(text, td, {}, td.verified_at)
    assert set(vector.claims) == set(TRUST_CLAIMS)
    assert _refused(vector) == ["configuration"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "package policy\nx := {",
        "package other\nexecutables := 3",
        'package policy\ntrust_claims := {"executables": 2}',
        'package policy\ntrust_claims := {"executables": 2, "hardware": 2, "configuration": "2"}',
        'package policy\ntrust_claims := {"executables": 2, "hardware": true, "configuration": 2}',
        'package policy\ntrust_claims := {"executables": 2, "hardware": 2, "configuration": 200}',
        'package policy\ntrust_claims := {"executables": 2, "hardware": 2, "configuration": 2, "other": 2}',
        "package policy\nimport rego.v1\ntrust_claims := opa.runtime()",
        "#" * (MAX_POLICY_BYTES + 1),
    ],
    ids=lambda text: text[:60],
)
def test_policy_that_affirms_nothing_readable_is_refused(td: VerifiedEvidence, text: str) -> None:
    try:
        vector = evaluate(text, td, {}, td.verified_at)
    except PolicyError:
        return
    assert set(_refused(vector)) == {"configuration", "executables", "hardware"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, "none") for value in (-1, 0, 1)),
        *((value, "affirming") for value in (2, 31, -2, -32)),
        *((value, "warning") for value in (32, 95, -33, -96)),
        *((value, "contraindicated") for value in (96, 127, -97, -128)),
    ],
)
def test_tiers_are_ar4sis(value: int, expected: str) -> None:
    assert tier(value) == expected


def test_missing_extra_is_named(td: VerifiedEvidence, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ExtraMissingError) as caught:
        evaluate(POLICY, td, {}, td.verified_at)
    assert "confide[rego]" in str(caught.value.hint)

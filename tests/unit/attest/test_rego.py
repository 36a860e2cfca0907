"""Rego policies in Trustee's form: input, reference values, trust claims.  The policy here is our own, in the shape of Trustee's."""

from __future__ import annotations

import dataclasses
import importlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support.amd import Vendor

from confide.attest import rego
from confide.attest.collateral_sources import FixedCollateral, load_collateral
from confide.attest.evidence import Evidence
from confide.attest.quote import SgxBody, parse_quote
from confide.attest.rego import TRUST_CLAIMS, TrustVector, evaluate, tier, trustee_input
from confide.attest.roots import TrustRoots
from confide.attest.snp_report import Report
from confide.attest.tpm_trust import TpmTrust
from confide.attest.verify import VerifiedEvidence, Verifier
from confide.errors import ExtraMissingError, PolicyError
from confide.ids import Tee

MAX_POLICY_BYTES = 256 * 1024
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


def said(claims: str) -> str:
    return f"package policy\nimport rego.v1\ntrust_claims := {claims}"


def vector(**claims: Any) -> str:
    return said(json.dumps({"executables": 2, "hardware": 2, "configuration": 2} | {n.replace("_", "-"): v for n, v in claims.items()}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be evaluated"), ("package policy\nx := {", "cannot be evaluated"),
        ("package policy\nimport rego.v1\nx := 1 if true\nx := 2 if true\nexecutables := 2", "Rego policy failed"),
        (said("3"), "says no trust claims"), (said('["executables", "hardware", "configuration"]'), "says no trust claims"),
        (said("{}"), "says no trust claims"), (said('{"executables": 2, "hardware": 2}'), "says no trust claims"),
        (said('{"executables": 2, "configuration": 2}'), "says no trust claims"), (vector(other=2), "says no trust claims"),
        (said("opa.runtime()"), "says no trust claims"), (vector(configuration="2"), "no number of AR4SI"),
        (vector(hardware=True), "no number of AR4SI"), (vector(hardware=2.5), "no number of AR4SI"), (vector(hardware=None), "no number"),
        (vector(configuration=128), "no number of AR4SI"), (vector(configuration=-129), "no number of AR4SI"),
        (vector(file_system=200), "no number of AR4SI"), ("#" * (MAX_POLICY_BYTES + 1), "too large"),
        ("#" + "\u00e9" * (MAX_POLICY_BYTES // 2), "too large"),
    ],
    ids=lambda text: text[:70],
)  # fmt: skip
def test_policy_that_says_nothing_readable_is_refused(td: VerifiedEvidence, text: str, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        evaluate(text, td, {}, td.verified_at)


def test_policy_whose_value_is_nested_deeper_than_python_reads_is_refused(td: VerifiedEvidence, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_deep(_: str) -> NoReturn:  # how deep that is, is another number in each Python
        raise RecursionError

    monkeypatch.setattr("confide.attest.rego.json.loads", too_deep)
    with pytest.raises(PolicyError, match="cannot be evaluated"):
        evaluate(vector(), td, {}, td.verified_at)


def test_policy_of_another_package_affirms_nothing(td: VerifiedEvidence) -> None:
    found = evaluate("package other\nexecutables := 3", td, {}, td.verified_at)
    assert found.claims == dict.fromkeys(TRUST_CLAIMS, 0)
    assert _refused(found) == ["configuration", "executables", "hardware"]


def test_policy_is_as_large_as_the_limit(td: VerifiedEvidence) -> None:
    text = vector().ljust(MAX_POLICY_BYTES, "\n")
    assert _refused(evaluate(text, td, {}, td.verified_at)) == []


@pytest.mark.parametrize("value", [-128, -1, 0, 127])
def test_numbers_of_one_byte_are_taken(td: VerifiedEvidence, value: int) -> None:
    assert evaluate(vector(hardware=value), td, {}, td.verified_at).claims["hardware"] == value


def test_vector_may_say_every_claim(td: VerifiedEvidence) -> None:
    found = evaluate(said(json.dumps(dict.fromkeys(TRUST_CLAIMS, 2))), td, {}, td.verified_at)
    assert [check.name for check in found.checks()] == list(TRUST_CLAIMS)
    assert _refused(found) == []


def test_claim_that_says_nothing_has_no_line_unless_it_must_be_affirmed() -> None:
    found = TrustVector({"configuration": 0, "executables": 2, "hardware": 33, "file-system": 0, "sourced-data": 97, "runtime-opaque": 1})
    assert [(check.name, check.expected, check.got, check.ok) for check in found.checks()] == [
        ("configuration", "affirming", "0, none", False), ("executables", "affirming", "2, affirming", True),
        ("hardware", "affirming", "33, warning", False), ("runtime-opaque", "affirming", "1, none", False),
        ("sourced-data", "affirming", "97, contraindicated", False),
    ]  # fmt: skip


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


# --- what a policy is given ------------------------------------------------------------------------------------------


def verified(name: str) -> VerifiedEvidence:
    entry = next(entry for entry in json.loads((VECTORS / "intel" / "manifest.json").read_text()) if entry["id"] == name)
    evidence = Evidence.from_device(Tee(entry["tee"].lower()), (VECTORS / entry["quote"]).read_bytes())
    source = FixedCollateral(load_collateral(VECTORS / entry["collateral"]))
    return Verifier(TrustRoots(), source).verify(evidence, datetime.fromtimestamp(entry["now"], UTC))


def fields(quote: bytes, start: int, *named: tuple[str, int]) -> dict[str, str]:
    """The quote's fields from ``start`` on, in hex; those without a name are left out."""
    found = {}
    for name, size in named:
        found[name] = quote[start : start + size].hex()
        start += size
    found.pop("", None)
    return found


HEAD = (("version", 2), ("", 2), ("tee_type", 4), ("", 4), ("vendor_id", 16))


def test_td_is_presented_field_by_field(td: VerifiedEvidence) -> None:
    """Intel TDX DCAP Quoting Library API, appendix A.3: the header, and the TD report from byte 48 on."""
    quote = td.evidence.quote
    body = fields(
        quote, 48, ("tcb_svn", 16), ("mr_seam", 48), ("mrsigner_seam", 48), ("", 8), ("td_attributes", 8), ("xfam", 8), ("mr_td", 48),
        ("mr_config_id", 48), ("mr_owner", 48), ("mr_owner_config", 48), ("rtmr_0", 48), ("rtmr_1", 48), ("rtmr_2", 48), ("rtmr_3", 48),
        ("report_data", 64),
    )  # fmt: skip
    assert trustee_input(td, td.verified_at) == {
        "tdx": {
            "quote": {"header": fields(quote, 0, *HEAD), "body": body},
            "td_attributes": {"debug": False, "septve_disable": True},
            "tcb_status": "UpToDate", "tcb_date": td.claims.tcb_date, "advisory_ids": [], "collateral_expiration_status": "0",
        }
    }  # fmt: skip


@pytest.mark.parametrize(("bit", "debug", "disabled"), [(28, False, True), (29, False, False), (0, True, False), (27, False, False)])
def test_attributes_of_a_td_are_single_bits(td: VerifiedEvidence, bit: int, *, debug: bool, disabled: bool) -> None:
    quote = td.evidence.quote[:168] + (1 << bit).to_bytes(8, "little") + td.evidence.quote[176:]
    assert rego._intel(parse_quote(quote))["td_attributes"] == {"debug": debug, "septve_disable": disabled}


def test_enclave_is_presented_field_by_field() -> None:
    """Intel SGX ECDSA QuoteGenReference, appendix A.4: the report body from byte 48 on."""
    found = verified("sgx-v3-swhardening")
    quote = found.evidence.quote
    body = fields(
        quote, 48, ("", 48), ("attributes", 16), ("mr_enclave", 32), ("", 32), ("mr_signer", 32), ("", 96), ("isv_prod_id", 2),
        ("isv_svn", 2), ("", 60), ("report_data", 64),
    )  # fmt: skip
    assert trustee_input(found, found.verified_at) == {
        "sgx": {
            "header": fields(quote, 0, *HEAD), "body": body, "tcb_status": found.claims.tcb_status, "tcb_date": found.claims.tcb_date,
            "advisory_ids": list(found.claims.advisory_ids), "collateral_expiration_status": "0",
        }
    }  # fmt: skip
    assert found.claims.advisory_ids


def test_numbers_of_an_enclave_are_in_the_order_of_the_evidence() -> None:
    body = parse_quote(verified("sgx-v3-swhardening").evidence.quote).body
    assert isinstance(body, SgxBody)
    found = rego._sgx(dataclasses.replace(body, isv_prod_id=0x0102, isv_svn=0x0304))
    assert (found["isv_prod_id"], found["isv_svn"]) == ("0201", "0403")


def test_collateral_is_stale_from_its_next_update_on(td: VerifiedEvidence) -> None:
    end = td.claims.epoch.stale_from
    given = [trustee_input(td, moment)["tdx"]["collateral_expiration_status"] for moment in (end - timedelta(microseconds=1), end)]
    assert given == ["0", "1"]


GUEST = {"smt_allowed": 16, "migrate_ma_allowed": 18, "debug_allowed": 19, "single_socket_required": 20}
PLATFORM = {"smt_enabled": 0, "tsme_enabled": 1}


@pytest.mark.parametrize("name", GUEST)
def test_guest_policy_is_presented_bit_by_bit(name: str) -> None:
    """AMD 56860, "Guest Policy": bit 17 is always set, and bytes 0 and 1 are the least minor and major ABI."""
    raw = Vendor("Genoa").report(policy=1 << 17 | 1 << GUEST[name] | 0x0437)
    given = rego._snp(Report.parse(raw), {"snp": 22})["evidence"]
    assert given["policy"] == {"abi_minor": 0x37, "abi_major": 4, **{other: other == name for other in GUEST}}
    assert (given["reported_tcb"], given["vmpl"]) == ({"snp": 22}, 0)
    assert (given["measurement"], given["report_data"]) == ("5a" * 48, "00" * 64)
    assert bytes.fromhex(given["host_data"]).startswith(b"host")


@pytest.mark.parametrize("bit", range(5))
def test_platform_is_presented_bit_by_bit(bit: int) -> None:
    """AMD 56860, "ATTESTATION_REPORT", offset 0x40."""
    raw = Vendor("Genoa").report(patch=(0x40, (1 << bit).to_bytes(8, "little")))
    given = rego._snp(Report.parse(raw), {})["evidence"]
    assert given["plat_info"] == {name: at == bit for name, at in PLATFORM.items()}


def test_tpm_has_no_form_of_trustees() -> None:
    recorded = json.loads((VECTORS / "tpm" / "genuine-ecdsa.json").read_text())
    verifier = Verifier(TrustRoots(tpm=TpmTrust(issuers=frozenset(recorded["roots"]))), FixedCollateral())
    found = verifier.verify(Evidence.from_json(recorded["evidence"]), datetime.fromisoformat(recorded["at"]))
    with pytest.raises(PolicyError, match="no input for this kind of TEE"):
        evaluate(POLICY, found, {}, found.verified_at)

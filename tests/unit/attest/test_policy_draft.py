"""Drafts of policies: what evidence or a build pins, and that what is written reads back."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.amd import Vendor
from support.policy_data import AMD, GOOD, LEAST, SGX, SIGNER, TD, TDX

from confide.attest.claims import Claims
from confide.attest.evidence import Evidence
from confide.attest.init_data import InitData, job_init_data
from confide.attest.policy import Policy
from confide.attest.policy_draft import of_claims, of_init_data, of_job_init_data, of_reference, to_toml, unverified_reference
from confide.attest.snp_report import Report
from confide.attest.tpm import TpmCollateral
from confide.errors import ParseError
from confide.ids import JobDigest, ReportData, Tee

OLD = {"statuses": ["UpToDate", "OutOfDate"], "statuses_until": {"OutOfDate": "2030-02-01"}}
RTMRS = {f"rtmr{number}": f"{number + 1:02x}" * 48 for number in range(4)}


# --- of evidence -----------------------------------------------------------------------------------------------------


def claims(tee: Tee, **changes: Any) -> Claims:
    values = {
        "simulated": False, "measurement": "5a", "signer": "", "registers": {}, "debug": True, "tcb_status": "OutOfDate",
        "advisory_ids": ("INTEL-SA-00001",), "tcb_eval": 17, "tcb": {}, "platform": "00906ed50000", "evidence_digest": "", "vendor": {},
    }  # fmt: skip
    epoch = TpmCollateral("root", datetime(2030, 1, 1, tzinfo=UTC).isoformat()).epoch
    return Claims(tee=tee, report_data=ReportData(bytes(64)), epoch=epoch, **{**values, **changes})


@pytest.mark.parametrize("simulated", [False, True])
def test_draft_of_an_enclave_pins_what_runs_and_the_rating_but_no_weakness(*, simulated: bool) -> None:
    found = of_claims(claims(Tee.SGX, simulated=simulated, tcb_date="2026-02-03T00:00:00Z", registers=RTMRS))
    expected = {"measurements": {"sgx": ["5a"]}, "min_tcb_eval": 17, "min_tcb_date": "2026-02-03"}
    assert found == (expected | {"allow": ["simulated"]} if simulated else expected)
    assert "min_tcb_date" not in of_claims(claims(Tee.SGX))


def test_draft_of_a_td_pins_the_registers_that_a_build_knows() -> None:
    expected = {"measurements": {"tdx": ["5a"]}, "min_tcb_eval": 17}
    assert of_claims(claims(Tee.TDX, registers=RTMRS)) == {
        **expected, "registers": {name: [RTMRS[name]] for name in ("rtmr0", "rtmr1", "rtmr2")},
    }  # fmt: skip
    unmeasured = {**RTMRS, "rtmr0": "00" * 48}
    del unmeasured["rtmr2"]
    assert of_claims(claims(Tee.TDX, registers=unmeasured)) == {**expected, "registers": {"rtmr1": [RTMRS["rtmr1"]]}}


def test_draft_of_a_guest_takes_its_firmware_for_the_least() -> None:
    found = of_claims(claims(Tee.SNP, tcb=LEAST, platform="Genoa", simulated=True, tcb_date="2026-02-03T00:00:00Z"))
    assert found == {"measurements": {"snp": ["5a"]}, "allow": ["simulated"], "min_tcb": {"Genoa": LEAST}}


def test_draft_of_a_tpm_pins_what_was_measured_and_says_what_a_tpm_is_not() -> None:
    found = of_claims(claims(Tee.TPM, registers={"pcr0": "5a" * 32, "pcr4": "00" * 32, "pcr23": "a5" * 32}))
    assert found == {
        "measurements": {"tpm": ["5a"]}, "allow": ["tpm-no-memory-protection"], "registers": {"pcr0": ["5a" * 32], "pcr23": ["a5" * 32]},
    }  # fmt: skip


# --- of a build ------------------------------------------------------------------------------------------------------


def test_reference_values_become_a_policy() -> None:
    sgx = {"tee": "sgx", "mrenclave": SGX, "mrsigner": "51" * 32, "isv_prod_id": 0, "isv_svn": 0}
    assert of_reference({**sgx, "rtmr0": TDX, "pcr0": SGX}) == {"measurements": {"sgx": [SGX]}}
    assert of_reference({"tee": "snp", "measurement": TDX}) == {"measurements": {"snp": [TDX]}}
    td = {"measurements": {"tdx": [TDX]}}
    assert of_reference({"tee": "tdx", "mrtd": TDX}) == td
    assert of_reference({"tee": "tdx", "mrtd": TDX, "rtmr1": RTMRS["rtmr1"], "rtmr2": None, "rtmr3": RTMRS["rtmr3"], "pcr0": SGX}) == {
        **td, "registers": {"rtmr1": [RTMRS["rtmr1"]]},
    }  # fmt: skip


def test_reference_values_of_a_tpm_pin_what_was_measured() -> None:
    pcrs = {"pcr0": "5a" * 32, "pcr4": "00" * 32, "pcr23": "a5" * 32, "pcr24": "a5" * 32, "rtmr0": TDX}
    assert of_reference({"tee": "tpm", "measurement": SGX, **pcrs}) == {
        "measurements": {"tpm": [SGX]}, "allow": ["tpm-no-memory-protection"], "registers": {"pcr0": ["5a" * 32], "pcr23": ["a5" * 32]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "not reference values"), ({"tee": "tpm"}, "not reference values"), ({"tee": "sgx"}, "not reference values"),
        ({"tee": ["sgx"]}, "not reference values"), ({"tee": "sgx", "mrtd": TDX}, "not reference values"),
        ({"tee": "cca", "measurement": TDX}, "not reference values"), ({"tee": "sgx", "mrenclave": 1}, "not reference values"),
        ({"tee": "tdx", "mrtd": TDX, "rtmr1": 1}, "register of the reference values"),
        ({"tee": "tdx", "mrtd": TDX, "rtmr0": TDX, "rtmr1": [TDX]}, "register of the reference values"),
        ({"tee": "tpm", "measurement": SGX, "pcr0": SGX, "pcr7": 7}, "register of the reference values"),
    ],
    ids=str,
)  # fmt: skip
def test_other_json_is_no_reference_values(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ParseError, match=says):
        of_reference(values)


@pytest.mark.parametrize(("tee", "names"), [
    (Tee.SGX, {"mrenclave"}), (Tee.TDX, {"mrtd", "rtmr0", "rtmr1", "rtmr2"}),
])  # fmt: skip
def test_reference_values_of_evidence_are_what_it_claims(tee: Tee, names: set[str], make_evidence: Callable[..., Evidence]) -> None:
    evidence = make_evidence(tee)
    found = unverified_reference(evidence)
    assert set(found) == {"tee", *names}
    assert found["tee"] == tee.value
    for name in names:
        assert bytes.fromhex(found[name]) in evidence.quote


def test_reference_values_of_a_guests_evidence_are_its_measurement() -> None:
    evidence = Vendor("Genoa").evidence()
    measurement = Report.parse(evidence.quote).measurement.hex()
    assert unverified_reference(evidence) == {"tee": "snp", "measurement": measurement}


def test_reference_values_of_a_tpms_evidence_are_its_registers() -> None:
    vector = json.loads((Path(__file__).parents[2] / "vectors/tpm/genuine-ecdsa.json").read_text())
    found = unverified_reference(Evidence.from_json(vector["evidence"]))
    assert set(found) == {"tee", "measurement", "pcr0", "pcr4", "pcr16"}
    assert of_reference(found)["registers"] == {name: [found[name]] for name in ("pcr0", "pcr4")}


# --- as a file -------------------------------------------------------------------------------------------------------


def issuer(**changes: Any) -> dict[str, Any]:
    return {"token_issuers": [{"kind": "maa", "issuer": "https://m.example", "jwks": "{}", **changes}]}


@pytest.mark.parametrize(
    "data",
    [
        GOOD, {**GOOD, **AMD}, {**GOOD, **SIGNER, **OLD}, {**GOOD, **AMD, "vmpls": [1]}, {**GOOD, **AMD, "vmpls": [0, 1]},
        {**GOOD, "advisories_allowed": ["INTEL-SA-00001", {"id": "INTEL-SA-00002", "until": "2030-01-01"}], "jobs": ["ab" * 48]},
        {**GOOD, "name": "2030-01-01", "platforms": {"fmspc": ["00906ed50000"], "ppid": ["ab" * 16]}},
        {**GOOD, **issuer(audience='a "quoted" one, \\ \t \x7f \x00 é \u20ac \U0001f512')},
        {
            "name": "c",
            "any_of": [{**GOOD, "name": "a"}, {"name": "b", "all_of": [{**GOOD, **TD, "name": "x"}, {**GOOD, **TD, "name": "y"}]}],
        },
    ],
    ids=str,
)  # fmt: skip
def test_written_policy_reads_as_the_same(tmp_path: Path, data: dict[str, Any]) -> None:
    policy = Policy.from_json(data)
    (tmp_path / "p.toml").write_text(to_toml(policy), encoding="utf-8")
    assert Policy.load(tmp_path / "p.toml").digest == policy.digest


# --- of init-data ----------------------------------------------------------------------------------------------------

ENTRIES = {"policy.rego": 'package agent_policy\ndefault Any := "\x7f\u00e9"\n', "aa": "[x]\n"}


def test_draft_of_a_jobs_init_data_accepts_each_job_with_the_same_entries(tmp_path: Path) -> None:
    made = job_init_data(JobDigest("ab" * 48), Tee.TDX, ENTRIES)
    found = of_job_init_data(made, Tee.TDX)
    assert found == {"job_init_data": ENTRIES}
    policy = Policy.from_json({**GOOD, **TD, **found})
    (tmp_path / "p.toml").write_text(to_toml(policy), encoding="utf-8")
    assert Policy.load(tmp_path / "p.toml").digest == policy.digest


@pytest.mark.parametrize(("tee", "size"), [(Tee.SGX, 64), (Tee.TDX, 48), (Tee.SNP, 32)])
def test_draft_of_one_document_accepts_that_one(tee: Tee, size: int) -> None:
    made = InitData.parse('version = "0.1.0"\nalgorithm = "sha256"\n[data]\n')
    assert of_init_data(made, tee) == {"init_data": {str(tee): [made.digest.ljust(size, b"\0").hex()]}}


@pytest.mark.parametrize(
    "body",
    [
        job_init_data(JobDigest("ab" * 48), Tee.SNP, ENTRIES).body,  # of another kind of guest
        job_init_data(JobDigest("ab" * 48), Tee.TDX, ENTRIES).body + "\n",
        job_init_data(JobDigest("ab" * 48), Tee.TDX, {}).body,  # nothing that a policy could name
        'version = "0.1.0"\nalgorithm = "sha384"\n\n[data]\n"policy.rego" = "x"\n',
    ],
    ids=["another kind of guest", "another text", "no entries", "no job"],
)
def test_document_that_a_policy_could_not_write_anew_is_no_example_of_a_jobs(body: str) -> None:
    with pytest.raises(ParseError, match="not the init-data of a job"):
        of_job_init_data(InitData.parse(body), Tee.TDX)


def test_written_policy_has_what_is_asked_and_no_more() -> None:
    assert to_toml(Policy.from_json({**GOOD, **AMD, "platforms": {"chip_id": ["ab" * 48]}})) == (
        'name = "p"\nstatuses = ["UpToDate"]\nroles = ["worker"]\n\n'
        f'[measurements]\nsnp = ["{TDX}"]\n\n'
        "[min_tcb]\nGenoa = { bootloader = 1, tee = 0, snp = 2, microcode = 3 }\n\n"
        f'[platforms]\nchip_id = ["{"ab" * 48}"]\n'
    )


def test_written_composition_has_a_table_for_each_member() -> None:
    plain = {"measurements": {"sgx": [SGX]}, "min_tcb_date": "2029-01-01", "roles": ["worker"]}
    written = to_toml(Policy.from_json({"name": "c", "any_of": [{"name": "b", "all_of": [{"name": "x", **plain}]}]}))
    assert written == (
        'name = "c"\n\n[[any_of]]\nname = "b"\n\n[[any_of.all_of]]\nname = "x"\nstatuses = ["UpToDate"]\nmin_tcb_date = "2029-01-01"\n'
        f'roles = ["worker"]\n\n[any_of.all_of.measurements]\nsgx = ["{SGX}"]\n'
    )

"""What lint finds, what diff says, and that drafts read back."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from confide.attest.policy import Policy
from confide.attest.policy_diff import diff
from confide.attest.policy_draft import of_reference, to_toml
from confide.attest.policy_lint import lint, refusing
from confide.errors import ParseError

SGX, TDX, TODAY = "5a" * 32, "5a" * 48, date(2030, 1, 1)
GOOD: dict[str, Any] = {"name": "p", "measurements": {"sgx": [SGX]}, "min_tcb_date": "2029-01-01", "roles": ["worker"]}
TD = {"measurements": {"tdx": [TDX]}, "registers": {"rtmr0": [TDX], "rtmr1": [TDX], "rtmr2": [TDX]}}
AMD = {"measurements": {"snp": [TDX]}, "min_tcb_date": None, "min_tcb": {"Genoa": {"bootloader": 1, "tee": 0, "snp": 2, "microcode": 3}}}
TPM = {"measurements": {"tpm": [SGX]}, "registers": {"pcr7": [SGX], "pcr16": [SGX]}, "allow": ["tpm-no-memory-protection"]}
SIGNER = {"signers": {"sgx": [{"mrsigner": "51" * 32, "isv_prod_id": 7, "min_isv_svn": 3}]}}
OLD = {"statuses": ["UpToDate", "OutOfDate"]}


def _codes(data: Any) -> set[str]:
    return {finding.code for finding in lint(Policy.from_json(data), TODAY)}


@pytest.mark.parametrize("change", [{}, TD, AMD, SIGNER, {**OLD, "statuses_until": {"OutOfDate": "2030-02-01"}}], ids=str)
def test_policy_that_asks_enough_has_no_findings(change) -> None:
    assert _codes({**GOOD, **change}) == set()


def test_policy_for_a_tpm_that_pins_a_lasting_register_is_found_an_exception_only() -> None:
    assert _codes({**GOOD, **TPM}) == {"exception"}


@pytest.mark.parametrize(
    ("change", "severity", "code"),
    [
        ({"measurements": {}, **SIGNER}, "error", "signer-only"),
        ({"min_tcb_date": None}, "error", "no-minimum-tcb"),
        ({**AMD, "min_tcb": {"Genoa": dict.fromkeys(AMD["min_tcb"]["Genoa"], 0)}}, "error", "no-minimum-tcb"),
        ({"allow": ["debug"]}, "error", "debug-allowed"),
        ({"allow": ["simulated"]}, "error", "simulated-allowed"),
        ({**TD, "registers": {}, "allow": ["simulated"]}, "error", "td-software-unpinned"),
        (OLD, "error", "out-of-date-for-good"),
        ({**TD, "registers": {"rtmr1": [TDX], "rtmr2": [TDX]}}, "warning", "td-configuration-unpinned"),
        ({**OLD, "min_tcb_date": None, "min_tcb_eval": 17}, "warning", "platform-age-unbounded"),
        ({"advisories_allowed": ["INTEL-SA-00001"]}, "warning", "advisory-for-good"),
        ({"advisories_allowed": [{"id": "INTEL-SA-00001", "until": "2029-12-31"}]}, "warning", "grace-expired"),
        ({**OLD, "statuses_until": {"OutOfDate": "2029-12-31"}}, "warning", "grace-expired"),
        ({"roles": ["driver", "worker", "broker", "aggregator"]}, "warning", "role-unrestricted"),
        ({**AMD, "vmpls": [0, 1]}, "warning", "vmpls"),
        ({**TD, "allow": ["tdx-migratable"]}, "warning", "exception"),
        ({**TPM, "registers": {"pcr16": [SGX], "pcr23": [SGX]}}, "error", "pcrs-resettable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lint_finds(change, severity, code) -> None:
    found = [finding for finding in lint(Policy.from_json({**GOOD, **change}), TODAY) if finding.code == code]
    assert [finding.severity for finding in found] == [severity]
    assert found[0].hint
    assert found[0].policy == "p"


def _refusing(data: Any) -> set[str]:
    policy = Policy.from_json(data)
    return {f"{finding.policy}: {finding.code}" for finding in refusing(policy, lint(policy, TODAY))}


def test_errors_refuse_a_policy_that_does_not_say_itself_that_it_protects_nothing() -> None:
    lax = {"name": "lax", "measurements": {"sgx": [SGX]}, "roles": ["worker"]}
    trial = {**lax, "name": "trial", "allow": ["simulated"]}
    assert _refusing(GOOD) == set()
    assert _refusing({**GOOD, "allow": ["snp-migration-agent"]}) == set()
    assert _refusing(lax) == {"lax: no-minimum-tcb"}
    assert _refusing(trial) == _refusing({**lax, "allow": ["debug"]}) == set()
    assert _refusing({"name": "any", "any_of": [trial, lax]}) == {"any/lax: no-minimum-tcb"}
    assert _refusing({"name": "all", "all_of": [trial, lax]}) == {"all/lax: no-minimum-tcb"}


def test_lint_finds_a_policy_without_roles() -> None:
    assert _codes({name: value for name, value in GOOD.items() if name != "roles"}) == {"role-missing"}


def test_any_of_asks_as_little_as_its_least_member() -> None:
    data = {"name": "c", "any_of": [{**GOOD, "name": "a"}, {**GOOD, "name": "b", "min_tcb_date": None}]}
    (finding,) = lint(Policy.from_json(data), TODAY)
    assert (finding.code, finding.policy) == ("no-minimum-tcb", "c/b")


def test_all_of_asks_what_any_member_asks() -> None:
    weak = {**GOOD, "name": "b", "min_tcb_date": None}
    assert _codes({"name": "c", "all_of": [{**GOOD, "name": "a"}, weak]}) == set()
    assert _codes({"name": "c", "all_of": [{**weak, "name": "a"}, weak]}) == {"no-minimum-tcb"}


def _changes(old: Any, new: Any) -> set[tuple[str, str]]:
    return {(change.direction, change.field) for change in diff(Policy.from_json(old), Policy.from_json(new))}


_PAIRS: list[tuple[Any, Any, str]] = [
    ({}, {"measurements": {"sgx": [SGX, "77" * 32]}}, "measurements.sgx"),
    ({}, {"statuses": ["UpToDate", "SWHardeningNeeded"]}, "statuses"),
    ({}, {"roles": ["worker", "driver"]}, "roles"),
    ({}, {"allow": ["debug"]}, "allow"),
    ({}, {"min_tcb_date": "2028-01-01"}, "min_tcb_date"),
    ({}, {"min_tcb_date": None}, "min_tcb_date"),
    ({"min_tcb_eval": 17}, {"min_tcb_eval": 16}, "min_tcb_eval"),
    ({}, {"advisories_allowed": ["INTEL-SA-00001"]}, "advisories_allowed"),
    (
        {"advisories_allowed": [{"id": "INTEL-SA-00001", "until": "2030-01-01"}]},
        {"advisories_allowed": ["INTEL-SA-00001"]},
        "advisories_allowed.INTEL-SA-00001.until",
    ),
    ({"statuses_until": {"UpToDate": "2030-01-01"}}, {"statuses_until": {"UpToDate": "2030-01-02"}}, "statuses_until.UpToDate"),
    (SIGNER, {}, "signers.sgx"),
    ({"platforms": {"fmspc": ["00906ed50000"]}}, {}, "platforms.fmspc"),
    ({**TPM, "platforms": {"tpm_key": ["000b" + SGX]}}, TPM, "platforms.tpm_key"),
    ({"jobs": ["ab" * 48]}, {}, "jobs"),
    ({"max_collateral_age_days": 2}, {"max_collateral_age_days": 3}, "max_collateral_age_days"),
    ({"max_evidence_age_s": 2}, {}, "max_evidence_age_s"),
    (TD, {**TD, "registers": {"rtmr1": [TDX], "rtmr2": [TDX]}}, "registers.rtmr0"),
    (AMD, {**AMD, "min_tcb": {"Genoa": {**AMD["min_tcb"]["Genoa"], "snp": 1}}}, "min_tcb.Genoa.snp"),
    (AMD, {**AMD, "min_tcb": {**AMD["min_tcb"], "Milan": AMD["min_tcb"]["Genoa"]}}, "min_tcb products"),
    (AMD, {**AMD, "vmpls": [0, 1]}, "vmpls"),
]


@pytest.mark.parametrize(("strict", "lax", "field"), _PAIRS, ids=lambda value: value if isinstance(value, str) else "")
def test_diff_says_which_way_a_field_went(strict, lax, field) -> None:
    assert _changes({**GOOD, **strict}, {**GOOD, **lax}) == {("laxer", field)}
    assert _changes({**GOOD, **lax}, {**GOOD, **strict}) == {("stricter", field)}


def test_diff_of_a_kind_of_tee_more_is_one_change() -> None:
    both = {**GOOD, **TD, "measurements": {"sgx": [SGX], "tdx": [TDX]}}
    assert _changes(GOOD, both) == {("laxer", "tees")}
    assert _changes(both, GOOD) == {("stricter", "tees")}


def test_diff_of_compositions() -> None:
    a, b = ({**GOOD, "name": name} for name in "ab")
    for word, direction in (("any_of", "laxer"), ("all_of", "stricter")):
        assert _changes({"name": "c", word: [a]}, {"name": "c", word: [a, b]}) == {(direction, "b")}
    assert _changes({"name": "c", "any_of": [a]}, {"name": "c", "all_of": [a]}) == {("changed", "composition")}
    assert _changes({"name": "c", "any_of": [a]}, {"name": "c", "any_of": [{**a, "min_tcb_date": None}]}) == {("laxer", "a/min_tcb_date")}
    assert _changes(GOOD, {**GOOD, "name": "q"}) == {("changed", "name")}


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        {**GOOD, **AMD},
        {**GOOD, **SIGNER, **OLD, "statuses_until": {"OutOfDate": "2030-02-01"}},
        {**GOOD, "advisories_allowed": ["INTEL-SA-00001", {"id": "INTEL-SA-00002", "until": "2030-01-01"}], "jobs": ["ab" * 48]},
        {**GOOD, "name": "2030-01-01", "platforms": {"fmspc": ["00906ed50000"], "ppid": ["ab" * 16]}},
        {
            "name": "c",
            "any_of": [{**GOOD, "name": "a"}, {"name": "b", "all_of": [{**GOOD, **TD, "name": "x"}, {**GOOD, **TD, "name": "y"}]}],
        },
    ],
    ids=str,
)
def test_written_policy_reads_as_the_same(tmp_path, data) -> None:
    policy = Policy.from_json(data)
    (tmp_path / "p.toml").write_text(to_toml(policy))
    assert Policy.load(tmp_path / "p.toml").digest == policy.digest


def test_reference_values_become_a_policy() -> None:
    sgx = {"tee": "sgx", "mrenclave": SGX, "mrsigner": "51" * 32, "isv_prod_id": 0, "isv_svn": 0}
    assert of_reference(sgx) == {"measurements": {"sgx": [SGX]}}
    registers = {f"rtmr{n}": f"{n + 1:02x}" * 48 for n in range(4)}
    assert set(of_reference({"tee": "tdx", "mrtd": TDX, **registers})["registers"]) == {"rtmr0", "rtmr1", "rtmr2"}
    assert of_reference({"tee": "snp", "measurement": TDX}) == {"measurements": {"snp": [TDX]}}


@pytest.mark.parametrize(
    "values",
    [{}, {"tee": "tpm"}, {"tee": "sgx"}, {"tee": ["sgx"]}, {"tee": "tdx", "mrtd": TDX, "rtmr1": 1}, {"tee": "sgx", "mrenclave": 1}],
    ids=str,
)
def test_other_json_is_no_reference_values(values) -> None:
    with pytest.raises(ParseError):
        of_reference(values)

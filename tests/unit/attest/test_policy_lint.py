"""What lint finds in a policy that asks too little, and which policies it refuses."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from support import policy_data
from support.policy_data import GOOD, LEAST, SGX, SIGNER, TDX, TPM

from confide.attest.policy import Policy
from confide.attest.policy_lint import Finding, lint, refusing

TODAY = date(2030, 1, 1)
TD = {**policy_data.TD, "init_data": {"tdx": [TDX]}}
AMD = {**policy_data.AMD, "init_data": {"snp": [SGX]}}
OLD = {"statuses": ["UpToDate", "OutOfDate"]}
DATED = [{"id": "INTEL-SA-00001", "until": "2030-01-01"}]


def found(data: Any) -> list[tuple[str, str, str, str]]:
    return [(one.severity, one.code, one.subject, one.policy) for one in lint(Policy.from_json(data), TODAY)]


def codes(data: Any) -> set[str]:
    return {code for _, code, _, _ in found(data)}


def registers(*names: str) -> dict[str, list[str]]:
    return {name: [SGX if name.startswith("pcr") else TDX] for name in names}


@pytest.mark.parametrize(
    "change",
    [
        {}, TD, AMD, SIGNER, {**OLD, "statuses_until": {"OutOfDate": "2030-02-01"}}, {"min_tcb_date": None, "min_tcb_eval": 17},
        {**OLD, "statuses_until": {"OutOfDate": "2030-01-01"}}, {"advisories_allowed": DATED}, {**AMD, "vmpls": [1]},
        {"roles": ["driver", "worker", "broker"]},
    ],
    ids=str,
)  # fmt: skip
def test_policy_that_asks_enough_has_no_findings(change: dict[str, Any]) -> None:
    assert found({**GOOD, **change}) == []


@pytest.mark.parametrize("pinned", [("pcr7",), ("pcr7", "pcr16"), ("pcr15",), ("pcr16", "pcr22", "pcr23")])
def test_policy_for_a_tpm_that_pins_a_lasting_register_is_found_an_exception_only(pinned: tuple[str, ...]) -> None:
    assert codes({**GOOD, **TPM, "registers": registers(*pinned)}) == {"exception"}


@pytest.mark.parametrize("pinned", [("pcr16",), ("pcr23",), ("pcr16", "pcr23")])
def test_registers_that_any_process_can_reset_pin_nothing(pinned: tuple[str, ...]) -> None:
    assert ("error", "pcrs-resettable", "tpm", "p") in found({**GOOD, **TPM, "registers": registers(*pinned)})


@pytest.mark.parametrize(
    ("change", "severity", "code", "subject"),
    [
        ({"measurements": {}, **SIGNER}, "error", "signer-only", "sgx"),
        ({**TD, **SIGNER}, "error", "signer-only", "sgx"),
        ({"min_tcb_date": None}, "error", "no-minimum-tcb", "sgx"),
        ({**TD, "min_tcb_date": None}, "error", "no-minimum-tcb", "tdx"),
        ({**AMD, "min_tcb": {"Genoa": LEAST, "Milan": dict.fromkeys(LEAST, 0)}}, "error", "no-minimum-tcb", "Milan"),
        (OLD, "error", "out-of-date-for-good", "OutOfDate"),
        (
            {"statuses": ["OutOfDate", "TDRelaunchAdvised"], "statuses_until": {"OutOfDate": "2030-02-01"}}, "error",
            "out-of-date-for-good", "TDRelaunchAdvised",
        ),
        ({**TD, "registers": registers("rtmr1", "rtmr2")}, "warning", "td-configuration-unpinned", "tdx"),
        (
            {**OLD, "statuses_until": {"OutOfDate": "2030-02-01"}, "min_tcb_date": None, "min_tcb_eval": 17}, "warning",
            "platform-age-unbounded", "",
        ),
        ({"advisories_allowed": ["INTEL-SA-00001"]}, "warning", "advisory-for-good", "INTEL-SA-00001"),
        ({"advisories_allowed": [{"id": "INTEL-SA-00001", "until": "2029-12-31"}]}, "warning", "grace-expired", "INTEL-SA-00001"),
        ({**OLD, "statuses_until": {"OutOfDate": "2029-12-31"}}, "warning", "grace-expired", "OutOfDate"),
        ({"roles": ["driver", "worker", "broker", "aggregator"]}, "warning", "role-unrestricted", ""),
        ({**AMD, "vmpls": [0, 1]}, "warning", "vmpls", ""),
        ({**TD, "allow": ["tdx-migratable"]}, "warning", "exception", "tdx-migratable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_lint_finds_one_thing(change: dict[str, Any], severity: str, code: str, subject: str) -> None:
    assert found({**GOOD, **change}) == [(severity, code, subject, "p")]


@pytest.mark.parametrize(("base", "tee"), [(policy_data.TD, "tdx"), (policy_data.AMD, "snp")])
def test_guests_that_may_have_been_told_anything_are_found_and_those_of_a_job_are_not(base: dict[str, Any], tee: str) -> None:
    assert found({**GOOD, **base}) == [("warning", "init-data-unpinned", tee, "p")]
    assert found({**GOOD, **base, "job_init_data": {"policy.rego": "package agent_policy\n"}}) == []
    both = {**GOOD, **base, "measurements": {"sgx": [SGX], **base["measurements"]}, "min_tcb_date": "2029-01-01"}
    assert [row for row in found(both) if row[1] == "init-data-unpinned"] == [("warning", "init-data-unpinned", tee, "p")]
    other = {**both, "init_data": {"sgx": ["5a" * 64]}}
    assert ("warning", "init-data-unpinned", tee, "p") in found(other), "what an enclave was told says nothing of a guest"
    assert not any(row[1] == "init-data-unpinned" for row in found({**GOOD, **base, "allow": ["simulated"]}))


@pytest.mark.parametrize("pinned", [(), ("rtmr0",), ("rtmr1",), ("rtmr0", "rtmr2")])
def test_td_whose_kernel_is_not_pinned_is_an_error(pinned: tuple[str, ...]) -> None:
    """Such a policy can only be built for a simulated TD."""
    said = found({**GOOD, **TD, "registers": registers(*pinned), "allow": ["simulated"]})
    assert ("error", "td-software-unpinned", "tdx", "p") in said
    assert "td-configuration-unpinned" not in {code for _, code, _, _ in said}, "whose software is open, so is the configuration"


@pytest.mark.parametrize(("switch", "says"), [("simulated", "a simulated TEE"), ("debug", "a TEE whose memory the host can read")])
def test_switch_that_protects_nothing_is_an_error(switch: str, says: str) -> None:
    (finding,) = lint(Policy.from_json({**GOOD, "allow": [switch]}), TODAY)
    message = f"the policy accepts {says}, which protects nothing"
    expected = Finding(f"{switch}-allowed", "error", switch, message, f"remove {switch} from allow", "p")
    assert finding == expected
    assert finding.to_json() == {
        "code": f"{switch}-allowed", "severity": "error", "subject": switch, "message": message, "hint": f"remove {switch} from allow",
        "policy": "p",
    }  # fmt: skip


def test_every_finding_has_a_hint_and_errors_come_first() -> None:
    data = {
        **GOOD,
        "allow": ["snp-migration-agent", "debug"],
        "min_tcb_date": None,
        "advisories_allowed": ["INTEL-SA-00002", "INTEL-SA-00001"],
    }
    policy = Policy.from_json({"name": "c", "any_of": [{**data, "name": "b"}, {**data, "name": "a"}]})
    findings = lint(policy, TODAY)
    expected = [("error", "debug-allowed", "debug"), ("error", "no-minimum-tcb", "sgx")], [
        ("warning", "advisory-for-good", "INTEL-SA-00001"), ("warning", "advisory-for-good", "INTEL-SA-00002"),
        ("warning", "exception", "snp-migration-agent"),
    ]  # fmt: skip
    assert [(one.severity, one.code, one.subject, one.policy) for one in findings] == [
        (*row, f"c/{name}") for rows in expected for name in "ab" for row in rows
    ]
    assert all(one.hint and one.message for one in findings)


def test_lint_finds_a_policy_without_roles() -> None:
    assert found({name: value for name, value in GOOD.items() if name != "roles"}) == [("warning", "role-missing", "", "p")]


# --- which policies are refused --------------------------------------------------------------------------------------


def refused(data: Any) -> set[str]:
    policy = Policy.from_json(data)
    return {f"{finding.policy}: {finding.code}" for finding in refusing(policy, lint(policy, TODAY))}


def test_errors_refuse_a_policy_that_does_not_say_itself_that_it_protects_nothing() -> None:
    lax = {"name": "lax", "measurements": {"sgx": [SGX]}, "roles": ["worker"]}
    trial = {**lax, "name": "trial", "allow": ["simulated"]}
    assert refused(GOOD) == set()
    assert refused({**GOOD, "allow": ["snp-migration-agent"]}) == set()
    assert refused(lax) == {"lax: no-minimum-tcb"}
    assert refused(trial) == refused({**lax, "allow": ["debug"]}) == set()
    assert refused({"name": "any", "any_of": [trial, lax]}) == {"any/lax: no-minimum-tcb"}
    assert refused({"name": "all", "all_of": [trial, lax]}) == {"all/lax: no-minimum-tcb"}
    assert refused({"name": "out", "any_of": [{"name": "in", "any_of": [trial, lax]}, GOOD]}) == {"out/in/lax: no-minimum-tcb"}


# --- compositions ----------------------------------------------------------------------------------------------------


def all_of(*changes: dict[str, Any], base: dict[str, Any] = GOOD) -> list[tuple[str, str, str, str]]:
    return found({"name": "c", "all_of": [{**base, "name": name, **change} for name, change in zip("ab", changes, strict=True)]})


def test_any_of_asks_as_little_as_its_least_member() -> None:
    data = {"name": "c", "any_of": [{**GOOD, "name": "a"}, {**GOOD, "name": "b", "min_tcb_date": None}]}
    assert found(data) == [("error", "no-minimum-tcb", "sgx", "c/b")]


def test_all_of_asks_what_any_member_asks() -> None:
    weak: dict[str, Any] = {"min_tcb_date": None}
    assert all_of({}, weak) == []
    assert all_of(weak, weak) == [("error", "no-minimum-tcb", "sgx", f"c/{name}") for name in "ab"]


def test_all_of_does_not_ask_what_its_members_ask_of_other_things() -> None:
    first, second = ({"advisories_allowed": [f"INTEL-SA-0000{number}"]} for number in (1, 2))
    assert all_of(first, second) == []
    assert [subject for _, _, subject, _ in all_of(first, first)] == ["INTEL-SA-00001"] * 2


def test_last_day_that_is_over_is_told_of_each_member_of_all_of() -> None:
    over = {**OLD, "statuses_until": {"OutOfDate": "2029-12-31"}}
    assert all_of({}, over) == [("warning", "grace-expired", "OutOfDate", "c/b")]


def test_all_of_that_leaves_open_one_thing_in_two_ways_is_told() -> None:
    """RTMR0 is pinned by neither, and no member says which roles it is for."""
    td = {**GOOD, **TD}
    said = all_of({"registers": {}, "allow": ["simulated"]}, {"registers": registers("rtmr1", "rtmr2")}, base=td)
    assert said == [("warning", "td-configuration-unpinned", "tdx", f"c/{name}") for name in "ab"]
    silent = {name: value for name, value in GOOD.items() if name != "roles"}
    every = {"roles": ["driver", "worker", "broker", "aggregator"]}
    assert [code for _, code, _, _ in all_of({}, every, base=silent)] == ["role-missing", "role-unrestricted"]
    assert all_of({"roles": ["worker"]}, every) == []

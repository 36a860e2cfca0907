"""What changed between two policies, and which of the two accepts more."""

from __future__ import annotations

from typing import Any

import pytest
from support.policy_data import AMD, GOOD, LEAST, SGX, SIGNER, TD, TDX, TPM

from confide.attest.policy import Policy
from confide.attest.policy_diff import Change, diff

OTHER = "77" * 32
ADVISORY, UNTIL = "INTEL-SA-00001", {"id": "INTEL-SA-00001", "until": "2030-01-01"}


def changes(old: Any, new: Any) -> list[Change]:
    return list(diff(Policy.from_json(old), Policy.from_json(new)))


def directions(old: Any, new: Any) -> set[tuple[str, str]]:
    return {(change.direction, change.field) for change in changes(old, new)}


_PAIRS: list[tuple[Any, Any, str]] = [
    ({}, {"measurements": {"sgx": [SGX, OTHER]}}, "measurements.sgx"),
    ({}, {"statuses": ["UpToDate", "SWHardeningNeeded"]}, "statuses"),
    ({}, {"roles": ["worker", "driver"]}, "roles"),
    ({}, {"allow": ["debug"]}, "allow"),
    ({}, {"min_tcb_date": "2028-01-01"}, "min_tcb_date"),
    ({}, {"min_tcb_date": None}, "min_tcb_date"),
    ({"min_tcb_eval": 17}, {"min_tcb_eval": 16}, "min_tcb_eval"),
    ({"min_tcb_eval": 17}, {}, "min_tcb_eval"),
    ({}, {"advisories_allowed": [ADVISORY]}, "advisories_allowed"),
    ({"advisories_allowed": [UNTIL]}, {"advisories_allowed": [ADVISORY]}, f"advisories_allowed.{ADVISORY}.until"),
    (
        {"advisories_allowed": [UNTIL]}, {"advisories_allowed": [{**UNTIL, "until": "2030-01-02"}]},
        f"advisories_allowed.{ADVISORY}.until",
    ),
    ({"statuses_until": {"UpToDate": "2030-01-01"}}, {"statuses_until": {"UpToDate": "2030-01-02"}}, "statuses_until.UpToDate"),
    ({"statuses_until": {"UpToDate": "2030-01-01"}}, {}, "statuses_until.UpToDate"),
    (SIGNER, {}, "signers.sgx"),
    ({"platforms": {"fmspc": ["00906ed50000"]}}, {}, "platforms.fmspc"),
    ({"platforms": {"ppid": ["ab" * 16]}}, {}, "platforms.ppid"),
    ({**TD, "platforms": {"piid": ["ab" * 16]}}, TD, "platforms.piid"),
    ({**AMD, "platforms": {"chip_id": ["ab" * 64]}}, AMD, "platforms.chip_id"),
    ({**TPM, "platforms": {"tpm_key": ["000b" + SGX]}}, TPM, "platforms.tpm_key"),
    ({"jobs": ["ab" * 48]}, {}, "jobs"),
    ({"max_collateral_age_days": 2}, {"max_collateral_age_days": 3}, "max_collateral_age_days"),
    ({"max_evidence_age_s": 2}, {}, "max_evidence_age_s"),
    (TD, {**TD, "registers": {"rtmr1": [TDX], "rtmr2": [TDX]}}, "registers.rtmr0"),
    (TPM, {**TPM, "registers": {"pcr16": [SGX]}}, "registers.pcr7"),
    (AMD, {**AMD, "min_tcb": {"Genoa": {**LEAST, "snp": 1}}}, "min_tcb.Genoa.snp"),
    (AMD, {**AMD, "min_tcb": {"Genoa": LEAST, "Milan": LEAST}}, "min_tcb products"),
    (AMD, {**AMD, "vmpls": [0, 1]}, "vmpls"),
]  # fmt: skip


@pytest.mark.parametrize(("strict", "lax", "field"), _PAIRS, ids=lambda value: value if isinstance(value, str) else "")
def test_diff_says_which_way_a_field_went(strict: Any, lax: Any, field: str) -> None:
    assert [(change.direction, change.field) for change in changes({**GOOD, **strict}, {**GOOD, **lax})] == [("laxer", field)]
    assert [(change.direction, change.field) for change in changes({**GOOD, **lax}, {**GOOD, **strict})] == [("stricter", field)]


@pytest.mark.parametrize("data", [strict for strict, _, _ in _PAIRS], ids=lambda _: "")
def test_policy_does_not_differ_from_itself(data: Any) -> None:
    assert changes({**GOOD, **data}, {**GOOD, **data}) == []


def test_list_that_lost_and_won_entries_is_both() -> None:
    assert directions(GOOD, {**GOOD, "measurements": {"sgx": [OTHER]}}) == {("laxer", "measurements.sgx"), ("stricter", "measurements.sgx")}


def test_values_are_shown_as_they_were_and_are() -> None:
    jobs, more = ["ab" * 48], ["ab" * 48, "cd" * 48]
    assert changes({**GOOD, "jobs": jobs}, {**GOOD, "jobs": more}) == [Change("jobs", "laxer", jobs[0], ", ".join(more))]
    assert changes(GOOD, {**GOOD, "jobs": jobs}) == [Change("jobs", "stricter", "not asked", jobs[0])]
    assert changes(GOOD, {**GOOD, "allow": ["debug"]}) == [Change("allow", "laxer", "none", "debug")]
    (change,) = changes(GOOD, {**GOOD, "min_tcb_date": None})
    assert change.to_json() == {"field": "min_tcb_date", "direction": "laxer", "old": "2029-01-01", "new": "not asked"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (GOOD, {**GOOD, **TD, "measurements": {"sgx": [SGX], "tdx": [TDX]}}),
        ({**GOOD, **TD}, {**GOOD, **TD, **SIGNER, "measurements": {"tdx": [TDX]}}),
        (
            {**GOOD, **AMD, "min_tcb_date": "2029-01-01"},
            {
                **GOOD, **AMD, "min_tcb_date": "2029-01-01", "measurements": {"snp": [TDX], "sgx": [SGX]},
                "platforms": {"fmspc": ["00906ed50000"]},
            },
        ),
    ],
    ids=["td", "enclave by its signer", "enclave on one model"],
)  # fmt: skip
def test_kind_of_tee_more_is_one_change(one: Any, other: Any) -> None:
    """What is asked of that kind says nothing of those that both accept."""
    assert changes(one, other)[0].field == "tees"
    assert directions(one, other) == {("laxer", "tees")}
    assert directions(other, one) == {("stricter", "tees")}


@pytest.mark.parametrize(
    ("kind", "pins", "more"),
    [
        ("snp", {"min_tcb": {"Genoa": LEAST}, "platforms": {"chip_id": ["ab" * 64]}}, {("laxer", "min_tcb products")}),
        (
            "tpm", {"registers": {"pcr7": [SGX]}, "allow": ["tpm-no-memory-protection"], "platforms": {"tpm_key": ["000b" + SGX]}},
            {("laxer", "allow")},
        ),
    ],
)  # fmt: skip
def test_machines_and_registers_of_a_kind_of_tee_more_are_no_changes(kind: str, pins: Any, more: set[tuple[str, str]]) -> None:
    both = {**GOOD, **pins, "measurements": {"sgx": [SGX], kind: [TDX if kind == "snp" else SGX]}}
    assert directions(GOOD, both) == {("laxer", "tees"), *more}


# --- compositions ----------------------------------------------------------------------------------------------------


def composed(word: str, *members: Any) -> dict[str, Any]:
    return {"name": "c", word: list(members)}


A, B = ({**GOOD, "name": name} for name in "ab")


@pytest.mark.parametrize(("word", "more", "fewer"), [("any_of", "laxer", "stricter"), ("all_of", "stricter", "laxer")])
def test_member_more_accepts_more_or_less_by_the_word(word: str, more: Any, fewer: Any) -> None:
    assert changes(composed(word, A), composed(word, A, B)) == [Change("b", more, "not there", "rules")]
    assert changes(composed(word, A, B), composed(word, B)) == [Change("a", fewer, "rules", "not there")]
    inner = {"name": "in", "all_of": [A]}
    assert changes(composed(word, A), composed(word, A, inner)) == [Change("in", more, "not there", "all_of")]


def test_change_in_a_member_stands_under_its_name() -> None:
    lax = {**A, "min_tcb_date": None}
    assert directions(composed("any_of", A), composed("any_of", lax)) == {("laxer", "a/min_tcb_date")}
    deep, deeper = ({"name": "out", "all_of": [composed("any_of", one)]} for one in (A, lax))
    assert directions(deep, deeper) == {("laxer", "c/a/min_tcb_date")}


def test_other_shape_is_a_change_that_has_no_direction() -> None:
    shapes = {"rules": {**GOOD, "name": "c"}, "any_of": composed("any_of", A), "all_of": composed("all_of", A)}
    for old, one in shapes.items():
        for new, other in shapes.items():
            assert changes(one, other) == ([] if old == new else [Change("composition", "changed", old, new)])
    inner = composed("any_of", {**composed("all_of", A), "name": "a"})
    assert changes(composed("any_of", A), inner) == [Change("a/composition", "changed", "rules", "all_of")]


def test_name_of_the_whole_is_a_change_that_decides_nothing() -> None:
    assert changes(GOOD, {**GOOD, "name": "q"}) == [Change("name", "changed", "p", "q")]
    assert changes(composed("any_of", A), {**composed("any_of", A), "name": "q"}) == [Change("name", "changed", "c", "q")]

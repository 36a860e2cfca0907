"""Policies made of policies."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from confide.attest.policy import AllOf, AnyOf, Policy, Rules, json_schema
from confide.errors import PolicyError
from confide.ids import Role, Tee

SGX, TDX = "5a" * 32, "5a" * 48
MAX_DEPTH, MAX_POLICIES = 4, 32
"""As the documentation says them."""


def rules(name: str, **change: Any) -> dict[str, Any]:
    return {"name": name, "measurements": {"sgx": [SGX], "tdx": [TDX]}, "allow": ["simulated"], **change}


WRONG = {"measurements": {"sgx": ["77" * 32], "tdx": ["77" * 48]}}


@pytest.fixture
def explain(verifier, make_evidence, now) -> Callable[..., dict[str, bool]]:
    def run(data: dict[str, Any]) -> dict[str, bool]:
        verified = verifier.verify(make_evidence(Tee.SGX), now)
        return {check.name: check.ok for check in Policy.from_json(data).explain(verified, role=Role.WORKER, now=now)}

    return run


def test_all_of_accepts_what_each_member_accepts(explain) -> None:
    assert all(explain({"name": "c", "all_of": [rules("a"), rules("b")]}).values())
    found = explain({"name": "c", "all_of": [rules("a"), rules("b", **WRONG)]})
    assert [name for name, ok in found.items() if not ok] == ["b/measurement"]


def test_any_of_accepts_what_one_member_accepts_and_shows_that_member(explain) -> None:
    found = explain({"name": "c", "any_of": [rules("a", **WRONG), rules("b")]})
    assert all(found.values())
    assert {name.split("/")[0] for name in found} == {"any-of", "b"}


def test_any_of_that_nobody_meets_shows_every_member(explain) -> None:
    found = explain({"name": "c", "any_of": [rules("a", **WRONG), rules("b", roles=["driver"])]})
    assert [name for name, ok in found.items() if not ok] == ["any-of", "a/measurement", "b/role"]


def test_lines_of_nested_policies_carry_the_path(explain) -> None:
    inner = {"name": "inner", "any_of": [rules("a", **WRONG), rules("b", **WRONG)]}
    found = explain({"name": "c", "all_of": [inner, rules("z")]})
    assert [name for name, ok in found.items() if not ok] == ["inner/any-of", "inner/a/measurement", "inner/b/measurement"]


def test_composition_says_which_tees_and_exceptions_can_be(explain) -> None:
    del explain
    a, b = rules("a", measurements={"sgx": [SGX]}), rules("b", allow=["simulated", "debug"])
    every, some = (Policy.from_json({"name": "c", word: [a, b]}) for word in ("all_of", "any_of"))
    assert (every.tees, every.allow) == ((Tee.SGX,), ("simulated",))
    assert (some.tees, some.allow) == ((Tee.SGX, Tee.TDX), ("debug", "simulated"))


def test_digest_is_of_what_is_asked_and_not_of_the_order() -> None:
    one = Policy.from_json({"name": "c", "any_of": [rules("a"), rules("b")]})
    two = Policy.from_json({"name": "c", "any_of": [rules("b"), rules("a")]})
    other = Policy.from_json({"name": "c", "all_of": [rules("b"), rules("a")]})
    assert one.digest == two.digest == Policy.from_json(one.to_json()).digest
    assert one.digest != other.digest
    assert AnyOf(name="c", any_of=(Rules(**rules("a")), Rules(**rules("b")))).digest == one.digest


def _deep(levels: int) -> dict[str, Any]:
    data = rules("r")
    for _ in range(levels - 1):
        data = {"name": "c", "all_of": [data]}
    return data


@pytest.mark.parametrize(
    "data",
    [
        {"name": "c", "all_of": []},
        {"name": "c", "any_of": []},
        {"name": "c", "any_of": [{}]},
        {"name": "c", "any_of": {"a": rules("a")}},
        {"name": "c", "any_of": [rules("a")], "all_of": [rules("a")]},
        {"name": "c", "any_of": [rules("a")], "measurements": {"sgx": [SGX]}},
        {"name": "c", "any_of": [rules("a"), rules("a")]},
        {"name": "c", "any_of": [rules("a"), "b"]},
        {"name": "c", "all_of": [rules("a", measurements={"sgx": [SGX]}), rules("b", measurements={"tdx": [TDX]})]},
        {"name": "../c", "any_of": [rules("a")]},
        {"any_of": [rules("a")]},
        {"name": "c", "any_of": [rules(f"r{n}") for n in range(MAX_POLICIES)]},
        _deep(MAX_DEPTH + 1),
        _deep(400),
    ],
    ids=lambda data: str(data)[:60],
)
def test_composition_that_asks_nothing_or_is_too_large_cannot_be_built(data) -> None:
    with pytest.raises(PolicyError):
        Policy.from_json(data)


def test_limits_are_met_exactly() -> None:
    assert Policy.from_json(_deep(MAX_DEPTH)).tees == (Tee.SGX, Tee.TDX)
    assert len(Policy.from_json({"name": "c", "any_of": [rules(f"r{n}") for n in range(MAX_POLICIES - 1)]}).members) == MAX_POLICIES - 1


def test_limits_hold_for_policies_built_of_values() -> None:
    policy: Any = Rules(**rules("r"))
    for _ in range(MAX_DEPTH - 1):
        policy = AllOf(name="c", all_of=(policy,))
    with pytest.raises(PolicyError, match="deep"):
        AllOf(name="c", all_of=(policy,))


def test_depth_of_a_policy_is_that_of_its_deepest_member() -> None:
    deep = Policy.from_json(_deep(MAX_DEPTH))
    with pytest.raises(PolicyError, match="deep"):
        AllOf(name="c2", all_of=(deep, Rules(**rules("a"))))


def test_number_of_policies_holds_for_policies_built_of_values() -> None:
    many = tuple(Rules(**rules(f"r{n}")) for n in range(MAX_POLICIES))
    assert len(AnyOf(name="c", any_of=many[1:]).any_of) == MAX_POLICIES - 1
    with pytest.raises(PolicyError, match="made of at most"):
        AnyOf(name="c", any_of=many)


def test_refusal_says_why_each_member_refused(verifier, make_evidence, now) -> None:
    policy = Policy.from_json({"name": "c", "any_of": [rules("a", **WRONG), rules("b", roles=["driver"])]})
    first = policy.explain(verifier.verify(make_evidence(Tee.SGX), now), role=Role.WORKER, now=now)[0]
    assert (first.name, first.expected, first.got) == ("any-of", "one of a, b", "none: refused by a/measurement, b/role")


def test_composed_policy_files_are_read(tmp_path) -> None:
    (tmp_path / "p.toml").write_text(f'name = "c"\n[[any_of]]\nname = "a"\nallow = ["simulated"]\n[any_of.measurements]\nsgx = ["{SGX}"]\n')
    assert isinstance(Policy.load(tmp_path / "p.toml"), AnyOf)


def test_schema_names_every_field() -> None:
    schema = json.dumps(json_schema())
    assert all(f'"{name}"' in schema for model in (Rules, AllOf, AnyOf) for name in model.model_fields)

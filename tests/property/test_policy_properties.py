"""Policies: every one that can be built reads back from JSON and from TOML as itself, under the same digest."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.policies import policies, rules

from confide.attest.policy import Policy
from confide.attest.policy_draft import to_toml
from confide.canonical import canonical, parse_object
from confide.errors import ParseError, PolicyError

many = settings(max_examples=50, deadline=None)


@given(policies)
@many
def test_policy_reads_back_from_json_as_itself(policy: Policy) -> None:
    found = Policy.from_json(parse_object(canonical(policy.to_json())))
    assert (found, found.digest) == (policy, policy.digest)


@given(policies)
@many
def test_policy_reads_back_from_toml_as_itself(policy: Policy) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.toml"
        path.write_text(to_toml(policy), encoding="utf-8")
        found = Policy.load(path)
    assert (found, found.digest) == (policy, policy.digest)


@given(rules, st.randoms(use_true_random=False))
@many
def test_order_of_what_is_accepted_does_not_change_the_digest(data: dict[str, Any], random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = list(value.items())
            random.shuffle(items)
            return {name: shuffled(item) for name, item in items}
        return random.sample(value, len(value)) if isinstance(value, list) else value

    assert Policy.from_json(shuffled(data)).digest == Policy.from_json(data).digest


@given(policies, st.data())
@many
def test_any_one_byte_changed_is_refused_or_another_policy(policy: Policy, data: st.DataObject) -> None:
    """A policy is signed with the job, or named by its digest in a grant: no policy that asks something else has that digest."""
    text = canonical(policy.to_json())
    at, byte = data.draw(st.integers(0, len(text) - 1)), data.draw(st.integers(0, 255))
    changed = text[:at] + bytes([byte]) + text[at + 1 :]
    try:
        found = Policy.from_json(parse_object(changed))
    except (PolicyError, ParseError):
        return
    assert (found.digest == policy.digest) == (found == policy)

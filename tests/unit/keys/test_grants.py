"""Grants: only what one grant says as a whole is allowed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.broker_world import JOB, OTHER_JOB, policy

from confide.attest import appraisal
from confide.attest.policy import AttestationResult, Policy
from confide.errors import AppraisalError, GrantError, ParseError, PolicyError, UsageError
from confide.ids import Purpose, Role
from confide.keys.grants import Grant, Request, decide, recipients

NOW = datetime(2026, 1, 2, tzinfo=UTC)
REQUEST = Request("airline/flights", JOB, Role.WORKER, Purpose.READ)


def grant(**changes: Any) -> Grant:
    data: dict[str, Any] = {
        "job": JOB,
        "policy": policy(),
        "roles": [Role.WORKER],
        "purposes": [Purpose.READ],
        "recipients": [],
        "not_after": None,
        "now": NOW,
    }
    return Grant.new(changes.pop("key", "airline/flights"), **{**data, **changes})


def accepts(role: Role = Role.WORKER, job: str = JOB) -> Any:
    """Stands for the appraisal of a good node.  (Only ``appraise`` makes real results; the broker's tests use it.)"""

    def appraise(_: Policy) -> AttestationResult:
        context = SimpleNamespace(job=job)
        return AttestationResult(cast(Any, None), "aa" * 48, role, cast(Any, context), cast(Any, ""), NOW, token=appraisal._TOKEN)

    return appraise


def refuses(_: Policy) -> AttestationResult:
    raise AppraisalError("measurement: expected a, got b")


def test_grant_that_covers_everything_allows() -> None:
    only = grant()
    assert decide([only], REQUEST, accepts(), NOW).grant is only


@pytest.mark.parametrize(
    "other",
    [
        grant(key="airline/crews"),
        grant(key="weather/flights"),
        grant(job=OTHER_JOB),
        grant(roles=[Role.DRIVER]),
        grant(purposes=[Purpose.WRITE]),
        grant().revoke(NOW),
        grant(not_after=NOW + timedelta(seconds=1), now=NOW - timedelta(days=1)).__class__.from_json(
            {**grant().to_json(), "not_after": NOW.isoformat()}
        ),
    ],
    ids=["key", "owner", "job", "role", "purpose", "revoked", "ended"],
)
def test_grant_that_differs_in_one_thing_allows_nothing(other: Grant) -> None:
    with pytest.raises(GrantError):
        decide([other], REQUEST, accepts(), NOW)


def test_parts_of_two_grants_do_not_add_up() -> None:
    with pytest.raises(GrantError):
        decide([grant(roles=[Role.DRIVER]), grant(purposes=[Purpose.WRITE])], REQUEST, accepts(), NOW)


def test_no_grants_is_no() -> None:
    with pytest.raises(GrantError):
        decide([], REQUEST, accepts(), NOW)


def test_node_that_no_policy_accepts_is_refused_with_the_appraisals_reason() -> None:
    with pytest.raises(AppraisalError, match="measurement"):
        decide([grant(), grant()], REQUEST, refuses, NOW)


def test_second_grant_may_accept_what_the_first_refuses() -> None:
    strict, wide = grant(policy=policy("strict")), grant(policy=policy("wide"))

    def appraise(found: Policy) -> AttestationResult:
        return refuses(found) if found.name == "strict" else accepts()(found)

    assert decide([strict, wide], REQUEST, appraise, NOW).grant is wide


@pytest.mark.parametrize("appraise", [accepts(role=Role.DRIVER), accepts(job=OTHER_JOB)], ids=["role", "job"])
def test_result_for_another_role_or_job_than_asked_is_refused(appraise: Any) -> None:
    with pytest.raises(GrantError):
        decide([grant()], REQUEST, appraise, NOW)


def test_recipients_are_those_of_grants_in_force_for_writing_by_that_job() -> None:
    write = {"purposes": [Purpose.WRITE]}
    grants = [
        grant(**write, recipients=["analyst"]),
        grant(**write, recipients=["press"]),
        grant(**write, recipients=["gone"]).revoke(NOW),
        grant(**write, recipients=["other"], job=OTHER_JOB),
        grant(recipients=["reader"]),
    ]
    assert recipients(grants, "airline/flights", JOB, NOW) == {"analyst", "press"}


@pytest.mark.parametrize(
    "changes",
    [
        {"roles": []},
        {"purposes": []},
        {"job": "short"},
        {"recipients": ["Not A Name"]},
        {"key": "flights"},
        {"not_after": NOW},
        {"not_after": datetime(2027, 1, 1)},  # noqa: DTZ001  the zone that is missing is the point
    ],
    ids=str,
)
def test_grant_that_says_too_little_or_nonsense_cannot_be_made(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        grant(**changes)


def test_grant_is_the_same_after_json() -> None:
    made = grant(recipients=["b", "a", "a"], not_after=NOW + timedelta(days=1))
    assert Grant.from_json(made.to_json()) == made
    assert made.recipients == ("a", "b")
    assert Grant.from_json(made.revoke(NOW).to_json()).revoked == NOW


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"roles": ["queen"]}, ParseError),
        ({"purposes": None}, ParseError),
        ({"not_after": "soon"}, ParseError),
        ({"created": "2026-01-02T00:00:00"}, ParseError),
        ({"extra": 1}, ParseError),
        ({"policy": {}}, PolicyError),
    ],
    ids=str,
)
def test_grant_with_a_wrong_field_is_not_read(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Grant.from_json({**grant().to_json(), **changes})


def test_revocation_keeps_its_first_time() -> None:
    first = grant().revoke(NOW)
    assert first.revoke(NOW + timedelta(days=1)) == first
    assert replace(first, revoked=None) != first

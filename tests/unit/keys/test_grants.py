"""Grants: only what one grant says as a whole is allowed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.broker_world import JOB, OTHER_JOB, RUN, policy

from confide.attest import appraisal
from confide.attest.policy import AttestationResult, Policy
from confide.errors import AppraisalError, GrantError, ParseError, PolicyError, UsageError
from confide.ids import JobDigest, Purpose, Role, SpkiDigest
from confide.keys import grants as rules
from confide.keys.grants import Decision, Grant, Request, Standing

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SPKI = SpkiDigest("5a" * 32)
REQUEST = Request("airline/flights", JOB, Role.WORKER, Purpose.READ, RUN, frozenset())


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


def decide(grants: list[Grant], request: Request, appraise: Any, now: datetime, **standing: Any) -> Decision:
    return rules.decide(grants, request, appraise, now, {one.id: Standing(**standing) for one in grants})


def recipients(grants: list[Grant], key: str, job: JobDigest, now: datetime, **standing: Any) -> set[str]:
    standings = {one.id: Standing(**standing) for one in grants}
    return rules.recipients(grants, key, job, now, standings=standings, signers=frozenset())


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
        {"not_before": datetime(2027, 1, 1)},  # noqa: DTZ001
        {"not_before": NOW + timedelta(days=2), "not_after": NOW + timedelta(days=1)},
        {"max_runs": 0},
        {"max_runs": 1_000_001},
        {"signer": SPKI},
        {"job": None},
        {"job": None, "signer": "ab"},
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
        ({"max_runs": True}, ParseError),
        ({"max_runs": "3"}, ParseError),
        ({"not_before": "now"}, ParseError),
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


def test_grant_of_an_earlier_store_is_read_and_asks_for_none_of_what_is_new() -> None:
    older = {name: value for name, value in grant().to_json().items() if name not in {"signer", "not_before", "max_runs"}}
    read = Grant.from_json(older)
    assert (read.signer, read.not_before, read.max_runs) == (None, None, None)


def test_digest_is_over_every_term_and_not_over_revocation() -> None:
    made = grant(recipients=["a"], not_after=NOW + timedelta(days=1), max_runs=2)
    changed = {
        "id": "0" * 16,
        "key": "airline/crews",
        "job": OTHER_JOB,
        "policy": policy("other").to_json(),
        "roles": ["driver"],
        "purposes": ["write"],
        "recipients": ["b"],
        "created": (NOW - timedelta(days=1)).isoformat(),
        "not_before": NOW.isoformat(),
        "not_after": None,
        "max_runs": 3,
    }
    digests = {Grant.from_json({**made.to_json(), name: value}).digest for name, value in changed.items()}
    assert set(changed) == set(made.to_json()) - {"revoked", "signer"}
    assert len(digests | {made.digest}) == len(changed) + 1
    assert replace(made, job=None, signer=SPKI).digest not in digests
    assert made.revoke(NOW).digest == made.digest


def test_one_moment_has_one_digest_whatever_its_zone() -> None:
    ahead = (NOW + timedelta(days=1)).astimezone(timezone(timedelta(hours=5)))
    made = grant(not_after=ahead)
    assert Grant.from_json(made.to_json()).digest == made.digest


# --- time, runs, approvals, signers: each refusal says why ----------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "standing", "why"),
    [
        ({"not_before": NOW + timedelta(seconds=1)}, {}, "not begun yet"),
        ({"max_runs": 2}, {"runs": 2}, "all the runs that it is for: 2"),
        ({"max_runs": 1}, {"runs": 1}, "all the runs"),
        ({}, {"needed": 2, "approved_by": ("ada",)}, "waits for approvals: it has 1 of 2"),
        ({}, {"needed": 2, "approved_by": ("ada", "ada")}, "waits for approvals"),
        ({"job": None, "signer": SPKI}, {}, "covers this job"),
    ],
)
def test_refusal_says_why(changes: dict[str, Any], standing: dict[str, Any], why: str) -> None:
    only = grant(**changes)
    with pytest.raises(GrantError, match=why):
        decide([only], REQUEST, accepts(), NOW, **standing)


def test_reason_is_of_the_grant_that_came_farthest() -> None:
    revoked, other = grant().revoke(NOW), grant(purposes=[Purpose.WRITE])
    for grants in ([revoked, other], [other, revoked]):
        with pytest.raises(GrantError, match="revoked"):
            decide(grants, REQUEST, accepts(), NOW)


def test_run_that_was_counted_may_ask_again() -> None:
    only = grant(max_runs=1)
    assert decide([only], REQUEST, accepts(), NOW, runs=1, counted=True).grant is only


def test_grant_without_a_known_standing_does_not_count() -> None:
    only = grant()
    with pytest.raises(GrantError, match="approvals"):
        rules.decide([only], REQUEST, accepts(), NOW, {})
    written = grant(purposes=[Purpose.WRITE], recipients=["analyst"])
    assert rules.recipients([written], "airline/flights", JOB, NOW, standings={}, signers=frozenset()) == set()


def test_grant_to_a_signer_covers_what_was_signed() -> None:
    only = grant(job=None, signer=SPKI, purposes=[Purpose.READ, Purpose.WRITE], recipients=["analyst"])
    assert decide([only], replace(REQUEST, signers=frozenset({SPKI})), accepts(), NOW).grant is only
    standings = {only.id: Standing()}
    assert rules.recipients([only], "airline/flights", JOB, NOW, standings=standings, signers=frozenset({SPKI})) == {"analyst"}
    assert rules.recipients([only], "airline/flights", JOB, NOW, standings=standings, signers=frozenset()) == set()


def test_recipients_of_a_grant_that_waits_or_has_not_begun_are_none_and_used_runs_do_not_matter() -> None:
    write = {"purposes": [Purpose.WRITE], "recipients": ["analyst"]}
    key = "airline/flights"
    assert recipients([grant(**write)], key, JOB, NOW, needed=1) == set()
    assert recipients([grant(**write, not_before=NOW + timedelta(days=1))], key, JOB, NOW) == set()
    assert recipients([grant(**write, max_runs=1)], key, JOB, NOW, runs=1) == {"analyst"}

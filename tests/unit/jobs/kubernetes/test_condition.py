"""From pods, Jobs and events to one reason.

``conditions/`` has one scenario a file: an object and its events in the shape in which that version of Kubernetes gives them, put
together by hand after its API reference and messages; the cluster tests see the ones that can be brought about there.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.jobs.kubernetes.condition import Phase, condition_of, job_condition, refusal
from confide.jobs.kubernetes.reasons import Code, hint_for

FOLDER = Path(__file__).parent / "conditions"
SCENARIOS = sorted(path.stem for path in FOLDER.glob("*.json"))
COUNT = 64
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from(["Failed", "True", "False", "node", "Running"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([
        "status", "metadata", "phase", "conditions", "containerStatuses", "state", "terminated", "waiting", "running", "reason", "message",
        "exitCode", "signal", "type", "name", "deletionTimestamp", "involvedObject", "uid", "lastTimestamp", "series", "spec", "suspend",
    ]), inner, max_size=6),
    max_leaves=30,
)  # fmt: skip
OBJECT = JSON.filter(lambda value: isinstance(value, dict))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_state_is_told_as_one_reason(name) -> None:
    scenario = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    judge = {"Pod": condition_of, "Job": job_condition}[scenario["object"]["kind"]]
    got, expect = judge(scenario["object"], scenario["events"]), scenario["expect"]
    assert (got.phase, got.code, got.final, got.exit_status) == (
        Phase(expect["phase"]), Code(expect["code"]), expect["final"], expect["exit_status"],
    )  # fmt: skip
    assert expect["says"] in got.message
    assert expect["hint"] in (got.hint or "")
    assert (got.message == "") == (not expect["says"])
    assert got.started == (got.phase is not Phase.WAITING)


def test_all_scenarios_are_here_and_every_code_has_one() -> None:
    assert len(SCENARIOS) == COUNT
    told = {json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["expect"]["code"] for name in SCENARIOS}
    assert told | {Code.INVALID} == set(Code)  # an invalid object is refused at once: below


def test_every_code_that_is_a_problem_has_a_hint() -> None:
    without = {code for code in Code if hint_for(code, "") is None}
    assert without == {Code.STARTING, Code.RUNNING, Code.SUCCEEDED, Code.UNKNOWN}


@pytest.mark.parametrize(("status", "message", "code"), [
    (403, 'pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3', Code.QUOTA_EXCEEDED),
    (403, 'pods "x" is forbidden: failed quota: q: must specify limits.memory for: node', Code.QUOTA_EXCEEDED),
    (403, 'pods "x" is forbidden: pod rejected: RuntimeClass "kata-qemu-snp" not found', Code.RUNTIME_MISSING),
    (403, 'pods is forbidden: User "ann" cannot create resource "pods" in API group "" in the namespace "default"', Code.FORBIDDEN),
    (401, "Unauthorized", Code.FORBIDDEN),
    (404, 'namespaces "team-a" not found', Code.INVALID),
    (409, 'jobs.batch "demo" already exists', Code.INVALID),
    (422, 'Pod "x" is invalid: spec.containers[0].resources.limits[sgx.intel.com/epc]: Invalid value: "1.5"', Code.INVALID),
    (500, "Internal error occurred", Code.UNKNOWN),
    (500, "", Code.UNKNOWN),
])  # fmt: skip
def test_a_refused_request_says_why(status, message, code) -> None:
    got = refusal(status, message)
    assert (got.code, got.final, got.phase) == (code, True, Phase.ENDED)
    assert message in got.message
    assert got.message
    assert (got.hint is None) == (code is Code.UNKNOWN)


def test_another_container_in_the_pod_is_not_looked_at() -> None:
    other = {"name": "sidecar", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
    ours = {"name": "node", "state": {"terminated": {"exitCode": 4, "reason": "Error"}}}
    pod = {"kind": "Pod", "metadata": {"name": "p"}, "status": {"phase": "Failed", "containerStatuses": [other, ours]}}
    assert condition_of(pod).exit_status == 4
    assert condition_of({**pod, "status": {"phase": "Running", "containerStatuses": [other]}}).phase is Phase.WAITING


def test_a_pod_that_is_gone_is_over_whatever_was_last_seen_of_it() -> None:
    for path in sorted(FOLDER.glob("*.json")):
        scenario = json.loads(path.read_text(encoding="utf-8"))
        if scenario["object"]["kind"] == "Pod":
            before, after = (condition_of(scenario["object"], scenario["events"], gone=gone) for gone in (False, True))
            assert (after.phase, after.final, after.exit_status) == (Phase.ENDED, True, before.exit_status)
            if before.phase is Phase.ENDED:
                assert after == before


def test_events_of_another_pod_say_nothing_of_this_one() -> None:
    event = {"involvedObject": {"name": "other", "uid": "b"}, "reason": "FailedMount", "message": 'configmap "x" not found'}
    pod = {"metadata": {"name": "p", "uid": "a"}, "status": {"phase": "Pending"}}
    assert condition_of(pod, [event]).code is Code.STARTING
    assert condition_of(pod, [{**event, "involvedObject": {"name": "p", "uid": "a"}}]).code is Code.CONFIG_MAP_MISSING
    assert condition_of(pod, [{**event, "involvedObject": {"name": "p", "uid": "b"}}]).code is Code.STARTING  # an earlier pod of its name


def test_of_events_of_one_second_the_later_one_counts() -> None:
    def event(name, reason, message):
        about = {"metadata": {"name": name}, "involvedObject": {"name": "p"}, "lastTimestamp": "2026-11-28T09:00:00Z"}
        return {**about, "reason": reason, "message": message}

    mount, pull = ("FailedMount", 'configmap "x" not found'), ("Pulling", "Pulling image")
    pod = {"metadata": {"name": "p"}, "status": {"phase": "Pending"}}
    assert condition_of(pod, [event("p.18b", *pull), event("p.17b", *mount)]).code is Code.STARTING
    assert condition_of(pod, [event("p.17b", *pull), event("p.18b", *mount)]).code is Code.CONFIG_MAP_MISSING


def test_a_message_cannot_steer_a_terminal_and_ends() -> None:
    message = "\x1b[2Jgone\r\n\u202efine" + "x" * 9999
    said = condition_of({"metadata": {"name": "p"}, "status": {"phase": "Failed", "reason": "Evicted", "message": message}}).message
    assert said.isprintable()
    assert "gone" in said
    assert len(said) < 700


@given(OBJECT, st.lists(OBJECT, max_size=3))
def test_whatever_the_control_plane_says_is_one_reason(pod, events) -> None:
    for judge in (condition_of, job_condition):
        got = judge(pod, events)
        assert got.message.isprintable()
        assert got.final == (got.phase is Phase.ENDED) or got.code is Code.IMAGE_PULL
        assert got.exit_status is None or got.final

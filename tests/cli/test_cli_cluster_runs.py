"""``confide runs show`` of a run in a cluster: what its cluster says, and that this proves nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from support.cluster_plans import RUN, profile_for, tee_of
from support.cluster_plans import plan_for as planned
from support.kubernetes_api import InMemoryApi

from confide.cli import on_cluster
from confide.crypto.sign import SigningKey
from confide.errors import UnavailableError
from confide.ids import RunId
from confide.jobs.kubernetes.objects import render
from confide.jobs.kubernetes.profile import Shape
from confide.jobs.store import RunStore


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InMemoryApi:
    """A detached run in this home's store, and its cluster."""
    plan, found = planned(Shape.SIMULATED), InMemoryApi()
    made = render(plan, profile_for(Shape.SIMULATED), simulated_tee=tee_of(Shape.SIMULATED))
    for each in (*made.applied, *made.workers.values()):
        found.create(each)
    found.objects["ConfigMap", f"{RUN}-result"]["data"]["standing"] = '{"worker-1":{"type":"worker-accepted"}}'
    folder = RunStore(tmp_path / "home" / "runs").create(RunId(RUN), {**plan.to_json(), "on": "k8s:here/default"})
    SigningKey.generate().save_private(folder.client_key)
    folder.release()
    monkeypatch.setattr(on_cluster, "cluster_of", lambda place: contextlib.nullcontext(found) if place == "k8s:here/default" else None)
    return found


def test_a_detached_run_is_shown_with_what_its_cluster_says(confide: Any, tmp_path: Path, api: InMemoryApi) -> None:
    said = confide("--home", tmp_path / "home", "runs", "show", RUN)
    assert "status" in said.out
    assert "as k8s:here/default says, which proves nothing:" in said.out
    assert f"  worker-1 (simulated): accepted; {RUN}-worker-1 waiting" in said.out
    assert "  worker-2 (simulated): not heard of yet" in said.out
    api.objects["ConfigMap", f"{RUN}-result"]["data"]["result"] = "sealed"
    assert "`confide runs attach` takes it" in confide("--home", tmp_path / "home", "runs", "show", RUN).out
    found = confide("--home", tmp_path / "home", "runs", "show", RUN, "--json").json["cluster"]
    assert (found["reached"], found["ended"], [node["node"] for node in found["nodes"]]) == (True, True, ["worker-1", "worker-2"])


def test_a_cluster_that_is_not_reached_is_told(
    confide: Any, tmp_path: Path, api: InMemoryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_place: str) -> Any:
        raise UnavailableError("no route to host")

    monkeypatch.setattr(on_cluster, "cluster_of", away)
    said = confide("--home", tmp_path / "home", "runs", "show", RUN)
    assert said.status == 0
    assert "k8s:here/default cannot be asked: no route to host" in said.out
    assert confide("--home", tmp_path / "home", "runs", "show", RUN, "--json").json["cluster"]["reached"] is False


def test_nothing_is_asked_of_a_run_that_has_ended(confide: Any, tmp_path: Path, api: InMemoryApi) -> None:
    folder = RunStore(tmp_path / "home" / "runs").open(RUN)
    folder.write("result.json", {"status": "succeeded", "ended": "2026-11-28T10:00:00+00:00", "outputs": {}, "error": None})
    said = confide("--home", tmp_path / "home", "runs", "show", RUN, "--json").json
    assert "cluster" not in said

"""A run with the image that ``confide image build`` makes: nothing of this machine is mounted but the data."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from cluster.built import BuiltImage
from cluster.conftest import ClusterStage
from cluster.runs import Told, left_of, polars_job, run, written

from confide.errors import AppraisalError
from confide.jobs.kubernetes.client import Cluster
from confide.jobs.kubernetes.profile import ClusterProfile
from confide.jobs.kubernetes.target import KubernetesTarget
from confide.jobs.result import RunEvent

pytestmark = pytest.mark.timeout(1000)


@pytest.fixture
def of_the_image(stage: ClusterStage, built_image: BuiltImage) -> ClusterStage:
    """The stage, whose owners and job ask for what the build printed."""
    made = copy.copy(stage)
    made.policy = built_image.policy
    return made


def test_image_that_was_built_runs_a_job_by_the_policy_that_its_build_printed(
    of_the_image: ClusterStage, built_image: BuiltImage, api: Cluster, profile: dict[str, Any]
) -> None:
    pods: list[dict[str, Any]] = []

    def look(event: RunEvent) -> None:
        if event.type == "program-started":
            pods.extend(api.list("Pod", f"confide.dev/run={told.run}"))

    job, told = polars_job(of_the_image), Told(look)
    table = {**profile, "image": built_image.name, "allow_tag": False, "volumes": profile["volumes"][-1:]}
    table["node_selector"] = {"kubernetes.io/hostname": "node1"}  # the only one that has the image
    result = run(of_the_image, KubernetesTarget(api, ClusterProfile.from_json(table), context="test"), job, told)
    assert written(job) == ["summary"]
    places = [volume["hostPath"]["path"] for pod in pods for volume in pod["spec"]["volumes"] if "hostPath" in volume]
    assert places == [str(of_the_image.root)]
    assert left_of(api, result.run) == []


def test_another_image_is_refused_by_that_policy(of_the_image: ClusterStage, api: Cluster, target: KubernetesTarget) -> None:
    told = Told()
    with pytest.raises(AppraisalError):
        run(of_the_image, target, polars_job(of_the_image), told)
    assert left_of(api, told.run) == []

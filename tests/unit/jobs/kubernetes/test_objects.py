"""From a plan and a profile to the objects of one run."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import kubernetes_validate
import pytest
from support.cluster_plans import RUN, found, plan_for, pods_of, profile_for, rendered

from confide.config import Settings
from confide.errors import UsageError
from confide.ids import Tee
from confide.jobs.kubernetes.objects import render, service_host
from confide.jobs.kubernetes.pods import memory_of
from confide.jobs.kubernetes.profile import Shape
from confide.jobs.kubernetes.yaml_text import as_json, as_yaml
from confide.node.spec import NodeSpec

VERSIONS = ("1.25.0", "1.29.0", "1.33.0", "1.37.0")
SNAPSHOTS = Path(__file__).parent / "snapshots"
FULL = {
    "namespace": "team-a",
    "image_pull_secrets": ["registry"],
    "node_selector": {"pool": "confidential"},
    "tolerations": [{"key": "tee", "operator": "Exists", "effect": "NoExecute", "toleration_seconds": 60}],
    "priority_class": "interactive",
    "queue": "research",
    "ttl_s": 600,
    "labels": {"team": "a"},
    "annotations": {"example.org/cost-centre": "42 / travel"},
    "volumes": [{"mount": "/data", "claim": "flights", "read_only": True}, {"mount": "/out", "claim": "fares"}],
    "service_account_annotations": {"example.org/role": "reader"},
    "egress": ["10.0.0.0/8", "2001:db8::/32"],
    "supplemental_groups": [994],
    "cpu_request": 0.5,
}
SHAPES = list(Shape)


@pytest.mark.parametrize("fields", [{}, FULL], ids=["three-lines", "everything"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_object_has_its_schema_in_several_versions(shape, fields) -> None:
    made = rendered(shape, **fields)
    for version in VERSIONS:
        for item in (*made.applied, *made.workers.values()):
            kubernetes_validate.validate(item, version, strict=True)


def _unpacked(text: str) -> str:
    """With what guests get at their start as the text that it is: other versions of zlib pack it in other bytes."""
    return re.sub(r"H4sI[\w+/=]+", lambda packed: gzip.decompress(base64.b64decode(packed[0])).decode(), text)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_runs_objects_are_these(request, shape) -> None:
    path = SNAPSHOTS / f"{shape}.yaml"
    text = as_yaml([*rendered(shape, workers=1).applied, *rendered(shape, workers=1).workers.values()])
    if request.config.getoption("--update-snapshots"):
        path.write_text(text, encoding="utf-8")
    expected = _unpacked(path.read_text(encoding="utf-8"))
    assert _unpacked(text) == expected, f"{path.name} differs; if this is meant, run pytest with --update-snapshots"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_input_gives_the_same_bytes(shape) -> None:
    assert as_yaml(rendered(shape, **FULL).applied) == as_yaml(rendered(shape, **FULL).applied)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_pod_has_a_command_arguments_or_an_environment(shape) -> None:
    for spec in pods_of(rendered(shape, **FULL)):
        (container,) = spec["containers"]
        assert not {"command", "args", "env", "envFrom", "lifecycle", "workingDir"} & set(container)
        assert not {"initContainers", "ephemeralContainers", "hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & set(spec)
        assert spec["enableServiceLinks"] is False


def test_only_the_driver_has_the_service_accounts_token() -> None:
    driver, *workers = pods_of(rendered(Shape.SGX))
    assert driver["automountServiceAccountToken"] is True
    assert [spec["automountServiceAccountToken"] for spec in workers] == [False, False]


def test_the_role_of_a_run_grants_pods_and_its_result_and_nothing_else() -> None:
    made = rendered(Shape.SGX)
    assert found(made, "Role")["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "get", "list", "watch", "delete"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [f"{RUN}-result"], "verbs": ["get", "patch", "update"]},
    ]
    binding = found(made, "RoleBinding")
    assert binding["roleRef"]["name"] == RUN
    assert [(s["kind"], s["name"], s["namespace"]) for s in binding["subjects"]] == [("ServiceAccount", RUN, "default")]


def test_the_drivers_config_map_has_every_workers_whole_pod() -> None:
    made = rendered(Shape.TDX)
    held = found(made, "ConfigMap", "-driver")
    assert json.loads(held["data"]["workers.json"]) == dict(made.workers)
    assert held["immutable"] is True
    assert "immutable" not in found(made, "ConfigMap", "-result")


def test_each_node_gets_its_own_spec_and_workers_the_drivers_address() -> None:
    plan, profile = plan_for(Shape.SGX), profile_for(Shape.SGX, namespace="team-a")
    made = render(plan, profile)
    for node in ("driver", "worker-1", "worker-2"):
        held = found(made, "ConfigMap", f"-{node}")
        spec = NodeSpec.from_json(json.loads(held["data"]["spec.json"]))
        assert spec.node_id == node
        assert held["metadata"]["labels"]["confide.dev/node"] == node
        if node != "driver":
            assert (spec.driver_host, spec.driver_port) == (f"{RUN}.team-a.svc", 7443)
            assert made.workers[node]["spec"]["volumes"][0]["configMap"]["name"] == f"{RUN}-{node}"
    assert service_host(plan, profile) == f"{found(made, 'Service')['metadata']['name']}.team-a.svc"


def test_the_service_finds_the_driver_and_no_worker() -> None:
    made = rendered(Shape.SGX, labels={"team": "a"})
    selector = found(made, "Service")["spec"]["selector"].items()
    assert selector <= made.driver_job["spec"]["template"]["metadata"]["labels"].items()
    assert not any(selector <= pod["metadata"]["labels"].items() for pod in made.workers.values())


def test_everything_before_the_job_is_adopted() -> None:
    made = rendered(Shape.SGX)
    assert [item["kind"] for item in made.adopted] == [
        "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy", "Service", "ConfigMap", "ConfigMap", "ConfigMap", "ConfigMap",
    ]  # fmt: skip
    assert made.applied == (*made.adopted, made.driver_job)
    assert not any("ownerReferences" in item["metadata"] for item in made.applied)


def test_a_driver_is_tried_once() -> None:
    job = rendered(Shape.SGX, ttl_s=600).driver_job["spec"]
    assert (job["backoffLimit"], job["completions"], job["parallelism"], job["ttlSecondsAfterFinished"]) == (0, 1, 1, 600)
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_a_queue_counts_the_driver_and_its_workers() -> None:
    made = rendered(Shape.SGX, queue="research")
    key = "kueue.x-k8s.io/queue-name"
    assert made.driver_job["metadata"]["labels"][key] == "research"
    assert [pod["metadata"]["labels"][key] for pod in made.workers.values()] == ["research", "research"]
    assert key not in made.driver_job["spec"]["template"]["metadata"]["labels"]  # the Job is what waits, not its pod as well


def test_pods_of_a_run_take_connections_of_each_other_only() -> None:
    spec = found(rendered(Shape.SGX), "NetworkPolicy")["spec"]
    ours = {"podSelector": {"matchLabels": {"confide.dev/run": RUN}}}
    assert spec == {**ours, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": [ours]}], "egress": [{}]}


def test_a_profile_narrows_where_pods_may_go() -> None:
    spec = found(rendered(Shape.SGX, egress=["10.0.0.0/8"]), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    peers = [peer for rule in spec["egress"] for peer in rule.get("to", [])]
    assert peers == [{"podSelector": {"matchLabels": {"confide.dev/run": RUN}}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}]
    assert [port["port"] for rule in spec["egress"] for port in rule.get("ports", [])] == [53, 53]


def test_memory_counts_the_heap_what_is_beside_it_the_agent_and_the_memory_folder() -> None:
    (spec,) = plan_for(Shape.SGX, workers=1).worker_specs("h", 1, ["worker-1"])
    assert memory_of(spec, profile_for(Shape.SGX, shm_mb=256)) == 2048 + 820 + 128 + 256
    (small,) = plan_for(Shape.SGX, workers=1, memory_mb=512).worker_specs("h", 1, ["worker-1"])
    assert memory_of(small, profile_for(Shape.SGX, shm_mb=256)) == 512 + 384 + 128 + 256


def test_every_memory_backed_volume_fits_the_pods_memory() -> None:
    for shape in Shape:
        for spec in pods_of(rendered(shape)):
            limits = spec["containers"][0]["resources"]["limits"]
            volumes = [v["emptyDir"] for v in spec["volumes"] if v.get("emptyDir", {}).get("medium") == "Memory"]
            assert volumes
            assert sum(int(v["sizeLimit"].removesuffix("Mi")) for v in volumes) < int(limits["memory"].removesuffix("Mi"))


def test_a_pod_is_promised_all_that_it_may_use_unless_the_profile_overcommits() -> None:
    for fields, cpu in (({}, "2"), ({"cpu_request": 0.25}, "500m")):
        *_, worker = pods_of(rendered(Shape.SGX, **fields))
        resources = worker["containers"][0]["resources"]
        assert resources["requests"] == {**resources["limits"], "cpu": cpu}


def test_a_simulated_run_is_refused_on_every_other_shape() -> None:
    for shape in set(Shape) - {Shape.SIMULATED}:
        with pytest.raises(UsageError, match="the run is simulated"):
            render(plan_for(Shape.SIMULATED), profile_for(shape))


def test_a_run_that_is_not_simulated_is_refused_on_the_simulated_shape() -> None:
    with pytest.raises(UsageError, match="and the run is not"):
        render(plan_for(Shape.SGX), profile_for(Shape.SIMULATED))


def test_a_node_of_another_kind_of_tee_than_the_shape_is_refused() -> None:
    for shape, other in ((Shape.SGX, Shape.TDX), (Shape.TDX, Shape.SNP), (Shape.SNP_VM, Shape.TDX), (Shape.TDX_VM, Shape.SGX)):
        with pytest.raises(UsageError, match=f"is to be in {plan_for(other).driver.tee}"):
            render(plan_for(other), profile_for(shape))
    assert plan_for(Shape.SNP_VM).driver.tee is Tee.SNP


@pytest.mark.parametrize("run", ["my_job-0123456789ab", "job.v2-0123456789ab", "2nd-0123456789ab", "a" * 64])
def test_a_run_whose_id_is_no_name_in_kubernetes_is_refused(run) -> None:
    with pytest.raises(UsageError, match="not a name that Kubernetes takes") as refused:
        render(plan_for(Shape.SGX, run=run), profile_for(Shape.SGX))
    assert "lower-case letters" in refused.value.hint


def test_a_worker_whose_pods_name_is_too_long_is_refused() -> None:
    run = "r" * 55
    with pytest.raises(UsageError, match="not a name that Kubernetes takes"):
        render(plan_for(Shape.SGX, run=run), profile_for(Shape.SGX))


def test_fifty_workers_fit_into_a_config_map() -> None:
    made = rendered(Shape.TDX, workers=50, **FULL)
    assert len(made.workers) == 50
    assert len(found(made, "ConfigMap", "-driver")["data"]["workers.json"]) < 384 * 1024


def test_more_workers_than_a_config_map_takes_are_refused() -> None:
    with pytest.raises(UsageError, match="too large for Kubernetes") as refused:
        rendered(Shape.SGX, workers=900)
    assert "fewer workers" in refused.value.hint


def test_nothing_of_the_settings_but_the_services_addresses_is_in_an_object() -> None:
    canary = "CANARY0000"
    settings = Settings(home=Path(f"/{canary}"), database=f"postgresql://{canary}@localhost/x", token_command=canary, traces=f"https://{canary}",
                        token_file=Path(f"/{canary}/token"), database_password_file=Path(f"/{canary}/password"))  # fmt: skip
    for shape in set(Shape) - {Shape.SIMULATED}:  # a simulated node is told where the installation is, which protects nothing
        made = render(plan_for(shape, settings=settings), profile_for(shape))
        assert canary not in as_json([*made.applied, *made.workers.values()])


def test_yaml_and_json_say_the_same() -> None:
    import yaml

    made = rendered(Shape.TDX, **FULL)
    listed = json.loads(as_json(made.applied))
    assert listed["kind"] == "List"
    assert list(yaml.safe_load_all(as_yaml(made.applied))) == listed["items"] == list(made.applied)
    assert "&id" not in as_yaml(made.applied)


PRIORITIES = {
    "priority_class": None,
    "queue_priority": "standard",
    "priorities": {
        "interactive": {"priority_class": "confide-interactive", "queue_priority": "interactive"},
        "batch": {"priority_class": "confide-batch"},
    },
}


@pytest.mark.parametrize(
    ("priority", "of_pods", "in_queue"),
    [(None, None, "standard"), ("interactive", "confide-interactive", "interactive"), ("batch", "confide-batch", None)],
)
def test_a_runs_priority_is_of_all_its_pods_and_of_its_place_in_the_queue(priority, of_pods, in_queue) -> None:
    profile = profile_for(Shape.TDX, **{**FULL, **PRIORITIES})
    made = render(plan_for(Shape.TDX), profile if priority is None else profile.at_priority(priority))
    for spec in pods_of(made):
        assert spec.get("priorityClassName") == of_pods
    for labelled in (made.driver_job, *made.workers.values()):
        labels = labelled["metadata"]["labels"]
        assert (labels["kueue.x-k8s.io/queue-name"], labels.get("kueue.x-k8s.io/priority-class")) == ("research", in_queue)
    for version in VERSIONS:
        for item in (made.driver_job, *made.workers.values()):
            kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("priority", ["interactive", "batch"])
def test_a_driver_and_a_worker_of_that_priority_are_these(request, priority) -> None:
    profile = profile_for(Shape.SGX, queue="research", **PRIORITIES)
    made = render(plan_for(Shape.SGX, workers=1), profile.at_priority(priority))
    text, path = as_yaml([made.driver_job, *made.workers.values()]), SNAPSHOTS / f"priority-{priority}.yaml"
    if request.config.getoption("--update-snapshots"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path.name} differs; if this is meant, run pytest with --update-snapshots"


def test_a_priority_that_the_profile_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="no priority 'urgent'") as refused:
        profile_for(Shape.SGX, queue="research", **PRIORITIES).at_priority("urgent")
    assert refused.value.hint == "priorities of the profile: batch, interactive"

"""The chart of a namespace: what it makes against the schemas of Kubernetes, who may do what, and which values are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python import chart as helm
from helm_python.errors import HelmError
from support.charts import one, rendered

from confide.jobs.kubernetes.rights import DOCTOR_CLUSTER, DOCTOR_NAMESPACE, SUBMITTER, Right

SUBMITTERS = {"users": ["ann@example.org"], "groups": ["oidc:analysts"], "serviceAccounts": [{"name": "scheduler", "namespace": "etl"}]}
VARIANTS: dict[str, dict[str, Any]] = {
    "least": {},
    "people": {"submitters": SUBMITTERS},
    "existing": {"namespace": {"name": "there"}, "networkPolicy": {"enabled": False}, "doctor": {"enabled": False}},
    "everything": {
        "namespace": {"name": "runs", "create": True},
        "submitters": SUBMITTERS,
        "doctor": {"clusterRole": True},
        "quota": {"enabled": True, "hard": {"pods": 50, "limits.memory": "200Gi", "requests.sgx.intel.com/epc": "64Gi"}},
        "limitRange": {"enabled": True, "container": {"default": {"memory": "1Gi"}, "max": {"cpu": 8, "memory": "64Gi"}}},
        "priorityClasses": {"create": True, "kueue": True},
        "imagePullSecrets": [{"name": "registry"}, {"name": "mirror.example"}],
        "queue": {"enabled": True, "clusterQueue": "analytics"},
    },
}
KUBERNETES = ["1.25.0", kubernetes_validate.latest_version()]


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(__file__).resolve().parents[2] / "deploy" / "helm" / "confide-namespace"


@pytest.fixture(scope="module")
def chart(folder: Path) -> helm.Chart:
    return helm.Chart.load(folder)


def _render(chart: helm.Chart, values: dict[str, Any]) -> list[dict[str, Any]]:
    return rendered(chart, values, name="confide", namespace="admin")


def _notes(chart: helm.Chart, values: dict[str, Any]) -> str:
    return chart.render(values, name="confide", namespace="admin")["confide-namespace/templates/NOTES.txt"]


def _rights(role: dict[str, Any]) -> set[Right]:
    found = [(rule, group, resource) for rule in role["rules"] for group in rule["apiGroups"] for resource in rule["resources"]]
    return {
        Right(verb, *_split(resource), group, name)
        for rule, group, resource in found
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def _split(resource: str) -> tuple[str, str]:
    name, _, part = resource.partition("/")
    return name, part


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_helm_finds_no_fault(folder: Path, name: str) -> None:
    found = helm.lint(str(folder), values=VARIANTS[name])
    messages = found["messages"] if isinstance(found, dict) else found
    assert [each for each in messages if str(each.get("severity", "")).upper() not in {"INFO", "1"}] == []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_what_is_made_is_what_kubernetes_takes(chart: helm.Chart, name: str, version: str) -> None:
    made = _render(chart, VARIANTS[name])
    for each in made:
        if not each["apiVersion"].startswith("kueue.x-k8s.io/"):  # no part of Kubernetes
            kubernetes_validate.validate(each, version, strict=True)
    assert len({(each["kind"], each["metadata"]["name"]) for each in made}) == len(made)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_what_is_made_is_as_it_was(chart: helm.Chart, name: str, request: pytest.FixtureRequest) -> None:
    """``--update-snapshots`` writes them anew."""
    path = Path(__file__).parent / "snapshots" / f"namespace-{name}.yaml"
    text = yaml.safe_dump_all(_render(chart, VARIANTS[name]), sort_keys=False) + f"---\n# NOTES\n{_notes(chart, VARIANTS[name])}"
    if request.config.getoption("--update-snapshots"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


def test_who_submits_has_the_rights_that_the_client_and_the_doctor_use_and_no_more(chart: helm.Chart) -> None:
    made = _render(chart, VARIANTS["everything"])
    roles = {each["metadata"]["name"]: _rights(each) for each in made if each["kind"] in {"Role", "ClusterRole"}}
    assert roles == {
        "confide-submitter": set(SUBMITTER),
        "confide-doctor": set(DOCTOR_NAMESPACE),
        "confide-doctor-runs": set(DOCTOR_CLUSTER),
    }


def test_who_submits_has_no_secret_no_wildcard_and_nothing_of_the_whole_cluster(chart: helm.Chart) -> None:
    made = _render(chart, VARIANTS["people"])
    assert not {"ClusterRole", "ClusterRoleBinding", "Secret"} & {each["kind"] for each in made}
    rights = [right for each in made if each["kind"] == "Role" for right in _rights(each)]
    assert not {"*", "secrets", "exec", "nodes", "bind", "escalate", "impersonate"} & {word for right in rights for word in right}


def test_only_who_is_named_is_bound(chart: helm.Chart) -> None:
    assert "RoleBinding" not in {each["kind"] for each in _render(chart, {})}
    assert "Nobody may submit yet" in _notes(chart, {})
    binding = next(each for each in _render(chart, VARIANTS["people"]) if each["kind"] == "RoleBinding")
    assert [(each["kind"], each["name"]) for each in binding["subjects"]] == [
        ("User", "ann@example.org"),
        ("Group", "oidc:analysts"),
        ("ServiceAccount", "scheduler"),
    ]


def test_everything_is_in_the_runs_namespace(chart: helm.Chart) -> None:
    cluster = {"Namespace", "ClusterRole", "ClusterRoleBinding", "PriorityClass", "WorkloadPriorityClass"}
    for name, namespace in (("least", "admin"), ("existing", "there"), ("everything", "runs")):
        made = [each for each in _render(chart, VARIANTS[name]) if each["kind"] not in cluster]
        assert {each["metadata"]["namespace"] for each in made} == {namespace}


def test_made_namespace_is_restricted_and_outlives_the_release(chart: helm.Chart) -> None:
    about = one(_render(chart, VARIANTS["everything"]), "Namespace")["metadata"]
    assert about["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert about["annotations"]["helm.sh/resource-policy"] == "keep"


def test_nobody_talks_unless_another_policy_lets_him(chart: helm.Chart) -> None:
    spec = one(_render(chart, {}), "NetworkPolicy")["spec"]
    assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_interactive_runs_come_before_batch_which_evicts_nothing(chart: helm.Chart) -> None:
    classes = {each["metadata"]["name"]: each for each in _render(chart, VARIANTS["everything"]) if each["kind"] == "PriorityClass"}
    assert classes["confide-interactive"]["value"] > classes["confide-batch"]["value"]
    assert classes["confide-batch"]["preemptionPolicy"] == "Never"
    assert not any(each["globalDefault"] for each in classes.values())


def test_kueue_has_the_same_priorities_if_its_api_is_asked_for(chart: helm.Chart) -> None:
    made = _render(chart, {"priorityClasses": {"create": True, "kueue": True, "interactive": 50, "batch": 5}})
    named = {"confide-interactive": 50, "confide-batch": 5}
    for kind, api in (("PriorityClass", "scheduling.k8s.io/v1"), ("WorkloadPriorityClass", "kueue.x-k8s.io/v1beta1")):
        assert {each["metadata"]["name"]: each["value"] for each in made if (each["kind"], each["apiVersion"]) == (kind, api)} == named
    without = _render(chart, {"priorityClasses": {"create": True}})
    assert "PriorityClass" in {each["kind"] for each in without}
    assert not [each for each in without if "kueue" in each["apiVersion"]]


def test_profile_in_the_notes_is_toml_with_what_was_given(chart: helm.Chart) -> None:
    import tomllib

    lines = re.findall(r"^  (\w+ = .*)$", _notes(chart, VARIANTS["everything"]), flags=re.MULTILINE)
    assert tomllib.loads("\n".join(lines)) == {
        "namespace": "runs",
        "image_pull_secrets": ["registry", "mirror.example"],
        "priority_class": "confide-batch",
        "queue": "confide",
        "queue_priority": "confide-batch",
    }


@pytest.mark.parametrize(
    "values",
    [
        {"namespace": {"name": "Runs"}},
        {"namespace": {"create": True}},
        {"namespace": {"create": True, "name": "admin"}},
        {"namespace": {"podSecurity": "none"}},
        {"submitters": {"users": [""]}},
        {"submitters": {"groups": ["system:authenticated"]}},
        {"submitters": {"groups": ["system:unauthenticated"]}},
        {"submitters": {"users": ["system:anonymous"]}},
        {"submitters": {"serviceAccounts": [{"name": "x"}]}},
        {"quota": {"enabled": True}},
        {"quota": {"enabled": True, "hard": {"limits.memory": "lots"}}},
        {"limitRange": {"enabled": True}},
        {"limitRange": {"enabled": True, "container": {"maximum": {"cpu": 1}}}},
        {"priorityClasses": {"create": True, "interactive": 10, "batch": 10}},
        {"priorityClasses": {"create": False, "kueue": True}},
        {"imagePullSecrets": [{"name": "x", "password": "y"}]},
        {"imagePullSecrets": ["x"]},
        {"queue": {"enabled": True}},
        {"simulation": {"enabled": True}},
        {"networkPolicy": {"from": []}},
    ],
    ids=json.dumps,
)
def test_values_that_are_wrong_or_unsafe_are_refused(chart: helm.Chart, values: dict[str, Any]) -> None:
    with pytest.raises(HelmError):
        _render(chart, values)


def test_each_value_is_explained(folder: Path) -> None:
    readme = (folder / "README.md").read_text()
    for name in yaml.safe_load((folder / "values.yaml").read_text()):
        assert f"`{name}" in readme, name

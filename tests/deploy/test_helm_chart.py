"""The chart, rendered and linted by Helm's own library; what it makes against the schemas of Kubernetes, and against `restricted`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python import chart as helm
from helm_python.errors import HelmError
from support.charts import merged, one, rendered

from confide.canonical import parse_toml

IMAGE = {"repository": "registry.example/confide-broker", "digest": f"sha256:{'ab' * 32}"}
LEAST = {"image": IMAGE, "custody": {"secretName": "confide-custody"}}
POSTGRES = {
    "replicas": 3,
    "storage": {
        "kind": "postgres",
        "postgres": {
            "url": "postgresql://confide@db.example:5432/keys",
            "passwordSecret": {"name": "db", "key": "password"},
            "caSecret": {"name": "db", "key": "ca.crt"},
        },
    },
}
VAULT = '[custody]\nkind = "vault"\naddress = "https://vault.example:8200"\nkey = "broker"\ntoken_file = "/run/confide/token"\n'
VARIANTS: dict[str, dict[str, Any]] = {
    "sqlite": {},
    "postgres": POSTGRES,
    "service": {"custody": {"kind": "service", "secretName": "vault", "settings": VAULT}},
    "sgx": {"tee": {"kind": "sgx"}},
    "tdx": {"tee": {"kind": "tdx"}},
    "snp": {"tee": {"kind": "snp", "runtimeClassName": "my-snp", "nodeSelector": {"mine": "yes"}}},
    "ingress": {"ingress": {"enabled": True, "host": "keys.example", "className": "nginx"}},
    "bare": {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}},
    "everything": {
        **POSTGRES,
        "witnesses": ["https://witness.example/a"],
        "extraNames": ["keys.example"],
        "certificateSecret": "guests",
        "settings": 'traces = "https://collector:4318"\n',
        "insecureSimulate": True,
        "serviceMonitor": {"enabled": True, "caConfigMap": {"name": "broker-ca"}, "labels": {"release": "prometheus"}},
        "podLabels": {"team": "keys"},
        "podAnnotations": {"note": "x"},
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "sgx", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "imagePullSecrets": [{"name": "registry"}],
        "service": {"annotations": {"note": "x"}},
    },
}
KUBERNETES = ["1.25.0", kubernetes_validate.latest_version()]


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(__file__).resolve().parents[2] / "deploy" / "helm" / "confide-broker"


@pytest.fixture(scope="module")
def chart(folder: Path) -> helm.Chart:
    return helm.Chart.load(folder)


def _render(chart: helm.Chart, values: dict[str, Any]) -> list[dict[str, Any]]:
    return rendered(chart, merged(LEAST, values), name="keys", namespace="confide")


def _pod(made: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = one(made, "StatefulSet", "Deployment")["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_helm_finds_no_fault(folder: Path, name: str) -> None:
    found = helm.lint(str(folder), values=merged(LEAST, VARIANTS[name]))
    messages = found["messages"] if isinstance(found, dict) else found
    bad = [each for each in messages if str(each.get("severity", "")).upper() not in {"INFO", "1"}]
    assert bad == []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_what_is_made_is_what_kubernetes_takes(chart: helm.Chart, name: str, version: str) -> None:
    made = _render(chart, VARIANTS[name])
    assert len(made) >= 4
    for each in made:
        if each["kind"] != "ServiceMonitor":  # of the Prometheus operator, no part of Kubernetes
            kubernetes_validate.validate(each, version, strict=True)
    assert len({(each["kind"], each["metadata"]["name"]) for each in made}) == len(made)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_pod_meets_the_standard_restricted_and_more(chart: helm.Chart, name: str) -> None:
    """Pod Security Standards, "Restricted"; beyond it, a root that cannot be written and no token of the cluster."""
    pod = _pod(_render(chart, VARIANTS[name]))
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["initContainers"], *pod["containers"]):
        context = container["securityContext"]
        assert context == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert container["image"] == f"{IMAGE['repository']}@{IMAGE['digest']}"
        assert "env" not in container
        assert container["resources"]["limits"]["memory"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in pod["volumes"]} | {"home"}
    kinds = {kind for volume in pod["volumes"] for kind in set(volume) - {"name"}}
    assert kinds <= {"configMap", "emptyDir", "secret", "projected"}


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_secrets_are_named_and_never_in_what_is_made(chart: helm.Chart, name: str) -> None:
    made = _render(chart, VARIANTS[name])
    assert "Secret" not in {each["kind"] for each in made}
    pod = _pod(made)
    (broker,) = pod["containers"]
    assert not any(volume.startswith(("custody", "database", "certificate")) for volume in (m["name"] for m in broker["volumeMounts"]))
    assert {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}} in pod["volumes"]


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_end_probes_and_listening_fit_the_broker(chart: helm.Chart, name: str) -> None:
    made = _render(chart, VARIANTS[name])
    pod = _pod(made)
    (broker,) = pod["containers"]
    settings = parse_toml(one(made, "ConfigMap")["data"]["config.toml"])
    assert pod["terminationGracePeriodSeconds"] >= settings["drain_s"] + 15
    paths = {probe: broker[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"startupProbe": "/livez", "readinessProbe": "/healthz", "livenessProbe": "/livez"}
    assert broker["args"][:6] == ["--home", "/var/lib/confide", "broker", "serve", "--listen", "0.0.0.0:7600"]
    assert ("--simulate" in broker["args"]) == (name == "everything")
    labels = one(made, "StatefulSet", "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert one(made, "Service")["spec"]["selector"].items() <= labels.items()


def test_settings_and_custody_are_files_that_the_broker_reads(chart: helm.Chart, tmp_path: Path) -> None:
    from confide.config import Settings
    from confide.keys.custody.settings import load

    data = one(_render(chart, VARIANTS["everything"]), "ConfigMap")["data"]
    (tmp_path / "config.toml").write_text(data["config.toml"])
    settings = Settings.load(environ={}, home=tmp_path)
    assert (settings.database, str(settings.database_ca_file)) == ("postgresql://confide@db.example:5432/keys", "/run/confide/database.ca")
    assert (settings.traces, settings.drain_s) == ("https://collector:4318", 20.0)
    custody = one(_render(chart, VARIANTS["service"]), "ConfigMap")["data"]["custody.toml"]
    (tmp_path / "custody.toml").write_text(custody)
    assert load(tmp_path / "custody.toml").kind == "vault"


def test_arguments_are_those_of_the_program(chart: helm.Chart) -> None:
    from confide.cli.broker import serve

    known = {option for parameter in serve.params for option in parameter.opts}
    for values in VARIANTS.values():
        arguments = _pod(_render(chart, values))["containers"][0]["args"]
        assert {word for word in arguments[4:] if word.startswith("--")} <= known


def test_storage_decides_the_kind_and_how_it_is_rolled(chart: helm.Chart) -> None:
    lite, pg = _render(chart, {}), _render(chart, POSTGRES)
    assert one(lite, "StatefulSet")["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "home"
    assert one(pg, "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    ports = [rule["ports"][0]["port"] for rule in one(pg, "NetworkPolicy")["spec"]["egress"]]
    assert ports == [53, 5432, 443]


def test_tees_ask_for_their_nodes(chart: helm.Chart) -> None:
    sgx, tdx, snp = (_pod(_render(chart, VARIANTS[name])) for name in ("sgx", "tdx", "snp"))
    limits = sgx["containers"][0]["resources"]["limits"]
    assert [limits[f"sgx.intel.com/{name}"] for name in ("epc", "enclave", "provision")] == ["1Gi", "1", "1"]
    assert "runtimeClassName" not in sgx
    assert sgx["nodeSelector"] == {"intel.feature.node.kubernetes.io/sgx": "true"}
    assert (tdx["runtimeClassName"], tdx["nodeSelector"]) == ("kata-qemu-tdx", {"intel.feature.node.kubernetes.io/tdx": "true"})
    assert (snp["runtimeClassName"], snp["nodeSelector"]) == ("my-snp", {"mine": "yes"})


def test_nobody_may_connect_but_who_is_named(chart: helm.Chart) -> None:
    policy = one(_render(chart, {}), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [rule["from"] for rule in policy["ingress"]] == [[{"podSelector": {}}]]


def test_notes_name_the_danger_of_simulation(chart: helm.Chart) -> None:
    notes = chart.render(merged(LEAST, VARIANTS["everything"]), name="keys", namespace="confide")["confide-broker/templates/NOTES.txt"]
    assert "protect nothing" in notes
    assert "deployment/keys-confide-broker" in notes


@pytest.mark.parametrize(
    "values",
    [
        {"image": {"digest": "latest"}},
        {"image": {"digest": ""}},
        {"custody": {"secretName": ""}},
        {"custody": {"kind": "service"}},
        {"custody": {"kind": "shares"}},
        {"replicas": 2},
        {"replicas": 0},
        {"storage": {"kind": "postgres"}},
        {"storage": {"kind": "postgres", "postgres": {"url": "postgresql://confide:secret@db/keys"}}},
        {"ingress": {"enabled": True}},
        {"serviceMonitor": {"enabled": True}},
        {"networkPolicy": {"from": []}},
        {"witnesses": ["http://witness"]},
        {"tee": {"kind": "trustzone"}},
        {"simulate": True},
    ],
    ids=str,
)
def test_values_that_are_wrong_or_unsafe_are_refused(chart: helm.Chart, values: dict[str, Any]) -> None:
    with pytest.raises(HelmError):
        chart.render(merged(LEAST, values), name="keys", namespace="confide")


def test_each_value_is_explained(folder: Path) -> None:
    readme = (folder / "README.md").read_text()
    for name in yaml.safe_load((folder / "values.yaml").read_text()):
        assert f"`{name}" in readme, name

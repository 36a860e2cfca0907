"""``confide doctor --on k8s:…`` against an API server over HTTPS, a collateral service and a broker: what it looks at and what it says."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from support.api_server import ApiServer, status
from support.raw_server import RawServer

from confide.config import Settings
from confide.errors import ConfigError
from confide.jobs.kubernetes.init_data import JOB_DIGEST_NAME
from confide.jobs.kubernetes.probe import probe_pod
from confide.jobs.kubernetes.profile import ClusterProfile

IMAGE = f"registry.example/confide-node@sha256:{'ab' * 32}"
SHAPES = ["sgx", "tdx", "snp", "tdx-vm", "snp-vm", "simulated"]
SGX = {"sgx.intel.com/enclave": "20", "sgx.intel.com/epc": "64Mi", "sgx.intel.com/provision": "20"}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """A cluster with all that the profile of the tests names."""
    (tmp_path / "cluster").mkdir()
    found = ApiServer(tmp_path / "cluster")
    found.put("/api/v1/namespaces", {"metadata": {"name": "runs"}, "status": {"phase": "Active"}})
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": SGX}
    found.put("/api/v1/nodes", {"metadata": {"name": "n"}, "status": ready})
    found.put("/api/v1/namespaces/kube-system/services", {"metadata": {"name": "kube-dns"}})
    subsets = [{"addresses": [{"ip": "10.1.1.1"}]}]
    found.put("/api/v1/namespaces/kube-system/endpoints", {"metadata": {"name": "kube-dns"}, "subsets": subsets})
    found.put("/api/v1/namespaces/runs/secrets", {"metadata": {"name": "registry"}, "data": {"x": "c2VjcmV0"}})
    monkeypatch.setenv("KUBECONFIG", str(found.kubeconfig()))
    yield found
    found.stop()


@pytest.fixture
def service() -> Iterator[RawServer]:
    """A collateral service, as far as it answers."""
    found = RawServer([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"])
    yield found
    found.close()


@pytest.fixture
def nowhere() -> str:
    """An https address that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"https://127.0.0.1:{closed.getsockname()[1]}"


@pytest.fixture
def here(tmp_path: Path, service: RawServer) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text(f'intel_service = "{service.url}"\namd_service = "{service.url}"\n')
    return tmp_path / "home"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.toml"
    path.write_text(f'image = "{IMAGE}"\nshape = "sgx"\nnamespace = "runs"\nimage_pull_secrets = ["registry"]\n')
    return path


def _checks(said: Any) -> dict[str, Any]:
    return {check["check"]: check for check in said.json["checks"]}


def test_cluster_that_has_everything_is_ready(confide: Any, api: ApiServer, here: Path, profile: Path, service: RawServer) -> None:
    said = confide("--home", here, "doctor", "--on", "k8s:test", "--cluster", profile)
    assert said.status == 0, said.out
    assert said.out.endswith("this cluster is ready for runs\n")
    for line in (
        f"ok  api server:           v1.33.1 at https://localhost:{api.port}",
        "ok  clock:                agrees with ours",
        "ok  rights:               all ",
        "ok  sgx:                  1 nodes, 20 enclaves, at most 64Mi of EPC each",
        "ok  pull secret registry: there",
        "ok  admission:            a run's pod would be taken",
        f"ok  intel collateral:     {service.url} answers",
    ):
        assert line in said.out, line
    assert "java" not in said.out
    (asked,) = [each for each in api.asked if each[0] == "POST" and each[1].endswith("/pods?dryRun=All")]
    assert asked[3]["spec"]["containers"][0]["image"] == IMAGE
    assert ("/api/v1/namespaces/runs/pods", asked[3]["metadata"]["name"]) not in api.objects


def test_what_is_missing_ends_with_status_1_and_a_fix(confide: Any, api: ApiServer, here: Path, profile: Path) -> None:
    api.remove("/api/v1/namespaces/runs/secrets", "registry")
    api.allowed = {("create", "jobs", "runs")}
    said = confide("--home", here, "doctor", "--on", "k8s:test", "--cluster", profile)
    assert said.status == 1
    assert "NO  pull secret registry: there is none\n" in said.out
    assert "hint: make it: `kubectl create secret docker-registry registry ...`" in said.out
    assert "are missing: delete jobs.batch, " in said.out
    assert said.out.endswith("2 things are missing\n")


def test_without_a_profile_no_tee_is_needed(confide: Any, api: ApiServer, here: Path) -> None:
    said = confide("--home", here, "doctor", "--on", "k8s:test", "--namespace", "runs", "--json")
    checks = _checks(said)
    assert said.status == 0, checks
    assert said.json["ready"] is True
    for name in ("runtime class kata-qemu-tdx", "runtime class kata-qemu-snp", "tdx-vm nodes", "snp-vm nodes"):
        assert (checks[name]["ok"], checks[name]["needed"]) == (False, False)
        assert checks[name]["hint"]
    assert checks["sgx"]["ok"]
    assert {"intel collateral", "amd collateral"} <= set(checks)


def test_namespace_of_the_command_line_comes_first_then_the_profiles_then_the_contexts(
    confide: Any, api: ApiServer, here: Path, profile: Path
) -> None:
    for arguments, namespace in (
        (("--namespace", "mine", "--cluster", profile), "mine"),
        (("--cluster", profile), "runs"),
        ((), "runs"),
    ):
        checks = _checks(confide("--home", here, "doctor", "--on", "k8s:test", "--json", *arguments))
        assert f"namespace {namespace}" in checks
    assert not checks.get("namespace mine")
    api.kubeconfig(namespace=None)
    assert "namespace default" in _checks(confide("--home", here, "doctor", "--on", "k8s:test", "--json"))


def test_admission_says_what_the_cluster_says(confide: Any, api: ApiServer, here: Path) -> None:
    words = 'pods "probe" is forbidden: violates PodSecurity "restricted:latest": hostPath volumes'
    api.refused["pods"] = status(403, "Forbidden", words)
    checks = _checks(confide("--home", here, "doctor", "--on", "k8s:test", "--namespace", "runs", "--json"))
    assert words in checks["admission"]["found"]
    assert "pod security level" in checks["admission"]["hint"]


def test_cluster_that_is_away_is_one_finding(confide: Any, api: ApiServer, here: Path) -> None:
    api.stop()
    said = confide("--home", here, "doctor", "--on", "k8s:test", "--json")
    checks = _checks(said)
    assert said.status == 1
    assert "cannot be reached" in checks["api server"]["found"]
    assert "VPN" in checks["api server"]["hint"]
    assert "rights" not in checks
    assert checks["intel collateral"]["ok"]


def test_context_that_there_is_not_is_a_finding(confide: Any, api: ApiServer, here: Path) -> None:
    said = confide("--home", here, "doctor", "--on", "k8s:other", "--json")
    assert said.status == 1
    assert "other" in _checks(said)["kubeconfig"]["found"]


def test_services_that_are_away_are_told_and_not_needed(confide: Any, api: ApiServer, here: Path, nowhere: str) -> None:
    (here / "config.toml").write_text(f'intel_service = "{nowhere}"\namd_service = "{nowhere}"\n')
    credentials = here / "credentials"
    credentials.mkdir()
    (credentials / "ann.broker.json").write_text(json.dumps({"url": nowhere, "spki": "ab" * 32}))
    (credentials / "bob.broker.json").write_text(json.dumps({"url": nowhere, "spki": "ab" * 32}))
    (credentials / "eve.broker.json").write_text("no JSON")
    said = confide("--home", here, "doctor", "--on", "k8s:test", "--namespace", "runs", "--json")
    checks = _checks(said)
    assert said.status == 0
    hints = {"intel collateral": "intel_service", "amd collateral": "amd_service", f"broker {nowhere}": "confide broker serve"}
    for name, hint in hints.items():
        assert (checks[name]["ok"], checks[name]["needed"]) == (False, False)
        assert hint in checks[name]["hint"]
    assert not checks["broker of eve"]["ok"]
    assert sum(name.startswith("broker https") for name in checks) == 1


def test_broker_is_known_by_its_key(confide: Any, owners: Path, api: ApiServer) -> None:
    place = next((owners / "credentials").glob("ann.broker.json"))
    right = json.loads(place.read_text())
    check = f"broker {right['url']}"
    assert _checks(confide("doctor", "--on", "k8s:test", "--json"))[check]["ok"]
    for path in (owners / "credentials").glob("*.broker.json"):
        path.write_text(json.dumps({**right, "spki": "cd" * 32}))
    try:
        assert not _checks(confide("doctor", "--on", "k8s:test", "--json"))[check]["ok"]
    finally:
        for path in (owners / "credentials").glob("*.broker.json"):
            path.write_text(json.dumps(right))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--on", "test"),
        ("--on", "k8s:"),
        ("--on", ""),
        ("--namespace", "runs"),
        ("--probe",),
        ("--on", "k8s:test", "--probe"),
        ("--on", "k8s:test", "--cluster", "bad.toml"),
    ],
)
def test_wrong_options_are_mistakes(confide: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text('shape = "sgx"\n')
    said = confide("doctor", *arguments)
    assert said.status == 2
    assert "hint:" in said.err


def test_probe_creates_a_node_and_removes_all_of_it(confide: Any, api: ApiServer, here: Path, profile: Path) -> None:
    before = set(api.objects)
    profile.write_text(profile.read_text().replace('"sgx"', '"simulated"') + "start_timeout_s = 1\n")
    (here / "config.toml").write_text((here / "config.toml").read_text() + "node_start_timeout_s = 1\n")
    said = confide("--home", here, "doctor", "--on", "k8s:test", "--cluster", profile, "--probe", "--json")
    checks = _checks(said)
    assert said.status == 1
    assert "did not listen in time" in checks["probe node"]["found"]  # there is no kubelet
    made = {asked[3]["kind"] for asked in api.asked if asked[0] == "POST" and "dryRun" not in asked[1] and "selfsubject" not in asked[1]}
    assert {"Job", "ConfigMap", "NetworkPolicy", "Role", "RoleBinding", "Service", "ServiceAccount"} <= made
    assert set(api.objects) == before


def test_nothing_is_started_where_something_needed_is_missing(confide: Any, api: ApiServer, here: Path, profile: Path) -> None:
    api.remove("/api/v1/namespaces/runs/secrets", "registry")
    checks = _checks(confide("--home", here, "doctor", "--on", "k8s:test", "--cluster", profile, "--probe", "--json"))
    assert not checks["pull secret registry"]["ok"]
    assert "probe node" not in checks
    assert not [asked for asked in api.asked if asked[1].endswith("/jobs")]


@pytest.mark.parametrize("shape", SHAPES)
def test_probe_is_a_pod_as_kubernetes_takes_it_and_of_no_job(shape: str) -> None:
    profile = ClusterProfile.from_json({"image": IMAGE, "shape": shape, "namespace": "runs"})
    pod = probe_pod(profile, Settings(home=Path("/home/ann/.confide")))
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    assert pod["spec"]["serviceAccountName"] == "default"
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["metadata"]["namespace"] == "runs"


def test_probe_with_wrong_init_data_is_refused() -> None:
    profile = ClusterProfile.from_json({"image": IMAGE, "shape": "tdx", "init_data": {JOB_DIGEST_NAME: "x"}})
    with pytest.raises(ConfigError):
        probe_pod(profile, Settings(home=Path("/home/ann/.confide")))

"""``confide spark render``: files and commands for Spark's own tools; nothing is started, and the run is there to come to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.api_server import ApiServer

from confide.attest.evidence import Evidence, NodeContext
from confide.canonical import sha256_hex
from confide.crypto.seal import SealKey
from confide.crypto.sign import SigningKey
from confide.errors import NodeLostError
from confide.ids import NodeId, Nonce, Role, SpkiDigest, Tee
from confide.job import Job
from confide.jobs.kubernetes.objects import LEFT_FILE
from confide.jobs.store import RunStore
from confide.node.kept_result import seal_result
from confide.node.record import EvidenceRecord

IMAGE = f"registry.example/confide-node@sha256:{'ab' * 32}"
JOB = f"""
name = "demo"
program = "main.py"
files = ["main.py"]

[policy]
name = "p"
measurements = {{ sgx = ["{"ab" * 32}"] }}

[broker]
url = "https://127.0.0.1:1"
spki = "{"cd" * 32}"
"""


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    (tmp_path / "cluster").mkdir()
    found = ApiServer(tmp_path / "cluster")
    monkeypatch.setenv("KUBECONFIG", str(found.kubeconfig()))
    yield found
    found.stop()


@pytest.fixture
def place(tmp_path: Path) -> list[str | Path]:
    """What every command is told: the job, and where."""
    (tmp_path / "main.py").write_text("pass\n")
    (tmp_path / "job.toml").write_text(JOB)
    (tmp_path / "profile.toml").write_text(f'image = "{IMAGE}"\nshape = "sgx"\nnamespace = "runs"\n')
    return [tmp_path / "job.toml", "--on", "k8s:test", "--cluster", tmp_path / "profile.toml"]


@pytest.mark.parametrize(
    ("tool", "files"),
    [("spark-submit", ["driver.yaml", "objects.yaml", "spark.properties"]), ("spark-operator", ["application.yaml", "objects.yaml"])],
)
def test_files_and_commands_for_each_tool(  # noqa: PLR0917  fixtures and a case
    confide: Any, api: ApiServer, place: list[Any], tmp_path: Path, tool: str, files: list[str]
) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    said = confide("--home", home, "spark", "render", *place, "--for", tool, "-o", out, "--json")
    assert said.status == 0, said.err
    assert sorted(path.name for path in out.iterdir()) == files
    commands = said.json["commands"]
    assert commands["start"][0].startswith("kubectl --context test apply -f ")
    if tool == "spark-submit":
        assert commands["start"][1].startswith(f"spark-submit --master k8s://https://localhost:{api.port} --deploy-mode cluster ")
    assert commands["follow"] == [f"confide runs attach {said.json['run']} {place[0]} --on k8s:test --cluster {place[-1]}"]
    names = {each["metadata"]["name"]: each for each in yaml.safe_load_all((out / "objects.yaml").read_text()) if "data" in each}
    assert LEFT_FILE in names[f"{said.json['run']}-driver"]["data"]
    assert not [each for each in api.asked if each[0] != "GET"]
    key = Path(said.json["client_key"])
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text() not in "".join((out / name).read_text() for name in files)


def test_priority_is_one_of_the_profiles(confide: Any, api: ApiServer, place: list[Any], tmp_path: Path) -> None:
    words = ("--home", tmp_path / "home", "spark", "render", *place, "--for", "spark-submit", "--priority", "interactive")
    said = confide(*words, "-o", tmp_path / "none")
    assert said.status == 2
    assert "no priority 'interactive'" in said.err
    with Path(place[-1]).open("a") as profile:
        profile.write('priorities = { interactive = { priority_class = "confide-interactive" } }\n')
    assert confide(*words, "-o", tmp_path / "out").status == 0
    assert yaml.safe_load((tmp_path / "out" / "driver.yaml").read_text())["spec"]["priorityClassName"] == "confide-interactive"


def test_commands_are_said(confide: Any, api: ApiServer, place: list[Any], tmp_path: Path) -> None:
    said = confide("--home", tmp_path / "home", "spark", "render", *place, "--for", "spark-submit", "-o", tmp_path / "out")
    lines = said.out.splitlines()
    assert [line for line in lines if line.startswith("#")] == ["# start", "# follow", "# remove"]
    assert len(lines) == 8
    assert lines[-2].endswith("-driver")


def test_signatures_beside_the_job_are_taken_along(confide: Any, api: ApiServer, place: list[Any], tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    SigningKey.generate().save_private(key)
    signature = confide("job", "sign", place[0], "--key", key, "--json").json
    assert Path(signature["path"]).exists()
    out = tmp_path / "out"
    run = confide("--home", tmp_path / "home", "spark", "render", *place, "--for", "spark-submit", "-o", out, "--json").json["run"]
    objects = {each["metadata"]["name"]: each for each in yaml.safe_load_all((out / "objects.yaml").read_text())}
    left = json.loads(objects[f"{run}-driver"]["data"][LEFT_FILE])
    assert len(left["job"]["signatures"]) == 1


def test_files_that_are_there_are_not_written_over(confide: Any, api: ApiServer, place: list[Any], tmp_path: Path) -> None:
    said = confide("--home", tmp_path / "home", "spark", "render", *place, "--for", "spark-submit", "-o", tmp_path)
    assert said.status == 2
    assert "is something at" in said.err
    assert confide("--home", tmp_path / "home", "runs", "ls", "--json").json["runs"] == []


def test_a_cluster_is_needed(confide: Any, place: list[Any], tmp_path: Path) -> None:
    said = confide("--home", tmp_path / "home", "spark", "render", place[0], "--for", "spark-submit")
    assert said.status == 2
    assert "--on k8s:CONTEXT" in said.err


def test_a_run_that_nobody_has_started_is_not_over_and_its_result_is_found_later(
    confide: Any, api: ApiServer, place: list[Any], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    run = confide("--home", home, "spark", "render", *place, "--for", "spark-submit", "-o", tmp_path / "out", "--json").json["run"]
    said = confide("--home", home, "runs", "attach", run, *place)
    assert "nobody has started" in said.err
    assert confide("--home", home, "runs", "ls", "--json").json["runs"][0]["status"] == "detached"
    folder = RunStore(home / "runs").open(run)
    owner, driver = SigningKey.load_private(folder.client_key).public.spki_der, SigningKey.generate()
    folder.keep_driver_key(SpkiDigest(sha256_hex(driver.public.spki_der)))  # as if it had been attested: its evidence is not asked again
    context = NodeContext(Job.load(place[0]).digest, folder.run, NodeId("driver"), SealKey.generate().public_jwk())
    evidence, nonce = Evidence(Tee.SGX, b"quote"), Nonce(bytes(32))
    shown = EvidenceRecord(Role.DRIVER, context, evidence, bytes(32), nonce, driver.public.spki_der, datetime.now(UTC))
    result = {"ok": False, "error": NodeLostError("the machine is gone").to_json(), "evidence": {}}
    kept = {"metadata": {"name": f"{run}-result"}, "data": {"result": seal_result(result, owner, driver, shown)}}
    api.put("/api/v1/namespaces/runs/configmaps", kept)
    said = confide("--home", home, "runs", "attach", run, *place)
    assert said.status == NodeLostError.exit_status
    assert "the machine is gone" in said.err

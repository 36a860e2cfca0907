"""What is told of a job and its cluster before anything is started: ``confide job init-data``, and priorities of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.api_server import ApiServer

from confide.attest.init_data import InitData, job_init_data
from confide.attest.policy import Policy
from confide.ids import JobDigest, Tee

REGO = 'package agent_policy\n\ndefault x := "é\\"\x7f"\n'
VALUE = "ab" * 48
POLICIES = {
    Tee.TDX: f'{{ name = "p", measurements = {{ tdx = ["{VALUE}"] }}, registers = {{ rtmr1 = ["{VALUE}"], rtmr2 = ["{VALUE}"] }} }}',
    Tee.SNP: f'{{ name = "p", measurements = {{ snp = ["{VALUE}"] }}, min_tcb = {{ Milan = {{ bootloader = 3, tee = 0, snp = 20, '
    "microcode = 200 } } }",
}


@pytest.fixture
def files(tmp_path: Path) -> Any:
    """A job and a cluster's profile of a shape."""

    def make(shape: str, tee: Tee = Tee.TDX) -> tuple[Path, Path]:
        (tmp_path / "main.py").write_text("pass\n")
        (tmp_path / "policy.rego").write_text(REGO)
        broker = f'{{ url = "https://127.0.0.1:1", spki = "{"ab" * 32}" }}'
        job = tmp_path / "job.toml"
        job.write_text(f'name = "demo"\nprogram = "main.py"\nfiles = ["main.py"]\npolicy = {POLICIES[tee]}\nbroker = {broker}\n')
        profile = tmp_path / "profile.toml"
        more = 'init_data = { "policy.rego" = "policy.rego" }\n' if shape in {"tdx", "snp"} else ""
        profile.write_text(f'image = "registry.example/node@sha256:{"12" * 32}"\nshape = "{shape}"\n{more}')
        return job, profile

    return make


@pytest.mark.parametrize("tee", [Tee.TDX, Tee.SNP])
def test_what_evidence_holds_is_told_before_anything_is_started(confide: Any, files: Any, tee: Tee) -> None:
    job, profile = files(str(tee), tee)
    said = confide("job", "init-data", job, "--cluster", profile, "--json").json
    document = InitData.parse(said["document"])
    assert document.data["policy.rego"] == REGO
    assert said["init_data"] == document.bound_value(tee).hex()
    assert said["init_data"] == job_init_data(JobDigest(said["digest"]), tee, {"policy.rego": REGO}).bound_value(tee).hex()
    assert said["init_data"] in confide("job", "init-data", job, "--cluster", profile).out
    measured = {"measurements": {"tdx": ["ab" * 48]}, "registers": {"rtmr1": ["ab" * 48], "rtmr2": ["ab" * 48]}}
    if tee is Tee.TDX:
        assert Policy.from_json({"name": "owner", **measured, "init_data": {"tdx": [said["init_data"]]}})


@pytest.mark.parametrize("shape", ["tdx-vm", "sgx", "simulated"])
def test_guests_that_are_given_none_have_none(confide: Any, files: Any, shape: str) -> None:
    job, profile = files(shape)
    said = confide("job", "init-data", job, "--cluster", profile)
    assert said.status == 2
    assert "given no init-data" in said.err


PRIORITIES = """queue = "research"
[priorities.interactive]
priority_class = "confide-interactive"
queue_priority = "interactive"
"""


def test_a_run_has_the_priority_that_its_user_names(confide: Any, files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cluster").mkdir()
    server = ApiServer(tmp_path / "cluster")
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig()))
    job, profile = files("tdx")
    profile.write_text(profile.read_text() + PRIORITIES)
    words = ("--home", tmp_path / "home", "run", job, "--on", "k8s:test", "--cluster", profile, "--dry-run")
    said = confide(*words, "--priority", "interactive")
    assert said.status == 0, said.err
    assert "priorityClassName: confide-interactive" in said.out
    assert "kueue.x-k8s.io/priority-class: interactive" in said.out
    assert "riority" not in confide(*words).out
    refused = confide(*words, "--priority", "urgent")
    assert refused.status == 2
    assert "priorities of the profile: interactive" in refused.err
    assert "--priority is for clusters" in confide("run", job, "--simulate", "--priority", "interactive").err
    server.stop()

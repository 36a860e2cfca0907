"""Grants on the command line: limits, approvals, signers, the policy lint and dry runs, against a broker process."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from confide.attest.binding import report_data
from confide.attest.evidence import NodeContext
from confide.attest.insecure import InsecureAttester, Installation
from confide.cli.owners import BrokerAddress
from confide.config import Settings
from confide.crypto.seal import SealKey
from confide.crypto.sign import SigningKey
from confide.ids import JobDigest, NodeId, Nonce, Role, RunId, Tee
from confide.jobs.local.simulation import SimulatedTee
from confide.jobs.store import RunStore
from confide.keys.job_signatures import JobSignature
from confide.node.record import EvidenceRecord
from confide.node.remains import Remains

DIGEST = JobDigest("ab" * 48)
MEASUREMENT = "ab" * 32


@pytest.fixture
def people(
    confide: Any, home: Path, address: BrokerAddress, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> tuple[str, str, str]:
    """An owner with a key ``k`` and two others, of this test's own."""
    monkeypatch.setenv("CONFIDE_HOME", str(home))
    name = re.sub(r"[^a-z0-9]", "-", request.node.name)[-40:].strip("-")
    names = (f"{name}-owner", f"{name}-ada", f"{name}-bob")
    for one in names:
        ticket = home / f"{one}.json"
        confide("broker", "enrol", one, "--key-file", home / "master.key", "--out", ticket)
        assert confide("keys", "init", one, "--enrolment", ticket).status == 0
    assert confide("keys", "create", f"{names[0]}/k").status == 0
    return names


def write_policy(path: Path, **fields: Any) -> Path:
    path.write_text(json.dumps({"name": "p", "measurements": {"sgx": [MEASUREMENT]}, **fields}), encoding="utf-8")
    return path


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return write_policy(tmp_path / "policy.json", allow=["simulated"], roles=["worker"])


# --- limits and approvals -------------------------------------------------------------------------------------------


def test_grant_says_its_limits(confide: Any, people: tuple[str, str, str], policy: Path) -> None:
    words = ["--role", "worker", "--purpose", "read", "--runs", "3", "--not-before", "2030-01-01", "--days", "2"]
    made = confide("keys", "grant", f"{people[0]}/k", "--digest", DIGEST, "--policy", policy, *words, "--json").json
    assert (made["roles"], made["purposes"], made["max_runs"]) == (["worker"], ["read"], 3)
    assert (made["not_before"], made["not_after"]) == ("2030-01-01T00:00:00+00:00", "2030-01-03T00:00:00+00:00")
    listed = confide("keys", "grants", "--as", people[0]).out
    assert "0 of 3" in listed
    assert "begins 2030-01-01" in listed
    said = confide("keys", "grant", f"{people[0]}/k", "--digest", DIGEST, "--policy", policy, "--until", "2031-01-01")
    assert "until:         2031-01-01T00:00:00+00:00" in said.out


@pytest.mark.parametrize(
    "words",
    [
        ["--role", "broker"],
        ["--purpose", "look"],
        ["--until", "2030-01-01", "--days", "2"],
        ["--signer", "ab" * 32],
        ["--evidence", "POLICY"],
        ["--dry-run"],
        ["--runs", "9" * 23],
        ["--until", "9999-12-31T23:59:59-14:00"],
        ["--not-before", "0001-01-01T00:00:00+14:00"],
        ["--not-before", "9999-12-31", "--days", "3650"],
        ["--signature", "POLICY"],
    ],
    ids=" ".join,
)
def test_grant_that_makes_no_sense_is_a_usage_error(confide: Any, people: tuple[str, str, str], policy: Path, words: list[str]) -> None:
    given = [str(policy) if word == "POLICY" else word for word in words]
    assert confide("keys", "grant", f"{people[0]}/k", "--digest", DIGEST, "--policy", policy, *given).status == 2


def test_two_approve_and_one_ends_it(confide: Any, people: tuple[str, str, str], policy: Path) -> None:
    owner, ada, bob = people
    assert "2 of" in confide("keys", "approvers", f"{owner}/k", "--threshold", "2", ada, bob).out
    said = confide("keys", "grant", f"{owner}/k", "--digest", DIGEST, "--policy", policy)
    assert "waits for 2" in said.out
    (view,) = confide("keys", "grants", "--as", ada, "--json").json["grants"]
    assert "waits: 0 of 2" in confide("keys", "grants", "--as", owner).out
    wrong = confide("keys", "approve", view["id"], "--as", ada, "--digest", "00" * 48)
    assert (wrong.status, "not what you have reviewed" in wrong.err) == (4, True)
    said = confide("keys", "approve", view["id"], "--as", ada, "--digest", view["digest"])
    assert f"job:           {DIGEST}" in said.out
    assert "waits: 1 of 2" in said.out
    assert "waits: 1 of 2" in confide("keys", "reject", view["id"], "--as", bob).out
    assert confide("keys", "approve", view["id"], "--as", bob, "--json").json["state"] == "approved"
    assert "in force" in confide("keys", "grants", "--as", owner).out
    assert "has 1 of 2 approvals" in confide("keys", "withdraw", view["id"], "--approval", "--as", bob).out
    assert "withdrawn" in confide("keys", "withdraw", view["id"], "--as", bob).out
    assert "revoked" in confide("keys", "grants", "--as", ada).out


def test_export_waits_for_the_keys_approvers(confide: Any, people: tuple[str, str, str], address: BrokerAddress, tmp_path: Path) -> None:
    owner, ada, bob = people
    confide("keys", "approvers", f"{owner}/k", "--threshold", "2", ada, bob)
    wrapping, file = tmp_path / "wrapping.json", tmp_path / "export.jsonl"
    confide("keys", "wrapping-key", "--as", ada, "--out", wrapping)
    words = ("keys", "export", f"{owner}/k", "--wrapping-key", wrapping, "--to", address.spki, "--out", file)
    said = confide(*words)
    assert (said.status, "error[grant-missing]" in said.err, file.exists()) == (4, True, False)
    (waits,) = confide("keys", "grants", "--as", bob, "--json").json["departures"]
    assert f"confide keys approve {waits['id']}" in said.err
    assert re.search(rf"{waits['id']} +{owner}/k +export +0 of 2", confide("keys", "grants", "--as", owner).out)
    shown = confide("keys", "approve", waits["id"], "--as", ada, "--digest", waits["digest"]).out
    assert address.spki in shown
    assert "waits: 1 of 2" in shown
    assert confide(*words).status == 4
    assert confide("keys", "approve", waits["id"], "--as", bob, "--json").json["state"] == "approved"
    assert confide(*words).status == 0
    said = confide("keys", "import", file, "--as", owner, "--json")
    assert said.json["rule_before"] == {"threshold": 2, "approvers": sorted([ada, bob])}
    assert f"`confide keys approvers {owner}/k {' '.join(sorted([ada, bob]))} --threshold 2`" in said.err
    line = json.loads(file.read_text(encoding="utf-8").splitlines()[0])
    for rule in ({"threshold": 3, "approvers": [ada]}, {"threshold": 1, "approvers": ["`rm`"]}, {"threshold": 0, "approvers": []}, {}, "x"):
        file.write_text(json.dumps({**line, "rule": rule}) + "\n", encoding="utf-8")
        assert confide("keys", "import", file, "--as", owner, "--json").json["error"]["code"] == "transfer-refused"


def test_rule_is_shown_and_changed_with_approval(confide: Any, people: tuple[str, str, str]) -> None:
    owner, ada, bob = people
    assert "approvals: none" in confide("keys", "approvers", f"{owner}/k").out
    confide("keys", "approvers", f"{owner}/k", "--threshold", "1", ada)
    waits = confide("keys", "approvers", f"{owner}/k", "--threshold", "1", bob, "--json").json["waits"]
    assert "new rule" in confide("keys", "grants", "--as", ada).out
    assert f"rule:      {waits['id']}" in confide("keys", "approve", waits["id"], "--as", ada).out
    assert confide("keys", "approvers", f"{owner}/k", "--json").json["approvers"] == [bob]
    said = confide("keys", "approvers", f"{owner}/k", "--none")
    assert "to be none: waits for 1" in said.out
    for words in (["--none", ada], ["--threshold", "1"], [ada], ["--none", "--threshold", "1"]):
        assert confide("keys", "approvers", f"{owner}/k", *words).status == 2


# --- signers --------------------------------------------------------------------------------------------------------


def job_file(folder: Path) -> Path:
    (folder / "main.py").write_text("pass\n")
    path = folder / "job.toml"
    text = 'name = "j"\nprogram = "main.py"\npolicy = "policy.json"\n[outputs.o]\npath = "out"\n[broker]\nurl = "https://localhost:1"\n'
    path.write_text(f'{text}spki = "{"5a" * 32}"\n')
    return path


def test_job_is_signed_and_its_signature_is_picked_up(confide: Any, people: tuple[str, str, str], policy: Path, tmp_path: Path) -> None:
    job, key = job_file(policy.parent), tmp_path / "reviewer.pem"
    made = confide("job", "sign", job, "--as", people[1], "--json").json
    assert made["path"] == f"{job}.{people[1]}.sig"
    checked = confide("run", job, "--check", "--json").json
    assert (checked["signers"], checked["digest"]) == ([made["signer"]], made["digest"])
    SigningKey.generate().save_private(key)
    other = confide("job", "sign", job, "--key", key, "--out", tmp_path / "other.sig", "--json").json
    assert confide("run", job, "--check", "--signature", other["path"], "--json").json["signers"] == [other["signer"]]
    assert confide("job", "sign", job, "--key", key, "--as", people[1]).status == 2
    grant = confide("keys", "grant", f"{people[0]}/k", "--signer", made["signer"], "--policy", policy, "--json").json
    assert (grant["job"], grant["signer"]) == (None, made["signer"])
    assert f"signed by {made['signer'][:16]}" in confide("keys", "grants", "--as", people[0]).out

    (policy.parent / "main.py").write_text("print()\n")
    said = confide("run", job, "--check", "--json")
    assert said.json["signers"] == []
    assert "no signature of this job as it is now" in said.err
    assert confide("run", job, "--check", "--signature", made["path"]).status == 4


def test_signer_is_given_as_public_key_file_too(confide: Any, people: tuple[str, str, str], policy: Path, tmp_path: Path) -> None:
    key = SigningKey.generate()
    (tmp_path / "reviewer.pub").write_bytes(key.public.pem)
    made = confide("keys", "grant", f"{people[0]}/k", "--signer", tmp_path / "reviewer.pub", "--policy", policy, "--json").json
    assert made["signer"] == key.spki_digest
    assert confide("keys", "grant", f"{people[0]}/k", "--signer", "ab", "--policy", policy).status == 2


def test_signatures_do_not_come_from_the_job_file_itself(confide: Any, policy: Path) -> None:
    job = job_file(policy.parent)
    job.write_text(job.read_text().replace("[outputs.o]", "signatures = []\n[outputs.o]"))
    said = confide("run", job, "--check")
    assert (said.status, "beside it" in said.err) == (2, True)


# --- lint -----------------------------------------------------------------------------------------------------------


def test_policy_that_asks_too_little_is_refused(confide: Any, people: tuple[str, str, str], tmp_path: Path) -> None:
    weak = write_policy(tmp_path / "weak.json")
    said = confide("keys", "grant", f"{people[0]}/k", "--digest", DIGEST, "--policy", weak)
    assert (said.status, "error[policy-invalid]" in said.err) == (2, True)
    assert "no-minimum-tcb" in said.err
    strong = write_policy(tmp_path / "strong.json", min_tcb_eval=17)
    said = confide("keys", "grant", f"{people[0]}/k", "--digest", DIGEST, "--policy", strong)
    assert said.status == 0
    assert "warning[role-missing]" in said.err
    assert len(confide("keys", "grants", "--as", people[0], "--json").json["grants"]) == 1


def test_lax_member_does_not_hide_behind_a_simulated_one(confide: Any, people: tuple[str, str, str], tmp_path: Path) -> None:
    members = [
        {"name": "trial", "measurements": {"sgx": [MEASUREMENT]}, "allow": ["simulated"]},
        {"name": "lax", "signers": {"sgx": [{"mrsigner": MEASUREMENT, "isv_prod_id": 1, "min_isv_svn": 1}]}},
    ]
    path = tmp_path / "both.json"
    path.write_text(json.dumps({"name": "both", "any_of": members}))
    said = confide("keys", "grant", f"{people[0]}/k", "--digest", DIGEST, "--policy", path)
    assert (said.status, "error[signer-only]" in said.err) == (2, True)


# --- dry runs -------------------------------------------------------------------------------------------------------


def record(installation: Installation, role: Role, measurement: str = MEASUREMENT, job: JobDigest = DIGEST) -> EvidenceRecord:
    context = NodeContext(job, RunId("run-1"), NodeId(f"{role}-1"), SealKey.generate().public_jwk())
    key, nonce, exporter = SigningKey.generate(), Nonce(b"n" * 32), b"e" * 32
    data = report_data(role=role, exporter=exporter, nonce=nonce, spki=key.spki_der, context=context.digest)
    evidence = InsecureAttester(installation, Tee.SGX, measurement).quote(data)
    return EvidenceRecord(role, context, evidence, exporter, nonce, key.spki_der, datetime.now(UTC))


@pytest.fixture
def stored(home: Path, address: BrokerAddress, tmp_path: Path) -> Any:
    """Writes evidence records of this home's simulated TEE, and its collateral."""
    tee = SimulatedTee.at(Settings.load(environ={}, home=home).simulation_dir)
    fmspc = tee.verifier().verify(record(tee.installation, Role.WORKER).evidence, datetime.now(UTC)).collateral
    (tmp_path / "collateral.json").write_text(json.dumps(fmspc.to_json()))

    def write(name: str, role: Role = Role.WORKER, **changes: Any) -> Path:
        path = tmp_path / f"{name}.json"
        made = record(tee.installation, role, **{k: v for k, v in changes.items() if k != "replace"})
        path.write_text(json.dumps(replace(made, **changes.get("replace", {})).to_json()))
        return path

    return write


def test_dry_run_says_what_would_happen_and_why_and_changes_nothing(
    confide: Any, people: tuple[str, str, str], policy: Path, stored: Any, tmp_path: Path
) -> None:
    owner, ada, _ = people
    good, tampered = stored("good"), stored("tampered", measurement="cd" * 32)
    driver, other = stored("driver", Role.DRIVER), stored("other", job=JobDigest("22" * 48))
    forged = stored("forged", replace={"exporter": b"x" * 32})
    command = ["keys", "grant", f"{owner}/k", "--policy", policy, "--dry-run", "--collateral", tmp_path / "collateral.json"]
    evidence = [word for path in (good, tampered, driver, other, forged) for word in ("--evidence", path)]
    seen = confide("audit", "show", "--as", owner, "--json").out
    assert "create-key" in seen
    said = confide(*command, "--digest", DIGEST, *evidence, "--json")
    assert said.status == 4
    assert confide("audit", "show", "--as", owner, "--json").out == seen
    assert confide("keys", "grants", "--as", owner, "--json").json["grants"] == []
    found = {(t["evidence"], t["purpose"]): (t["outcome"], t["why"]) for t in said.json["trials"]}
    assert len(found) == 10
    assert found["good.json", "read"] == ("released", "policy p accepts the node")
    assert found["tampered.json", "read"][0] == "refused"
    assert "measurement: expected" in found["tampered.json", "write"][1]
    assert "role" in found["driver.json", "read"][1]
    assert found["other.json", "read"] == ("refused", "no grant of this key covers this job")
    assert found["forged.json", "read"][1].startswith("binding-mismatch")
    checks = {check["name"]: check["ok"] for check in said.json["trials"][2]["checks"]}
    assert checks["measurement"] is False

    confide("keys", "approvers", f"{owner}/k", "--threshold", "1", ada)
    said = confide(*command, "--digest", DIGEST, "--purpose", "read", "--evidence", good)
    assert said.status == 0
    assert "WAITS: until 1 of the key's approvers" in said.out
    assert "no evidence of a driver" in said.out
    assert "this was a dry run" in said.out
    assert confide("keys", "grants", "--as", owner, "--json").json["grants"] == []


def test_dry_run_of_a_signers_grant_needs_the_jobs_signature(
    confide: Any, people: tuple[str, str, str], policy: Path, stored: Any, tmp_path: Path
) -> None:
    key, good, path = SigningKey.generate(), stored("good"), tmp_path / "job.sig"
    path.write_text(json.dumps(JobSignature.sign(key, DIGEST).to_json()))
    command = ["keys", "grant", f"{people[0]}/k", "--policy", policy, "--signer", key.spki_digest, "--purpose", "read", "--role", "worker"]
    command += ["--dry-run", "--collateral", tmp_path / "collateral.json", "--evidence", good]
    assert "no grant of this key covers this job" in confide(*command).out
    said = confide(*command, "--signature", path)
    assert (said.status, "worker asks for" in said.out, "released: policy p accepts" in said.out) == (0, True, True)


def test_dry_run_shows_the_lint_and_goes_on(confide: Any, people: tuple[str, str, str], stored: Any, tmp_path: Path) -> None:
    weak = write_policy(tmp_path / "weak.json")
    words = ["--digest", DIGEST, "--policy", weak, "--dry-run", "--collateral", tmp_path / "collateral.json", "--evidence", stored("good")]
    said = confide("keys", "grant", f"{people[0]}/k", *words)
    assert said.status == 4
    assert "error[no-minimum-tcb]" in said.err
    assert "the grant itself would be refused" in said.out


def test_evidence_without_its_context_is_no_evidence_for_a_dry_run(confide: Any, people: tuple[str, str, str], policy: Path) -> None:
    said = confide("keys", "grant", f"{people[0]}/k", "--digest", DIGEST, "--policy", policy, "--dry-run", "--evidence", policy)
    assert (said.status, "evidence record" in said.err) == (2, True)
    said = confide("keys", "grant", f"{people[0]}/k", "--digest", DIGEST, "--policy", policy, "--dry-run", "--evidence", policy.parent)
    assert (said.status, "a run's folder" in said.err) == (2, True)


def test_folder_of_a_run_that_failed_is_tried_with_the_collateral_that_it_kept(
    confide: Any, people: tuple[str, str, str], policy: Path, home: Path, tmp_path: Path
) -> None:
    tee, store = SimulatedTee.at(Settings.load(environ={}, home=home).simulation_dir), RunStore(tmp_path / "runs")
    good, tampered = (record(tee.installation, Role.WORKER, measurement) for measurement in (MEASUREMENT, "cd" * 32))
    named = replace(good, context=replace(good.context, node=NodeId("worker-9")))
    collateral = tee.verifier().verify(good.evidence, good.at).collateral
    run = store.create(RunId("run-1"), {"job": "j", "digest": DIGEST})
    run.keep(Remains((good,), (tampered, named), (collateral,)))
    assert {path.stat().st_mode & 0o777 for path in run.path.rglob("*.json")} == {0o600}
    command = ["keys", "grant", f"{people[0]}/k", "--digest", DIGEST, "--policy", policy, "--purpose", "read", "--dry-run"]
    said = confide(*command, "--evidence", run.path, "--json")
    assert said.status == 4
    found = {trial["evidence"]: trial for trial in said.json["trials"]}
    assert set(found) == {"run-1: worker-1", "run-1: worker-1 (refused)", "run-1: worker-9 (refused)"}
    assert found["run-1: worker-1"]["outcome"] == "released"
    assert "measurement: expected" in found["run-1: worker-1 (refused)"]["why"]
    assert found["run-1: worker-9 (refused)"]["why"].startswith("binding-mismatch")
    shown = confide(*command, "--evidence", run.path)
    assert (shown.status, "worker-1 (refused): worker asks" in shown.out, "REFUSED" in shown.out) == (4, True, True)

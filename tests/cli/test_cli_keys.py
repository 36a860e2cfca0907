"""``confide broker``, ``keys`` and ``audit`` against a broker process, as operator and owners use them."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from confide.cli import key_versions
from confide.cli.broker import spawn
from confide.cli.owners import BrokerAddress, client_of
from confide.config import Settings
from confide.ids import KeyRef
from confide.keys.key_client import KeyClient, RewrapProgress
from confide.keys.key_commands import PART

DIGEST = "ab" * 48


@pytest.fixture
def owner(confide: Any, home: Path, address: BrokerAddress, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """An owner of this test's own, enrolled at the broker, in a home folder that has seen the others too."""
    monkeypatch.setenv("CONFIDE_HOME", str(home))
    name = re.sub(r"[^a-z0-9]", "-", request.node.name)[-50:].strip("-")
    _enrol(confide, home, name)
    return name


def _enrol(confide: Any, home: Path, name: str) -> None:
    ticket = home / f"{name}.json"
    assert confide("broker", "enrol", name, "--key-file", home / "master.key", "--out", ticket).status == 0
    assert stat.S_IMODE(ticket.stat().st_mode) == 0o600
    assert confide("keys", "init", name, "--enrolment", ticket).status == 0
    assert not ticket.exists()


@pytest.fixture
def policy(confide: Any, tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(f'name = "p"\nallow = ["simulated"]\n[measurements]\nsgx = ["{"ab" * 32}"]\n', encoding="utf-8")
    return path


def test_new_owner_has_no_keys(confide: Any, owner: str) -> None:
    said = confide("keys", "ls", "--as", owner)
    assert (said.status, said.out) == (0, "")
    assert "no keys yet" in said.err


def test_key_is_created_rotated_and_listed(confide: Any, owner: str) -> None:
    assert confide("keys", "create", f"{owner}/k", "--json").json == {"key": f"{owner}/k", "version": 1}
    assert confide("keys", "rotate", f"{owner}/k", "--json").json == {"key": f"{owner}/k", "version": 2}
    listed = confide("keys", "ls", "--as", owner)
    assert f"{owner}/k@2" in listed.out


def test_versions_are_shown_retired_and_destroyed(confide: Any, owner: str) -> None:
    key = f"{owner}/k"
    confide("keys", "create", key)
    confide("keys", "rotate", key)
    shown = confide("keys", "versions", key)
    assert re.search(r"1 +retired .* 0\n +2 +active .* 0\n", shown.out)
    assert confide("keys", "destroy", key, "--version", "2", "--yes").status == 2
    said = confide("keys", "destroy", key, "--version", "1", "--yes", "--json")
    assert [(v["version"], v["state"], v["datasets"]) for v in said.json["versions"]] == [(1, "destroyed", 0), (2, "active", 0)]
    assert confide("keys", "retire", key, "--version", "2", "--json").json["versions"][1]["state"] == "retired"
    assert confide("keys", "versions", f"{owner}/none").status == 2


@pytest.mark.parametrize(("typed", "status"), [("KEY", 0), ("k", 2), ("", 130)])
def test_destroying_asks_for_the_keys_name(confide: Any, owner: str, monkeypatch: pytest.MonkeyPatch, typed: str, status: int) -> None:
    key = f"{owner}/k"
    confide("keys", "create", key)
    confide("keys", "rotate", key)
    said = confide("keys", "destroy", key, "--version", "1")
    assert (said.status, "--yes" in said.err) == (2, True)
    keyboard = io.StringIO(f"{typed.replace('KEY', key)}\n" if typed else "")
    keyboard.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", keyboard)
    assert confide("keys", "destroy", key, "--version", "1").status == status
    state = confide("keys", "versions", key, "--json").json["versions"][0]["state"]
    assert state == ("destroyed" if status == 0 else "retired")


def test_rewrap_says_what_is_done_and_that_there_is_nothing_left(confide: Any, owner: str) -> None:
    key = f"{owner}/k"
    confide("keys", "create", key)
    with client_of(Settings.load(), owner) as client:
        for _ in range(5):
            client.mint_dataset("k")
    confide("keys", "rotate", key)
    assert f"5 datasets are under {key}@2" in confide("keys", "rewrap", key).out
    assert confide("keys", "rewrap", key, "--json").json == {"key": key, "version": 2, "done": 0}
    assert [v["datasets"] for v in confide("keys", "versions", key, "--json").json["versions"]] == [0, 5]


def test_rewrap_that_is_interrupted_goes_on_and_says_how_far_it_is(confide: Any, owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More datasets than a step takes; Ctrl-C after the first."""
    many = PART + 3
    key, own = f"{owner}/k", Settings.load()
    confide("keys", "create", key)
    with client_of(own, owner) as client:
        for _ in range(many):
            client.mint_dataset("k")
    confide("keys", "rotate", key)
    seen: list[RewrapProgress] = []

    def interrupted(self: KeyClient, name: str) -> Iterator[RewrapProgress]:
        answer = self._call("POST", "keys/rewrap", {"key": self._id(name)})
        seen.append(RewrapProgress(answer.key_ref(), answer.field("done", int), answer.field("left", int)))
        yield seen[-1]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(KeyClient, "rewrap", interrupted)
        said = confide("keys", "rewrap", key)
    assert (said.status, "interrupted" in said.err) == (130, True)
    assert seen[0].done + seen[0].left == many
    assert 0 < seen[0].done < many, "some are done, and some are left"
    assert confide("keys", "rewrap", key, "--json").json["version"] == 2
    assert [v["datasets"] for v in confide("keys", "versions", key, "--json").json["versions"]] == [0, many]


def test_lines_of_progress_say_rate_and_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    times = iter(range(0, 1000, 10))
    monkeypatch.setattr(key_versions.time, "monotonic", lambda: float(next(times)))
    ref = KeyRef("airline", "flights", 2)
    steps = [RewrapProgress(ref, done, 40_000 - done) for done in (10_000, 20_000, 40_000)]
    assert list(key_versions._said(steps)) == steps
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"40,000 of 40,000 datasets [\d,]+/s, about 0:00:00 left", last)


def test_key_goes_to_another_broker_and_back_out_of_a_file(confide: Any, owner: str, address: BrokerAddress, tmp_path: Path) -> None:
    key, wrapping, file = f"{owner}/k", tmp_path / "wrapping.json", tmp_path / "export.jsonl"
    confide("keys", "create", key)
    with client_of(Settings.load(), owner) as client:
        client.mint_dataset("k")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with spawn(elsewhere, elsewhere / "master.key") as other:
        ticket = tmp_path / "ticket.json"
        confide("--home", elsewhere, "broker", "enrol", owner, "--key-file", elsewhere / "master.key", "--out", ticket)
        folder = Settings.load(home=elsewhere).credentials_dir
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mine = Settings.load().credentials_dir / f"{owner}.key.pem"
        (folder / mine.name).touch(0o600)
        (folder / mine.name).write_bytes(mine.read_bytes())
        assert confide("--home", elsewhere, "keys", "init", owner, "--enrolment", ticket).status == 0
        assert confide("--home", elsewhere, "keys", "wrapping-key", "--out", wrapping, "--json").json["broker"] == other.spki
        wrong = confide("keys", "export", key, "--wrapping-key", wrapping, "--to", address.spki, "--out", file)
        assert (wrong.status, "transfer-refused" in wrong.err, file.exists()) == (4, True, False)
        said = confide("keys", "export", key, "--wrapping-key", wrapping, "--to", other.spki, "--out", file, "--json")
        assert said.json == {"key": key, "file": str(file), "datasets": 1}
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert confide("keys", "export", key, "--wrapping-key", wrapping, "--to", other.spki, "--out", file).status == 2
        assert confide("keys", "import", file, "--as", owner).status == 4
        assert f"{key}@1 and 1 datasets" in confide("--home", elsewhere, "keys", "import", file).out
        assert f"{key}@1" in confide("--home", elsewhere, "keys", "ls").out
        bad = tmp_path / "bad"
        bad.write_text("x", encoding="utf-8")
        assert confide("keys", "export", key, "--wrapping-key", bad, "--to", other.spki, "--out", tmp_path / "no").status == 2


def test_key_that_exists_is_not_made_again(confide: Any, owner: str) -> None:
    confide("keys", "create", f"{owner}/k")
    said = confide("keys", "create", f"{owner}/k")
    assert said.status == 2
    assert "error[usage]" in said.err


def test_key_of_one_version_cannot_be_created(confide: Any, owner: str) -> None:
    assert confide("keys", "create", f"{owner}/k@3").status == 2


def test_another_owners_key_needs_that_owners_credential(confide: Any, owner: str) -> None:
    said = confide("keys", "create", "stranger/k")
    assert said.status == 4
    assert "error[credential-refused]" in said.err


def test_grant_is_shown_and_revoked(confide: Any, owner: str, policy: Path) -> None:
    confide("keys", "create", f"{owner}/k")
    made = confide("keys", "grant", f"{owner}/k", "--digest", DIGEST, "--policy", policy, "--days", "3", "--json")
    assert made.status == 0
    assert "protect nothing" in made.err
    assert made.json["job"] == DIGEST
    assert "abababababababab..." in confide("keys", "ls", "--as", owner).out
    assert confide("keys", "revoke", made.json["id"], "--as", owner).status == 0
    assert "revoked" in confide("keys", "ls", "--as", owner).out


def test_grant_in_words(confide: Any, owner: str, policy: Path) -> None:
    confide("keys", "create", f"{owner}/k")
    said = confide("keys", "grant", f"{owner}/k", "--digest", DIGEST, "--policy", policy)
    assert "recipients:    none" in said.out
    assert "until:         no end" in said.out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--digest", DIGEST], "--policy"),
        (["--policy", "POLICY"], "--job"),
        (["--policy", "POLICY", "--digest", "abc"], "--check"),
        (["--policy", "POLICY", "--digest", DIGEST, "--accept-job-policy", "--job", "POLICY"], "job"),
    ],
)
def test_grant_without_job_or_policy_is_a_usage_error(confide: Any, owner: str, policy: Path, words: list[str], hint: str) -> None:
    said = confide("keys", "grant", f"{owner}/k", *[str(policy) if word == "POLICY" else word for word in words])
    assert said.status == 2
    assert hint in said.err


def test_enrolment_for_another_name_is_refused(confide: Any, home: Path, owner: str) -> None:
    ticket = home / "for-somebody.json"
    confide("broker", "enrol", "somebody", "--key-file", home / "master.key", "--out", ticket)
    said = confide("keys", "init", "nobody", "--enrolment", ticket)
    assert said.status == 2
    assert "for somebody" in said.err
    assert ticket.exists()


def test_enrolment_token_works_once(confide: Any, home: Path, owner: str) -> None:
    ticket = home / "once.json"
    confide("broker", "enrol", "once", "--key-file", home / "master.key", "--out", ticket)
    copy = ticket.read_bytes()
    assert confide("keys", "init", "once", "--enrolment", ticket).status == 0
    again = home / "again.json"
    again.write_bytes(copy)
    said = confide("keys", "init", "once", "--enrolment", again)
    assert said.status == 4


def test_file_that_is_no_enrolment_is_refused(confide: Any, owner: str, tmp_path: Path) -> None:
    for text in ("{}", "no json"):
        bad = tmp_path / "bad.json"
        bad.write_text(text, encoding="utf-8")
        assert confide("keys", "init", "x", "--enrolment", bad).status == 4


def test_enrolment_file_is_not_overwritten(confide: Any, home: Path, owner: str) -> None:
    assert confide("broker", "enrol", "x", "--key-file", home / "master.key", "--out", home / "master.key").status == 2


def test_wrong_master_key_does_not_open_the_store(confide: Any, home: Path, owner: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.key"
    wrong.write_bytes(bytes(32))
    wrong.chmod(0o600)
    said = confide("broker", "enrol", "x", "--key-file", wrong, "--out", tmp_path / "x.json")
    assert said.status == 4
    assert "error[store-unavailable]" in said.err


def test_several_credentials_need_a_name(confide: Any, home: Path, owner: str) -> None:
    _enrol(confide, home, f"{owner}-2"[-40:].strip("-"))
    said = confide("keys", "ls")
    assert said.status == 4
    assert "--as NAME" in said.err


def test_no_credential_says_how_to_make_one(confide: Any) -> None:
    said = confide("keys", "ls")
    assert said.status == 4
    assert "confide keys init" in said.err


def test_audit_is_shown_verified_and_exported(confide: Any, owner: str, tmp_path: Path) -> None:
    confide("keys", "create", f"{owner}/k")
    shown = confide("audit", "show", "--as", owner)
    assert "create-key" in shown.out
    assert len(confide("audit", "show", "--as", owner, "--last", "1", "--json").json["entries"]) == 1
    log = tmp_path / "log.jsonl"
    assert confide("audit", "export", log, "--as", owner).status == 0
    assert confide("audit", "export", log, "--as", owner).status == 2
    assert "whole and unchanged" in confide("audit", "verify", "--as", owner, "--file", log).out
    assert confide("audit", "verify", "--as", owner, "--json").json["accepted"]


def test_audit_is_checked_offline_with_the_brokers_key(confide: Any, owner: str, tmp_path: Path) -> None:
    """An auditor who has two files and the broker's key needs neither the broker nor a credential."""
    confide("keys", "create", f"{owner}/k")
    log, proof, key = tmp_path / "log.jsonl", tmp_path / "proof.json", tmp_path / "broker.pem"
    entries = confide("audit", "show", "--as", owner, "--json").json["entries"]
    seq = next(entry["seq"] for entry in entries if entry["event"] and entry["event"]["action"] == "create-key")
    for words in (("export", log), ("prove", seq, proof), ("key", key)):
        assert confide("audit", *words, "--as", owner).status == 0
        assert confide("audit", *words, "--as", owner).status == 2, "nothing is overwritten"
    elsewhere = ("--home", tmp_path / "elsewhere", "audit", "verify", "--key", key)
    assert "whole and unchanged" in confide(*elsewhere, "--file", log).out
    said = confide(*elsewhere, "--proof", proof)
    assert f"entry {seq} is in the log" in said.out
    assert "create-key" in said.out
    proof.write_text(proof.read_text(encoding="utf-8").replace(owner, "x" * len(owner), 1), encoding="utf-8")
    assert confide(*elsewhere, "--proof", proof).status == 5


def test_audit_as_a_table_holds_no_formula(confide: Any, owner: str, tmp_path: Path) -> None:
    table = tmp_path / "log.csv"
    assert confide("audit", "export", table, "--csv", "--as", owner).status == 0
    lines = table.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "seq,time,action,owners,what,leaf"
    assert any(f",enrol,{owner}," in line for line in lines)
    assert not any(cell[:1] in {"=", "+", "-", "@"} for line in lines for cell in line.split(","))


def test_audit_hides_other_owners_events(confide: Any, home: Path, owner: str) -> None:
    other = f"{owner}-o"[-40:].strip("-")
    _enrol(confide, home, other)
    confide("keys", "create", f"{other}/secret-project")
    shown = confide("audit", "show", "--as", owner)
    assert "secret-project" not in shown.out
    assert "(another's)" in shown.out


def test_changed_audit_export_is_refused(confide: Any, owner: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    confide("audit", "export", log, "--as", owner)
    log.write_text(log.read_text(encoding="utf-8").replace(owner, "x" * len(owner), 1), encoding="utf-8")
    said = confide("audit", "verify", "--as", owner, "--file", log)
    assert said.status == 5
    assert "error[audit-broken]" in said.err


# --- the server's own process ------------------------------------------------------------------------------------


def _serve(home: Path, *words: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "confide.cli.main", "--home", str(home), "broker", "serve", "--listen", "127.0.0.1:0"]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *map(str, words)], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_broker_ends_in_order_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    passphrase = tmp_path / "pass"
    passphrase.write_text("correct horse battery\n", encoding="utf-8")
    passphrase.chmod(0o600)
    process = _serve(tmp_path, "--passphrase-file", passphrase)
    address = tmp_path / "broker" / "address.json"
    last = tmp_path / "broker" / "last-address"
    for _ in range(400):
        if address.exists():
            break
        time.sleep(0.05)
    assert json.loads(address.read_text(encoding="utf-8"))["pid"] == process.pid
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0, err
    assert out.startswith("[broker]\nurl = ")
    assert not address.exists()
    assert last.read_text(encoding="utf-8") in out
    assert "correct horse" not in out + err


def test_broker_without_terminal_asks_for_a_file(tmp_path: Path) -> None:
    process = _serve(tmp_path)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2, err


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999"])
def test_broker_address_must_be_host_and_port(confide: Any, listen: str) -> None:
    assert confide("broker", "serve", "--listen", listen).status == 2


def test_store_has_a_key_file_or_a_passphrase_but_not_both(confide: Any, tmp_path: Path) -> None:
    both = tmp_path / "both"
    both.touch(mode=0o600)
    assert confide("broker", "serve", "--listen", "127.0.0.1:0", "--key-file", both, "--passphrase-file", both).status == 2


def test_enrol_without_store_says_what_to_do(confide: Any, tmp_path: Path) -> None:
    said = confide("broker", "enrol", "x", "--out", tmp_path / "x.json")
    assert said.status == 4
    assert "confide broker serve" in said.err


def test_passphrase_file_that_others_can_read_is_refused(confide: Any, tmp_path: Path) -> None:
    loose = tmp_path / "pass"
    loose.write_text("correct horse battery", encoding="utf-8")
    loose.chmod(0o644)
    assert confide("broker", "serve", "--listen", "127.0.0.1:0", "--passphrase-file", loose).status == 4

"""``confide broker check|backup|restore|upgrade|accept-*``, and a broker whose store lies in PostgreSQL, as operators use them."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.databases import PostgresServer

from confide.cli.storage import location_of
from confide.config import Settings
from confide.keys.audit import new_event
from confide.keys.custody.local import KeyFile
from confide.keys.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder whose broker's store lies in a file of it, or in a database that its settings name."""
    folder = tmp_path / "home"
    folder.mkdir()
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        (folder / "config.toml").write_text(f'database = "{server.new().location.name}"\n', encoding="utf-8")
    monkeypatch.setenv("CONFIDE_HOME", str(folder))
    return folder


@contextmanager
def serving(home: Path, *words: str | Path) -> Iterator[None]:
    """A broker in a process of its own."""
    command = [sys.executable, "-m", "confide.cli.main", "--home", home, "broker", "serve", "--listen", "127.0.0.1:0"]
    opened = ["--key-file", home / "master.key"]
    process = subprocess.Popen([*map(str, (*command, *opened, *words))], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            if (home / "broker" / "address.json").exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()[1]
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.fixture
def enrolled(confide: Any, home: Path, tmp_path: Path) -> Callable[[str], None]:
    def enrol(name: str) -> None:
        ticket = tmp_path / f"{name}.json"
        assert confide("broker", "enrol", name, "--key-file", home / "master.key", "--out", ticket).status == 0
        assert confide("keys", "init", name, "--enrolment", ticket).status == 0
        assert confide("keys", "create", f"{name}/k").status == 0

    return enrol


def test_store_is_served_checked_backed_up_and_restored(
    confide: Any, home: Path, tmp_path: Path, enrolled: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ("--key-file", home / "master.key")
    with serving(home):
        enrolled("airline")
        checked = confide("broker", "check", *key, "--json").json
        assert checked["records"] >= 3
        assert confide("broker", "backup", tmp_path / "backup").status == 0
        assert confide("broker", "backup", tmp_path / "backup").status == 4, "nothing is overwritten"
    assert confide("broker", "restore", tmp_path / "backup").status == 4, "there is a store"
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(home / "master.key", other / "master.key")
    monkeypatch.setenv("CONFIDE_HOME", str(other))
    assert confide("broker", "restore", tmp_path / "backup").status == 0
    again = confide("broker", "check", "--key-file", other / "master.key", "--json").json
    assert again == checked
    assert confide("broker", "upgrade").status == 0


def test_older_copy_is_served_only_with_the_owners_knowledge(
    confide: Any, home: Path, tmp_path: Path, enrolled: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A witness saw more than the restored store holds: it is refused, until the operator says why, in a log that owners read."""
    witness, key = tmp_path / "witness.jsonl", ("--key-file", home / "master.key")
    with serving(home, "--witness", witness):
        enrolled("airline")
        confide("broker", "backup", tmp_path / "backup")
        enrolled("weather")
    other = tmp_path / "other"
    shutil.copytree(home, other, ignore=shutil.ignore_patterns("store.sqlite*", "config.toml"))
    monkeypatch.setenv("CONFIDE_HOME", str(other))
    assert confide("broker", "restore", tmp_path / "backup").status == 0
    key = ("--key-file", other / "master.key")
    for command in ("check", "serve"):
        refused = confide("broker", command, *key, "--witness", witness)
        assert refused.status == 5
        assert "longer audit log" in refused.err
        assert "accept-rollback" in refused.err
    assert confide("broker", "accept-rollback", *key, "--reason", "disk broke").status == 2, "which witnesses?"
    accepted = confide("broker", "accept-rollback", *key, "--reason", "disk broke", "--witness", witness, "--json").json
    assert accepted["lost"][0]["size"] > accepted["entries"]
    with serving(other, "--witness", witness):
        address = json.loads((other / "broker" / "address.json").read_text(encoding="utf-8"))
        credential = other / "credentials" / "airline.broker.json"
        known = credential.read_text(encoding="utf-8")
        credential.write_text(re.sub(r"https://[^\"]*", address["url"], known), encoding="utf-8")
        told = confide("audit", "show", "--as", "airline")
        assert "rollback-accepted" in told.out
        assert "disk broke" in told.out


def test_broker_whose_clock_is_behind_serves_only_after_the_operator_has_said_why(
    confide: Any, home: Path, enrolled: Callable[[str], None]
) -> None:
    """Its machine came up two hours ahead, and acted; then its clock was put right."""
    key = ("--key-file", home / "master.key")
    with serving(home):
        enrolled("airline")
    assert confide("broker", "accept-clock", *key, "--reason", "why not").status == 2
    location = location_of(Settings.load())
    with closing(Store.open(location, KeyFile(home / "master.key"))) as store:
        store.append_audit(new_event("test", [], datetime.now(UTC) + timedelta(hours=2)))
    refused = confide("broker", "serve", *key)
    assert refused.status == 6
    assert "clock-set-back" in refused.err
    assert "accept-clock" in refused.err
    accepted = confide("broker", "accept-clock", *key, "--reason", "it came up two hours ahead", "--json").json
    assert accepted["now"] < accepted["seen"]
    with serving(home):
        pass
    with closing(Store.open(location, KeyFile(home / "master.key"))) as store:
        told = [entry.event for entry in store.audit() if entry.event and entry.event["action"] == "clock-accepted"]
    assert [(event["owners"], event["reason"]) for event in told] == [(["airline"], "it came up two hours ahead")]


def test_database_that_cannot_be_reached_says_so(confide: Any, home: Path) -> None:
    (home / "config.toml").write_text('database = "postgresql://confide@localhost/x?socket=/nowhere/.s.PGSQL.5432"\n', encoding="utf-8")
    said = confide("broker", "check", "--key-file", home / "master.key")
    assert said.status == 4
    assert "cannot be reached" in said.err or "cannot be used" in said.err


def test_password_in_the_settings_is_refused_and_not_repeated(confide: Any, home: Path) -> None:
    (home / "config.toml").write_text('database = "postgresql://confide:canary-88@localhost/x"\n', encoding="utf-8")
    said = confide("broker", "check", "--key-file", home / "master.key")
    assert said.status == 2
    assert "canary" not in said.err + said.out


def test_store_is_put_under_another_master_key(confide: Any, home: Path, tmp_path: Path, enrolled: Callable[[str], None]) -> None:
    old = ("--key-file", home / "master.key")
    with serving(home):
        enrolled("airline")
        confide("broker", "backup", tmp_path / "before")
    before = confide("broker", "check", *old, "--json").json
    done = confide("broker", "rekey", *old, "--to-key-file", home / "new.key", "--json").json
    assert (done["records"], done["files"]) == (before["records"], [str(home / "new.key")])
    refused = confide("broker", "check", *old)
    assert (refused.status, "is not what this key store was made with" in refused.err) == (4, True)
    assert confide("broker", "check", "--key-file", home / "new.key", "--json").json["records"] == before["records"]

    (tmp_path / "words").write_text("correct horse battery")
    (tmp_path / "words").chmod(0o600)
    for words, status in (
        ((), 2),
        (("--to-key-file", tmp_path / "a", "--to-passphrase-file", tmp_path / "words"), 2),
        (("--to-shares", "2-of-3"), 2),
        (("--to-key-file", tmp_path / "a", "--out", tmp_path / "shares"), 2),
        (("--to-key-file", tmp_path / "words"), 4),  # there is such a file: nothing is overwritten
    ):
        assert confide("broker", "rekey", "--key-file", home / "new.key", *words).status == status
    assert confide("broker", "rekey", "--key-file", home / "new.key", "--to-passphrase-file", tmp_path / "words").status == 0
    assert confide("broker", "check", "--passphrase-file", tmp_path / "words").status == 0

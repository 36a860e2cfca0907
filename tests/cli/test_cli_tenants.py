"""Tenants and roles at the command line; and an operator on the broker's own machine, who reads nothing."""

from __future__ import annotations

import base64
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.broker_world import JOB, manifest, policy
from support.cli_broker import Broker

from confide.cli.owners import BrokerAddress, client_of, credential_of
from confide.config import Settings
from confide.keys.kbs.owner_client import KbsOwnerClient
from confide.keys.kbs.resources import ResourceName

CANARY = b"canary-3b1f-a-patients-record"


def _enrol(confide: Any, machine: Path, home: Path, name: str, *words: str) -> None:
    ticket = home / f"{name}.json"
    home.mkdir(exist_ok=True)
    said = confide("--home", machine, "broker", "enrol", name, *words, "--out", ticket)
    assert said.status == 0, said.err
    said = confide("--home", home, "keys", "init", name, "--enrolment", ticket)
    assert said.status == 0, said.err


def test_tenants_are_made_people_enrolled_and_withdrawn(confide: Any, home: Path, address: BrokerAddress, tmp_path: Path) -> None:
    key = ("--key-file", str(home / "master.key"))
    assert confide("--home", home, "broker", "tenants", "add", "health", *key).status == 0
    for wrong in ("health", "he.alth", "*"):
        assert confide("--home", home, "broker", "tenants", "add", wrong, *key).status == 2
    people = tmp_path / "people"
    _enrol(confide, home, people, "clinic", "--tenant", "health", *key)
    _enrol(confide, home, people, "carol", "--role", "auditor", "--tenant", "health", *key)
    _enrol(confide, home, people, "ops", "--role", "operator", *key)
    _enrol(confide, home, people, "bank", *key)
    assert confide("--home", home, "broker", "tenants", "add", "nobodys", *key).status == 0
    shown_to_people = confide("--home", people, "broker", "tenants", "ls", "--as", "ops").out
    assert any(line.split()[:2] == ["nobodys", "(nobody)"] for line in shown_to_people.splitlines())
    said = confide("--home", people, "broker", "tenants", "ls", "--as", "ops", "--json")
    shown = {(one["tenant"], person["name"], person["role"]) for one in said.json["tenants"] for person in one["people"]}
    assert shown == {("health", "clinic", "owner"), ("health", "carol", "auditor"), ("*", "ops", "operator"), ("default", "bank", "owner")}
    assert confide("--home", people, "keys", "create", "clinic/records").status == 0
    assert "clinic/records" in confide("--home", people, "keys", "ls", "--as", "carol").out
    assert "clinic/records" not in confide("--home", people, "keys", "ls", "--as", "bank").out
    said = confide("--home", people, "broker", "tenants", "limit", "health", "--keys", "1", "--rate", "50", "--as", "ops", "--json")
    assert said.json == {"tenant": "health", "rate": 50.0, "burst": 50, "quotas": {"keys": 1}}
    said = confide("--home", people, "keys", "create", "clinic/more")
    assert (said.status, "error[quota-exceeded]" in said.err) == (4, True)
    assert confide("--home", home, "broker", "tenants", "limit", "--each-client", "--rate", "1000", *key).status == 0
    for words in (("health", "--each-client"), (), ("nowhere", "--keys", "1"), ("--each-client", "--keys", "1")):
        assert confide("--home", home, "broker", "tenants", "limit", *words, *key).status == 2
    said = confide("--home", people, "broker", "withdraw", "clinic", "--as", "ops", "--json")
    assert said.json == {"owner": "clinic", "grants": 0}
    assert "was withdrawn" in confide("--home", people, "keys", "ls", "--as", "clinic").err
    said = confide("--home", people, "broker", "withdraw", "bank", "--as", "carol")
    assert (said.status, "enrolled as auditor" in said.err) == (4, True)
    assert confide("--home", people, "broker", "tenants", "ls", "--as", "ops", *key).status == 2


@pytest.fixture
def machine() -> Iterator[Path]:
    """Where a socket's path is short enough (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="confide-") as folder:
        yield Path(folder)


@pytest.fixture
def serving(confide: Any, machine: Path, tmp_path: Path) -> Iterator[None]:
    """A broker whose master key is in shares, which are not on its machine."""
    out = tmp_path / "shares"
    made = confide("--home", machine, "broker", "init", "--shares", "2-of-3", "--out", out, "--on-disk", "--json")
    broker = Broker(machine, "--shares")
    broker.wait_for("operator.sock")
    for file in made.json["shares"][:2]:
        confide("--home", machine, "broker", "unseal", "--share-file", file)
    broker.wait_for("address.json")
    yield
    broker.end(signal.SIGKILL)


def test_operator_on_the_running_machine_reads_nothing(confide: Any, machine: Path, serving: None, tmp_path: Path) -> None:
    people = tmp_path / "people"
    _enrol(confide, machine, people, "clinic", "--shares")
    _enrol(confide, machine, machine, "ops", "--role", "operator", "--shares")
    settings = Settings.load(environ={}, home=people)
    with client_of(settings, "clinic") as clinic:
        clinic.create_key("records")
        minted = clinic.mint_dataset("records")
        envelope = manifest(minted, credential_of(settings, "clinic").key)
        clinic.register_manifest(envelope)
        grant = clinic.grant("records", job=JOB, policy=policy())
    where = BrokerAddress(**{name: str(value) for name, value in _address(machine).items()})
    with KbsOwnerClient(where.url, where.spki, credential_of(settings, "clinic")) as kbs:
        kbs.put(ResourceName("clinic", "key", "records"), CANARY)

    words = [
        ("keys", "ls", "--as", "ops"),
        ("keys", "grants", "--as", "ops"),
        ("keys", "create", "ops/own"),
        ("keys", "approve", grant.id, "--as", "ops"),
        ("keys", "revoke", grant.id, "--as", "ops"),
        ("keys", "versions", "ops/records"),
        ("audit", "show", "--as", "ops"),
        ("audit", "export", str(machine / "log.jsonl"), "--as", "ops"),
        ("broker", "tenants", "ls", "--shares"),
        ("broker", "tenants", "ls", "--as", "ops"),
        ("broker", "enrol", "clinic", "--shares", "--out", str(machine / "again.json")),
        ("broker", "backup", str(machine / "backup")),
    ]
    said = [confide("--home", machine, *command) for command in words]
    assert [one.status for one in said] == [4, 4, 4, 4, 4, 4, 0, 0, 0, 0, 4, 0], [(one.out, one.err) for one in said]
    with client_of(Settings.load(environ={}, home=machine), "ops") as ops:
        events = [entry.event for entry in ops.audit().entries if entry.event is not None]
        assert not {"create-key", "mint", "grant", "kbs-put", "open"} & {event["action"] for event in events}
    texts = b"".join(path.read_bytes() for path in machine.rglob("*") if path.is_file())
    texts += "".join(one.out + one.err for one in said).encode()
    secret = minted.secret.reveal()
    forms = (CANARY, secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"="), base64.urlsafe_b64encode(secret).rstrip(b"="))
    assert not [form for form in forms if form in texts]
    assert envelope["payload"] not in texts.decode("latin-1")


def _address(machine: Path) -> dict[str, Any]:
    from confide.cli.owners import serving

    found = serving(Settings.load(environ={}, home=machine)) or {}
    return {name: found[name] for name in ("url", "spki")}

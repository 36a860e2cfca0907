"""The audit log is cut or rewritten, or a key would leave without an entry in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.broker_attacks import Granted, change_row
from support.broker_world import World

from confide.errors import AuditError, BrokerError, ParseError, StoreError, UsageError
from confide.keys.audit import AuditHead


def test_no_key_leaves_when_the_audit_log_cannot_be_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(world)
    client = world.client(world.node())
    client.audit_head()

    def full(*_: object) -> None:
        raise StoreError("the key store cannot be used: database or disk is full")

    monkeypatch.setattr(world.store._log, "append", full)
    with pytest.raises(BrokerError):
        client.release(granted.manifest)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)",
        "DELETE FROM audit",
        "UPDATE audit SET event = replace(event, 'airline', 'weather') WHERE seq = 2",
        "DELETE FROM head",
    ],
)
def test_audit_log_that_was_cut_or_changed_stops_the_broker(world: World, sql: str) -> None:
    Granted(world)
    change_row(world, sql)
    with pytest.raises(AuditError):
        world.restart()


def test_log_is_proved_to_continue_and_an_entry_to_be_in_it(world: World) -> None:
    """Over the network, entry by entry: what an auditor checks without reading others' events."""
    granted = Granted(world)
    seen = AuditHead.verify(granted.airline.audit_head(), granted.airline.broker_key())
    world.client(world.node()).release(granted.manifest)
    assert granted.airline.audit_since(seen).size > seen.size
    forged = replace(seen, root="00" * 32)
    with pytest.raises(AuditError, match="continue"):
        granted.airline.audit_since(forged)
    with pytest.raises(AuditError, match="continue"):
        granted.airline.audit_since(replace(seen, size=seen.size + 1000))
    weather = world.owner("weather")
    release = next(e.seq for e in world.store.audit() if e.event is not None and e.event["action"] == "release")
    assert granted.airline.audit_proof(release).entry.event is not None
    assert weather.audit_proof(release).entry.event is None


def test_log_that_loses_a_part_while_the_broker_runs_proves_nothing(world: World) -> None:
    granted = Granted(world)
    client = world.client(world.node())
    seen = AuditHead.verify(granted.airline.audit_head(), granted.airline.broker_key())
    for _ in range(4):
        client.release(granted.manifest)
    change_row(world, f"DELETE FROM audit WHERE seq > {seen.size}")
    for ask in (lambda: granted.airline.audit_since(seen), lambda: granted.airline.audit_proof(seen.size + 1)):
        with pytest.raises(BrokerError) as refused:
            ask()
        assert refused.value.facts["status"] == 500
    with pytest.raises(AuditError, match="lost a part"):
        world.store.consistency(seen.size, seen.size + 4)


def test_log_longer_than_one_answer_is_fetched_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confide.keys.audit_client._PAGE", 3)
    granted = Granted(world)
    assert len(granted.airline.audit().entries) == 7


def test_answer_of_a_part_that_is_none_is_refused(world: World) -> None:
    granted = Granted(world)
    for first, limit in ((0, 1), (1, 0), (1, 1001), (-5, 3)):
        with pytest.raises(UsageError):
            granted.airline._call("POST", "audit", {"first": first, "limit": limit})
    for words in ({"first": "1", "limit": 1}, {"first": True, "limit": 1}, {"first": 1}):
        with pytest.raises(ParseError):
            granted.airline._call("POST", "audit", words)


@pytest.mark.parametrize(("old", "new"), [(0, 10_000), (3, 2), (-1, 2), (10_000, 10_000), (0, -1), (2**53 - 1, 2**53 - 1)])
def test_lengths_that_the_log_has_not_had_are_the_clients_mistake(world: World, old: int, new: int) -> None:
    airline = world.owner("airline")
    with pytest.raises(UsageError, match="has not had these lengths"):
        airline._call("POST", "audit/consistency", {"old": old, "new": new})
    assert world.refusals()[-1] == ("audit", "usage")

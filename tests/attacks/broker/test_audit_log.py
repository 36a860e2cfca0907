"""The audit log is cut or rewritten, or a key would leave without an entry in it."""

from __future__ import annotations

import sqlite3

import pytest
from support.broker_attacks import Granted, change_row
from support.broker_world import World

from confide.errors import AuditError, BrokerError


def test_no_key_leaves_when_the_audit_log_cannot_be_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(world)
    client = world.client(world.node())
    client.audit_head()

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(world.store, "_put", full)
    with pytest.raises(BrokerError):
        client.release(granted.manifest)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)",
        "DELETE FROM audit",
        "UPDATE audit SET event = replace(event, 'airline', 'weather') WHERE seq = 1",
        "DELETE FROM records WHERE kind = 'audit-head'",
    ],
)
def test_audit_log_that_was_cut_or_changed_stops_the_broker(world: World, sql: str) -> None:
    Granted(world)
    change_row(world, sql)
    with pytest.raises(AuditError):
        world.restart()

"""Evidence of another session is shown to the broker: replayed, stored, relayed, or for something else than is said."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from support import attested_session, broker_attacks
from support.broker_attacks import Raw
from support.broker_world import World

from confide.attest import binding
from confide.attest.insecure import Fault
from confide.canonical import b64url
from confide.ids import Nonce, Role


def test_replayed_evidence_is_refused(world: World) -> None:
    first, second = Raw(world), Raw(world)
    message = first.message(first.auth())
    assert first.attest(message) == "ok"
    second.auth()
    assert second.attest(message) == "nonce-refused"


def without(monkeypatch: pytest.MonkeyPatch, *parts: str) -> None:
    """Take parts out of the report data, for nodes and the broker alike."""
    attested_session.without(monkeypatch, *parts)
    monkeypatch.setattr(broker_attacks, "report_data", binding.report_data)


def test_replayed_evidence_under_a_fresh_nonce_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Raw(world), Raw(world)
    message = first.message(first.auth())
    assert first.attest(message) == "ok"
    nonce = second.auth()
    stolen = {**message, "runtime-data": {**message["runtime-data"], "nonce": b64url(nonce)}}
    assert second.attest(stolen) == "binding-mismatch"
    assert ("attest", "binding-mismatch") in world.refusals()
    without(monkeypatch, "nonce", "exporter", "spki")
    first, second = Raw(world), Raw(world)
    message = first.message(first.auth())
    nonce = second.auth()
    assert second.attest({**message, "runtime-data": {**message["runtime-data"], "nonce": b64url(nonce)}}) == "ok"


def test_stored_evidence_of_an_earlier_session_is_refused(world: World) -> None:
    raw = Raw(world, world.node(fault=Fault.REPLAY))
    assert raw.attest(raw.message(raw.auth())) == "binding-mismatch"


def test_evidence_relayed_from_another_tls_session_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2026-33697: the victim attests to a middleman, who relays its quote over a session of his own."""

    def relay() -> str:
        victim, middleman = Raw(world), Raw(world)
        nonce = middleman.auth()
        return middleman.attest(victim.message(nonce, spki=middleman.node.identity.spki_der))

    assert relay() == "binding-mismatch"
    without(monkeypatch, "exporter")
    assert relay() == "ok"


@pytest.mark.parametrize(
    "changed",
    [{"role": Role.DRIVER}, {"nonce": Nonce(bytes(32))}, {"exporter": bytes(32)}, {"context": bytes(48)}, {"spki": b"another key"}],
    ids=lambda changed: next(iter(changed)),
)
def test_evidence_for_something_else_than_is_said_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    raw = Raw(world)
    assert raw.attest(raw.message(raw.auth(), **changed)) == "binding-mismatch"
    without(monkeypatch, *changed)
    assert raw.attest(raw.message(raw.auth(), **changed)) == "ok"


def test_expired_nonce_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Raw(world)
    nonce = raw.auth()
    world.ahead = timedelta(seconds=61)
    assert raw.attest(raw.message(nonce)) == "nonce-refused"
    monkeypatch.setattr(binding.NonceBook, "redeem", lambda self, nonce, now: None)
    assert raw.attest(raw.message(nonce)) == "ok"


def test_nonce_works_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Raw(world)
    message = raw.message(raw.auth())
    assert raw.attest(message) == "ok"
    assert raw.attest(message) == "nonce-refused"
    monkeypatch.setattr(binding.NonceBook, "redeem", lambda self, nonce, now: None)
    assert raw.attest(message) == "ok"

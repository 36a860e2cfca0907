"""Relay and diversion: evidence made for one TLS session is carried into a second (CVE-2026-33697)."""

from __future__ import annotations

import pytest
from support.attested_session import NODE, Connect, World, aside, without

from confide.crypto.identity import Identity
from confide.errors import BindingError
from confide.ids import Role
from confide.node import session
from confide.node.session import present


def relay(world: World, linked: Connect, *, stolen: Identity | None = None) -> session.AttestedPeer:
    """Stand between the verifier and a genuine node: a TLS session to each, frames passed on unchanged (CVE-2026-33697).

    ``stolen``: the node's own TLS key is in the attacker's hands as well.
    """
    attacker_to_node, node_end = linked(server=stolen)
    aside(lambda: present(node_end, attester=world.attester(), role=Role.WORKER, context=world.context()))
    attacker_to_verifier, verifier_end = linked(client=stolen)

    def pass_on() -> None:
        attacker_to_node.send_frame(attacker_to_verifier.recv_frame())
        attacker_to_verifier.send_frame(attacker_to_node.recv_frame())

    aside(pass_on)
    return world.attest(verifier_end)


def test_evidence_relayed_through_a_second_tls_session_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(BindingError):
        relay(world, linked)


def test_relay_works_without_exporter_and_key(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "exporter", "spki")
    assert relay(world, linked).context.node == NODE


def test_exporter_stops_relay_by_a_thief_of_the_key(world: World, linked: Connect) -> None:
    """Evidence that is bound to a key alone (RA-TLS) would be worth nothing here."""
    with pytest.raises(BindingError):
        relay(world, linked, stolen=Identity.generate("stolen"))


def test_relay_by_a_thief_of_the_key_works_without_exporter(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "exporter")
    assert relay(world, linked, stolen=Identity.generate("stolen")).context.node == NODE

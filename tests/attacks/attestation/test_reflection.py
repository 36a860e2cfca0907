"""Reflection: a node is shown its own evidence, or its own key."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from support.attested_session import NODE, RUN, Connect, World, aside, without

from confide.attest import binding
from confide.crypto.identity import Identity
from confide.errors import BindingError, ChannelError
from confide.ids import Role
from confide.node import session
from confide.node.session import present


def reflect(world: World, linked: Connect, *, lie: bool) -> session.AttestedPeer:
    """Come to a driver as a worker, and answer its challenge with evidence that the same driver gives in another session."""
    driver = Identity.generate("driver")
    attacker, verifier_end = linked(server=driver)
    other, presenter_end = linked(server=driver)
    aside(lambda: present(presenter_end, attester=world.attester(), role=Role.DRIVER, context=world.context(node="driver")))

    def mirror() -> None:
        challenge = attacker.recv_frame()
        other.send_frame({**challenge, "role": "driver"})
        evidence = other.recv_frame()
        attacker.send_frame({**evidence, "role": "worker"} if lie else evidence)

    aside(mirror)
    return world.attest(verifier_end, role=Role.WORKER)


@pytest.mark.parametrize("lie", [False, True])
def test_reflected_evidence_is_refused(lie: bool, world: World, linked: Connect) -> None:
    with pytest.raises(BindingError):
        reflect(world, linked, lie=lie)


def test_reflection_works_without_role_exporter_and_key(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "role", "exporter", "spki")
    assert reflect(world, linked, lie=True).context.node == "driver"


def test_role_byte_alone_stops_reflection(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "exporter", "spki")
    with pytest.raises(BindingError):
        reflect(world, linked, lie=True)


def test_session_with_our_own_key_is_refused_in_the_handshake(linked: Connect) -> None:
    mine = Identity.generate("node")
    with pytest.raises((BindingError, ChannelError)):
        linked(client=mine, server=mine)


def own_key_session(world: World, *, own_spki: bytes | None) -> session.AttestedPeer:
    """A session whose other end is this node itself: all that evidence is bound to agrees."""
    identity, side, context, exporter = Identity.generate("node"), world.side, world.context(), bytes(range(32))
    nonce = side.nonces.issue(datetime.now(UTC))
    quote = world.attester().quote(
        binding.report_data(role=Role.WORKER, exporter=exporter, nonce=nonce, spki=identity.spki_der, context=context.digest)
    )
    presented = session.Presented(Role.WORKER, context, quote)
    expected = session.Expected(Role.WORKER, world.job.digest, RUN)
    return session.judge(
        presented,
        side=side,
        nonce=nonce,
        exporter=exporter,
        peer_spki=identity.spki_der,
        own_spki=own_spki or identity.spki_der,
        expected=expected,
    )


def test_peer_with_our_own_key_is_refused(world: World) -> None:
    with pytest.raises(BindingError, match="own key"):
        own_key_session(world, own_spki=None)


def test_only_the_own_key_check_stops_a_session_with_oneself(world: World) -> None:
    assert own_key_session(world, own_spki=b"another").context.node == NODE

"""Replay: evidence of one session is shown in another."""

from __future__ import annotations

import pytest
from support.attested_session import NODE, Connect, World, aside, without

from confide.canonical import Json
from confide.crypto.identity import Identity
from confide.errors import BindingError
from confide.ids import Role
from confide.node import session
from confide.node.control import Kind, read
from confide.node.session import present


def replay(world: World, linked: Connect) -> session.AttestedPeer:
    """Record a genuine node's evidence frame; show it in a later session of the same node's key."""
    identity = Identity.generate("worker")
    frames: list[Json] = []
    near, far = linked(client=identity)
    recording = near.send_frame
    near.send_frame = lambda frame, **options: (frames.append(frame), recording(frame, **options))[1]  # type: ignore[method-assign]
    node = aside(lambda: present(near, attester=world.attester(), role=Role.WORKER, context=world.context()))
    world.attest(far)
    node.join()
    again, verifier_end = linked(client=identity)

    def show() -> None:
        read(again.recv_frame(), Kind.CHALLENGE)
        again.send_frame(frames[0])

    aside(show)
    return world.attest(verifier_end)


def test_replayed_evidence_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(BindingError):
        replay(world, linked)


def test_replay_works_without_nonce_and_exporter(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "nonce", "exporter")
    assert replay(world, linked).context.node == NODE


@pytest.mark.parametrize("part", ["nonce", "exporter"])
def test_nonce_and_exporter_each_stop_replay_alone(part: str, world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, part)
    with pytest.raises(BindingError):
        replay(world, linked)

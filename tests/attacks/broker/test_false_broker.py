"""A false broker, a broker that is down, and one that fails inside: none of them yields a key."""

from __future__ import annotations

import pytest
from support.broker_attacks import Granted
from support.broker_world import World

from confide.crypto.secret import SecretBytes
from confide.crypto.tls import Identity
from confide.errors import BrokerError
from confide.keys.client import NodeBrokerClient


def test_broker_with_another_key_than_the_pinned_one_is_not_asked(world: World) -> None:
    granted = Granted(world)
    node = world.node()
    client = NodeBrokerClient(
        world.server.url,
        Identity.generate("other").spki_digest,
        identity=node.identity,
        attester=node.attester,
        context=node.context,
        seal_key=node.seal_key,
        role=node.role,
    )
    with pytest.raises(BrokerError, match="pinned"):
        client.release(granted.manifest)


def test_broker_that_is_down_yields_no_key(world: World) -> None:
    granted = Granted(world)
    client = world.client(world.node())
    client.release(granted.manifest)
    world.server.stop()
    for _ in range(2):
        with pytest.raises(BrokerError):
            client.release(granted.manifest)


def test_failure_inside_the_broker_is_a_500_that_yields_no_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(world)
    client = world.client(world.node())

    def broken(*_: object) -> SecretBytes:
        raise RuntimeError("canary-4711")

    monkeypatch.setattr(world.broker._keys, "opening", broken)
    with pytest.raises(BrokerError) as caught:
        client.release(granted.manifest)
    assert caught.value.facts["status"] == 500
    assert "canary" not in str(caught.value)

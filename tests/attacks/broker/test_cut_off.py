"""A node that its run's driver does not accept any more, and drivers that cut off whom they may not."""

from __future__ import annotations

import pytest
from support.broker_attacks import Granted
from support.broker_world import World

from confide.errors import BindingError, GrantError
from confide.ids import NodeId, Purpose, Role, RunId
from confide.keys.records import CutOff


def test_node_that_was_cut_off_gets_no_key_not_even_for_fresh_evidence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(world)
    worker, other = world.client(world.node()), world.client(world.node(name="worker-2"))
    worker.release(granted.manifest)
    world.client(world.node(Role.DRIVER)).cut_off(NodeId("worker-1"))
    for client in (worker, world.client(world.node())):  # its session, and one anew with keys of its own
        with pytest.raises(GrantError, match="does not accept this node"):
            client.release(granted.manifest)
    world.restart()
    with pytest.raises(GrantError, match="does not accept this node"):
        world.client(world.node()).release(granted.manifest)
    assert ("release", "grant-missing") in world.refusals()
    other = world.client(world.node(name="worker-2"))
    other.release(granted.manifest)
    world.client(world.node(run=RunId("another-run"))).release(granted.manifest)
    (event,) = world.events("cut-off")
    # The weakened broker looks for nodes that were cut off in another run.
    monkeypatch.setattr(CutOff, "id", property(lambda self: f"{self.job}:another:{self.node}"))
    assert world.client(world.node()).release(granted.manifest)
    assert (event["node"], event["cut_off"]) == ("driver-1", "worker-1")


@pytest.mark.parametrize(("role", "target"), [(Role.WORKER, "worker-2"), (Role.DRIVER, "driver-1")])
def test_only_a_driver_cuts_off_and_only_others(world: World, role: Role, target: str) -> None:
    with pytest.raises(GrantError):
        world.client(world.node(role)).cut_off(NodeId(target))
    assert world.events("cut-off") == []


def test_driver_of_the_same_run_that_made_no_output_cuts_off_nobody(world: World) -> None:
    granted = Granted(world, purposes=[Purpose.READ, Purpose.WRITE])
    world.client(world.node(Role.DRIVER)).output("delays", inputs=[granted.minted.dataset], recipients=[])
    with pytest.raises(BindingError, match="another driver"):
        world.client(world.node(Role.DRIVER, name="driver-2")).cut_off(NodeId("worker-1"))

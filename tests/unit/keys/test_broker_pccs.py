"""Nodes whose quotes only name their PCK certificate: the broker asks its PCCS, and gives no key on another answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker_world import JOB, World, policy
from support.pccs import PCK_PATH, NamingAttester, asking, serve_machine
from support.vendor_server import VendorServer

from confide.attest.insecure import InsecureAttester, Installation
from confide.attest.insecure.documents import Machine
from confide.errors import CollateralError, EvidenceInvalidError
from confide.ids import Tee


@pytest.fixture
def server() -> Iterator[VendorServer]:
    one = VendorServer()
    yield one
    one.close()


@pytest.fixture
def world(tmp_path: Path, installation: Installation, server: VendorServer) -> Iterator[World]:
    made = World(tmp_path, installation, verifier=asking(installation, server.url))
    yield made
    made.close()


def naming(world: World, **changes: object) -> NamingAttester:
    return NamingAttester(InsecureAttester(world.installation, Tee.SGX, "ab" * 32), **changes)  # type: ignore[arg-type]


def test_key_is_released_to_a_node_whose_certificate_the_pccs_has(world: World, server: VendorServer) -> None:
    serve_machine(server, world.installation)
    airline = world.owner("airline")
    minted, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy())
    client = world.client(world.node(attester=naming(world)))
    assert client.release(envelope).secret.reveal() == minted.secret.reveal()
    assert server.asked[PCK_PATH] == 1
    server.before = lambda *_: (500, {}, b"")
    assert world.verifier._endorsements is not None
    world.verifier._endorsements._known.clear()
    assert client.release(envelope).secret.reveal() == minted.secret.reveal(), "what the session was attested with is kept"


@pytest.mark.parametrize(
    ("machine", "pce_id", "error"),
    [
        (None, bytes(2), CollateralError),
        (Machine.OUT_OF_DATE, bytes(2), EvidenceInvalidError),
        (Machine.GOOD, b"\1\0", EvidenceInvalidError),
    ],
    ids=["pccs-knows-none", "of-another-chip", "of-another-pceid"],
)
def test_no_key_on_another_certificate(
    world: World, server: VendorServer, machine: Machine | None, pce_id: bytes, error: type[Exception]
) -> None:
    if machine is not None:
        serve_machine(server, world.installation, machine)
    airline = world.owner("airline")
    _, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy())
    with pytest.raises(error):
        world.client(world.node(attester=naming(world, pce_id=pce_id))).release(envelope)
    assert world.events("release") == []
    assert [action for action, _ in world.refusals()] == ["attest"]


def test_revoked_machine_is_refused_with_the_certificate_that_it_names(world: World, server: VendorServer) -> None:
    from confide.attest.insecure import Fault

    serve_machine(server, world.installation, Machine.REVOKED)
    attester = NamingAttester(InsecureAttester(world.installation, Tee.SGX, "ab" * 32, fault=Fault.REVOKED_PCK))
    _, envelope = world.dataset(world.owner("airline"), "airline", "flights")
    with pytest.raises(EvidenceInvalidError):
        world.client(world.node(attester=attester)).release(envelope)


def test_broker_without_a_pccs_refuses_such_a_node(tmp_path: Path, installation: Installation) -> None:
    world = World(tmp_path, installation)
    try:
        _, envelope = world.dataset(world.owner("airline"), "airline", "flights")
        with pytest.raises(EvidenceInvalidError):
            world.client(world.node(attester=naming(world))).release(envelope)
    finally:
        world.close()

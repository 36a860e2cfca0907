"""A node whose evidence is a TPM's, at a real broker with a real software TPM: it gets a key where a grant's policy names TPMs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.broker_world import JOB, World, policy
from support.tpm import log_event, log_of
from support.tpm_world import EVENTS, TpmWorld, make_machine

from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.errors import AppraisalError, AttestationError, EvidenceInvalidError

__all__ = ["make_machine"]


@pytest.fixture
def served(world: World, machine: TpmWorld) -> Iterator[World]:
    """A broker whose operator enrolled the machine's key."""
    roots = TrustRoots(simulated=world.installation.root_der, tpm=machine.trust())
    world.verifier = Verifier(roots, world.installation.collateral_source())
    world.restart()
    yield world
    machine.tpm.flush()


def test_tpm_gets_a_key_where_the_policy_names_it(served: World, machine: TpmWorld) -> None:
    airline = served.owner("airline")
    minted, envelope = served.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=machine.policy())
    released = served.client(served.node(attester=machine.attester())).release(envelope)
    assert released.secret.reveal() == minted.secret.reveal()


def test_tpm_with_a_log_of_real_length_gets_a_key(served: World, machine: TpmWorld) -> None:
    airline = served.owner("airline")
    minted, envelope = served.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=machine.policy())
    machine.tpm.path("log").write_bytes(log_of(*EVENTS) + log_event(0, bytes(32), bytes(200 * 1024), kind=3))
    try:
        assert served.client(served.node(attester=machine.attester())).release(envelope).secret.reveal() == minted.secret.reveal()
    finally:
        machine.tpm.path("log").write_bytes(log_of(*EVENTS))


def test_tpm_gets_no_key_where_the_policy_is_for_a_tee(served: World, machine: TpmWorld) -> None:
    airline = served.owner("airline")
    _, envelope = served.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy())
    with pytest.raises(AppraisalError):
        served.client(served.node(attester=machine.attester())).release(envelope)
    assert served.events("release") == []


def test_tpm_that_the_operator_did_not_enrol_does_not_get_a_session(world: World, machine: TpmWorld) -> None:
    airline = world.owner("airline")
    _, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=machine.policy())
    with pytest.raises(EvidenceInvalidError):
        world.client(world.node(attester=machine.attester())).release(envelope)
    machine.tpm.flush()


def test_tpm_whose_key_is_revoked_while_the_broker_serves_gets_no_key_any_more(world: World, machine: TpmWorld) -> None:
    trust = [machine.trust()]
    world.verifier = Verifier(TrustRoots(), world.installation.collateral_source(), tpm=lambda: trust[0])
    world.restart()
    airline = world.owner("airline")
    _, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=machine.policy())
    node = world.node(attester=machine.attester())
    world.client(node).release(envelope)
    trust[0] = replace(trust[0], revoked=frozenset({machine.key.name.hex()}))
    with pytest.raises(AttestationError, match=r"revoked|refused"):
        world.client(node).release(envelope)
    machine.tpm.flush()

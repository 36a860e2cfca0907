"""Two nodes with one key: a copy of a node would read what is meant for it, and act in its name."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from support.attested_session import RUN, World

from confide.attest import binding
from confide.crypto.identity import Identity
from confide.crypto.seal import SealKey
from confide.errors import BindingError
from confide.ids import NodeId, Role
from confide.node import session
from confide.node.jobca import JobCa
from confide.node.roster import Phase
from confide.node.spec import Timing
from confide.node.workers import Workers


class CopiesAllowed(Workers):
    """The weakened driver: every attested node of a free name is taken."""

    def _check_own_keys(self, peer: session.AttestedPeer) -> None:
        return


@pytest.fixture
def keys() -> tuple[Identity, Any]:
    return Identity.generate("node"), SealKey.generate().public_jwk()


def workers(kind: type[Workers], world: World) -> Workers:
    """A driver's view of its workers, with what deciding about them needs."""
    resources = SimpleNamespace(workers=2, min_workers=1, refused_worker="continue")
    services: Any = SimpleNamespace(
        spec=SimpleNamespace(timing=Timing()),
        verifier=world.verifier,
        policy=world.side.policy,
        job=SimpleNamespace(resources=resources),
        context=world.context(node="driver"),
        init_data=None,
    )
    mail: Any = None
    now = datetime.now(UTC)
    deaf: Any = {"on_report": lambda *_: None, "check_worker": lambda _: None, "cut_off": lambda _: None, "now": lambda: 0.0}
    return kind(services, mail, JobCa(RUN, now=now), lambda: now, **deaf)


def attested(world: World, node: str, identity: Identity, seal: Any) -> session.AttestedPeer:
    """A genuine, accepted node with these keys."""
    side, context, exporter = world.side, replace(world.context(node=node), seal=seal), bytes(32)
    nonce = side.nonces.issue(datetime.now(UTC))
    data = binding.report_data(role=Role.WORKER, exporter=exporter, nonce=nonce, spki=identity.spki_der, context=context.digest)
    return session.judge(
        session.Presented(Role.WORKER, context, world.attester().quote(data)),
        side=side,
        nonce=nonce,
        exporter=exporter,
        peer_spki=identity.spki_der,
        own_spki=b"the driver's",
        expected=session.Expected(Role.WORKER, world.job.digest, RUN),
    )


def both_join(kind: type[Workers], world: World, first: tuple[Identity, Any], second: tuple[Identity, Any]) -> int:
    """Two nodes come; how many are accepted."""
    driver = workers(kind, world)
    driver._accept(attested(world, "worker-1", *first))
    driver._accept(attested(world, "worker-2", *second))
    return driver.roster.count(Phase.ACCEPTED)


def test_two_nodes_with_keys_of_their_own_are_accepted(world: World, keys: tuple[Identity, Any]) -> None:
    assert both_join(Workers, world, keys, (Identity.generate("other"), SealKey.generate().public_jwk())) == 2


def test_two_nodes_with_one_tls_key_are_refused(world: World, keys: tuple[Identity, Any]) -> None:
    copy = (keys[0], SealKey.generate().public_jwk())
    with pytest.raises(BindingError, match="same key"):
        both_join(Workers, world, keys, copy)
    assert both_join(CopiesAllowed, world, keys, copy) == 2


def test_two_nodes_with_one_seal_key_are_refused(world: World, keys: tuple[Identity, Any]) -> None:
    copy = (Identity.generate("other"), keys[1])
    with pytest.raises(BindingError, match="same seal key"):
        both_join(Workers, world, keys, copy)
    assert both_join(CopiesAllowed, world, keys, copy) == 2


def test_worker_with_the_drivers_seal_key_is_refused(world: World, keys: tuple[Identity, Any]) -> None:
    driver = workers(Workers, world)
    with pytest.raises(BindingError, match="same seal key"):
        driver._accept(attested(world, "worker-1", keys[0], driver._services.context.seal))


def test_one_name_is_taken_by_one_node(world: World, keys: tuple[Identity, Any]) -> None:
    driver = workers(Workers, world)
    driver._accept(attested(world, "worker-1", *keys))
    with pytest.raises(BindingError, match="is here already"):
        driver._accept(attested(world, "worker-1", Identity.generate("other"), SealKey.generate().public_jwk()))
    assert driver.roster.phases[NodeId("worker-1")] is Phase.ACCEPTED

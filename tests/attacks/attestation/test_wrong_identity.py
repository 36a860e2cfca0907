"""Wrong role, job, run, node or seal key: genuine evidence of somebody else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from support.attested_session import NODE, RUN, Connect, World, aside, without
from support.simulated_evidence import BINDING, BOTH, CONTEXT, accept

from confide.canonical import Json, b64url
from confide.crypto.seal import SealKey
from confide.errors import BindingError
from confide.ids import JobDigest, NodeId, Nonce, Role, RunId
from confide.node import session
from confide.node.session import attest_peer, present


def edited(world: World, linked: Connect, edit: Callable[[Json], Json], **context: Any) -> session.AttestedPeer:
    """A genuine worker's own session, in which an evidence frame is edited before it reaches the verifier."""
    near, far = linked()
    sending = near.send_frame
    near.send_frame = lambda frame, **options: sending(edit(frame), **options)  # type: ignore[method-assign]
    aside(lambda: present(near, attester=world.attester(), role=Role.WORKER, context=world.context(**context)))
    return world.attest(far, role=Role.WORKER)


def swapped_role(world: World, linked: Connect) -> session.AttestedPeer:
    """A genuine worker shows its evidence where a driver is wanted."""
    near, far = linked()
    receiving, sending = near.recv_frame, near.send_frame
    near.recv_frame = lambda *args, **options: {
        **(f := receiving(*args, **options)),
        **({"role": "worker"} if f["kind"] == "challenge" else {}),
    }  # type: ignore[method-assign]
    near.send_frame = lambda frame, **options: sending({**frame, "role": "driver"}, **options)  # type: ignore[method-assign]
    aside(lambda: present(near, attester=world.attester(), role=Role.WORKER, context=world.context()))
    return world.attest(far, role=Role.DRIVER)


def test_swapped_role_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(BindingError):
        swapped_role(world, linked)


def test_role_swap_works_without_the_role_byte(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "role")
    assert swapped_role(world, linked).record.role is Role.DRIVER


def test_node_does_not_present_itself_under_a_role_that_it_does_not_have(world: World, linked: Connect) -> None:
    near, far = linked()
    aside(lambda: world.attest(far, role=Role.DRIVER))
    with pytest.raises(BindingError, match="another role"):
        present(near, attester=world.attester(), role=Role.WORKER, context=world.context())


OTHER_JOB = JobDigest("0" * 96)


def test_evidence_of_a_node_with_another_job_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(BindingError, match="another job digest"):
        edited(world, linked, lambda frame: frame, job=OTHER_JOB)


def pretend_job(world: World) -> Callable[[Json], Json]:
    return lambda frame: {**frame, "context": {**frame["context"], "job": world.job.digest}} if frame["kind"] == "evidence" else frame


def test_job_digest_written_over_in_the_frame_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(BindingError, match="not bound"):
        edited(world, linked, pretend_job(world), job=OTHER_JOB)


def test_overwritten_job_digest_passes_without_the_context(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "context")
    assert edited(world, linked, pretend_job(world), job=OTHER_JOB).context.job == world.job.digest


def test_seal_key_of_another_is_refused(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the broker would seal data keys to the attacker."""
    thief = SealKey.generate().public_jwk()

    def attack() -> session.AttestedPeer:
        swap = {"seal": thief}
        return edited(world, linked, lambda frame: {**frame, "context": {**frame["context"], **swap}} if "context" in frame else frame)

    with pytest.raises(BindingError, match="not bound"):
        attack()
    without(monkeypatch, "context")
    assert attack().context.seal == thief


def test_evidence_of_another_run_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(BindingError, match="another run"):
        edited(world, linked, lambda frame: frame, run=RunId("attacked-2"))


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        {"exporter": b"x" * 32},
        {"nonce": Nonce(b"x" * 32)},
        {"spki": b"another key"},
        {"role": Role.DRIVER},
        {"context": dataclasses.replace(CONTEXT, job=JobDigest("cd" * 48))},
        {"context": dataclasses.replace(CONTEXT, run=RunId("other-run"))},
        {"context": dataclasses.replace(CONTEXT, node=NodeId("worker-2"))},
        {"context": dataclasses.replace(CONTEXT, seal={**CONTEXT.seal, "x": b64url(b"x" * 32)})},
    ],
    ids=["relayed", "replayed", "reflected", "other-role", "other-job", "other-run", "other-node", "other-seal-key"],
)
def test_evidence_of_another_session_is_refused(verifier, evidence_of, tee, change) -> None:
    with pytest.raises(BindingError):
        accept(verifier, evidence_of(tee), dataclasses.replace(BINDING, **change))


@pytest.mark.parametrize("wrong", [{"job": OTHER_JOB}, {"run": RunId("attacked-2")}], ids=["job", "run"])
def test_only_the_comparison_with_what_was_expected_stops_an_honest_node_of_another_run(wrong, world, linked, monkeypatch) -> None:
    def attack() -> session.AttestedPeer:
        return edited(world, linked, lambda frame: frame, **wrong)

    with pytest.raises(BindingError, match="another"):
        attack()
    monkeypatch.setattr(session, "_check", lambda *_: None)
    assert attack().context.node == NODE


def test_node_under_an_id_that_was_not_expected_is_refused(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank: the broker's or driver's list of ids is closed."""

    def attack() -> session.AttestedPeer:
        near, far = linked()
        aside(lambda: present(near, attester=world.attester(), role=Role.WORKER, context=world.context(node="worker-9")))
        return attest_peer(far, side=world.side, role=Role.WORKER, job=world.job.digest, run=RUN, nodes=[NODE])

    with pytest.raises(BindingError, match="another node"):
        attack()
    monkeypatch.setattr(session, "_check", lambda *_: None)
    assert attack().context.node == "worker-9"

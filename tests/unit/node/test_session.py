from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from confide.attest.insecure import Fault
from confide.errors import AppraisalError, AttestationError, BindingError, ChannelError, ConfideError, ParseError, ProtocolError
from confide.ids import NodeId, Role, RunId
from confide.node.record import EvidenceRecord
from confide.node.session import attest_mutually, attest_peer, present

Channels = Callable[..., Any]


def aside(work: Callable[[], object]) -> Callable[[], Any]:
    """Run the other party on a thread; returns a function that waits and gives its value or what it raised."""
    found: list[Any] = []

    def body() -> None:
        try:
            found.append(work())
        except ConfideError as error:
            found.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(10)
        return found[0]

    return result


def test_attested_peer_is_who_it_says(world: Any, run_id: RunId, channels: Channels) -> None:
    client, server = channels()
    context = world.context(run_id)
    shown = aside(lambda: present(server, attester=world.attester(), role=Role.DRIVER, context=context))
    peer = attest_peer(client, side=world.side, role=Role.DRIVER, job=world.job.digest, run=run_id, nodes=[NodeId("driver")])
    assert peer.context == context
    assert peer.record.spki == server.own_spki
    assert peer.result.spki_digest == peer.spki
    assert replace(shown(), at=peer.record.at) == peer.record


def test_both_sides_attest_each_other(world: Any, run_id: RunId, channels: Channels) -> None:
    client, server = channels()
    driver, worker = world.context(run_id, "driver"), world.context(run_id, "worker-1")
    order: list[str] = []
    own = world.side

    def side() -> Any:
        order.append("learned")
        return own

    other = aside(
        lambda: attest_mutually(
            server,
            initiator=False,
            side=world.side,
            attester=world.attester(),
            role=Role.DRIVER,
            context=driver,
            peer_role=Role.WORKER,
            on_accepted=lambda _: order.append("accepted"),
        )
    )
    seen = attest_mutually(
        client,
        initiator=True,
        side=side,
        attester=world.attester(),
        role=Role.WORKER,
        context=worker,
        peer_role=Role.DRIVER,
        nonces=own.nonces,
        clock=own.clock,
    )
    assert (seen.context, other().context) == (driver, worker)
    assert order[-1] == "learned" or order == ["learned", "accepted"]


def test_initiator_that_was_refused_does_not_judge_the_responder(world: Any, run_id: RunId, channels: Channels) -> None:
    """Its challenge was sent already: the nonce is left to expire, and nothing of the responder is read."""
    client, server = channels()
    attest = {"side": world.side, "role": Role.DRIVER, "context": world.context(run_id, "driver"), "peer_role": Role.WORKER}
    other = aside(lambda: attest_mutually(server, initiator=False, attester=world.attester(), **attest))
    bad = {"attester": world.attester(Fault.WRONG_MEASUREMENT), "context": world.context(run_id, "worker-1")}
    with pytest.raises(AppraisalError, match="refused this node"):
        attest_mutually(client, initiator=True, side=world.side, role=Role.WORKER, peer_role=Role.DRIVER, **bad)
    assert isinstance(other(), AppraisalError)


def test_side_that_is_learned_needs_its_book_of_nonces(world: Any, run_id: RunId, channels: Channels) -> None:
    client, _ = channels()
    with pytest.raises(TypeError, match="book"):
        attest_mutually(
            client,
            initiator=True,
            side=lambda: world.side,
            attester=world.attester(),
            role=Role.WORKER,
            context=world.context(run_id, "worker-1"),
            peer_role=Role.DRIVER,
        )


def test_refused_node_hears_the_code_and_nothing_else(world: Any, run_id: RunId, channels: Channels) -> None:
    client, server = channels()
    shown = aside(
        lambda: present(server, attester=world.attester(Fault.WRONG_MEASUREMENT), role=Role.DRIVER, context=world.context(run_id))
    )
    with pytest.raises(AppraisalError, match="measurement"):
        attest_peer(client, side=world.side, role=Role.DRIVER, job=world.job.digest, run=run_id)
    error = shown()
    assert isinstance(error, AppraisalError)
    assert error.facts == {"code": "appraisal-refused"}


def test_node_of_another_name_is_refused(world: Any, run_id: RunId, channels: Channels) -> None:
    client, server = channels()
    aside(lambda: present(server, attester=world.attester(), role=Role.DRIVER, context=world.context(run_id, "other")))
    with pytest.raises(BindingError, match="another node"):
        attest_peer(client, side=world.side, role=Role.DRIVER, job=world.job.digest, run=run_id, nodes=[NodeId("driver")])


def send_raw(channel: Any, frame: Any) -> Callable[[], Any]:
    def body() -> None:
        channel.recv_frame()
        channel.send_frame(frame)

    return aside(body)


@pytest.mark.parametrize("frame", [{"kind": "evidence"}, {"kind": "verdict", "ok": True}, {}, {"kind": ["evidence"]}])
def test_anything_but_evidence_is_a_violation(frame: Any, world: Any, run_id: RunId, channels: Channels) -> None:
    client, server = channels()
    send_raw(server, frame)
    with pytest.raises(ProtocolError):
        attest_peer(client, side=world.side, role=Role.DRIVER, job=world.job.digest, run=run_id)


def test_huge_evidence_frame_is_refused_before_it_is_read(world: Any, run_id: RunId, channels: Channels) -> None:
    client, server = channels()
    send_raw(server, {"kind": "evidence", "padding": "x" * 200_000})
    with pytest.raises(ProtocolError, match="longer than allowed"):
        attest_peer(client, side=world.side, role=Role.DRIVER, job=world.job.digest, run=run_id)


def verdict_of(frame: Any, world: Any, run_id: RunId, channels: Channels) -> BaseException:
    client, server = channels()
    shown = aside(lambda: present(server, attester=world.attester(), role=Role.DRIVER, context=world.context(run_id)))
    client.send_frame({"kind": "challenge", "protocol": "confide-session-v1", "nonce": "A" * 43, "role": "driver"})
    client.recv_frame()
    client.send_frame(frame)
    found: BaseException = shown()
    return found


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        ({"kind": "verdict", "ok": False, "code": "nonce-refused"}, AttestationError),
        ({"kind": "verdict", "ok": False, "code": "job-failed"}, AttestationError),
        ({"kind": "verdict", "ok": False}, AttestationError),
        ({"kind": "verdict", "ok": 1}, ProtocolError),
        ({"kind": "verdict"}, ProtocolError),
        ({"kind": "job"}, ProtocolError),
    ],
)
def test_verdict_is_ok_or_a_refusal(frame: Any, kind: type, world: Any, run_id: RunId, channels: Channels) -> None:
    assert isinstance(verdict_of(frame, world, run_id, channels), kind)


def test_peer_that_leaves_is_a_broken_channel(world: Any, run_id: RunId, channels: Channels) -> None:
    client, server = channels()
    with suppress(ConfideError):
        server.close()
    with pytest.raises(ChannelError):
        attest_peer(client, side=world.side, role=Role.DRIVER, job=world.job.digest, run=run_id)


@pytest.fixture
def record(world: Any, run_id: RunId, channels: Channels) -> EvidenceRecord:
    client, server = channels()
    aside(lambda: present(server, attester=world.attester(), role=Role.DRIVER, context=world.context(run_id)))
    return attest_peer(client, side=world.side, role=Role.DRIVER, job=world.job.digest, run=run_id).record


def test_record_survives_json_and_is_judged_again(world: Any, record: EvidenceRecord) -> None:
    again = EvidenceRecord.from_json(record.to_json())
    assert again == record
    assert again.digest == record.digest
    assert again.recheck(world.verifier, world.policy, record.at).role is Role.DRIVER


@pytest.mark.parametrize("name", ["exporter", "nonce", "spki"])
def test_record_with_another_session_is_refused(name: str, world: Any, record: EvidenceRecord) -> None:
    data = record.to_json()
    data[name] = ("B" if data[name][0] != "B" else "C") + data[name][1:]
    with pytest.raises(BindingError):
        EvidenceRecord.from_json(data).recheck(world.verifier, world.policy, record.at)


@pytest.mark.parametrize(
    "change",
    [{"format": "x"}, {"extra": 1}, {"role": "boss"}, {"at": "yesterday"}, {"at": "2030-01-01T00:00:00"}, {"nonce": 1}, {"exporter": "=="}],
)
def test_record_of_another_form_is_refused(change: Any, record: EvidenceRecord) -> None:
    with pytest.raises(ParseError):
        EvidenceRecord.from_json({**record.to_json(), **change})

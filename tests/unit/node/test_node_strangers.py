"""Whoever comes to a run and is none of it, or breaks the protocol, and what a bug in an engine does to its node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from cryptography import x509
from support.node_stage import (
    Engine,
    Executor,
    Stage,
    private_folders,
)

from confide.canonical import Json
from confide.crypto.identity import AnyKeyUntilAttested, Identity, IssuedBy
from confide.crypto.tls import connect
from confide.errors import (
    ChannelError,
    NodeLostError,
    UnavailableError,
)
from confide.ids import NodeId, Role
from confide.node.agent import NodeReport, NodeServices, Refusal
from confide.node.control import PROTOCOL
from confide.node.session import utc_now


def control(stage: Stage) -> Any:
    return stage.driver.agent._workers._control  # type: ignore[union-attr]


def test_certificate_alone_does_not_make_a_worker(stage: Stage) -> None:
    """The job CA's certificate on a key that was never attested: what a stolen CA key could make, and the roster still refuses."""
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stranger, ca = Identity.generate("stranger"), stage.driver.agent._ca  # type: ignore[union-attr]
    pem = ca.issue(stranger.spki_der, node=NodeId("worker-1"), role=Role.WORKER, host="127.0.0.1", now=utc_now())
    identity = stranger.with_certificate(pem, ca.ca_pem)
    with connect("127.0.0.1", control(stage).port, identity, trust=IssuedBy(ca.ca_pem)) as channel, pytest.raises(ChannelError):
        channel.recv_frame()
    assert stage.driver.error is None


def test_engine_key_is_not_the_attested_one_and_opens_no_control_channel(stage: Stage) -> None:
    """What the user's program can read of a node does not let it speak, or sign, as the node."""
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    for agent, services in ((stage.driver.agent, stage.engine.services), *((w.agent, e.services) for w, e in stage.workers.values())):
        assert services.certificate.private_key_pem.reveal() != agent._identity.key.private_pem().reveal()
    worker, services = stage.workers["worker-1"][0].agent, stage.workers["worker-1"][1].services
    certificate = services.certificate  # type: ignore[union-attr]
    identity = worker._engine_identity.with_certificate(certificate.certificate_pem, certificate.ca_pem)  # type: ignore[union-attr]
    with connect("127.0.0.1", control(stage).port, identity, trust=IssuedBy(certificate.ca_pem)) as channel, pytest.raises(ChannelError):
        channel.recv_frame()


def test_workers_certificate_names_its_host(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    services = stage.workers["worker-1"][1].services
    certificate = x509.load_pem_x509_certificate(services.certificate.certificate_pem)  # type: ignore[union-attr]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert names.get_values_for_type(x509.DNSName) == ["worker-1", "localhost"]


def test_accepted_worker_has_one_control_channel(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    worker, ca = stage.workers["worker-1"][0].agent, stage.driver.agent._ca  # type: ignore[union-attr]
    pem = ca.issue(worker._identity.spki_der, node=NodeId("worker-1"), role=Role.WORKER, host="127.0.0.1", now=utc_now())
    identity = worker._identity.with_certificate(pem, ca.ca_pem)
    with connect("127.0.0.1", control(stage).port, identity, trust=IssuedBy(ca.ca_pem)) as channel, pytest.raises(ChannelError):
        channel.recv_frame()
    stage.engine.release.set()
    assert stage.until("result")["receipt"]["nodes"][1][:2] == ["worker-1", "ok"]


@pytest.mark.parametrize("frame", [{"kind": "welcome"}, {"kind": "engine-exited"}, {"kind": "event", "type": 1},
                                   {"kind": "report", "seq": 1, "report": {}}, {"kind": "report", "report": {"note": 1}}])  # fmt: skip
def test_worker_that_breaks_the_protocol_is_cut_off(frame: Json, stage: Stage) -> None:
    stage.begin("worker-1", "worker-2")
    stage.until("event", event="program-started")
    stage.workers["worker-2"][0].agent._link._channel.send_frame(frame)  # type: ignore[union-attr]
    assert stage.until("event", event="worker-lost")["node"] == "worker-2"
    assert isinstance(stage.workers["worker-2"][0].join(), NodeLostError)


def test_client_that_breaks_the_protocol_ends_the_run(stage: Stage) -> None:
    stage.begin()
    stage.client._channel.send_frame({"kind": "welcome"})  # type: ignore[union-attr]
    assert stage.until("result")["error"]["code"] == "protocol-violation"


@pytest.mark.parametrize("hello", [{"protocol": "other"}, {"role": "broker"}, {"role": "worker"}, {"kind": "bundle"}, {"role": 1}])
def test_stranger_at_the_bootstrap_address_is_turned_away(hello: Json, stage: Stage) -> None:
    stage.start_driver()
    with connect(stage.address.host, stage.address.port, Identity.generate("stranger"), trust=AnyKeyUntilAttested()) as channel:
        channel.send_frame({"kind": "hello", "protocol": PROTOCOL, "role": "client", "node": "x", **hello})
        with pytest.raises(ChannelError):
            channel.recv_frame()
    stage.attest().submit()
    stage.until("start-workers")


class Broken(Engine):
    def prepare(self, node: NodeServices) -> Json:
        raise ValueError("a bug")

    def stop(self) -> None:
        super().stop()
        raise ValueError("another bug")


def test_bug_in_the_engine_ends_the_run_and_everything_is_wiped(stage: Stage) -> None:
    stage.engine = Broken()
    stage.begin()
    result = stage.until("result")
    assert result["error"]["code"] == "unavailable"
    assert "a bug" not in str(result)
    stage.leave()
    assert isinstance(stage.driver.join(), UnavailableError)
    assert private_folders(stage.specs.run) == []


class BrokenReceipt(Engine):
    def receipt(self, nodes: Sequence[NodeReport], refused: Sequence[Refusal]) -> Json:
        raise ValueError("a bug")


def test_run_without_a_receipt_has_failed(stage: Stage) -> None:
    stage.engine = BrokenReceipt()
    stage.begin("worker-1", "worker-2")
    stage.engine.release.set()
    assert stage.until("result")["error"]["code"] == "unavailable"
    stage.leave()
    assert isinstance(stage.driver.join(), UnavailableError)


class BrokenExecutor(Executor):
    def poll(self) -> int | None:
        raise ValueError("a bug")

    def stop(self) -> None:
        super().stop()
        raise ValueError("another bug")


def test_bug_in_a_workers_engine_ends_that_worker(stage: Stage) -> None:
    stage.begin("worker-1", "worker-2", worker_2=BrokenExecutor())
    assert stage.until("event", event="worker-failed")["node"] == "worker-2"
    assert isinstance(stage.workers["worker-2"][0].join(), UnavailableError)

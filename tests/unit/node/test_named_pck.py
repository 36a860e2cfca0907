"""Client, driver and workers attest each other with quotes that only name their PCK certificate, each through its PCCS."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.pccs import PCK_PATH, NamingAttester, asking, serve_machine
from support.vendor_server import VendorServer

from confide.attest.insecure.documents import Machine
from confide.errors import AttestationError, CollateralError, EvidenceInvalidError
from confide.ids import NodeId, Role, RunId
from confide.jobs.evidence import completed, completed_refusal
from confide.node.record import EvidenceRecord
from confide.node.session import VerifierSide, attest_mutually, attest_peer, present
from confide.node.workload import NodeReport, Refusal

Channels = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[VendorServer]:
    one = VendorServer()
    yield one
    one.close()


def aside(work: Callable[[], object]) -> Callable[[], Any]:
    found: list[Any] = []

    def body() -> None:
        try:
            found.append(work())
        except AttestationError as error:
            found.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(10)
        return found[0]

    return result


def side(world: Any, server: VendorServer) -> VerifierSide:
    return VerifierSide(asking(world.installation, server.url), world.policy)


def test_client_accepts_a_driver_and_keeps_what_can_be_judged_from_files(
    world: Any, run_id: RunId, channels: Channels, server: VendorServer
) -> None:
    serve_machine(server, world.installation)
    client, far = channels()
    context = world.context(run_id)
    shown = aside(lambda: present(far, attester=NamingAttester(world.attester()), role=Role.DRIVER, context=context))
    verifying = side(world, server)
    peer = attest_peer(client, side=verifying, role=Role.DRIVER, job=world.job.digest, run=run_id, nodes=[NodeId("driver")])
    assert server.asked[PCK_PATH] == 1
    assert peer.record.recheck(world.verifier, world.policy, peer.record.at).claims == peer.result.claims
    own: EvidenceRecord = shown()
    with pytest.raises(EvidenceInvalidError):
        own.recheck(world.verifier, world.policy, own.at)
    report = completed(NodeReport(NodeId("driver"), own, "ok", 1, own), verifying.verifier)
    for record in (report.record, report.latest):
        assert record is not None
        assert record.evidence == peer.record.evidence
        record.recheck(world.verifier, world.policy, record.at)
    refused = completed_refusal(Refusal(NodeId("driver"), "appraisal-refused", own), verifying.verifier)
    assert refused.record == report.record
    assert server.asked[PCK_PATH] == 1


def test_driver_and_worker_attest_each_other(world: Any, run_id: RunId, channels: Channels, server: VendorServer) -> None:
    serve_machine(server, world.installation)
    near, far = channels()
    driver, worker = world.context(run_id, "driver"), world.context(run_id, "worker-1")
    attester = NamingAttester(world.attester())
    other = aside(
        lambda: attest_mutually(
            far, initiator=False, side=side(world, server), attester=attester, role=Role.DRIVER, context=driver, peer_role=Role.WORKER
        )
    )
    seen = attest_mutually(
        near, initiator=True, side=side(world, server), attester=attester, role=Role.WORKER, context=worker, peer_role=Role.DRIVER
    )
    assert (seen.context, other().context) == (driver, worker)
    assert server.asked[PCK_PATH] == 2


@pytest.mark.parametrize(
    ("machine", "error"), [(None, CollateralError), (Machine.OUT_OF_DATE, EvidenceInvalidError)], ids=["unknown", "of-another-chip"]
)
def test_worker_with_another_certificate_is_refused(
    world: Any, run_id: RunId, channels: Channels, server: VendorServer, *, machine: Machine | None, error: type[AttestationError]
) -> None:
    if machine is not None:
        serve_machine(server, world.installation, machine)
    near, far = channels()
    told = aside(
        lambda: present(far, attester=NamingAttester(world.attester()), role=Role.WORKER, context=world.context(run_id, "worker-1"))
    )
    refused: list[EvidenceRecord] = []
    with pytest.raises(error):
        attest_peer(near, side=side(world, server), role=Role.WORKER, job=world.job.digest, run=run_id, on_refused=refused.append)
    assert isinstance(told(), error)
    kept = completed_refusal(Refusal(NodeId("worker-1"), error.code, refused[0]), side(world, server).verifier)
    assert (kept.record == refused[0]) == (machine is None)

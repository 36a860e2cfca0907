"""Builds a run's receipt on the driver: what was attested, read and written, signed by the driver's attested key.

Checks nothing that :mod:`confide.jobs.receipt` would not check again; fails if evidence does not verify as of when it was judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from typing import TYPE_CHECKING

import confide
from confide.attest.collateral_sources import FixedCollateral
from confide.canonical import canonical
from confide.crypto.sign import dsse_sign
from confide.errors import AttestationError, CollateralError
from confide.ids import Role
from confide.jobs.statement import PAYLOAD_TYPE, DataEntry, NodeEntry, ReceiptBundle, RefusedEntry, ReleaseEntry, build_statement

if TYPE_CHECKING:
    from confide.attest.collateral_sources import AnyCollateral
    from confide.attest.verify import Verifier
    from confide.canonical import Json
    from confide.jobs.inputs import VerifiedInput
    from confide.jobs.outputs import CommittedOutput
    from confide.node.workload import NodeReport, NodeServices, Refusal


def receipt_bundle(
    services: NodeServices,
    *,
    nodes: Sequence[NodeReport],
    refused: Sequence[Refusal],
    inputs: Sequence[VerifiedInput],
    outputs: Sequence[CommittedOutput],
    releases: Iterable[ReleaseEntry],
    data: Iterable[DataEntry],
    times: tuple[datetime, datetime],
    audit_head: Json,
    broker_key: bytes,
) -> ReceiptBundle:
    """The signed receipt of this run, with everything that its digests name.

    Raises:
        AttestationError: a node's evidence does not verify any more.
    """
    nodes = [completed(one, services.verifier) for one in nodes]
    refused = [completed_refusal(one, services.verifier) for one in refused]
    described = [describe(report, services.verifier) for report in nodes]
    turned_away = [describe_refused(one, services.verifier) for one in refused]
    used = [one for _, sets in described for one in sets] + [collateral for _, collateral in turned_away if collateral is not None]
    statement = build_statement(
        run=services.spec.run_id,
        form=services.job.canonical_form(),
        policy=services.policy.digest,
        times=times,
        nodes=[entry for entry, _ in described],
        refused=[entry for entry, _ in turned_away],
        inputs=[one.entry for one in inputs],
        outputs=[one.entry() for one in outputs],
        releases=_distinct(releases),
        data=data,
        audit_head=audit_head,
        broker_key=broker_key,
        version=confide.__version__,
    )
    return ReceiptBundle(
        receipt=dsse_sign(services.identity.key, PAYLOAD_TYPE, statement.to_bytes()),
        evidence={str(report.node): report.record.to_json() for report in nodes},
        latest={str(report.node): report.latest.to_json() for report in nodes if report.latest is not None},
        refused={one.record.digest: one.record.to_json() for one in refused if one.record is not None},
        collateral={collateral.digest: dict(collateral.to_json()) for collateral in used},
        manifests={**{one.name: one.envelope for one in inputs}, **{one.name: one.envelope for one in outputs}},
    )


def completed(report: NodeReport, verifier: Verifier) -> NodeReport:
    """A report whose evidence can be judged from files alone: what others showed is so already, what this node showed is made so.

    Raises:
        CollateralError: what the evidence lacks is not to be had any more.
    """
    latest = None if report.latest is None else report.latest.completed(verifier)
    return replace(report, record=report.record.completed(verifier), latest=latest)


def completed_refusal(refusal: Refusal, verifier: Verifier) -> Refusal:
    """A refusal whose evidence can be judged from files alone, if what it lacks is to be had."""
    with suppress(CollateralError):  # refused for just that, perhaps
        return refusal if refusal.record is None else replace(refusal, record=refusal.record.completed(verifier))
    return refusal


def describe(report: NodeReport, verifier: Verifier) -> tuple[NodeEntry, list[AnyCollateral]]:
    """One node's row, and the sets of collateral that its evidence, the first and the latest, was verified with.

    Raises:
        AttestationError: the evidence does not verify as of when it was judged.
    """
    record = report.record
    verified = _verifier_of_then(verifier, report.collateral).verify(record.evidence, record.at)
    claims, collateral = verified.claims, verified.collateral
    latest, used = report.latest, [collateral]
    if latest is not None:
        used.append(_verifier_of_then(verifier, report.latest_collateral).verify(latest.evidence, latest.at).collateral)
    entry = NodeEntry(
        node=str(report.node),
        role=Role(record.role).value,
        ended=report.ended,
        tee=claims.tee.value,
        simulated=claims.simulated,
        measurement=claims.measurement,
        tcb_status=claims.tcb_status,
        evidence=claims.evidence_digest,
        record=record.digest,
        collateral=collateral.digest,
        epoch=claims.epoch.to_json(),
        spki=record.binding.spki_digest,
        at=record.at.isoformat(),
        again=report.again,
        latest="" if latest is None else latest.digest,
        latest_collateral="" if latest is None else used[-1].digest,
    )
    return entry, used


def _verifier_of_then(verifier: Verifier, collateral: AnyCollateral | None) -> Verifier:
    """``verifier`` with the collateral of the time when evidence was judged: the run may have lasted into newer sets."""
    return verifier if collateral is None else verifier.with_collateral(FixedCollateral(collateral))


def describe_refused(refusal: Refusal, verifier: Verifier) -> tuple[RefusedEntry, AnyCollateral | None]:
    """The row of a refused worker, and the collateral that its evidence was judged with, if there is evidence that is genuine at all."""
    record, collateral = refusal.record, None
    if record is not None:
        with suppress(AttestationError):
            collateral = verifier.verify(record.evidence, record.at).collateral
    named = "" if record is None else record.digest
    return RefusedEntry(str(refusal.node), refusal.code, named, "" if collateral is None else collateral.digest), collateral


def _distinct(releases: Iterable[ReleaseEntry]) -> list[ReleaseEntry]:
    """Each release once: leases are renewed, and a renewal under the same grant says nothing new."""
    return list({canonical(asdict(one)): one for one in releases}.values())

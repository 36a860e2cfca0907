"""What a grant would do, by evidence that is stored: decides nothing, writes nothing, asks nobody.

Follows the broker's steps: the evidence is verified as of the time it was judged, with the collateral of then; its binding is checked; and
the same functions as there say whether the grant covers the node, and each line of its policy whether it accepts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from confide.attest.collateral_sources import AnyCollateral, CollateralSource, FixedCollateral, read_collateral
from confide.attest.policy import Check
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import Json, parse_object
from confide.crypto.sign import unverified_payload
from confide.errors import ConfideError, GrantError, ParseError, UsageError
from confide.ids import JobDigest, Purpose, SpkiDigest
from confide.jobs.receipt import MAX_FILE_BYTES, load_bundle
from confide.jobs.statement import Statement
from confide.keys.grants import Grant, Request, Standing, obstacle
from confide.keys.job_signatures import JobSignature
from confide.keys.sessions import check_binding
from confide.node.record import RECORD_FORMAT, EvidenceRecord
from confide.regular_file import read_regular

Outcome = Literal["released", "waits", "refused"]
_HINT: Final = "give a run's folder, its receipt.json, or an evidence record (a run keeps them in evidence/)"


@dataclass(frozen=True, slots=True)
class Stored:
    """One node's evidence from a file.  ``collateral`` is what was kept beside it, if anything: sets for this and perhaps other nodes."""

    label: str
    record: EvidenceRecord
    collateral: tuple[AnyCollateral, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """What would happen to one node that asks for the key for one purpose, and why.  ``checks``: the policy, line by line."""

    stored: Stored
    key: str
    purpose: Purpose
    outcome: Outcome
    why: str
    checks: tuple[Check, ...] = ()

    def to_json(self) -> Json:
        """The trial as JSON."""
        record = self.stored.record
        return {
            "evidence": self.stored.label,
            "node": record.context.node,
            "run": record.context.run,
            "job": record.context.job,
            "role": record.role.value,
            "at": record.at.isoformat(),
            "key": self.key,
            "purpose": self.purpose.value,
            "outcome": self.outcome,
            "why": self.why,
            "checks": [{"name": c.name, "expected": c.expected, "got": c.got, "ok": c.ok} for c in self.checks],
        }


def read_stored(path: Path) -> list[Stored]:
    """The evidence in a run's folder, a receipt or an evidence record.

    Raises:
        UsageError: it is none of these.
        ReceiptError, ParseError: what it holds is not what it must be.
    """
    if path.is_dir():
        return _of_receipt(path) if (path / "receipt.json").exists() else _of_failed(path)
    try:
        data = parse_object(read_regular(path, MAX_FILE_BYTES))
    except OSError as cause:
        raise UsageError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause
    except ParseError as cause:
        raise UsageError(f"{path.name} holds no evidence with its context", hint=_HINT, path=str(path)) from cause
    if "payloadType" in data:
        return _of_receipt(path)
    if data.get("format") != RECORD_FORMAT:
        raise UsageError(f"{path.name} holds no evidence with its context", hint=_HINT, path=str(path))
    return [Stored(path.name, EvidenceRecord.from_json(data))]


def _of_receipt(path: Path) -> list[Stored]:
    """The evidence of a receipt's nodes, refused ones included, each with its collateral.  The receipt itself is not judged here."""
    bundle = load_bundle(path)
    statement = Statement.from_bytes(unverified_payload(bundle.receipt))
    where: list[tuple[str, Json | None, str]] = [
        *((node.node, bundle.evidence.get(node.node), node.collateral) for node in statement.nodes),
        *(
            (f"{refused.node} (refused)", bundle.refused.get(refused.record or ""), refused.collateral or "")
            for refused in statement.refused
        ),
    ]
    return [
        Stored(f"{statement.run}: {label}", EvidenceRecord.from_json(data), _collateral(bundle.collateral, digest))
        for label, data, digest in where
        if data is not None
    ]


def _collateral(kept: Mapping[str, Json], digest: str) -> tuple[AnyCollateral, ...]:
    return (read_collateral(kept[digest]),) if digest in kept else ()


def _of_failed(path: Path) -> list[Stored]:
    """What a run without a receipt left of its nodes (``RunDir.keep``)."""
    sets = tuple(read_collateral(data) for data in _objects_in(path / "collateral"))
    found = [
        Stored(f"{path.name}: {record.context.node}{mark}", record, sets)
        for folder, mark in (("evidence", ""), ("refused", " (refused)"))
        for record in map(EvidenceRecord.from_json, _objects_in(path / folder))
    ]
    if not found:
        raise UsageError(f"{path.name} holds no evidence with its context", hint=_HINT, path=str(path))
    return sorted(found, key=lambda one: one.label)


def _objects_in(folder: Path) -> list[Json]:
    try:
        return [parse_object(read_regular(path, MAX_FILE_BYTES)) for path in sorted(folder.glob("*.json"))]
    except OSError as cause:
        raise UsageError(f"cannot read {folder}: {cause.strerror}", path=str(folder)) from cause


@dataclass(frozen=True, slots=True)
class Proposal:
    """A grant that is thought of, and what else decides.

    ``needed`` are the approvals that the key's rule asks for; ``source`` has collateral where none was kept beside the evidence;
    ``signatures`` are those that the job would show.
    """

    grant: Grant
    needed: int
    roots: TrustRoots
    source: CollateralSource
    signatures: tuple[Json, ...] = ()

    def tried(self, stored: Iterable[Stored], now: datetime) -> list[Trial]:
        """What would happen if those nodes asked ``now``, for each purpose that the grant is for."""
        return [self._try(one, purpose, now) for one in stored for purpose in self.grant.purposes]

    def _try(self, stored: Stored, purpose: Purpose, now: datetime) -> Trial:
        grant, record, context = self.grant, stored.record, stored.record.context
        request = Request(grant.key, context.job, record.role, purpose, context.run, _signers(self.signatures, context.job))
        source = FixedCollateral(*stored.collateral) if stored.collateral else self.source
        try:
            verified = Verifier(self.roots, source).verify(record.evidence, record.at)
            check_binding(verified, record.binding)
        except ConfideError as error:
            return Trial(stored, grant.key, purpose, "refused", f"{error.code}: {error.message}")
        checks = tuple(grant.policy.explain(verified, role=record.role, job=context.job, now=record.at))
        missing = obstacle(grant, request, Standing(), now)
        failed = next((check for check in checks if not check.ok), None)
        if missing is not None:
            return Trial(stored, grant.key, purpose, "refused", missing.message, checks)
        if failed is not None:
            why = f"policy {grant.policy.name}: {failed.name}: expected {failed.expected}, got {failed.got}"
            return Trial(stored, grant.key, purpose, "refused", why, checks)
        if self.needed:
            return Trial(stored, grant.key, purpose, "waits", f"until {self.needed} of the key's approvers have approved the grant", checks)
        return Trial(stored, grant.key, purpose, "released", f"policy {grant.policy.name} accepts the node", checks)


def _signers(signatures: Iterable[Json], job: JobDigest) -> frozenset[SpkiDigest]:
    """Whose signatures are of that job; those of others do not count here."""
    found = set()
    for data in signatures:
        try:
            found.add(JobSignature.verify(data, job).signer_digest)
        except GrantError:
            continue
    return frozenset(found)

"""A finished run's receipt and what lies beside it, made without running anything; parts can be changed before it is signed."""

from __future__ import annotations

import dataclasses
import secrets
from datetime import UTC, datetime
from typing import Any

from confide.attest.binding import SessionBinding
from confide.attest.evidence import NodeContext
from confide.attest.insecure import InsecureAttester
from confide.attest.policy import Rules
from confide.canonical import Json, digest_of, sha384_hex
from confide.crypto.envelope import wrap
from confide.crypto.seal import SealKey
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey, dsse_sign, unverified_payload
from confide.data.manifest import FileEntry, Manifest, sign_manifest
from confide.ids import DatasetId, JobDigest, NodeId, Nonce, Role, RunId, Tee
from confide.jobs.evidence import describe, describe_refused
from confide.jobs.local.simulation import SimulatedTee
from confide.jobs.statement import (
    PAYLOAD_TYPE,
    DataEntry,
    DatasetEntry,
    ReceiptBundle,
    RefusedEntry,
    ReleaseEntry,
    Statement,
    build_statement,
)
from confide.keys.audit import AuditHead
from confide.node.record import EvidenceRecord
from confide.node.workload import NodeReport, Refusal

RUN = RunId("demo-1")
NOW = datetime.now(UTC)
MEASURED = {Tee.SGX: "ab" * 32, Tee.TDX: "cd" * 48}


def manifest(
    name: str, dataset: str, key: SigningKey, *, owner: str | None = None, run: RunId | None = None, parent: str | None = None
) -> Json:
    wrapped = wrap(SecretBytes.random(), SecretBytes.random(), key="airline/flights", version=1, dataset=dataset)
    made = Manifest(
        dataset=DatasetId(dataset),
        name=name,
        snapshot=1 if parent is None else 2,
        parent=parent,
        created="2026-01-01T00:00:00Z",
        kind="files",
        schema=None,
        files=(FileEntry("a.bin", 1, "00" * 32),),
        wrapped=wrapped,
        signer=key.public,
        owner=owner,
        run=run,
    )
    return sign_manifest(made, key)


class ReceiptRun:
    """A finished run of a driver and a worker, with one input and one output; parts can be changed before it is signed."""

    def __init__(self, tee: SimulatedTee, *, goes_on: str | None = None, **pin: Any) -> None:
        """``pin``: what the job says of its input besides dataset and signer; ``goes_on``: with which dataset its output does."""
        self.tee = tee
        self.driver, self.worker, self.owner, self.broker = (SigningKey.generate() for _ in range(4))
        policy = Rules(name="p", measurements={k: (v,) for k, v in MEASURED.items()}, allow=("simulated",))
        self.input_manifest = manifest("flights", "11" * 16, self.owner, owner="airline")
        self.output_manifest = manifest("delays", "22" * 16, self.driver, run=RUN)
        self.form: Json = {
            "name": "demo",
            "policy": policy.to_json(),
            "inputs": {"flights": {"dataset": "11" * 16, "signer": self.owner.spki_digest, **pin}},
            "outputs": {"delays": {"recipients": [], **({"mode": "append", "dataset": goes_on} if goes_on else {})}},
            "broker": {"spki": self.broker.spki_digest},
        }
        self.policy = policy
        self.job = JobDigest(digest_of(self.form))
        self.records = {
            "driver": self.record("driver", Role.DRIVER, self.driver, Tee.SGX),
            "worker-1": self.record("worker-1", Role.WORKER, self.worker, Tee.TDX),
        }
        tampered = self.record("worker-2", Role.WORKER, SigningKey.generate(), Tee.SGX, measurement="ef" * 32)
        self.refused = [Refusal(NodeId("worker-2"), "appraisal-refused", tampered)]
        self.latest: dict[str, EvidenceRecord] = {}

    def record(self, node: str, role: Role, key: SigningKey, kind: Tee, **changes: Any) -> EvidenceRecord:
        seal = changes.get("seal", SealKey.generate().public_jwk())
        context = NodeContext(changes.get("job", self.job), changes.get("run", RUN), NodeId(node), seal)
        nonce = Nonce(secrets.token_bytes(32))
        binding = SessionBinding(role=role, exporter=bytes(32), nonce=nonce, spki=key.spki_der, context=context)
        measured = changes.get("measurement", MEASURED[kind])
        attester = InsecureAttester(self.tee.installation, kind, measured, fault=changes.get("fault"))
        return EvidenceRecord(role, context, attester.quote(binding.report_data), bytes(32), nonce, key.spki_der, changes.get("at", NOW))

    def statement(self, **changes: Any) -> Statement:
        verifier, again = self.tee.verifier(), self.latest
        reports = [NodeReport(NodeId(n), r, "ok", 3 if n in again else 0, again.get(n)) for n, r in self.records.items()]
        rows = [describe(report, verifier) for report in reports]
        self.collateral = {c.digest: dict(c.to_json()) for _, sets in rows for c in sets}
        head = AuditHead(3, "00" * 32, 5, NOW.isoformat()).sign(self.broker)
        made = build_statement(
            run=RUN,
            form=self.form,
            policy=self.policy.digest,
            times=(NOW, NOW),
            nodes=[entry for entry, _ in rows],
            refused=[self.refused_row(tampered) for tampered in self.refused],
            inputs=[self.row("flights", self.input_manifest, "11" * 16, self.owner)],
            outputs=[self.row("delays", self.output_manifest, "22" * 16, self.driver)],
            releases=[
                self.release("worker-1", "flights", "read"),
                self.release("worker-1", "delays", "write"),
                self.release("driver", "delays", "write"),
            ],
            data=[DataEntry("worker-1", 2, 1000, 7, 65536, 100, 12, 3, 2, 2)],
            audit_head=head,
            broker_key=self.broker.spki_der,
            version="0",
        )
        return dataclasses.replace(made, **changes)

    def refused_row(self, refusal: Refusal) -> RefusedEntry:
        entry, collateral = describe_refused(refusal, self.tee.verifier())
        if collateral is not None:
            self.collateral[collateral.digest] = dict(collateral.to_json())
        return entry

    def release(self, node: str, name: str, purpose: str, **changes: Any) -> ReleaseEntry:
        row = ReleaseEntry(node, name, purpose, "airline/flights", 1, {"airline/flights": {"grant": "ab" * 8, "policy": "cd" * 48}})
        return dataclasses.replace(row, **changes)

    def row(self, name: str, envelope: Json, dataset: str, signer: SigningKey) -> DatasetEntry:
        digest = sha384_hex(unverified_payload(envelope))
        return DatasetEntry(name, dataset, 1, digest, "airline/flights", 1, signer.spki_digest)

    def bundle(self, *, signer: SigningKey | None = None, **changes: Any) -> ReceiptBundle:
        statement = self.statement(**changes)
        return ReceiptBundle(
            receipt=dsse_sign(signer or self.driver, PAYLOAD_TYPE, statement.to_bytes()),
            evidence={n: r.to_json() for n, r in self.records.items()},
            latest={n: r.to_json() for n, r in self.latest.items()},
            refused={r.record.digest: r.record.to_json() for r in self.refused if r.record is not None},
            collateral=self.collateral,
            manifests={"flights": self.input_manifest, "delays": self.output_manifest},
        )

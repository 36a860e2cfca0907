"""Makes the receipt vectors anew: ``python tests/vectors/receipt/make.py``.  Keys are new each time; the verdicts must not be.

One scenario a file.  ``common.json`` holds the root of the simulated vendor that signed the evidence, and what lies beside every receipt
but for a scenario's own ``beside``.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1])]

from support.receipt_world import NOW, RUN, ReceiptRun, manifest  # noqa: E402 - which is found by the path above

from confide.attest.insecure import Fault  # noqa: E402
from confide.crypto.sign import SigningKey, dsse_sign  # noqa: E402
from confide.ids import Role, Tee  # noqa: E402
from confide.jobs.local.simulation import SimulatedTee  # noqa: E402
from confide.jobs.statement import PAYLOAD_TYPE, DataEntry  # noqa: E402
from confide.keys.audit import AuditHead  # noqa: E402
from confide.node.workload import Refusal  # noqa: E402

Json = dict[str, Any]
TABLES = ("evidence", "latest", "refused", "collateral", "manifests")


def canonical(value: object) -> bytes:
    """RFC 8785 of what has ASCII names, and no numbers but integers."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


class Maker:
    """One honest run; each scenario changes one thing in its receipt, or beside it."""

    def __init__(self, tee: SimulatedTee) -> None:
        self.run = ReceiptRun(tee)
        bundle = self.run.bundle().to_json()
        self.beside: Json = {name: bundle[name] for name in TABLES}
        self.statement: Json = json.loads(canonical(self.run.statement().to_json()))

    def vector(self, description: str, step: int | None, receipt: Json, **more: Any) -> Json:
        return {"description": description, "expect": "accepted" if step is None else "refused", "step": step, "receipt": receipt, **more}

    def signed(self, statement: Json, signer: SigningKey | None = None) -> Json:
        return dsse_sign(signer or self.run.driver, PAYLOAD_TYPE, canonical(statement))

    def said(self, description: str, step: int, change: Callable[[Json], object], **more: Any) -> Json:
        """The driver signed something else: ``change`` is made to the statement's predicate."""
        statement = copy.deepcopy(self.statement)
        change(statement["predicate"])
        p = statement["predicate"]
        statement["subject"] = [{"name": f"job:{p['form']['name']}", "digest": {"sha384": p["job"]}}]
        statement["subject"] += [{"name": f"output:{o['name']}", "digest": {"sha384": o["manifest"]}} for o in p["outputs"]]
        return self.vector(description, step, self.signed(statement), **more)

    def honest(self, description: str, step: int | None = None, **more: Any) -> Json:
        return self.vector(description, step, self.signed(self.statement), **more)

    def other_run(self, description: str, step: int | None, change: Callable[[ReceiptRun], object], **more: Any) -> Json:
        """A run that was another one."""
        run = copy.copy(self.run)
        run.records, run.refused, run.latest = dict(run.records), list(run.refused), dict(run.latest)
        change(run)
        bundle = run.bundle().to_json()
        beside = {name: {k: v for k, v in bundle[name].items() if self.beside[name].get(k) != v} for name in TABLES}
        return self.vector(description, step, bundle["receipt"], beside={name: found for name, found in beside.items() if found}, **more)


def envelope_vectors(made: Maker) -> dict[str, Json]:
    honest, run = made.signed(made.statement), made.run
    payload = canonical(made.statement)
    other = {**honest, "payload": base64.b64encode(payload.replace(b'"confide":"0"', b'"confide":"1"')).decode()}
    return {
        "accepted": made.honest("a driver, a worker, one input and one output; one worker was refused"),
        "accepted-job": made.honest("the job that the reader meant", job=made.statement["predicate"]["job"]),
        "other-signer": made.vector("the worker signed", 1, made.signed(made.statement, run.worker)),
        "changed-payload": made.vector("a byte was changed after it was signed", 1, other),
        "two-signatures": made.vector("two signatures", 1, {**honest, "signatures": honest["signatures"] * 2}),
        "payload-type": made.vector("another payload type", 1, dsse_sign(run.driver, "application/json", payload)),
        "spaces": made.vector("signed, in another spelling", 1, dsse_sign(run.driver, PAYLOAD_TYPE, json.dumps(made.statement).encode())),
        "unknown-field": made.said("a field that is not documented", 1, lambda p: p.update(more=1)),
        "missing-field": made.said("no version of the software", 1, lambda p: p.pop("confide")),
        "unknown-field-of-a-row": made.said("a field of a row that is not documented", 1, lambda p: p["data"][0].update(more=1)),
        "number-as-text": made.said("a count as a text", 1, lambda p: p["data"][0].update(tasks="2")),
        "version-1": made.vector("version 1", 1, made.signed({**made.statement, "predicateType": "urn:confide:receipt:v1"})),
        "no-subject": made.vector("no subject", 1, made.signed({**made.statement, "subject": []})),
        "no-driver": made.said("no driver", 1, lambda p: p["nodes"].pop(0)),
        "two-drivers": made.said("two drivers", 1, lambda p: p["nodes"][1].update(role="driver")),
        "no-evidence": made.honest("the driver's evidence is not there", 1, beside={"evidence": {"driver": None}}),
    }


def job_and_node_vectors(made: Maker) -> dict[str, Json]:
    run = made.run
    changed = copy.deepcopy(made.beside["evidence"]["worker-1"])
    changed["exporter"] = "A" + changed["exporter"][1:] if changed["exporter"][0] != "A" else "B" + changed["exporter"][1:]
    later = NOW + timedelta(minutes=1)

    def again(**changes: Any) -> Callable[[ReceiptRun], object]:
        def attested(r: ReceiptRun) -> None:
            given = {"seal": r.records["worker-1"].context.seal, "at": later, **changes}
            r.latest["worker-1"] = r.record("worker-1", Role.WORKER, r.worker, Tee.TDX, **given)

        return attested

    behind = run.record("worker-1", Role.WORKER, run.worker, Tee.TDX, fault=Fault.OUT_OF_DATE)
    good = Refusal(run.refused[0].node, "appraisal-refused", run.records["worker-1"])
    return {
        "accepted-again": made.other_run("the worker was attested again", None, again()),
        "form": made.said("the form is not the one of the digest", 2, lambda p: p["form"].update(name="other")),
        "policy": made.said("the digest of another policy", 2, lambda p: p.update(policy="0" * 96)),
        "job-other": made.honest("not the job that the reader meant", 2, job="1" * 96),
        "evidence-changed": made.honest("a record that was changed", 3, beside={"evidence": {"worker-1": changed}}),
        "node-time": made.said("another time than the record's", 3, lambda p: p["nodes"][1].update(at=later.isoformat())),
        "node-name": made.said(
            "another name than the record's",
            3,
            lambda p: p["nodes"][1].update(node="worker-9"),
            beside={"evidence": {"worker-9": made.beside["evidence"]["worker-1"]}},
        ),
        "run-other": made.said("another run than the records'", 3, lambda p: p.update(run="demo-2")),
        "node-tcb": made.said(
            "another TCB status than the evidence has", 3, lambda p: p["nodes"][1].update(tcb_status="OutOfDate"), by_evidence=True
        ),
        "node-not-simulated": made.said(
            "simulated evidence passed off", 3, lambda p: p["nodes"][1].update(simulated=False), by_evidence=True
        ),
        "out-of-date": made.other_run(
            "evidence that does not meet the policy", 3, lambda r: r.records.update({"worker-1": behind}), by_evidence=True
        ),
        "again-older": made.other_run("the latest evidence is older than the first", 3, again(at=NOW - timedelta(seconds=1))),
        "again-another": made.other_run(
            "the latest evidence has another sealing key", 3, again(seal=made.beside["evidence"]["driver"]["context"]["seal"])
        ),
        "again-untold": made.said("a count without evidence", 3, lambda p: p["nodes"][1].update(again=1)),
        "refused-good": made.other_run(
            "a worker was refused for evidence that is good", 4, lambda r: r.refused.append(good), by_evidence=True
        ),
    }


def dataset_vectors(made: Maker) -> dict[str, Json]:
    run = made.run
    inputs, outputs = made.beside["manifests"]["flights"], made.beside["manifests"]["delays"]
    forged = {**inputs, "signatures": [{**inputs["signatures"][0], "sig": outputs["signatures"][0]["sig"]}]}
    by_worker = manifest("delays", "22" * 16, run.worker, run=RUN)
    other = manifest("flights", "33" * 16, run.owner, owner="airline")
    return {
        "input-left-out": made.said("an input of the job is not there", 5, lambda p: p["inputs"].clear()),
        "input-manifest": made.said("another manifest's digest", 5, lambda p: p["inputs"][0].update(manifest="0" * 96)),
        "input-signer": made.said("another signer than the job pins", 5, lambda p: p["inputs"][0].update(signer=run.worker.spki_digest)),
        "input-unsigned": made.honest("a manifest whose signature is another's", 5, beside={"manifests": {"flights": forged}}),
        "input-gone": made.honest("a manifest is not there", 5, beside={"manifests": {"flights": None}}),
        "input-other": made.other_run("another dataset of the same owner", 5, lambda r: setattr(r, "input_manifest", other)),
        "input-row": made.said("another snapshot than the manifest's", 5, lambda p: p["inputs"][0].update(snapshot=2)),
        "output-left-out": made.said("an output of the job is not there", 6, lambda p: p["outputs"].clear()),
        "output-signer": made.other_run("the worker signed the output", 6, lambda r: setattr(r, "output_manifest", by_worker)),
    }


def key_vectors(made: Maker) -> dict[str, Json]:
    run = made.run
    stranger = {"x/y": {"grant": "ab" * 8, "policy": "cd" * 48}}
    head = AuditHead(3, "00" * 32, 5, NOW.isoformat()).sign(run.owner)
    broker = base64.urlsafe_b64encode(run.owner.spki_der).rstrip(b"=").decode()

    def row(node: str, **changes: int) -> Json:
        return dataclasses.asdict(DataEntry(node, 1, 0, 0, 0, 0, 0, 0, 0, 0)) | changes

    def released(**changes: Any) -> Callable[[Json], object]:
        return lambda p: p["releases"][1].update(**changes)

    return {
        "key-to-a-stranger": made.said("a key went to a node that was refused", 7, released(node="worker-2")),
        "key-of-no-dataset": made.said("a key of a dataset that the job does not have", 7, released(name="other")),
        "key-of-another": made.said("a key that the dataset is not under", 7, released(key="hotel/k")),
        "key-older": made.said("a version before the manifest's", 7, released(version=0)),
        "key-without-grant": made.said("no grant", 7, released(grants={})),
        "key-under-a-strangers-grant": made.said("the grant of somebody else", 7, released(grants=stranger)),
        "output-without-key": made.said("the driver had no key of the output", 7, lambda p: p["releases"].clear()),
        "data-of-a-stranger": made.said("counts of a node that is none", 8, lambda p: p.update(data=[row("worker-9")])),
        "data-twice": made.said("counts of one node twice", 8, lambda p: p.update(data=[row("worker-1")] * 2)),
        "data-negative": made.said("a negative count", 8, lambda p: p.update(data=[row("worker-1", bytes_written=-5)])),
        "audit-head": made.said("somebody else signed the head of the log", 9, lambda p: p.update(audit_head=head)),
        "broker": made.said("another broker than the job pins", 9, lambda p: p.update(audit_head=head, broker_key=broker)),
    }


def main() -> None:
    """Write them."""
    with tempfile.TemporaryDirectory() as folder:
        tee = SimulatedTee.at(Path(folder) / "simulated")
        made = Maker(tee)
        found = envelope_vectors(made) | job_and_node_vectors(made) | dataset_vectors(made) | key_vectors(made)
        root = tee.installation.root_der.hex()
    for name, content in {"common": {"root": root, "beside": made.beside}, **found}.items():
        (HERE / f"{name}.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

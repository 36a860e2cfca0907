"""Makes the session vectors anew: ``python tests/vectors/session/make.py``.  Keys are new each time; the verdicts must not be.

One scenario a file; ``vendor.json`` holds the public half of the simulated vendor that signed the evidence.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confide.attest.binding import report_data
from confide.attest.evidence import Evidence, NodeContext
from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.attest.insecure.documents import Machine
from confide.canonical import b64url
from confide.crypto.seal import SealKey
from confide.crypto.sign import SigningKey
from confide.ids import JobDigest, NodeId, Nonce, ReportData, Role, RunId, Tee

HERE = Path(__file__).parent
NOW = datetime(2030, 1, 1, tzinfo=UTC)
MEASUREMENTS = {Tee.SGX: "ab" * 32, Tee.TDX: "ab" * 48}
JOB, OTHER_JOB = JobDigest("1" * 96), JobDigest("2" * 96)
RUN = RunId("vector-1")


class Scene:
    """One honest session; each scenario changes one thing in it."""

    def __init__(self, vendor: Installation, role: Role, tee: Tee, *, fault: Fault | None = None, **context: Any) -> None:
        self.role, node = role, NodeId("driver" if role is Role.DRIVER else "worker-1")
        self.exporter, self.nonce, self.spki = secrets.token_bytes(32), Nonce(secrets.token_bytes(32)), SigningKey.generate().spki_der
        self.context = NodeContext(**{"job": JOB, "run": RUN, "node": node, "seal": SealKey.generate().public_jwk(), **context})
        data = report_data(role=role, exporter=self.exporter, nonce=self.nonce, spki=self.spki, context=self.context.digest)
        self.evidence = self.quote(vendor, tee, data, fault)

    def quote(self, vendor: Installation, tee: Tee, data: ReportData, fault: Fault | None) -> Evidence:
        return InsecureAttester(vendor, tee, MEASUREMENTS[tee], fault=fault).quote(data)

    def vector(self, description: str, expect: str, *, frame: Any = None, expected: Any = None, **session: Any) -> dict[str, Any]:
        honest = {"kind": "evidence", "role": str(self.role), "context": self.context.to_json(), "evidence": self.evidence.to_json()}
        own = {
            "exporter": self.exporter.hex(),
            "nonce": self.nonce.hex(),
            "peer_spki": self.spki.hex(),
            "own_spki": "00",
            "age_s": 1,
            "ttl_s": 60,
        }
        wanted = {"role": str(self.role), "job": JOB, "run": RUN, "nodes": None}
        return {
            "type": "evidence",
            "description": description,
            "session": {**own, **session},
            "expected": {**wanted, **(expected or {})},
            "frame": {**honest, **(frame or {})},
            "expect": expect,
        }


def evidence_vectors(vendor: Installation) -> dict[str, dict[str, Any]]:
    """Scenarios of the verifier's side."""
    worker, driver = Scene(vendor, Role.WORKER, Tee.SGX), Scene(vendor, Role.DRIVER, Tee.TDX)
    other_job, other_run = Scene(vendor, Role.WORKER, Tee.SGX, job=OTHER_JOB), Scene(vendor, Role.WORKER, Tee.SGX, run=RunId("vector-2"))
    context, fresh = worker.context.to_json(), secrets.token_bytes(32).hex()
    long = {**worker.evidence.to_json(), "quote": b64url(worker.evidence.quote + b"\0")}
    bad = "binding-mismatch"
    found = {
        "accepted-worker-sgx": worker.vector("a worker's SGX quote, bound to this session", "accepted"),
        "accepted-driver-tdx": driver.vector("a driver's TDX quote, bound to this session", "accepted"),
        "replayed": worker.vector("the quote answers another nonce", bad, nonce=fresh),
        "relayed": worker.vector("the quote was made in another TLS session", bad, exporter=fresh),
        "relayed-key": worker.vector("the peer's key is not the quote's", bad, peer_spki=driver.spki.hex()),
        "own-key": worker.vector("the peer shows the verifier's own key", bad, own_spki=worker.spki.hex()),
        "role-overwritten": worker.vector(
            "a worker's quote in a driver's frame", bad, frame={"role": "driver"}, expected={"role": "driver"}
        ),
        "role-unexpected": worker.vector("a worker comes where a driver is wanted", bad, expected={"role": "driver"}),
        "job-other": other_job.vector("the node was started for another job", bad),
        "job-overwritten": other_job.vector(
            "the frame names this job, the quote another", bad, frame={"context": {**other_job.context.to_json(), "job": JOB}}
        ),
        "run-other": other_run.vector("the node belongs to another run", bad),
        "node-unexpected": worker.vector("the node is not one of those expected", bad, expected={"nodes": ["worker-2"]}),
        "seal-replaced": worker.vector(
            "the seal key is not the quote's", bad, frame={"context": {**context, "seal": SealKey.generate().public_jwk()}}
        ),
        "nonce-expired": worker.vector("the answer comes after the nonce's time", "nonce-refused", age_s=60),
        "quote-long": worker.vector("one byte after the quote", "evidence-invalid", frame={"evidence": long}),
        "frame-extra-field": worker.vector("a field that is not documented", "protocol-violation", frame={"extra": 1}),
        "frame-other-kind": worker.vector("a frame of another kind", "protocol-violation", frame={"kind": "verdict"}),
        "frame-unknown-role": worker.vector("a role that there is not", "protocol-violation", frame={"role": "Worker"}),
        "context-extra-field": worker.vector("a context field that is not documented", "parse", frame={"context": {**context, "x": "y"}}),
        "seal-private": worker.vector(
            "a seal key with a private member", "parse", frame={"context": {**context, "seal": {**context["seal"], "d": "AA"}}}
        ),
    }
    for name, fault, expect in (
        ("debug", Fault.DEBUG, "appraisal-refused"),
        ("tampered", Fault.WRONG_MEASUREMENT, "appraisal-refused"),
        ("out-of-date", Fault.OUT_OF_DATE, "appraisal-refused"),
        ("revoked", Fault.REVOKED_PCK, "evidence-invalid"),
    ):
        found[name] = Scene(vendor, Role.WORKER, Tee.SGX, fault=fault).vector(f"a node with fault {fault}", expect)
    return found


def challenge_vectors() -> dict[str, dict[str, Any]]:
    """Scenarios of the attester's side."""
    honest = {"kind": "challenge", "protocol": "confide-session-v1", "nonce": b64url(bytes(range(32))), "role": "worker"}

    def vector(description: str, expect: str, **frame: Any) -> dict[str, Any]:
        return {"type": "challenge", "description": description, "role": "worker", "frame": {**honest, **frame}, "expect": expect}

    return {
        "challenge-accepted": vector("a challenge to a worker", "accepted"),
        "challenge-role": vector("a challenge to a driver", "binding-mismatch", role="driver"),
        "challenge-protocol": vector("another protocol", "protocol-violation", protocol="confide-session-v0"),
        "challenge-nonce-short": vector("31 bytes of nonce", "protocol-violation", nonce=b64url(bytes(31))),
        "challenge-nonce-padded": vector("a nonce in padded base64", "parse", nonce=b64url(bytes(32)) + "="),
        "challenge-extra-field": vector("a field that is not documented", "protocol-violation", context="x"),
    }


def reattest_vectors(accepted: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Scenarios of section 9, from an accepted one of section 3: the peer was accepted as ``first``, and got ``sent`` challenges."""
    frame, own = accepted["frame"], accepted["session"]
    first = {"context": frame["context"], "spki": own["peer_spki"], "tee": "sgx", "measurement": MEASUREMENTS[Tee.SGX]}

    def vector(description: str, expect: str, *, before: Any = None, session: Any = None, sent: int = 3, **fields: Any) -> dict[str, Any]:
        return {
            "type": "reattest",
            "description": description,
            "session": {**own, **(session or {})},
            "sent": sent,
            "first": {**first, **(before or {})},
            "frame": {**frame, "kind": "reattest-evidence", "seq": 3, **fields},
            "expect": expect,
        }

    bad, off = "binding-mismatch", "protocol-violation"
    seal = {**frame["context"], "seal": SealKey.generate().public_jwk()}
    return {
        "reattest-accepted": vector("the node that was accepted answers the last challenge", "accepted"),
        "reattest-replayed": vector("the quote answers another nonce", bad, session={"nonce": secrets.token_bytes(32).hex()}),
        "reattest-relayed": vector("the quote was made in another TLS session", bad, session={"exporter": secrets.token_bytes(32).hex()}),
        "reattest-other-seal": vector("another seal key than at first", bad, before={"context": seal}),
        "reattest-other-measurement": vector("another measurement than at first", bad, before={"measurement": "cd" * 32}),
        "reattest-not-asked": vector("an answer to a challenge that was not sent", off, sent=2),
        "reattest-no-number": vector("an answer without a number", off, seq=None),
    }


def main() -> None:
    """Write all vectors."""
    for old in HERE.glob("*.json"):
        old.unlink()
    with tempfile.TemporaryDirectory() as folder:
        vendor = Installation.create(Path(folder) / "vendor", now=NOW)
        collateral = [vendor.collateral(tee, machine).to_json() for tee in (Tee.SGX, Tee.TDX) for machine in (Machine.GOOD,)]
        public = {"now": NOW.isoformat(), "root": vendor.root_der.hex(), "collateral": collateral, "measurements": dict(MEASUREMENTS)}
        evidence = evidence_vectors(vendor)
        vectors = {**evidence, **challenge_vectors(), **reattest_vectors(evidence["accepted-worker-sgx"]), "vendor": public}
    for name, vector in vectors.items():
        (HERE / f"{name}.json").write_text(json.dumps(vector, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""A second verifier of receipts, from ``docs/formats/receipt.md`` alone: it shares no code with ``confide``.

It judges no evidence: whether a quote is genuine and meets the policy (in steps 3 and 4) is not looked at.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

Json = dict[str, Any]
PAYLOAD_TYPE = "application/vnd.in-toto+json"
NUMBERS = ("tasks", "rows_read", "rows_written", "bytes_read", "bytes_written", "open_us", "seal_us", "keys_asked", "keys_held")
FIELDS = {
    "": "run job form policy started finished nodes refused inputs outputs releases data audit_head broker_key confide",
    "nodes": "node role ended tee simulated measurement tcb_status evidence record collateral epoch spki at again latest latest_collateral",
    "refused": "node code record collateral",
    "inputs": "name dataset snapshot manifest key version signer",
    "outputs": "name dataset snapshot manifest key version signer",
    "releases": "node name purpose key version grants",
    "data": "node " + " ".join(NUMBERS),
}


class RefusedError(Exception):
    """``step``: of section 4."""

    def __init__(self, step: int) -> None:
        super().__init__(f"step {step}")
        self.step = step


def check(receipt: Json, beside: Json, job: str | None) -> None:
    """Return if the receipt is accepted, as far as files without evidence show it.

    Raises:
        RefusedError: it is not.
    """
    steps = (_envelope, _job, _nodes, _inputs, _outputs, _releases, _data, _audit)
    numbers = (1, 2, 3, 5, 6, 7, 8, 9)
    p: Json = {"job given": job}
    for number, step in zip(numbers, steps, strict=True):
        try:
            step(receipt, p, beside)
        except (AssertionError, AttributeError, InvalidSignature, KeyError, TypeError, ValueError) as cause:
            raise RefusedError(number) from cause


def _envelope(receipt: Json, p: Json, beside: Json) -> None:
    """Sections 2 and 3, and step 1; fills ``p``."""
    payload = base64.b64decode(receipt["payload"], validate=True)
    statement = json.loads(payload)
    assert payload == canonical(statement)
    assert statement.keys() == {"_type", "subject", "predicateType", "predicate"}
    assert (statement["_type"], statement["predicateType"]) == ("https://in-toto.io/Statement/v1", "urn:confide:receipt:v2")
    found = statement["predicate"]
    for table, names in FIELDS.items():
        assert all(set(names.split()) == row.keys() for row in ([found] if not table else found[table]))
    assert all(type(row[name]) is int for row in found["data"] for name in NUMBERS)
    subject = [{"name": f"job:{found['form']['name']}", "digest": {"sha384": found["job"]}}]
    assert statement["subject"] == subject + [
        {"name": f"output:{o['name']}", "digest": {"sha384": o["manifest"]}} for o in found["outputs"]
    ]
    (driver,) = [node for node in found["nodes"] if node["role"] == "driver"]
    record = beside["evidence"][driver["node"]]
    assert sha384(canonical(record)) == driver["record"]
    signed(receipt, unpadded(record["spki"]), PAYLOAD_TYPE)
    p |= found
    p["driver"] = driver


def _job(_receipt: Json, p: Json, _beside: Json) -> None:
    assert sha384(canonical(p["form"])) == p["job"]
    assert p["job given"] in {None, p["job"]}
    assert sha384(canonical(p["form"]["policy"])) == p["policy"]


def _nodes(_receipt: Json, p: Json, beside: Json) -> None:
    for node in p["nodes"]:
        assert node["role"] in {"driver", "worker"}
        record = beside["evidence"][node["node"]]
        assert sha384(canonical(record)) == node["record"]
        assert (record["role"], record["at"]) == (node["role"], node["at"])
        context = record["context"]
        assert (context["job"], context["run"], context["node"]) == (p["job"], p["run"], node["node"])
        assert hashlib.sha256(unpadded(record["spki"])).hexdigest() == node["spki"]
        if node["again"] or node["latest"]:
            latest = beside["latest"][node["node"]]
            assert node["again"] > 0
            assert sha384(canonical(latest)) == node["latest"]
            assert all(latest[name] == record[name] for name in ("role", "context", "spki"))
            assert latest["nonce"] != record["nonce"]
            assert latest["at"] >= record["at"]  # of one zone


def _dataset(row: Json, beside: Json, signer: str) -> Json:
    envelope = beside["manifests"][row["name"]]
    payload = base64.b64decode(envelope["payload"], validate=True)
    assert sha384(payload) == row["manifest"]
    manifest: Json = json.loads(payload)
    spki = unpadded(manifest["signer"])
    assert hashlib.sha256(spki).hexdigest() == signer == row["signer"]
    signed(envelope, spki, envelope["payloadType"])
    assert (manifest["dataset"], manifest["snapshot"]) == (row["dataset"], row["snapshot"])
    return manifest


def _inputs(_receipt: Json, p: Json, beside: Json) -> None:
    assert sorted(row["name"] for row in p["inputs"]) == sorted(p["form"]["inputs"])
    for row in p["inputs"]:
        pin = p["form"]["inputs"][row["name"]]
        _dataset(row, beside, pin["signer"])
        assert row["dataset"] == pin["dataset"]


def _outputs(_receipt: Json, p: Json, beside: Json) -> None:
    assert sorted(row["name"] for row in p["outputs"]) == sorted(p["form"]["outputs"])
    for row in p["outputs"]:
        _dataset(row, beside, p["driver"]["spki"])


def _releases(_receipt: Json, p: Json, _beside: Json) -> None:
    rows = {("read", row["name"]): row for row in p["inputs"]} | {("write", row["name"]): row for row in p["outputs"]}
    for release in p["releases"]:
        assert release["node"] in {node["node"] for node in p["nodes"]}
        row = rows[release["purpose"], release["name"]]
        assert release["key"] == row["key"]
        assert release["version"] >= row["version"]
        owners = {row["key"]} if release["purpose"] == "read" else {one["key"] for one in p["inputs"]}
        assert owners <= release["grants"].keys()
    had = {(release["node"], release["purpose"], release["name"]) for release in p["releases"]}
    assert all((p["driver"]["node"], "write", row["name"]) in had for row in p["outputs"])


def _data(_receipt: Json, p: Json, _beside: Json) -> None:
    nodes = [row["node"] for row in p["data"]]
    assert len(set(nodes)) == len(nodes)
    assert set(nodes) <= {node["node"] for node in p["nodes"]}
    assert all(row[name] >= 0 for row in p["data"] for name in NUMBERS)


def _audit(_receipt: Json, p: Json, _beside: Json) -> None:
    spki = unpadded(p["broker_key"])
    assert hashlib.sha256(spki).hexdigest() == p["form"]["broker"]["spki"]
    signed(p["audit_head"], spki, p["audit_head"]["payloadType"])


def signed(envelope: Json, spki: bytes, payload_type: str) -> None:
    """DSSE v1 with one signature: ECDSA P-256 and SHA-256."""
    (signature,) = envelope["signatures"]
    assert envelope["payloadType"] == payload_type
    assert signature["keyid"] == hashlib.sha256(spki).hexdigest()
    payload = base64.b64decode(envelope["payload"], validate=True)
    text = b"DSSEv1 %d %s %d %s" % (len(payload_type), payload_type.encode(), len(payload), payload)
    key = load_der_public_key(spki)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(base64.b64decode(signature["sig"], validate=True), text, ec.ECDSA(hashes.SHA256()))


def canonical(value: object) -> bytes:
    """RFC 8785 of what has ASCII names, and no numbers but integers."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def sha384(data: bytes) -> str:
    return hashlib.sha384(data).hexdigest()


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

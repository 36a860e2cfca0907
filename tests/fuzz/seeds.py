"""What fuzzing starts from: the vectors, what our own writers make, and inputs that once were findings (``corpus/<target>/``)."""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from confide.attest import certs
from confide.attest.amd_certs import _TABLE_GUIDS
from confide.attest.quote import parse_quote, without_padding
from confide.attest.tpm_exchange import Answer, Request, Sent
from confide.attest.tpm_format import TpmEvidence
from confide.canonical import b64url, canonical, from_b64url
from confide.crypto.envelope import WrappedKey
from confide.crypto.sign import SigningKey, dsse_sign
from confide.data.column_groups import ColumnGroup
from confide.data.manifest import FileEntry, Manifest, sign_manifest
from confide.ids import DatasetId
from confide.jobs.statement import DataEntry, DatasetEntry, NodeEntry, ReceiptBundle, RefusedEntry, ReleaseEntry, Statement

from . import bigdl_targets, custody_seeds, grant_targets, kbs_seeds, peer_seeds, people_targets
from .file_seeds import seeds_with

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
CORPUS = Path(__file__).with_name("corpus")
# The scalar 1: a key that anybody has, for envelopes whose signature verifies.
KEY = SigningKey(ec.derive_private_key(1, ec.SECP256R1()))


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def _quotes() -> list[bytes]:
    # One vector has something else than padding after its quote, on purpose.
    return [_exact(path.name) for path in sorted((VECTORS / "intel").glob("*.quote")) if path.stem != "tdx-v4-below-all-levels"]


def _exact(name: str) -> bytes:
    return without_padding((VECTORS / "intel" / name).read_bytes())


def _collateral() -> list[dict[str, str]]:
    return [json.loads(path.read_text()) for path in sorted((VECTORS / "intel" / "collateral").glob("*.json"))]


def _session_frames() -> list[dict[str, Any]]:
    scenarios = [json.loads(path.read_text()) for path in sorted((VECTORS / "session").glob("*.json"))]
    return [scenario["frame"] for scenario in scenarios if "frame" in scenario]


def _framed(frame: dict[str, Any]) -> bytes:
    body = _dump(frame)
    return len(body).to_bytes(4, "big") + body


def _evidence() -> list[bytes]:
    frame = next(f for f in _session_frames() if f["kind"] == "evidence")
    record = {
        "format": "confide-evidence-v1",
        **{name: frame[name] for name in ("role", "context", "evidence")},
        **dict.fromkeys(("exporter", "nonce", "spki"), b64url(bytes(32))),
        "at": "2026-01-02T03:04:05+00:00",
    }
    return [_dump(frame["evidence"]), _dump(frame["context"]), _dump(record)]


def _kbs() -> list[bytes]:
    frame = next(f for f in _session_frames() if f["kind"] == "evidence")
    context = frame["context"]
    runtime = {"nonce": b64url(bytes(32)), "tee-pubkey": context["seal"], "confide-context": context, "role": "worker"}
    return [_dump({"runtime-data": runtime, "tee-evidence": {"primary_evidence": frame["evidence"], "additional_evidence": ""}})]


def _chains() -> list[bytes]:
    return [parse_quote(_exact(name)).signature.cert_data for name in ("sgx-v3-confighard.quote", "tdx-v4-uptodate.quote")]


def _extensions() -> list[bytes]:
    return [certs.parse_chain(pem)[0].extensions.get_extension_for_oid(certs.SGX_EXTENSION).value.public_bytes() for pem in _chains()]


def _amd_leaves() -> list[bytes]:
    return [path.read_bytes() for path in sorted((VECTORS / "snp").glob("*.der"))]


def _amd_tables() -> list[bytes]:
    leaf, start = _amd_leaves()[0], 3 * 24
    entries = [struct.pack("<16sII", guid.bytes, start, len(leaf)) for guid in _TABLE_GUIDS.values()]
    return [b"".join(entries) + bytes(24) + leaf]


_TPM_COLLATERAL = {"root": "ab" * 32, "earliest_next_update": "2031-01-02T03:04:05+00:00"}


def _remains() -> list[bytes]:
    record, collateral = json.loads(_evidence()[2]), [json.loads(one) for one in _collaterals()]
    return [_dump({"accepted": [record], "refused": [record], "collateral": collateral})]


def _collaterals() -> list[bytes]:
    blocks = (VECTORS / "snp" / "certs" / "milan_ask_ark_asvk.pem").read_text().split("-----BEGIN CERTIFICATE-----")[1:]
    chain = "".join("-----BEGIN CERTIFICATE-----" + block for block in blocks[:2])
    return [*map(_dump, _collateral()[:3]), _dump({"product": "Milan", "key": "vcek", "chain": chain, "crl": ""}), _dump(_TPM_COLLATERAL)]


def _vendor_answers() -> list[bytes]:
    one = _collateral()[0]
    signed = '{"tcbInfo":' + one["tcb_info"] + ',"signature":"' + one["tcb_info_signature"] + '"}'
    return [signed.encode(), one["tcb_info_issuer_chain"].encode(), bytes.fromhex(one["pck_crl"]), one["pck_crl"].encode()]


def _collateral_files() -> list[bytes]:
    """Forms of other tools: an object in camel case, the client tool's file, PEM, a list, and the service's answer."""
    one = _collateral()[0]
    camel = {re.sub("_(.)", lambda letter: letter[1].upper(), name): text for name, text in one.items()}
    info = {"fmspc": "00", "tdx_tcbinfo": {"tcbInfo": json.loads(one["tcb_info"]), "signature": one["tcb_info_signature"]}}
    chains = {"TCB-Info-Issuer-Chain": one["tcb_info_issuer_chain"]}
    tool = {"collaterals": {"tcbinfos": [info], "pckcacrl": {"platformCrl": one["pck_crl"]}, "certificates": chains, "rootcacrl": ""}}
    amd = (VECTORS / "snp" / "certs" / "turin_ask_ark.pem").read_bytes()
    return [*_collaterals()[2:], _dump(camel), _dump(tool), amd, *_vendor_answers()]


def _endorsements() -> list[bytes]:
    chain = _chains()[0].rstrip(b"\0")
    return [_amd_leaves()[0], *_amd_tables(), chain, _dump({"vcekCert": chain.decode(), "certificateChain": ""})]


def _containers() -> list[bytes]:
    found = [json.loads(path.read_text()) for path in sorted((VECTORS / "container").glob("*.json"))]
    return [bytes.fromhex(s["sealed"]) for s in found if isinstance(s.get("sealed"), str) and len(s["sealed"]) < 4000]


def _tpm_evidence() -> list[bytes]:
    found = [json.loads(path.read_text()) for path in sorted((VECTORS / "tpm").glob("genuine-*.json"))]
    return [from_b64url(vector["evidence"]["quote"]) for vector in found]


def _tpm_logs() -> list[bytes]:
    return [log for log in (TpmEvidence.parse(raw).log for raw in _tpm_evidence()) if log]


def _tpm_trust() -> list[bytes]:
    times = {"since": "2026-01-01T00:00:00+00:00", "until": "2026-02-01T00:00:00+00:00"}
    key = {"name": "000b" + "5a" * 32, "machine": "node-7", "ek": "cd" * 32, **times}
    lists = {"manufacturers": ["ab" * 32], "issuers": [], "keys": [key], "revoked": ["000b" + "a5" * 32]}
    return [_dump({"format": "confide-tpm-trust-v1", **lists})]


def _tpm_enrolment() -> list[bytes]:
    vector = json.loads((VECTORS / "tpm" / "genuine-ecdsa.json").read_text())["evidence"]
    key = TpmEvidence.parse(from_b64url(vector["quote"])).public
    request = Request("node-7", from_b64url(vector["chain"]), key)
    return [_dump(one.to_json()) for one in (request, Sent("ab" * 16, bytes(68), bytes(258)), Answer("ab" * 16, bytes(32)))]


def _td_logs() -> list[bytes]:
    """TCG PC Client PFP, "TCG_PCClientPCREvent" and "TCG_PCR_EVENT2", with SHA-384 only as a TD's firmware writes it."""
    spec = struct.pack("<16sIBBBBIHHB", b"Spec ID Event03\0", 0, 0, 2, 0, 2, 1, 0xC, 48, 0)
    events = [struct.pack("<IIIH48sI", register, 4, 1, 0xC, bytes(48), 4) + bytes(4) for register in (1, 2, 3)]
    return [struct.pack("<II20sI", 0, 3, bytes(20), len(spec)) + spec + b"".join(events)]


def _token() -> bytes:
    parts = [_dump({"alg": "ES256", "kid": "k", "typ": "JWT"}), _dump({"iss": "https://i", "exp": 2, "iat": 1}), bytes(64)]
    return ".".join(map(b64url, parts)).encode()


def manifest() -> Manifest:
    """A manifest of a table, of fixed content."""
    schema = {"columns": [{"name": "x", "type": "int64", "nullable": True}], "spark": {"type": "struct", "fields": [{"name": "x"}]}}
    dataset = DatasetId("ab" * 16)
    wrapped = WrappedKey("airline/flights", 3, dataset, bytes(12), bytes(48))
    files = (FileEntry("a.parquet", 10, "0" * 64, 5),)
    return Manifest(dataset, "flights", 1, None, "2026-01-02T03:04:05Z", "parquet", schema, files, wrapped, KEY.public, owner="airline")


def grouped() -> Manifest:
    """The same with a column group."""
    wrapped = WrappedKey("airline/names", 1, "cd" * 16, bytes(12), bytes(48))
    return replace(manifest(), groups=(ColumnGroup("names", ("x",), wrapped),))


def statement() -> Statement:
    """A receipt's statement, of fixed content."""
    values: dict[type, Any] = {}
    samples: dict[str, Any] = {"str": "x", "int": 1, "bool": True, "Json": {}}
    for kind in (NodeEntry, RefusedEntry, DatasetEntry, ReleaseEntry, DataEntry):
        fields = {name: samples.get(str(f.type), "x") for name, f in kind.__dataclass_fields__.items()}
        values[kind] = kind(**fields)
    text = dict.fromkeys(("run", "job", "policy", "started", "finished", "broker_key", "confide"), "x")
    rows = {
        "nodes": NodeEntry,
        "refused": RefusedEntry,
        "inputs": DatasetEntry,
        "outputs": DatasetEntry,
        "releases": ReleaseEntry,
        "data": DataEntry,
    }
    return Statement(form={"name": "delays"}, audit_head={}, **text, **{name: (values[kind],) for name, kind in rows.items()})  # type: ignore[arg-type]


def _receipts() -> list[bytes]:
    bundle = ReceiptBundle({}, {"driver": {}}, {"driver": {}}, {"ab" * 48: {}}, {"ab" * 48: {}}, {"flights": {}})
    return [statement().to_bytes(), _dump(bundle.to_json())]


def _envelopes() -> list[bytes]:
    return [_dump(dsse_sign(KEY, "application/json", b'{"dataset":"x"}')), _dump(sign_manifest(grouped(), KEY))]


_MEASUREMENTS = {"sgx": ["5a" * 32], "snp": ["5a" * 48]}
_POLICY = {"name": "p", "measurements": _MEASUREMENTS, "statuses": ["UpToDate"], "min_tcb": {"Genoa": {"snp": 1}}}
_TOML = b'name = "p"\nstatuses = ["UpToDate"]\nallow = ["debug"]\n[measurements]\nsgx = ["' + b"5a" * 32 + b'"]\n'
_JOB = {
    "name": "j",
    "program": "main.py",
    "files": {"main.py": b64url(b"pass\n")},
    "policy": _POLICY,
    "inputs": {"a": {"path": "/data/a"}},
    "broker": {"url": "https://127.0.0.1:1", "spki": "cd" * 32},
}
_GRAMINE = b"""
loader.log_level = "error"
sgx.enclave_size = "2M"
sgx.max_threads = 2
sgx.isvprodid = 5
sgx.trusted_files = [{ uri = "file:/usr/bin/python3", sha256 = "0000000000000000000000000000000000000000000000000000000000000000" }]
"""
_REQUEST = b'POST /kbs/v0/attest?a=b&c=d HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"a": 1}'
_CHUNKED = b'GET /x HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"a": 1}\r\n0\r\n\r\n'
_RESPONSE = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"a": 1}'

_SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "intel-quote": _quotes,
    "intel-verify": lambda: [_exact("tdx-v4-uptodate.quote")],
    "snp-report": lambda: [path.read_bytes() for path in sorted((VECTORS / "snp").glob("*.report"))],
    "collateral": _collaterals,
    "collateral-file": _collateral_files,
    "endorsement": _endorsements,
    "tcb-info": lambda: [one["tcb_info"].encode() for one in _collateral()],
    "qe-identity": lambda: [one["qe_identity"].encode() for one in _collateral()],
    "tpm-evidence": _tpm_evidence,
    "tpm-log": _tpm_logs,
    "tpm-trust": _tpm_trust,
    "tpm-enrolment": _tpm_enrolment,
    "tpm-device-log": _tpm_logs,
    "tpm-exchange-file": _tpm_enrolment,
    "tpm-trust-file": _tpm_trust,
    "td-log": _td_logs,
    "gramine-manifest": lambda: [_GRAMINE],
    "cbor": lambda: [bytes.fromhex("d9ea6082430102034161"), bytes.fromhex("a2616101616282f5f6")],
    "token": lambda: [_token()],
    "pck-chain": _chains,
    "pck-extension": _extensions,
    "amd-certificate": _amd_leaves,
    "amd-table": _amd_tables,
    "vendor-answer": _vendor_answers,
    "evidence": _evidence,
    "remains": _remains,
    "evidence-file": lambda: [_quotes()[0], _quotes()[0].hex().encode(), base64.b64encode(_quotes()[0]), *_evidence()[:1]],
    "session-frames": lambda: [_framed(frame) for frame in _session_frames()],
    "container": _containers,
    "manifest": lambda: [canonical(one.to_json()) for one in (manifest(), grouped())],
    "dsse": _envelopes,
    "receipt": _receipts,
    "policy-json": lambda: [_dump(_POLICY)],
    "policy-toml": lambda: [_TOML],
    "job": lambda: [_dump(_JOB)],
    "kbs-attest": _kbs,
    "http-request": lambda: [_REQUEST, _CHUNKED, _REQUEST + _REQUEST],
    "http-response": lambda: [_RESPONSE, b"HTTP/1.1 100 Continue\r\n\r\n" + _RESPONSE],
}

_SEEDS |= peer_seeds.SEEDS | kbs_seeds.SEEDS | custody_seeds.SEEDS | grant_targets.SEEDS | people_targets.SEEDS
_SEEDS |= bigdl_targets.SEEDS
_SEEDS["stored-evidence"] = lambda: [_evidence()[2]]
_SEEDS |= seeds_with(statement(), sign_manifest(manifest(), KEY), json.loads(_evidence()[2]), list(map(json.loads, _collaterals())))


def seeds(target: str) -> list[bytes]:
    """Seeds of one target, past findings among them; never none."""
    found = _SEEDS[target]() + [path.read_bytes() for path in sorted((CORPUS / target).glob("*.bin"))]
    if not found:
        raise LookupError(f"no seeds for {target}")
    return found

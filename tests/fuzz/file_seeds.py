"""Seeds of files that somebody else wrote, made by the builders that the tests of each format have."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from support import firmware, gramine, sigstruct

from confide.attest.amd_collateral import AmdEpoch
from confide.attest.cbor import Tagged
from confide.attest.collateral import CollateralEpoch
from confide.attest.quote import without_padding
from confide.attest.ratls import GRAMINE_OID, TCG_OID
from confide.canonical import Json, b64url, digest_of, parse_object
from confide.crypto.identity import Identity
from confide.crypto.sign import SigningKey, dsse_sign
from confide.jobs.statement import PAYLOAD_TYPE, DatasetEntry, ReceiptBundle, Statement
from confide.keys.custody.local import KeyFile
from confide.keys.storage.backup import backup
from confide.keys.storage.locations import SqliteFile
from confide.keys.store import Store
from confide.node.kept_result import seal_result
from confide.node.record import EvidenceRecord

from .file_targets import AUDIENCE, ISSUER, NOW, TOKEN_KEY

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
KEY = SigningKey(TOKEN_KEY)
EMPTY = hashlib.sha256(b"").hexdigest()


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def cbor(value: Any) -> bytes:
    """RFC 8949, as far as certificates with a quote need it."""
    match value:
        case Tagged():
            return _head(6, value.tag) + cbor(value.value)
        case int():
            return _head(0, value)
        case bytes():
            return _head(2, len(value)) + value
        case str():
            return _head(3, len(value)) + value.encode()
        case list():
            return _head(4, len(value)) + b"".join(map(cbor, value))
        case dict():
            return _head(5, len(value)) + b"".join(cbor(name) + cbor(item) for name, item in value.items())
    raise TypeError(value)


def _head(major: int, number: int) -> bytes:
    size = 0 if number < 24 else 1 if number < 256 else 2
    return bytes([major << 5 | (23 + size if size else number)]) + (number.to_bytes(size, "big") if size else b"")


def _certificate(oid: x509.ObjectIdentifier | None = None, value: bytes = b"") -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "RATLS")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(TOKEN_KEY.public_key()).serial_number(7)
    made = made.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))
    if oid is not None:
        made = made.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    return made.sign(TOKEN_KEY, SHA256()).public_bytes(Encoding.DER)


def _ratls() -> list[bytes]:
    quotes = [without_padding((VECTORS / "intel" / name).read_bytes()) for name in ("sgx-v3-confighard.quote", "tdx-v4-uptodate.quote")]
    buffer = cbor({"pubkey-hash": cbor([1, hashlib.sha256(KEY.public.spki_der).digest()]), "nonce": b"fresh"})
    tagged = cbor(Tagged(60000, [quotes[1], buffer]))
    return [_certificate(GRAMINE_OID, quotes[0]), _certificate(TCG_OID, tagged), tagged]


def _key_sets() -> list[bytes]:
    numbers = TOKEN_KEY.public_key().public_numbers()
    key = {"kty": "EC", "crv": "P-256", "kid": "k", **{name: b64url(getattr(numbers, name).to_bytes(32, "big")) for name in ("x", "y")}}
    chain = [base64.b64encode(_certificate()).decode()]
    return [_dump({"keys": [key]}), _dump({"keys": [{**key, "x5c": chain}]}), _dump({"keys": [{"kty": "EC", "kid": "c", "x5c": chain}]})]


def _token_claims() -> list[bytes]:
    seconds = int(NOW.timestamp())
    common = {"iss": ISSUER, "aud": AUDIENCE, "iat": seconds, "nbf": seconds, "exp": seconds + 300, "jti": "id"}
    vector = json.loads((VECTORS / "tokens" / "accepted.json").read_text())
    payload = vector["token"].split(".")[1]
    ear = {**parse_object(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))), **common}
    registers = {f"tdx_rtmr{n}": "0b" * 48 for n in range(4)}
    attributes = {"tdx_td_attributes": "0000001000000000", "tdx_td_attributes_debug": False, "tdx_td_attributes_septve_disable": True}
    tdx = {"tdx_mrtd": "aa" * 48, "tdx_mrsignerseam": "00" * 48, "tdx_report_data": "01" * 64, "tdx_mrservicetd": "00" * 48}
    collateral = {"attester_tcb_status": "UpToDate", "tdx_collateral": {"fmspc": "50806f000000", "tcbevaluationdatanumber": 20}}
    sgx = {"sgx_mrenclave": "5a" * 32, "sgx_mrsigner": "6b" * 32, "sgx_report_data": "01" * 64, "sgx_is_debuggable": False}
    azure = {"x-ms-attestation-type": "sgx", **{f"x-ms-{name.replace('_', '-')}": value for name, value in sgx.items()}}
    p = "x-ms-sevsnpvm-"
    snp = {f"{p}launchmeasurement": "cc" * 48, f"{p}idkeydigest": "dd" * 48, f"{p}reportdata": "01" * 64, f"{p}is-debuggable": False}
    snp |= {f"{p}migration-allowed": False, f"{p}vmpl": 0, **{f"{p}{name}-svn": 4 for name in ("bootloader", "tee", "snpfw", "microcode")}}
    return [
        _dump(ear),
        _dump({**common, "ver": "2.0.0", "tdx": {**tdx, **registers, **attributes, **collateral}}),
        _dump({**common, "attester_type": "SGX", **sgx}),
        _dump({**common, **azure}),
        _dump({**common, "x-ms-isolation-tee": {"x-ms-attestation-type": "sevsnpvm", **snp}}),
    ]


def _kept(evidence: Json) -> list[bytes]:
    """A result that is kept, sealed and as it is within."""
    context = {**evidence["context"], "run": "demo-1"}
    record = {**evidence, "spki": b64url(KEY.public.spki_der), "format": "confide-evidence-v1", "context": context}
    sealed = seal_result({"ok": True}, KEY.spki_der, KEY, EvidenceRecord.from_json(record))
    return [sealed.encode(), _dump({"result": {"ok": True}, "signed": dsse_sign(KEY, "t", b"{}"), "evidence": record})]


def _receipts(statement: Statement, envelope: Json, evidence: Json) -> list[bytes]:
    """A receipt that is signed by its driver, with a record for it: all but the evidence itself is in order."""
    record = {**evidence, "spki": b64url(KEY.public.spki_der), "format": "confide-evidence-v1"}
    context = record["context"]
    again = {**record, "nonce": b64url(b"2" * 32)}
    digests = {name: EvidenceRecord.from_json(one).digest for name, one in (("record", record), ("latest", again))}
    collateral = json.loads((VECTORS / "intel" / "collateral" / "tdx-B0C0-2025-06.json").read_text())
    kept = "ab" * 48
    node = dataclasses.replace(
        statement.nodes[0], node=context["node"], role="driver", spki=KEY.public.digest, at=record["at"], collateral=kept, **digests
    )
    form = {**statement.form, "policy": {"name": "p", "measurements": {"sgx": ["5a" * 32]}}, "inputs": {}, "outputs": {"out": {}}}
    output = DatasetEntry("out", "ab" * 16, 1, "0" * 96, "airline/flights", 3, KEY.public.digest)
    refused = dataclasses.replace(statement.refused[0], record=kept, collateral=kept, code="appraisal-refused")
    made = dataclasses.replace(
        statement, form=form, job=digest_of(form), run=context["run"], nodes=(node,), outputs=(output,), refused=(refused,),
        broker_key=b64url(KEY.public.spki_der),
    )  # fmt: skip
    names = {"evidence": {node.node: record}, "latest": {node.node: again}, "refused": {kept: record}, "collateral": {kept: collateral}}
    bundle = ReceiptBundle(dsse_sign(KEY, PAYLOAD_TYPE, made.to_bytes()), **names, manifests={"out": envelope})  # type: ignore[arg-type]
    return [_dump(bundle.to_json())]


_JOB = f"""
name = "j"
program = "job.toml"
files = []
[policy]
name = "p"
allow = ["simulated"]
[policy.measurements]
sgx = ["{"5a" * 32}"]
[inputs.a]
path = "data/a"
[outputs.b]
path = "data/b"
recipients = ["analyst"]
[broker]
url = "https://127.0.0.1:1"
spki = "{"cd" * 32}"
""".encode()
_SETTINGS = b'runs = "runs"\nintel_service = "https://127.0.0.1:1"\nheartbeat_s = 2\nnonce_ttl_s = 30.5\n'
_LEFT = {
    "name": "j",
    "program": "main.py",
    "files": {"main.py": b64url(b"pass\n")},
    "policy": {"name": "p", "measurements": {"sgx": ["ab" * 32]}},
    "inputs": {"a": {"path": "/data/a"}},
    "broker": {"url": "https://127.0.0.1:1", "spki": "cd" * 32},
}
_SPEC = {
    "format": "confide-node-v1", "run_id": "r-1", "node_id": "worker-1", "role": "worker", "job_digest": "ab" * 48, "tee": "sgx",
    "driver_host": "127.0.0.1", "driver_port": 1, "log_path": "log", "work_dir": "work", "timing": {"heartbeat_s": 1},
}  # fmt: skip
_ANNOUNCEMENT = {"format": "confide-announce-v1", "run_id": "r-1", "node_id": "driver-1", "host": "127.0.0.1", "port": 1}
_ENROLMENT = {"format": "confide-enrolment-v1", "owner": "airline", "token": "t", "url": "https://127.0.0.1:1", "spki": "cd" * 32}
_WHEN = "2026-01-02T03:04:05+00:00"
_EPOCHS = (CollateralEpoch(20, 20, 1, 1, _WHEN, _WHEN, _WHEN), AmdEpoch(-1, "", _WHEN))
_CUSTODY = b'[custody]\nkind = "vault"\naddress = "https://127.0.0.1:8200"\nkey = "broker"\ntoken_file = "token"\ngrace_s = 60\n'
_FILES = {"tee": "tdx", "mrtd": "aa" * 48, **{f"rtmr{n}": "0b" * 48 for n in range(4)}}


def _backups() -> list[bytes]:
    """A new store's, without the line at its end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Store.create(folder / "broker.db", KeyFile.create(folder / "key")).close()
        backup(SqliteFile(folder / "broker.db"), folder / "backup")
        lines = gzip.decompress((folder / "backup").read_bytes()).splitlines(keepends=True)
    return [b"".join(lines[:-1])]


def _parquet_footers() -> list[bytes]:
    """A plain file's: an encrypted one's says the same and more.  And the beginning of an encrypted one's, ``FileCryptoMetaData``."""
    file = io.BytesIO()
    pq.write_table(pa.table({"n": [1, 2, None], "many": [[1], [], [2, 3]], "text": ["a", "b", "c"]}), file, row_group_size=2)
    data = file.getvalue()
    return [data[-8 - int.from_bytes(data[-8:-4], "little") : -8], b"\x1c\x1c\x28\x08uniquely\x00\x00\x00"]


_LINTED = b"""loader.env = { TZ = { passthrough = true }, LD_PRELOAD = "x" }
loader.argv_src_file = "file:args"
fs.mounts = [{ type = "encrypted", path = "/lib", uri = "file:/a//../b/", key_name = "_sgx_mrsigner" }]
sgx.allowed_files = ["file:/etc/", "file:a.py", "dev:tty"]
sgx.trusted_files = ["file:/usr/lib/"]
"""
_HASH = b"--hash=sha256:" + b"ab" * 32
_LOCK = b"App==1.0 \\\n    %s\n    # via\n    #   confide (pyproject.toml)\nb==2 %s\n    # via app\n" % (_HASH, _HASH)
_IMAGE = {
    "format": "confide-image-v1", "shape": "sgx", "tree": "ab" * 32, "entries": [{"path": "/a", "mode": "0644", "sha256": "ab" * 32}],
    "engines": ["spark"], "confide": "0.1.0", "python": "3.11", "files": 1, "packages": [], "not_linked": [],
}
_PROFILE = b"""image = "registry.example/node@sha256:%s"
shape = "tdx"
tolerations = [{ key = "tee", operator = "Exists", effect = "NoExecute", toleration_seconds = 60 }]
volumes = [{ mount = "/data", claim = "flights", read_only = true }]
egress = ["10.0.0.0/8"]
init_data = { "policy.rego" = "policy.rego" }
""" % (b"12" * 32)
_POD_STATUS = {
    "phase": "Failed", "reason": "Evicted", "message": "low on memory", "conditions": [{"type": "DisruptionTarget", "status": "True"}],
    "containerStatuses": [{"name": "node", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, "lastState": {}}],
}  # fmt: skip
_METADATA_OF_POD = {
    "name": "demo-1", "labels": {"confide.dev/node": "worker-1"}, "uid": "u",
    "deletionTimestamp": "2026-11-28T10:00:00Z", "deletionGracePeriodSeconds": 10,
}  # fmt: skip
_EVENT = {
    "metadata": {"name": "demo-1.17"}, "involvedObject": {"name": "demo-1", "uid": "u"}, "type": "Warning", "reason": "FailedScheduling",
    "message": "0/2 nodes are available", "lastTimestamp": "2026-11-28T10:00:00Z", "series": {"count": 2},
}  # fmt: skip
_STARTING_POD = {
    "metadata": _METADATA_OF_POD, "spec": {"nodeName": "node1"},
    "status": {"phase": "Pending", "containerStatuses": [{"name": "node", "state": {"waiting": {"reason": "ContainerCreating"}}}]},
}  # fmt: skip
_FAILED_JOB = {"spec": {"suspend": True}, "status": {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}}
_SAID = {"worker-1": {"type": "worker-refused", "code": "appraisal-refused"}}
_CLUSTER_OBJECTS: list[Json] = [
    {"object": {"metadata": _METADATA_OF_POD, "status": _POD_STATUS}, "events": [_EVENT], "said": _SAID},
    {"object": _STARTING_POD, "events": []},
    {"object": {"metadata": {"name": "demo-1"}, **_FAILED_JOB}, "events": [{**_EVENT, "reason": "FailedCreate"}]},
]
_METADATA = b"Provides-Extra: spark\nRequires-Dist: a-b[c] (>=1)\nRequires-Dist: pyspark; extra == 'spark'\n"


def seeds_with(statement: Statement, envelope: Json, evidence: Json, sets: list[Json]) -> dict[str, Callable[[], list[bytes]]]:
    """The seeds of every target; what other seeds are made of too is given."""
    return {
        "firmware": lambda: [firmware.for_tdx().build(), firmware.for_snp(kernel=True).build()],
        "elf": lambda: [gramine.libpal()],
        "sigstruct": lambda: [sigstruct.sign(b"\x5a" * 32), bytes(64) + sigstruct.sign(b"\x5a" * 32)],
        "gramine-files": lambda: [gramine.MANIFEST.replace('/usr/bin/python3", sha', 'trusted", sha').replace("0" * 64, EMPTY).encode()],
        "gramine-lint": lambda: [gramine.MANIFEST.encode(), _LINTED],
        "package-lock": lambda: [_LOCK, _METADATA],
        "image-folder": lambda: [_dump(_IMAGE)],
        "cluster-profile": lambda: [_PROFILE, _PROFILE[: _PROFILE.index(b"init_data")]],
        "cluster-words": lambda: [
            _dump({"type": "ADDED", "object": {"kind": "Pod", "metadata": {"uid": "u", "resourceVersion": "7"}}}),
            _dump({"type": "ERROR", "object": {"code": 410, "reason": "Expired"}}),
            b"2026-11-28T10:00:00.123456789Z the agent says", b"64Gi", b"1500m",
            *_kept(evidence),
        ],
        "cluster-objects": lambda: [_dump(each) for each in _CLUSTER_OBJECTS],
        "left-job": lambda: [_dump({"format": "confide-left-job-v1", "job": _LEFT, "owner": b64url(KEY.public.spki_der)})],
        "worker-pods": lambda: [_dump({"worker-1": {"kind": "Pod"}})],
        "ratls": _ratls,
        "token-claims": _token_claims,
        "key-set": _key_sets,
        "receipt-bundle": lambda: _receipts(statement, envelope, evidence),
        "receipt-folder": lambda: [_dump(envelope)],
        "dataset-folder": lambda: [_dump(envelope)],
        "job-toml": lambda: [_JOB],
        "settings": lambda: [_SETTINGS],
        "node-spec": lambda: [_dump(_SPEC), _dump(_ANNOUNCEMENT)],
        "enrolment": lambda: [_dump(_ENROLMENT)],
        "private-key": lambda: [KEY.private_pem().reveal()],
        "collateral-epoch": lambda: [_dump(one.to_json()) for one in _EPOCHS],
        "custody-settings": lambda: [_CUSTODY],
        "kbs-certificate": lambda: [Identity.generate("confide-broker", key=KEY, names=("127.0.0.1",)).certificate_pem],
        "backup": _backups,
        "collateral-bundle": lambda: [_dump({"format": "confide-collateral-v1", "sets": sets})],
        "reference-values": lambda: [_dump(_FILES), _dump({"tee": "sgx", "mrenclave": "5a" * 32})],
        "parquet-footer": _parquet_footers,
        "storage-credential": lambda: [_dump({"access_key_id": "id", "secret_access_key": "secret", "region": "eu", "session_token": "t"})],
        "words": lambda: [b"airline/flights", b"airline/flights@3", KEY.public.spki_der],
    }

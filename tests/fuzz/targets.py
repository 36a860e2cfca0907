"""Every parser of bytes from outside, as a function of bytes.

Whatever comes, it returns or raises a ``ConfideError``: all else is a finding.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from confide.attest import cbor, certs, evidence_files, tpm_exchange, vendor_services
from confide.attest.amd_certs import Endorsement, endorsement_in_table
from confide.attest.annotate import annotate
from confide.attest.collateral_files import load_sets
from confide.attest.collateral_forms import der_list, signed_text
from confide.attest.collateral_sources import FixedCollateral, load_collateral, read_collateral
from confide.attest.event_log import OF_TD, OF_TPM, EventLog
from confide.attest.evidence import Evidence, NodeContext
from confide.attest.intel_tcb import PlatformRatings, QeRatings
from confide.attest.launch.gramine import Manifest as GramineManifest
from confide.attest.pck_id import PckId
from confide.attest.policy import Policy
from confide.attest.policy_draft import unverified_reference
from confide.attest.quote import parse_quote, split_quote, without_padding
from confide.attest.roots import TrustRoots
from confide.attest.snp_report import Report
from confide.attest.tokens.jwt import UnverifiedJwt
from confide.attest.tpm_format import Attest, Public, Signature, TpmEvidence
from confide.attest.tpm_trust import TpmTrust
from confide.attest.verify import Verifier
from confide.canonical import parse_object
from confide.crypto import http
from confide.crypto.channel import Channel
from confide.crypto.container import ContainerReader
from confide.crypto.http_messages import Response
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import PublicKey, dsse_verify
from confide.data.manifest import Manifest, verify_manifest
from confide.errors import ChannelError, ConfideError, error_from_json
from confide.ids import DatasetId, Role, Tee
from confide.job import Job
from confide.jobs.statement import ReceiptBundle, Statement
from confide.keys.manifest_claims import ManifestClaims, unverified_dataset
from confide.keys.sessions import read_attest
from confide.node.record import EvidenceRecord
from confide.node.remains import Remains
from confide.node.session import parse_challenge, parse_evidence, read_verdict

from . import bigdl_targets, custody_targets, file_targets, grant_targets, kbs_targets, peer_targets, people_targets

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
_CONTAINER = json.loads((VECTORS / "container" / "opened-one-byte.json").read_text())
DATASET_KEY = SecretBytes(bytes.fromhex(_CONTAINER["dataset_key"]))
DATASET, DATA_PATH = DatasetId(_CONTAINER["dataset"]), _CONTAINER["path"]
SIGNER = bytes.fromhex(  # a P-256 public key (the curve's generator) as DER SubjectPublicKeyInfo, RFC 5480
    "3059301306072a8648ce3d020106082a8648ce3d03010703420004"
    "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
_FOLDER = tempfile.TemporaryDirectory(prefix="confide-fuzz-")
_PLATFORM = load_collateral(VECTORS / "intel" / "collateral" / "tdx-B0C0-2025-06.json")
_GENUINE = Verifier(TrustRoots(), FixedCollateral(_PLATFORM))


class BytesChannel(Channel):
    """A channel whose peer sent ``data`` and ended; the code above the records is the real one."""

    def __init__(self, data: bytes) -> None:
        self._received = bytearray(data)
        self._receiving = threading.RLock()
        self._wire: Any = _NoWire()
        self.peer_address = "127.0.0.1"
        self.sent = deque[bytes]()

    def _check_ready(self) -> None:
        return

    def _deadline(self, timeout: float | None) -> Any:
        return None

    def _await(self, n: int, deadline: Any) -> None:
        if len(self._received) < n:
            raise ChannelError("the peer ended the channel")

    def recv(self, n: int, *, timeout: float | None = None) -> bytes:
        return self._take(min(n, len(self._received)))

    def send(self, data: bytes, *, timeout: float | None = None) -> None:
        self.sent.append(data)

    def close(self) -> None:
        return


class _NoWire:
    closed = False

    def shut(self) -> None:
        return


def _all(data: bytes, *readers: Callable[[bytes], object]) -> None:
    """Each reader gets its turn, whatever the others say."""
    for read in readers:
        try:
            read(data)
        except ConfideError:
            continue


def _json(*readers: Callable[[Any], object]) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        value = parse_object(data)
        _all(value, *readers)  # type: ignore[arg-type]

    return target


def _quote(data: bytes) -> None:
    _all(data, split_quote, without_padding, annotate, PckId.of, lambda raw: Evidence.of_device(Tee.TDX, raw))
    quote = parse_quote(data)
    if quote.to_bytes() != data:
        raise AssertionError("a quote that was read is not written back as it was")


def _verify(data: bytes) -> None:
    _GENUINE.verify(Evidence(Tee.TDX, data), datetime(2025, 7, 4, 10, 16, 31, tzinfo=UTC))


def _frames(data: bytes) -> None:
    channel = BytesChannel(data)
    while True:
        frame = channel.recv_frame()
        _all(frame, lambda f: parse_challenge(f, role=Role.WORKER), parse_evidence, read_verdict, lambda f: _raise(f.get("error")))  # type: ignore[arg-type]


def _tpm(data: bytes) -> None:
    found = TpmEvidence.parse(data)
    _all(found.public, Public.parse)
    _all(found.attest, Attest.parse)
    _all(found.signature, Signature.parse)
    _all(data, annotate, lambda _: found.registers())


def _raise(value: object) -> None:
    raise error_from_json(value)


def _certificates(data: bytes) -> None:
    chain = certs.parse_chain(data)
    for certificate in chain:
        _all(certificate, certs.SgxExtension.of, certs.p256, lambda c: certs.common_name(c.subject))  # type: ignore[arg-type]


def _extension(data: bytes) -> None:
    found = certs.SgxExtension.parse(data)
    if certs.SgxExtension.parse(found.to_der()) != found:
        raise AssertionError("an SGX extension does not read back as it was written")


def _file(name: str, *readers: Callable[[Path], object]) -> Callable[[bytes], None]:
    path = Path(_FOLDER.name) / name

    def target(data: bytes) -> None:
        path.write_bytes(data)
        _all(path, *readers)  # type: ignore[arg-type]

    return target


def _http_request(data: bytes) -> None:
    http.serve_connection(BytesChannel(data), lambda asked: Response(200, {}, {"path": asked.path, "query": dict(asked.query)}))


def _answer(data: bytes) -> None:
    text = data.decode("utf-8", errors="replace")
    answer = vendor_services.Answer(data, {"tcb-info-issuer-chain": text})
    _all(data, lambda _: signed_text(answer.text(), "tcbInfo"))
    _all(data, lambda _: vendor_services._chain(answer, "tcb-info-issuer-chain"), der_list)


def _endorsement(data: bytes) -> None:
    report, quote = VECTORS / "snp" / "genoa-v5.report", VECTORS / "intel" / "sgx-v3-eppid-no-pck.quote"
    _all(data, lambda e: evidence_files.load_evidence(report, e), lambda e: evidence_files.load_evidence(quote, e))


def _statement(data: bytes) -> None:
    if Statement.from_bytes(data).to_bytes() != data:
        raise AssertionError("a statement that was read is not written back as it was")


_KEY = PublicKey.from_spki(SIGNER)

TARGETS: dict[str, Callable[[bytes], object]] = {
    "intel-quote": _quote,
    "intel-verify": _verify,
    "snp-report": lambda data: _all(data, Report.parse, annotate),
    "collateral": _json(read_collateral),
    "collateral-file": _file("collateral", lambda path: load_sets([path]), load_collateral),
    "endorsement": _endorsement,
    "tcb-info": _json(PlatformRatings.parse),
    "qe-identity": _json(QeRatings.parse),
    "tpm-evidence": _tpm,
    "tpm-log": lambda data: _all(data, lambda raw: EventLog.parse(raw, OF_TPM).pcrs(), EventLog.parse_any),
    "tpm-trust": _json(TpmTrust.from_json),
    "tpm-enrolment": _json(tpm_exchange.Request.from_json, tpm_exchange.Sent.from_json, tpm_exchange.Answer.from_json),
    "td-log": lambda data: _all(data, lambda raw: EventLog.parse(raw, OF_TD).rtmrs(), EventLog.parse_any),
    "gramine-manifest": GramineManifest.parse,
    "cbor": cbor.decode,
    "token": lambda data: UnverifiedJwt.parse(data.decode("utf-8", errors="replace")).unverified_claims(),
    "pck-chain": _certificates,
    "pck-extension": _extension,
    "amd-certificate": lambda data: _all(data, lambda der: Endorsement.parse(der).key, annotate),
    "amd-table": lambda data: _all(data, lambda t: endorsement_in_table(t, "vcek"), lambda t: endorsement_in_table(t, "vlek")),
    "vendor-answer": _answer,
    "evidence": _json(
        Evidence.from_json, NodeContext.from_json, EvidenceRecord.from_json, lambda value: unverified_reference(Evidence.from_json(value))
    ),
    "remains": _json(Remains.from_json),
    "evidence-file": _file("evidence", evidence_files.load_evidence),
    "session-frames": _frames,
    "container": lambda data: ContainerReader(BytesIO(data), DATASET_KEY, DATASET, DATA_PATH).read(),
    "manifest": _json(Manifest.from_json),
    "dsse": _json(
        lambda e: dsse_verify(e, _KEY, "application/json"),
        lambda e: verify_manifest(e, _KEY),
        lambda e: ManifestClaims.verify(e, _KEY),
        unverified_dataset,
    ),
    "receipt": lambda data: _all(data, _statement, lambda raw: ReceiptBundle.from_json(parse_object(raw))),
    "policy-json": _file("policy.json", lambda path: Policy.load(path).digest),
    "policy-toml": _file("policy.toml", lambda path: Policy.load(path).digest),
    "job": _json(lambda value: Job.from_json(value).digest),
    "kbs-attest": _json(read_attest),
    "http-request": _http_request,
    "http-response": lambda data: http.request(BytesChannel(data), "GET", "/kbs/v0/resource"),
    **file_targets.TARGETS,
    **peer_targets.TARGETS,
    **kbs_targets.TARGETS,
    **custody_targets.TARGETS,
    **grant_targets.TARGETS,
    **people_targets.TARGETS,
    **bigdl_targets.TARGETS,
}


def run(target: Callable[[bytes], object], data: bytes) -> None:
    """Give ``data`` to a target; a refusal is as good as an acceptance, and any other exception leaves this function."""
    try:
        target(data)
    except ConfideError:
        return

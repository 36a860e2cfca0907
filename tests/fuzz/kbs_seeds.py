"""Seeds of the KBS protocol: what a genuine guest, an owner and a KBS send."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.kbs_guest import INIT_DATA

from confide.attest.evidence import Evidence
from confide.attest.init_data import InitData
from confide.canonical import Json
from confide.crypto.secret import SecretBytes
from confide.errors import ResourceDeniedError
from confide.ids import Tee
from confide.keys.kbs.messages import AttestRequest, AuthRequest, GuestTee, report_data
from confide.keys.kbs.snp_json import json_of_report
from confide.keys.kbs.tee_evidence import json_of_evidence
from confide.keys.kbs.tee_key import KeyKind, TeeKey

from .kbs_targets import NAME, claims, encoded, kbs
from .peer_targets import simulated_policy

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
_P, _RESOURCE = "/kbs/v0", f"/kbs/v0/resource/{NAME.path}"


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def _evidence() -> list[tuple[GuestTee, Json]]:
    """Evidence of each kind of TEE, as its attester sends it."""
    report, leaf = (VECTORS / "snp" / f"genoa-v5.{kind}" for kind in ("report", "vcek.der"))
    tpm = json.loads((VECTORS / "tpm" / "genuine-ecdsa.json").read_text())["evidence"]
    found = [
        Evidence(Tee.SGX, (VECTORS / "intel" / "sgx-v3-confighard.quote").read_bytes()),
        Evidence(Tee.TDX, (VECTORS / "intel" / "tdx-v4-uptodate.quote").read_bytes()),
        Evidence(Tee.SNP, report.read_bytes(), leaf.read_bytes()),
        Evidence.from_json(tpm),
        kbs().doors.attester.quote(report_data("NONCE", kbs().guest.public)),
    ]
    sample = {"svn": "1", "report_data": base64.b64encode(bytes(48)).decode()}
    return [*((GuestTee(one.tee.value), json_of_evidence(one)) for one in found), (GuestTee.SAMPLE, sample)]


def _attest(primary: Json, **more: Any) -> Json:
    return AttestRequest("NONCE", kbs().guest.public, primary, **more).to_json()


def _routes() -> list[bytes]:
    policy, rules = encoded(simulated_policy()), encoded({"rules": [{"resource": "airline/key/*", "policy": "simulated"}]})
    references = encoded({"digests": ["5a" * 32]})
    requests: list[tuple[str, str, str, str, Any]] = [
        ("POST", f"{_P}/auth", "", "", AuthRequest(GuestTee.SGX).to_json()),
        ("POST", f"{_P}/attest", "SESSION", "", _attest(_evidence()[-2][1])),
        ("GET", _RESOURCE, "SESSION", "", None),
        ("GET", _RESOURCE, "", "Bearer GUEST", None),
        ("POST", _RESOURCE, "", "", "a secret"),
        ("POST", f"{_P}/resource/airline/key/other", "", "Bearer ADMIN", "another"),
        ("DELETE", f"{_P}/resource/airline/key/other", "", "", None),
        ("POST", f"{_P}/attestation-policy", "", "", {"policy_id": "simulated", "policy": policy, "type": "confide"}),
        ("GET", f"{_P}/attestation-policy", "", "Bearer ADMIN", None),
        ("POST", f"{_P}/resource-policy", "", "", {"policy": rules}),
        ("GET", f"{_P}/resource-policy", "", "", None),
        ("POST", f"{_P}/reference-value", "", "", {"version": "0.1.0", "type": "sample", "payload": references}),
        ("GET", f"{_P}/reference-value", "", "", None),
        ("POST", "/confide/v0/kbs-token-keys", "", "", {"public_key": "A" * 43, "revoked": True}),
        ("GET", "/healthz", "", "", None),
        ("GET", "/metrics", "", "", None),
    ]
    names = ("method", "path", "cookie", "authorization", "body")
    return [_dump(dict(zip(names, one, strict=True))) for one in requests]


def _messages() -> list[bytes]:
    keys = [TeeKey.generate(kind).public for kind in (KeyKind.P521, KeyKind.RSA)]
    found = _evidence()
    documents = [InitData.parse(INIT_DATA), InitData.parse('{"version": "0.1.0", "algorithm": "sha256", "data": {}}', "json")]
    with_init = [_attest(found[0][1], init_data=one) for one in documents]
    others = [AttestRequest("nonce", key, found[-1][1]).to_json() for key in keys]
    auth = AuthRequest(GuestTee.TDX).to_json()
    return [_dump(one) for one in (auth, *(_attest(primary) for _, primary in found), *with_init, *others)]


def _attested() -> list[bytes]:
    return [_dump({"tee": kind.value, **_attest(primary)}) for kind, primary in _evidence()]


def _answers() -> list[bytes]:
    answers: list[Json] = [
        {"nonce": "n" * 43, "extra-params": {"selected-hash-algorithm": "sha384"}},
        {"token": "t"},
        kbs().guest.public.encrypt(SecretBytes(b"a secret")),
        {"rules": [{"resource": "airline/key/*", "policy": "simulated", "init_data": ["ab" * 48]}]},
        {"version": 1, "digest": "ab" * 48, "policies": {}},
    ]
    refusal = {"status": 403, "cookie": "", "body": {"type": "x", "detail": ResourceDeniedError("no").message}}
    return [*(_dump({"status": 200, "cookie": "kbs-session-id=s; Path=/", "body": one}) for one in answers), _dump(refusal)]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "kbs-routes": _routes,
    "kbs-admin-claims": lambda: [_dump(claims())],
    "kbs-messages": _messages,
    "kbs-attested": _attested,
    "kbs-snp-report": lambda: [_dump(json_of_report(path.read_bytes())) for path in sorted((VECTORS / "snp").glob("*.report"))],
    "kbs-init-data": lambda: [INIT_DATA.encode(), b'{"version": "0.1.0", "algorithm": "sha256", "data": {"a": "b"}}'],
    "kbs-answer": _answers,
    "kbs-words": lambda: [NAME.path.encode(), b"airline/*/flights", b"kbs://127.0.0.1:8080/airline/key/flights"],
}

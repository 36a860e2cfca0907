"""Seeds of what peers send: well-formed requests of each route, the real broker's answers to them, frames, an agent's requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from confide.canonical import Json
from confide.crypto.http_messages import JSON_TYPE, PROBLEM_TYPE, Request
from confide.errors import ConfideError, GrantError

from .peer_targets import JOB, NO_CHANNEL, doors, grant_request

_SESSION = "SESSION"


def _requests() -> list[tuple[str, str, str, Json | None]]:
    found = doors()
    dataset, manifest = found.minted["dataset"], {"manifest": found.manifest}
    path = "/confide/v0"
    return [
        ("POST", "/kbs/v0/auth", "", {"version": "0.4.0", "tee": "sgx", "extra-params": {}}),
        ("POST", "/kbs/v0/attest", _SESSION, {"runtime-data": {}, "tee-evidence": {}}),
        ("POST", f"{path}/release", _SESSION, {**manifest, "purpose": "read"}),
        ("POST", f"{path}/outputs", _SESSION, {"name": "delays", "inputs": [dataset], "recipients": ["airline"]}),
        ("POST", f"{path}/cut-off", _SESSION, {"node": "worker-1"}),
        ("PUT", f"{path}/datasets/{dataset}/manifest", _SESSION, manifest),
        ("PUT", f"{path}/datasets/{dataset}/manifest", "", manifest),
        ("POST", f"{path}/audit-head", _SESSION, {}),
        ("POST", f"{path}/audit-head", "", {}),
        ("POST", f"{path}/enrol", "", {"owner": "weather", "token": "x"}),
        ("GET", f"{path}/keys", "", None),
        ("POST", f"{path}/keys", "", {"key": "airline/crews"}),
        ("POST", f"{path}/keys/rotate", "", {"key": "airline/flights"}),
        ("POST", f"{path}/datasets", "", {"key": "airline/flights"}),
        ("POST", f"{path}/open", "", manifest),
        ("GET", f"{path}/grants", "", None),
        ("POST", f"{path}/grants", "", grant_request()),
        ("DELETE", f"{path}/grants/{'0' * 16}", "", None),
        ("POST", f"{path}/audit", "", {"first": 1, "limit": 100}),
        ("POST", f"{path}/audit/proof", "", {"seq": 1}),
        ("POST", f"{path}/audit/consistency", "", {"old": 1, "new": 2}),
    ]


def _routes() -> list[bytes]:
    return [_dump({"method": method, "path": path, "session": session, "body": body}) for method, path, session, body in _requests()]


def answers() -> list[tuple[str, Json]]:
    """What the broker says to each request that it does not refuse: the request's path and the answer."""
    made = []
    for method, path, session, body in _requests():
        headers = {"cookie": f"kbs-session-id={doors().cookie}"} if session else {}
        for routes in doors().routes(path):
            try:
                answer = routes.handle(Request(method, path, headers, body, NO_CHANNEL))
            except ConfideError:
                continue
            cookie = answer.headers.get("set-cookie", "")
            made.append((path, {"status": answer.status, "type": JSON_TYPE, "cookie": cookie, "body": answer.json}))
    return made


def _answers() -> list[bytes]:
    refusal = {"status": 403, "type": PROBLEM_TYPE, "cookie": "", "body": GrantError("no").to_json()}
    return [_dump(answer) for _, answer in answers()] + [_dump(refusal)]


def _audit_logs() -> list[bytes]:
    (log,) = [answer["body"] for path, answer in answers() if path.endswith("/audit")]
    lines = [*log["entries"], {"head": log["head"]}]
    (proof,) = [answer["body"]["proof"] for path, answer in answers() if path.endswith("/audit/proof")]
    head = {"format": "confide-audit-head-v2", "size": 1, "root": "00" * 32, "epoch": 1, "time": "2026-01-02T03:04:05+00:00"}
    return ["\n".join(json.dumps(line) for line in lines).encode(), _dump(head), _dump(proof)]


def _control_frames() -> list[bytes]:
    grants = {"airline/flights": {"grant": "0" * 16, "policy": JOB}}
    opened = {"type": "key-opened", "name": "a", "purpose": "read", "key": "airline/flights", "version": 1, "grants": grants}
    error = {"kind": "error", "seq": 1, "error": GrantError("no").to_json(), "output": "[data-integrity] changed\n"}
    written, deleted = {"type": "files-written", "paths": ["/data/a"]}, {"type": "files-deleted", "path": "/data/a"}
    return [_dump(frame) for frame in (opened, written, deleted, error, {"kind": "ready"})]


def _agent_requests() -> list[bytes]:
    parquet = {"op": "read-key", "path": "/data/in/a.parquet"}
    container = {"op": "write-key", "path": "/data/out/_temporary/0/_temporary/attempt_1_0001_m_1_1/a", "kind": "container", "salt": "AAAA"}
    return [_dump(request) + b"\n" for request in (parquet, container)]


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "broker-routes": _routes,
    "broker-answer": _answers,
    "audit-log": _audit_logs,
    "control-frames": _control_frames,
    "agent-request": _agent_requests,
}

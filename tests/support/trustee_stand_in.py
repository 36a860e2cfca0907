"""A stand-in for Trustee's KBS, written from the documents of KBS protocol 0.4.0 alone.  **This is NOT Trustee**, which cannot be run here.

It answers as "KBS Attestation Protocol" of github.com/confidential-containers/trustee (``kbs/docs``) says that one does: session cookie,
nonce, token, JWE (ECDH-ES+A256KW, A256GCM), refusals as objects with ``type`` and ``detail``, nearly all of status 401.  It does not use
Confide's server: JOSE is jwcrypto's, HTTP is the standard library's.  Of evidence it looks at the report data of a simulated SGX or TDX
quote, and at nothing else: what a real attestation service verifies is not tested by it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import rfc8785
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK
from support.custody.tls import Tls

_ERRORS = "https://github.com/confidential-containers/kbs/errors/"
_REPORT_DATA = {"sgx": slice(48 + 320, 48 + 384), "tdx": slice(48 + 520, 48 + 584)}
"""Where a quote of version 3 (SGX) or 4 (TDX) has its report data (Intel, "ECDSA quote library API", appendix A)."""


class TrusteeStandIn:
    """``resources`` by ``repository/type/tag``; ``denied`` are those that its policy gives to nobody."""

    def __init__(self, tls: Tls) -> None:
        self.resources: dict[str, bytes] = {}
        self.denied: set[str] = set()
        self.asked: list[str] = []
        self._sessions: dict[str, dict[str, Any]] = {}
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                cookie = self.headers.get("Cookie", "").partition("kbs-session-id=")[2].split(";")[0]
                stand_in.asked.append(f"{self.command} {self.path}")
                status, answer, more = stand_in._answer(self.path.removeprefix("/kbs/v0/"), cookie, json.loads(data) if data else {})
                text = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST  # noqa: N815  http.server's name

            def log_message(self, *_: Any) -> None:
                pass

        self.ca_pem = tls.ca.read_text(encoding="ascii")
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.socket = tls.for_server().wrap_socket(self._http.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _answer(self, path: str, cookie: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        if path == "auth":
            name, nonce = secrets.token_hex(16), base64.b64encode(secrets.token_bytes(32)).decode()
            self._sessions[name] = {"nonce": nonce, "tee": body["tee"], "key": None}
            set_cookie = {"Set-Cookie": f"kbs-session-id={name}; Path=/; Max-Age=300"}
            return 200, {"nonce": nonce, "extra-params": {"selected-hash-algorithm": "sha384"}}, set_cookie
        session = self._sessions.get(cookie)
        if session is None:
            return _problem("MissingCookie", "no session")
        if path == "attest":
            return self._attest(session, body)
        name = path.removeprefix("resource/")
        if session["key"] is None:
            return _problem("TokenNotFound", "not attested")
        if name in self.denied:
            return _problem("PolicyDeny", "Access denied by policy", 403)
        if name not in self.resources:
            return _problem("ReadSecretFailed", "no such resource", 404)
        return 200, _sealed(self.resources[name], session["key"]), {}

    def _attest(self, session: dict[str, Any], body: Any) -> tuple[int, Any, dict[str, str]]:
        runtime, evidence = body["runtime-data"], body["tee-evidence"]
        signed = {"additional-evidence": evidence["additional_evidence"], **runtime}
        expected = hashlib.sha384(rfc8785.dumps(signed)).digest()
        quote = base64.b64decode(evidence["primary_evidence"]["quote"])
        if runtime["nonce"] != session["nonce"] or quote[_REPORT_DATA[session["tee"]]][:48] != expected:
            return _problem("AttestationError", "report data mismatch")
        session["key"] = runtime["tee-pubkey"]
        return 200, {"token": "stand.in.token"}, {}


def _problem(kind: str, detail: str, status: int = 401) -> tuple[int, Any, dict[str, str]]:
    return status, {"type": _ERRORS + kind, "detail": detail}, {}


def _sealed(secret: bytes, key: dict[str, str]) -> dict[str, str]:
    recipient = JWK(**{name: value for name, value in key.items() if name != "alg"})
    header = json.dumps({"alg": key["alg"], "enc": "A256GCM"})
    parts = JWE(secret, protected=header, algs=[key["alg"], "A256GCM"], recipient=recipient).serialize(compact=True).split(".")
    return dict(zip(("protected", "encrypted_key", "iv", "ciphertext", "tag"), parts, strict=True))

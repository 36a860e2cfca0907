"""A guest that speaks KBS protocol 0.4.0 by hand, over TLS without a client key, so that tests can break it anywhere."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from confide.attest.evidence import Evidence
from confide.canonical import Json, canonical
from confide.crypto.http import request
from confide.crypto.http_messages import Response
from confide.crypto.tls import Channel, PinnedSpki, connect
from confide.ids import ReportData
from confide.keys.kbs.messages import AttestRequest, report_data
from confide.keys.kbs.tee_evidence import json_of_evidence
from confide.keys.kbs.tee_key import TeeKey

INIT_DATA = 'version = "0.1.0"\nalgorithm = "sha384"\n\n[data]\n"policy.rego" = "package agent_policy"\n'


def encoded(value: object) -> str:
    """Base64 of JSON: how policies travel."""
    return base64.b64encode(canonical(value)).decode()


def channel_of(server: Any) -> Channel:
    """A connection without a client key."""
    host, port = server.url.removeprefix("https://").split(":")
    return connect(host, int(port), None, trust=PinnedSpki(server.spki))


@dataclass
class Guest:
    """One guest: an attester (anything with ``tee`` and ``quote``) and a key."""

    server: Any
    attester: Any
    key: TeeKey = field(default_factory=TeeKey.generate)
    channel: Channel | None = None
    cookie: str = ""
    nonce: str = ""
    token: str = ""
    init_data: Json | None = None
    tee: str = ""

    def ask(self, method: str, path: str, body: Json | None = None, **headers: str) -> Response:
        """One request on the guest's connection."""
        if self.channel is None or self.channel.closed:
            self.channel = channel_of(self.server)
        return request(self.channel, method, path, body, headers)

    def auth(self, **changes: Any) -> Response:
        """``auth``; remembers cookie and nonce."""
        tee = self.tee or self.attester.tee.value
        answer = self.ask("POST", "/kbs/v0/auth", {"version": "0.4.0", "tee": tee, "extra-params": {}, **changes})
        if answer.status == 200:
            assert answer.json is not None
            self.cookie = answer.headers["set-cookie"].split(";")[0]
            self.nonce = answer.json["nonce"]
        return answer

    def evidence(self, **changes: Any) -> Json:
        """The message of ``attest``, with fresh evidence over ``changes``' report data or the right one."""
        over: ReportData = changes.pop("over", None) or report_data(self.nonce, self.key.public)
        primary = json_of_evidence(self.attester.quote(over)) if not self.tee else changes.pop("primary")
        message = AttestRequest(self.nonce, self.key.public, primary).to_json()
        return {**({"init-data": self.init_data} if self.init_data else {}), **message, **changes}

    def attest(self, message: Json | None = None) -> Response:
        """``attest``; remembers the token."""
        answer = self.ask("POST", "/kbs/v0/attest", message or self.evidence(), cookie=self.cookie)
        if answer.status == 200 and answer.json is not None:
            self.token = answer.json["token"]
        return answer

    def ready(self) -> Guest:
        """The guest, attested."""
        assert self.auth().status == 200
        answer = self.attest()
        assert answer.status == 200, answer.json
        return self

    def get(self, name: str, **headers: str) -> Response:
        """A resource, by cookie unless other headers are given."""
        return self.ask("GET", f"/kbs/v0/resource/{name}", None, **(headers or {"cookie": self.cookie}))


def quoted(evidence: Evidence) -> Any:
    """An attester that always gives this evidence."""

    class Fixed:
        tee = evidence.tee

        def quote(self, _report_data: object) -> Evidence:
            return evidence

    return Fixed()

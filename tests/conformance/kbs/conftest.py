"""The server under test: the one that ``--kbs-url`` names, or our own in this process."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import broker_world
from support.kbs_world import Kbs

from confide.attest.insecure import Installation
from confide.canonical import Json
from confide.crypto.http import request
from confide.crypto.http_messages import Response
from confide.keys.kbs.messages import report_data
from confide.keys.kbs.tee_key import KeyKind, TeeKey
from confide.keys.kbs.transport import PinnedCa, open_channel


@dataclass(frozen=True)
class Server:
    """A KBS that takes ``sample`` evidence and gives ``resource`` to guests that show it."""

    url: str
    ca_pem: str
    resource: str
    content: bytes | None = None

    def ask(self, method: str, path: str, body: Json | None = None, **headers: str) -> Response:
        """One request on a connection of its own; answers may be of any content type, as the protocol names none for refusals."""
        channel = open_channel(self.url, PinnedCa(self.ca_pem), 20)
        try:
            return request(channel, method, f"/kbs/v0/{path}", body, headers, types=None, timeout=20)
        finally:
            channel.close()


@dataclass
class SampleGuest:
    """A guest that shows sample evidence, with a key of its own."""

    server: Server
    kind: KeyKind = KeyKind.P256
    key: TeeKey = field(init=False)
    cookie: str = ""
    nonce: str = ""
    token: str = ""

    def __post_init__(self) -> None:
        self.key = TeeKey.generate(self.kind)

    def auth(self, **changes: Any) -> Response:
        """``auth``, remembered."""
        answer = self.server.ask("POST", "auth", {"version": "0.4.0", "tee": "sample", "extra-params": {}, **changes})
        if answer.status == 200:
            assert answer.json is not None
            self.nonce = answer.json["nonce"]
            self.cookie = answer.headers["set-cookie"].split(";")[0]
        return answer

    def message(self, over: bytes | None = None, nonce: str | None = None) -> Json:
        """``attest``'s message; ``over`` is other report data than the right one."""
        digest = over if over is not None else report_data(self.nonce, self.key.public)[:48]
        return {
            "runtime-data": {"nonce": nonce or self.nonce, "tee-pubkey": dict(self.key.public.jwk)},
            "tee-evidence": {
                "primary_evidence": {"svn": "1", "report_data": base64.b64encode(digest).decode()},
                "additional_evidence": "",
            },
        }

    def attest(self, message: Json | None = None, cookie: str | None = None) -> Response:
        """``attest``, remembered."""
        headers = {"cookie": self.cookie if cookie is None else cookie} if (cookie is None or cookie) else {}
        answer = self.server.ask("POST", "attest", message or self.message(), **headers)
        if answer.status == 200:
            assert answer.json is not None
            self.token = answer.json["token"]
        return answer

    def ready(self) -> SampleGuest:
        """The guest, attested."""
        assert self.auth().status == 200
        answer = self.attest()
        assert answer.status == 200, answer.json
        return self

    def get(self, name: str = "", **headers: str) -> Response:
        """A resource, by cookie unless other headers are given."""
        return self.server.ask("GET", f"resource/{name or self.server.resource}", None, **(headers or {"cookie": self.cookie}))


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    named = request.config.getoption("--kbs-url") or os.environ.get("KBS_URL")
    if named:
        ca = request.config.getoption("--kbs-ca") or os.environ["KBS_CA"]
        resource = request.config.getoption("--kbs-resource") or os.environ.get("KBS_RESOURCE", "default/test/conformance")
        yield Server(named, Path(ca).read_text(encoding="ascii"), resource)
        return
    folder = tmp_path_factory.mktemp("kbs")
    world = broker_world.World(folder, Installation.create(folder / "simulated"))
    kbs = Kbs(world)
    content = b"what sample guests may read"
    kbs.post("airline", "resource/airline/test/conformance", content)
    kbs.set_rules("airline", [{"resource": "airline/test/*", "policy": "sample"}])
    yield Server(world.server.url, world.server.certificate_pem.decode(), "airline/test/conformance", content)
    world.close()


@pytest.fixture
def guest(server: Server) -> SampleGuest:
    return SampleGuest(server)

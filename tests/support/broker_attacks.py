"""What attacks on the broker share: a granted dataset, a node that speaks the protocol by hand, and a pen for the broker's file."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

from support.broker_world import JOB, Node, World, policy

from confide.attest.binding import report_data
from confide.attest.evidence import NodeContext
from confide.canonical import Json, b64url, from_b64url
from confide.crypto.http import request
from confide.crypto.http_messages import Response
from confide.crypto.tls import Channel, PinnedSpki, connect
from confide.ids import Nonce


class Granted:
    """An airline whose flights are granted to one job."""

    def __init__(self, world: World, **grant: Any) -> None:
        self.airline = world.owner("airline")
        self.minted, self.manifest = world.dataset(self.airline, "airline", "flights")
        self.grant = self.airline.grant("flights", job=JOB, policy=grant.pop("policy", policy()), **grant)


class Raw:
    """A node that speaks the protocol by hand, so that it can break it anywhere."""

    def __init__(self, world: World, node: Node | None = None) -> None:
        self.node = node or world.node()
        host, port = world.server.url.removeprefix("https://").split(":")
        self.channel: Channel = connect(host, int(port), self.node.identity, trust=PinnedSpki(world.server.spki))
        self.cookie: dict[str, str] = {}

    def send(self, path: str, body: Json, **headers: str) -> Response:
        return request(self.channel, "POST", path, body, {**self.cookie, **headers})

    def auth(self) -> Nonce:
        answer = self.send("/kbs/v0/auth", {"version": "0.4.0", "tee": "sgx", "extra-params": {}})
        assert answer.status == 200
        assert answer.json is not None
        self.cookie = {"cookie": answer.headers["set-cookie"].partition(";")[0]}
        return Nonce(from_b64url(answer.json["nonce"]))

    def message(self, nonce: Nonce, /, **changed: Any) -> Json:
        """An attest message; ``changed`` replaces what goes into the report data, but not what is said."""
        said: dict[str, Any] = {
            "role": self.node.role,
            "exporter": self.channel.exporter(),
            "nonce": nonce,
            "spki": self.node.identity.spki_der,
            "context": self.node.context.digest,
        }
        evidence = self.node.attester.quote(report_data(**{**said, **changed}))
        return self.wrap(nonce, evidence.to_json(), self.node.context)

    def wrap(self, nonce: Nonce, evidence: Json, context: NodeContext) -> Json:
        runtime = {"nonce": b64url(nonce), "tee-pubkey": context.seal, "confide-context": context.to_json(), "role": self.node.role.value}
        return {"runtime-data": runtime, "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""}}

    def attest(self, message: Json) -> str:
        """The error's code, or ``ok``."""
        return code_of(self.send("/kbs/v0/attest", message))

    def release(self, envelope: Json) -> str:
        return code_of(self.send("/confide/v0/release", {"manifest": envelope, "purpose": "read"}))


def code_of(answer: Response) -> str:
    assert answer.json is not None
    if answer.status == 200:
        return "ok"
    assert "jwe" not in answer.json
    return str(answer.json["code"])


def change_row(world: World, sql: str, *values: object) -> None:
    """Write into the file of a broker that has read nothing of it yet."""
    with contextlib.closing(sqlite3.connect(world.folder / "store" / "broker.db")) as database, database:
        assert database.execute(sql, values).rowcount > 0
    world.store._rows._buckets.clear()
    world.store._rows._refs.clear()

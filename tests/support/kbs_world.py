"""A broker with one owner, one resource and rules for it, as a KBS; guests of simulated TEEs."""

from __future__ import annotations

from typing import Any

from support import broker_world
from support.kbs_guest import Guest, encoded

from confide.attest.insecure import InsecureAttester
from confide.canonical import Json
from confide.crypto.http import request
from confide.crypto.http_messages import Response
from confide.crypto.tls import PinnedSpki, connect
from confide.ids import Tee

SECRET = b"the resource that only accepted guests may read"
NAME = "airline/key/flights"


class Kbs:
    """The broker as a KBS, and its owner ``airline`` with a policy ``simulated`` and a rule for its repository."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.owner("airline")
        self.attester = InsecureAttester(world.installation, Tee.SGX, broker_world.MEASUREMENT)
        assert self.post("airline", f"resource/{NAME}", SECRET).status == 200
        self.set_policy("airline", "simulated", broker_world.policy("simulated").to_json())
        self.set_rules("airline", [{"resource": "airline/key/*", "policy": "simulated"}])

    def owner(self, name: str) -> None:
        self.world.owner(name)

    def post(self, owner: str, path: str, body: Json | bytes, method: str = "POST", **headers: str) -> Response:
        """A command of an owner, by its TLS key."""
        host, port = self.world.server.url.removeprefix("https://").split(":")
        identity = self.world.credential(owner).identity() if owner else None
        with connect(host, int(port), identity, trust=PinnedSpki(self.world.server.spki)) as channel:
            return request(channel, method, path if path.startswith("/") else f"/kbs/v0/{path}", body, headers)

    def get(self, owner: str, path: str, **headers: str) -> Response:
        return self.post(owner, path, None, "GET", **headers)  # type: ignore[arg-type]

    def set_policy(self, owner: str, name: str, policy: Json) -> Response:
        return self.post(owner, "attestation-policy", {"type": "confide", "policy_id": name, "policy": encoded(policy)})

    def set_rules(self, owner: str, rules: list[Json]) -> Response:
        return self.post(owner, "resource-policy", {"policy": encoded({"rules": rules})})

    def guest(self, attester: Any = None, **options: Any) -> Guest:
        return Guest(self.world.server, attester or self.attester, **options)

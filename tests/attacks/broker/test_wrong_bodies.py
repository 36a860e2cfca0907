"""Every request of people and nodes, with each place of its body wrong in many ways: refused with a reason, no failure of the broker."""

from __future__ import annotations

import contextlib
import copy
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.broker_world import JOB, World, manifest, policy
from support.escrow_world import Trust

from confide.attest.insecure import Installation
from confide.canonical import Json
from confide.crypto.http import request
from confide.crypto.http_messages import Response
from confide.errors import ConfideError
from confide.ids import NodeId, Role
from confide.keys.audit import AuditHead
from confide.keys.client import OwnerClient
from confide.keys.connection import Connection
from confide.keys.roles import GUEST, ROUTES

WRONG: tuple[object, ...] = (
    None, True, False, 0, -1, 1.5, 2**31, 2**53 - 1, -(2**53) + 1, "", "0", "\0", "x" * 5000, "\u00e9\u202e\0", "../../etc", "'; --",
    "airline/flights@1", "airline/flights", "airline/", "/", "AAAA", "ab" * 32, "ab" * 48, "a.b.c", "default", "*",
    "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2027-01-01", "2027-01-01T00:00:00Z", [], {}, [[]], [None], {"a": 1},
    ["airline", "airline"], {"\u00e9": [1]}, [{}], [1, "x"],
)  # fmt: skip
_ID = re.compile(r"[0-9a-f]{16,}")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a body; of a list, the first two."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for name, one in inner:
        yield (*path, name)
        yield from places(one, (*path, name))


def changed(body: Json, path: tuple[Any, ...], *value: object) -> Json:
    """The body with another value there, or without what is there."""
    made = copy.deepcopy(body)
    holder: Any = made
    for name in path[:-1]:
        holder = holder[name]
    if value:
        holder[path[-1]] = value[0]
    else:
        del holder[path[-1]]
    return made


def wrong(body: Json, chance: random.Random, each: int) -> Iterator[Json]:
    """Bodies that are wrong in one place, with ``each`` wrong values in each."""
    yield {}
    yield {**body, "more": 1}
    for path in places(body):
        yield changed(body, path)
        for value in chance.sample(WRONG, each):
            yield changed(body, path, value)


class Asked:
    """What clients have asked, each kind of request once, and on whose connection."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.kinds: dict[tuple[str, ...], tuple[Connection, str, str, Json, dict[str, str]]] = {}
        ask = Connection._ask

        def noted(client: Connection, method: str, path: str, body: Any = None, headers: Any = None, **more: Any) -> Response:
            if isinstance(body, dict):
                kind = (method, _ID.sub("*", path), *sorted(body))
                self.kinds.setdefault(kind, (client, method, path, copy.deepcopy(body), dict(headers or {})))
            return ask(client, method, path, body, headers, **more)

        patch.setattr(Connection, "_ask", noted)

    def missed(self) -> set[str]:
        """Requests with a body that nobody has asked.  Those of the KBS protocol are tried by what the published document says of them."""
        routes = [route for route in ROUTES if route.method in {"POST", "PUT"} and not set(route.actions) & {GUEST, "kbs-token-key"}]
        ours = [route for route in routes if route.path.startswith("/confide/")]
        return {route.path for route in ours if not any(route.matches(method, path) for _, method, path, *_ in self.kinds.values())}

    def failures(self, each: int) -> set[str]:
        """Ask everything again with wrong bodies: what the broker failed at."""
        chance, found = random.Random(5), set()
        for client, method, path, body, headers in list(self.kinds.values()):
            for one in wrong(body, chance, each):
                if path.endswith("/watch") and not one:
                    continue  # the right one, which waits
                answer = request(client.channel()[0], method, path, one, headers, timeout=20)
                if answer.status >= 500 or answer.json is None:
                    found.add(f"{method} {path} {answer.status} {one}"[:600])
        return found


def nodes_ask(world: World, airline: OwnerClient) -> Json:
    """All that nodes ask, of data under the airline's key; returns its manifest."""
    minted, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy(), recipients=["airline"], max_runs=9, not_after=world.now().replace(year=2099, day=1))
    driver, worker = world.client(world.node(Role.DRIVER)), world.client(world.node())
    for node in (driver, worker):
        node.release(envelope)
        node.releases([envelope])
    output = driver.output("result", inputs=[minted.dataset], recipients=["airline"])
    with contextlib.suppress(ConfideError):
        driver.register_manifest(manifest(output, world.credential("airline").key))
    driver.audit_head()
    driver.cut_off(NodeId("worker-2"))
    with contextlib.suppress(ConfideError):
        driver._ask("POST", "/confide/v0/watch", {"more": 1})
    return envelope


def owners_ask(trust: Trust, envelope: Json) -> None:
    """All that owners, approvers and trustees ask; the key is taken to the other broker in both ways."""
    airline, there = trust.airline, trust.here
    airline.open(envelope)
    airline.wrapped_form(envelope)
    log = airline.audit()
    airline.audit_proof(2)
    airline.audit_since(AuditHead.verify(log.head, airline.broker_key()))
    airline.create_key("guarded")
    airline.set_approvers("guarded", 1, ["ada"])
    waiting = airline.grant("guarded", job=JOB, policy=policy())
    trust.clients["ada"].vote(waiting.id, "approve")
    trust.clients["ada"].take_back(waiting.id)
    airline.rotate_key("guarded")
    airline.destroy_key("guarded", 1)
    airline.retire_key("guarded", 2)
    list(airline.rewrap("flights"))
    lines = trust.made()
    asked = there.ask_recovery(lines)
    trust.clients["ada"].announce(trust.escrow(lines), trust.recovery(asked))
    there.recover(lines, trust.contributions(("ada", "bob"), lines, asked))
    exported = list(airline.export_key("flights", there.wrapping_key(), trust.b.server.spki))
    there.import_key(exported)
    there.adopt_dataset(envelope)
    tries: tuple[Callable[[], object], ...] = (lambda: airline.link_token("a.b.c"), lambda: airline.unlink_token("https://x.example", "s"))
    for refused in tries:
        with contextlib.suppress(ConfideError):
            refused()


def operators_ask(world: World) -> None:
    """All that operators ask."""
    ops = world.operator()
    ops.operate("enrol", owner="zed", tenant="default", role="owner")
    ops.operate("cancel-enrolment", owner="zed")
    ops.operate("add-tenant", tenant="health")
    ops.operate("limits", tenant="health", limits={"rate": 5, "burst": 5, "keys": 5})
    ops.operate("withdraw", owner="cyd", strand_rules=True)


@pytest.mark.slow
def test_wrong_body_is_refused_and_is_no_failure_of_the_broker(tmp_path: Path, tee: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    trust = Trust(tmp_path, tee, same_credential=True)
    try:
        owners_ask(trust, nodes_ask(trust.a, trust.airline))
        operators_ask(trust.a)
        assert asked.missed() == set()
        assert asked.failures(9) == set()
        assert trust.a.store.check() > 0
    finally:
        trust.close()

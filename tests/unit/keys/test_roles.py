"""The table of roles: every request as everybody, the page that shows it, and what happens to a request without a row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.broker_world import JOB, World, policy
from support.kbs_guest import encoded

from confide.attest.insecure import Installation
from confide.crypto.http import request
from confide.crypto.http_messages import Response
from confide.crypto.tls import PinnedSpki, connect
from confide.errors import CredentialError
from confide.keys import roles
from confide.keys.kbs.routes import PREFIX
from confide.keys.roles import MAY, ROUTES, WITHOUT_OFFICE, Office, Route, check_may, has_row
from confide.keys.tenant_records import DEFAULT_TENANT, EVERY_TENANT

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "roles.md"
TENANT = {Office.OWNER: DEFAULT_TENANT, Office.AUDITOR: EVERY_TENANT, Office.OPERATOR: EVERY_TENANT}
CONFIDE = "/confide/v0/"
KEY = "owner/flights"
GRANT = {
    "key": KEY,
    "job": JOB,
    "policy": policy().to_json(),
    "roles": ["worker"],
    "purposes": ["read"],
    "recipients": [],
    "not_after": None,
}
# A body of the right form for each request; a route that has none here fails the test below.
BODIES: dict[tuple[str, str], Any] = {
    ("POST", PREFIX + "resource/**"): b"content",
    ("DELETE", PREFIX + "resource/**"): None,
    ("POST", PREFIX + "attestation-policy"): {"policy_id": "p", "policy": encoded(policy().to_json())},
    ("GET", PREFIX + "attestation-policy"): None,
    ("POST", PREFIX + "resource-policy"): {"policy": encoded({"rules": []})},
    ("GET", PREFIX + "resource-policy"): None,
    ("POST", PREFIX + "reference-value"): {"version": "0.1.0", "type": "sample", "payload": encoded({"a": ["b"]})},
    ("GET", PREFIX + "reference-value"): None,
    ("POST", CONFIDE + "kbs-token-keys"): {"public_key": "A" * 43, "revoked": False},
    ("POST", CONFIDE + "audit-head"): {},
    ("PUT", CONFIDE + "datasets/*/manifest"): {"manifest": {}},
    ("POST", CONFIDE + "datasets/adopt"): {"manifest": {}},
    ("POST", CONFIDE + "datasets/wrapped-form"): {"manifest": {}},
    ("POST", CONFIDE + "escrow"): {"request": {}},
    ("GET", CONFIDE + "escrow"): None,
    ("POST", CONFIDE + "escrow/trustee-key"): {"envelope": {}},
    ("POST", CONFIDE + "escrow/trustees"): {"names": ["nobody"]},
    ("POST", CONFIDE + "escrow/announce"): {"escrow": "00", "recovery": {}},
    ("POST", CONFIDE + "escrow/request"): {"escrow": "00", "key": KEY},
    ("POST", CONFIDE + "escrow/recover"): {"head": {}, "contributions": []},
    ("POST", CONFIDE + "keys"): {"key": KEY},
    ("GET", CONFIDE + "keys"): None,
    ("POST", CONFIDE + "keys/rotate"): {"key": KEY},
    ("POST", CONFIDE + "keys/retire"): {"key": KEY, "version": 1},
    ("POST", CONFIDE + "keys/destroy"): {"key": KEY, "version": 1, "lose_datasets": False},
    ("POST", CONFIDE + "keys/rewrap"): {"key": KEY},
    ("GET", CONFIDE + "keys/wrapping-key"): None,
    ("POST", CONFIDE + "keys/export"): {"request": {}},
    ("POST", CONFIDE + "keys/import"): {"export": {}, "source": "AA"},
    ("POST", CONFIDE + "datasets"): {"key": KEY},
    ("POST", CONFIDE + "datasets/export"): {"key": KEY, "start": 0},
    ("POST", CONFIDE + "datasets/import"): {"datasets": []},
    ("POST", CONFIDE + "open"): {"manifest": {}},
    ("POST", CONFIDE + "grants"): GRANT,
    ("GET", CONFIDE + "grants"): None,
    ("DELETE", CONFIDE + "grants/*"): None,
    ("POST", CONFIDE + "approvers"): {"key": KEY, "threshold": 0, "approvers": []},
    ("POST", CONFIDE + "approvals/vote"): {"subject": "00" * 8, "verdict": "approve", "envelope": {}},
    ("POST", CONFIDE + "approvals/take-back"): {"subject": "00" * 8},
    ("POST", CONFIDE + "audit"): {"first": 1, "limit": 1},
    ("POST", CONFIDE + "audit/proof"): {"seq": 1},
    ("POST", CONFIDE + "audit/consistency"): {"old": 1, "new": 1},
    ("POST", CONFIDE + "operator/enrolments"): {"owner": "new", "tenant": "default", "role": "owner"},
    ("POST", CONFIDE + "operator/enrolments/cancel"): {"owner": "new"},
    ("POST", CONFIDE + "operator/tenants"): {"tenant": "new"},
    ("GET", CONFIDE + "operator/tenants"): None,
    ("POST", CONFIDE + "operator/withdraw"): {"owner": "nobody"},
    ("POST", CONFIDE + "operator/limits"): {"tenant": "default", "limits": {}},
    ("POST", CONFIDE + "token-links"): {"token": "a.b.c"},
    ("GET", CONFIDE + "token-links"): None,
    ("POST", CONFIDE + "token-links/remove"): {"issuer": "https://x.example", "subject": "x"},
}
# Pages are not JSON, and show what the commands that are in their row show: see test_page_shows_what_its_commands_may.
OF_PEOPLE = [route for route in ROUTES if set(route.actions) - WITHOUT_OFFICE and not route.path.startswith("/page/")]


@pytest.fixture(scope="module")
def everybody(tmp_path_factory: pytest.TempPathFactory, installation: Installation) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"), installation)
    for office, tenant in TENANT.items():
        world.owner(office.value, tenant=tenant, office=office)
    yield world
    world.close()


def _send(world: World, who: str | None, route: Route, body: Any) -> Response:
    host, port = world.server.url.removeprefix("https://").split(":")
    identity = world.credential(who).identity() if who else None
    path = route.path.replace("resource/**", "resource/owner/type/tag").replace("*", "00" * 8)
    with connect(host, int(port), identity, trust=PinnedSpki(world.server.spki)) as channel:
        return request(channel, route.method, path, body)


@pytest.mark.parametrize("office", list(Office))
@pytest.mark.parametrize("route", OF_PEOPLE, ids=lambda route: f"{route.method} {route.path}")
def test_every_request_is_for_those_in_its_row_and_for_nobody_else(everybody: World, route: Route, office: Office) -> None:
    allowed = any(office in MAY[action] for action in route.actions if action not in WITHOUT_OFFICE)
    answer = _send(everybody, office.value, route, BODIES[route.method, route.path])
    said = str((answer.json or {}).get("detail", ""))
    assert ("may not do this" in said) is not allowed, said
    if not allowed:
        assert (answer.status, (answer.json or {})["code"]) == (401, "credential-refused")
        assert "use the credential of an " in str((answer.json or {})["hint"])
        assert everybody.events("refuse")[-1]["owners"] == [office.value]
    assert "no such endpoint" not in said


@pytest.mark.parametrize("route", OF_PEOPLE, ids=lambda route: f"{route.method} {route.path}")
def test_every_request_of_people_needs_a_credential(everybody: World, route: Route) -> None:
    answer = _send(everybody, None, route, BODIES[route.method, route.path])
    assert (answer.status, (answer.json or {})["code"]) == (401, "credential-refused")


@pytest.mark.parametrize("office", list(Office))
@pytest.mark.parametrize("route", [r for r in ROUTES if r.actions == (roles.NODE,)], ids=lambda route: route.path)
def test_nodes_requests_are_for_attested_nodes_whoever_asks(everybody: World, route: Route, office: Office) -> None:
    bodies: dict[str, Any] = {
        "release": {"manifest": {}, "purpose": "read"},
        "releases": {"manifests": [{}], "purpose": "read"},
        "outputs": {"name": "x", "inputs": [], "recipients": []},
        "cut-off": {"node": "n"},
        "watch": {},
    }
    answer = _send(everybody, office.value, route, bodies[route.path.rpartition("/")[2]])
    assert (answer.status, (answer.json or {})["code"]) == (401, "binding-mismatch")


@pytest.mark.parametrize(("page", "offices"), [("keys", {Office.OWNER, Office.AUDITOR}), ("audit", set(Office))])
def test_page_shows_what_its_commands_may(everybody: World, page: str, offices: set[Office]) -> None:
    host, port = everybody.server.url.removeprefix("https://").split(":")
    for office in Office:
        identity = everybody.credential(office.value).identity()
        with connect(host, int(port), identity, trust=PinnedSpki(everybody.server.spki)) as channel:
            answer = request(channel, "GET", f"/page/{page}", text_type="text/html")
        assert answer.status == (200 if office in offices else 401)


def test_request_without_a_row_is_not_served(everybody: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for kept in (Route("GET", CONFIDE + "keys", ("list-keys",)), Route("GET", "/healthz", (roles.ANYONE,))):
        assert _send(everybody, "owner", kept, None).status == 200
        monkeypatch.setattr(roles, "_EXACT", roles._EXACT - {(kept.method, kept.path)})
        assert _send(everybody, "owner", kept, None).status in {404, 405}
        monkeypatch.undo()
    monkeypatch.setattr(roles, "_PATTERNS", tuple(route for route in roles._PATTERNS if not route.path.startswith("/page/")))
    assert _send(everybody, "owner", Route("GET", "/page/keys", ("page",)), None).status == 404


def test_page_is_for_those_who_may_see_pages(everybody: World, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = everybody.server.url.removeprefix("https://").split(":")
    monkeypatch.setitem(MAY, "page", frozenset({Office.OWNER}))  # type: ignore[arg-type]
    for office in Office:
        with connect(host, int(port), everybody.credential(office.value).identity(), trust=PinnedSpki(everybody.server.spki)) as channel:
            answer = request(channel, "GET", "/page/audit", text_type="text/html")
        assert answer.status == (200 if office is Office.OWNER else 401)


def test_command_without_a_row_is_nobodys() -> None:
    for office in Office:
        with pytest.raises(CredentialError):
            check_may(office, "new-command")


def test_every_row_names_commands_that_exist_and_every_command_has_a_row() -> None:
    named = {action for route in ROUTES for action in route.actions}
    assert named - WITHOUT_OFFICE == set(MAY)
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


def test_paths_that_only_look_like_a_row_are_none() -> None:
    assert has_row("DELETE", CONFIDE + "grants/00")
    for method, path in (
        ("DELETE", CONFIDE + "grants/00/x"),
        ("DELETE", CONFIDE + "grants/"),
        ("GET", CONFIDE + "keysx"),
        ("GET", "/metricsx"),
    ):
        assert not has_row(method, path)


def test_page_shows_this_table() -> None:
    rows = re.findall(
        r"^\| `(\w+) ([^`]+)` \| ([^|]*) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    shown = [(method, path, tuple(cell.strip() for cell in cells)) for method, path, *cells in rows]
    assert shown == [(route.method, route.path, _cells(route)) for route in ROUTES]


def _cells(route: Route) -> tuple[str, ...]:
    """Owner, auditor, operator, and who else."""
    offices = ["yes" if any(office in MAY.get(action, ()) for action in route.actions) else "" for office in Office]
    return (*offices, ", ".join(action for action in route.actions if action in WITHOUT_OFFICE))

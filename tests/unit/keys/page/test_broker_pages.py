"""The pages as the broker serves them itself: to whoever shows an enrolled key, read-only."""

from __future__ import annotations

import sys

import pytest
from support.page_world import Office

from confide.crypto.http import request
from confide.crypto.http_messages import Response
from confide.crypto.tls import Identity, PinnedSpki, connect
from confide.errors import UsageError
from confide.keys.page import render
from confide.keys.page.pages import OWN_KEY
from confide.keys.page.sources import Commands
from confide.keys.records import Owner


def ask(office: Office, identity: Identity | None, path: str, method: str = "GET", body: dict[str, str] | None = None) -> Response:
    host, port = office.world.server.url.removeprefix("https://").split(":")
    with connect(host, int(port), identity, trust=PinnedSpki(office.world.server.spki)) as channel:
        return request(channel, method, path, body, text_type="text/html")


def test_pages_are_for_enrolled_keys_only(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    enrolled = office.world.credential("airline").identity()
    shown = ask(office, enrolled, "/page/overview")
    assert shown.status == 200
    assert "airline/flights" in str(shown.text)
    for somebody in (Identity.generate("stranger"), None):
        for page in ("overview", "keys", "grants", "releases", "audit", "grant?id=" + office.grant.id):
            refused = ask(office, somebody, f"/page/{page}")
            assert refused.status == 401
            assert "flights" not in str(refused.text)
    airline = office.world.store.get(Owner, "airline")
    monkeypatch.setattr(Commands, "__init__", lambda self, broker, peer: setattr(self, "_reader", airline))
    monkeypatch.setattr(Commands, "keys", lambda self: office.airline.keys())
    monkeypatch.setattr(Commands, "grant_list", lambda self: office.airline.grant_list())
    assert "flights" in str(ask(office, Identity.generate("stranger"), "/page/keys").text)  # the weakened broker


def test_every_page_has_the_headers_that_keep_it_in(office: Office) -> None:
    enrolled = office.world.credential("airline").identity()
    for path in ("/page/overview", "/page/nothing", "/page/approve"):
        answer = ask(office, enrolled, path)
        assert {name: answer.headers.get(name) for name in render.HEADERS} == dict(render.HEADERS)


def test_what_takes_the_owners_key_is_not_done_by_the_broker(office: Office) -> None:
    enrolled = office.world.credential("ada").identity()
    for name in OWN_KEY:
        answer = ask(office, enrolled, f"/page/{name}?id={office.grant.id}")
        assert answer.status == 401
        assert "confide keys page" in str(answer.text)
    for method in ("POST", "PUT", "DELETE"):
        answer = ask(office, enrolled, "/page/approve", method, {"form": "x"})
        assert answer.status == 404
    assert office.approved_by() == ()


def test_style_needs_nobody(office: Office) -> None:
    host, port = office.world.server.url.removeprefix("https://").split(":")
    with connect(host, int(port), None, trust=PinnedSpki(office.world.server.spki)) as channel:
        assert "prefers-color-scheme: dark" in str(request(channel, "GET", "/page/page.css", text_type="text/css").text)


def test_strangers_look_is_in_the_log(office: Office) -> None:
    before = len(office.world.refusals())
    ask(office, Identity.generate("stranger"), "/page/overview")
    ask(office, office.world.credential("airline").identity(), "/page/overview")
    assert office.world.refusals()[before:] == [("page", "credential-refused")]


def test_broker_without_jinja_refuses_pages_and_nothing_else(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    render._environment.cache_clear()
    try:
        with pytest.raises(UsageError, match="Jinja"):
            office.airline.page("/page/overview")
        assert office.airline.keys()
    finally:
        monkeypatch.undo()
        render._environment.cache_clear()


def test_text_that_is_not_utf_8_is_no_page(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    from confide.crypto import http
    from confide.errors import BrokerError

    honest = http._prepared

    def broken(response: Response) -> tuple[Response, bytes]:
        found, data = honest(response)
        return (found, b"\xff\xfe") if response.text is not None else (found, data)

    monkeypatch.setattr(http, "_prepared", broken)
    with pytest.raises(BrokerError, match="did not answer as it must"):
        office.airline.page("/page/overview")


def test_what_is_no_page_is_refused_by_the_client(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    from confide.errors import BrokerError
    from confide.keys import routes

    for answer in (Response(200, json={"a": "page"}), Response(302, {"content-type": "text/html", "location": "/"}, text="x")):
        monkeypatch.setattr(routes, "serve_page", lambda *_, answer=answer: answer)
        with pytest.raises(BrokerError):
            office.airline.page("/page/overview")

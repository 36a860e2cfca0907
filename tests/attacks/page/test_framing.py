"""A site in the same browser puts the companion's pages into a frame of its own, to have its user press what lies under other words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser
from support.page_world import Office

from confide.keys.page import render
from confide.keys.page.admission import Admission

pytestmark = pytest.mark.slow


class _Trap(BaseHTTPRequestHandler):
    target = ""

    def do_GET(self) -> None:
        body = f'<!doctype html><title>trap</title><iframe src="{self.target}" width="600" height="400"></iframe>'.encode()
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def trap() -> Iterator[str]:
    """Another site of this machine: same host, another port, so that cookies which a browser takes for same-site would come along."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Trap)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join(5)
    server.server_close()


def framed(office: Office, chromium: Browser, trap: str) -> str:
    """What the frame shows of a page of an admitted browser's session, once the trap has loaded."""
    visit = office.visit("ada").enter()
    name, _, value = str(visit.browser.cookie).partition("=")
    context = chromium.new_context()
    try:
        place = {"domain": "127.0.0.1", "path": visit.admission.path, "sameSite": "Strict", "httpOnly": True}
        context.add_cookies([{"name": name, "value": value, **place}])  # type: ignore[typeddict-item]
        page = context.new_page()
        _Trap.target = f"{visit.admission.origin}{visit.admission.path}approve?id={office.grant.id}"
        page.goto(trap, wait_until="networkidle")
        (frame,) = page.frames[1:]
        return frame.content()
    finally:
        context.close()


def test_page_is_shown_in_no_frame_of_another_site(office: Office, chromium: Browser, trap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert office.grant.id not in framed(office, chromium, trap)
    # The other defences out of the way: the directive alone keeps the page out of the frame ...
    monkeypatch.setattr(Admission, "check_origin", lambda self, request: request.path.rpartition("/")[2])
    monkeypatch.setattr(render, "HEADERS", {"content-security-policy": render.POLICY})
    assert office.grant.id not in framed(office, chromium, trap)
    # ... and without it, the page is there.
    assert "frame-ancestors 'none'; " in render.POLICY
    monkeypatch.setattr(render, "HEADERS", {"content-security-policy": render.POLICY.replace("frame-ancestors 'none'; ", "")})
    assert office.grant.id in framed(office, chromium, trap)

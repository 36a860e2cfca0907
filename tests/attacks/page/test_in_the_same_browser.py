"""A page of another site, in the very browser that was admitted, with all that it could have learnt."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page
from support.page_world import Office, Visit

pytestmark = pytest.mark.slow


class Site(http.server.ThreadingHTTPServer):
    """Another site on another port of this machine: says ``html`` and keeps the cookies that it was sent."""

    html = ""

    def __init__(self) -> None:
        self.cookies: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Said)


class Said(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.cookies.append(self.headers["Cookie"])
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.server.html.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def admitted(chromium: Browser, visit: Visit) -> Page:
    page = chromium.new_context().new_page()
    page.goto(f"{visit.admission.origin}/start?code={visit.code}")
    page.wait_for_url("**/overview")
    return page


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_form_of_another_site_signs_nothing_even_with_a_token_that_is_good(
    office: Office, chromium: Browser, site: Site, host: str
) -> None:
    visit = office.visit("ada")
    page = admitted(chromium, visit)
    visit.browser.cookie = f"confide-page={visit.admission._cookie}"
    form = visit.confirm("approve", office.grant.id)
    fields = "".join(f'<input name="{name}" value="{value}">' for name, value in form.items())
    target = f"{visit.admission.origin}{visit.admission.path}approve"
    site.html = f'<form method="post" action="{target}">{fields}</form><script>document.forms[0].submit()</script>'
    page.goto(f"http://{host}:{site.server_port}/")
    page.wait_for_url("**/approve")
    assert office.approved_by() == ()
    assert visit.post("approve", form).status == 200  # the token was good, and still is
    page.context.close()


def test_cookie_is_sent_to_no_other_port(office: Office, chromium: Browser, site: Site) -> None:
    visit = office.visit("ada")
    page = admitted(chromium, visit)
    site.html = "<a href='/again'>again</a>"
    page.goto(f"http://127.0.0.1:{site.server_port}/")
    page.click("a")
    page.wait_for_url("**/again")
    assert site.cookies
    assert not [cookie for cookie in site.cookies if cookie]
    # The weakened companion: a cookie for every path is one for every port.
    cookie = {"name": "confide-page", "value": "x", "domain": "127.0.0.1", "path": "/", "sameSite": "Strict"}
    page.context.add_cookies([cookie])  # type: ignore[list-item]
    page.click("a")
    page.wait_for_timeout(200)
    assert [cookie for cookie in site.cookies if cookie]
    page.context.close()


def test_pages_are_not_framed_or_read_by_another_site(office: Office, chromium: Browser, site: Site) -> None:
    visit = office.visit("ada")
    page = admitted(chromium, visit)
    target = f"{visit.admission.origin}{visit.admission.path}overview"
    site.html = f"""<iframe src="{target}"></iframe><script>
        const told = (word) => () => document.title = word
        fetch("{target}", {{credentials: "include", mode: "no-cors"}}).then(told("answered"), told("refused"))
    </script>"""
    page.goto(f"http://127.0.0.1:{site.server_port}/")
    page.wait_for_function("document.title")
    assert page.title() == "refused"
    assert "What waits for you" not in [frame.content() for frame in page.frames][-1]
    page.context.close()

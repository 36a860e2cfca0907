"""What goes through the companion to the broker, with the owner's credential: pages that are looked at, and nothing else."""

from __future__ import annotations

import contextlib
import http.client

import pytest
from support.page_world import Office

from confide.errors import ParseError
from confide.keys.client import OwnerClient
from confide.keys.page import companion
from confide.keys.page.forms import MAX_FORM_BYTES, Forms, read_code


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of pages that reached the broker."""
    found: list[str] = []
    honest = OwnerClient.page

    def page(self: OwnerClient, path: str) -> tuple[int, str]:
        found.append(path)
        return honest(self, path)

    monkeypatch.setattr(OwnerClient, "page", page)
    return found


OUTSIDE = [
    "../confide/v0/keys", "..%2fconfide/v0/keys", "%2e%2e/confide/v0/keys", "overview/../../confide/v0/keys", "overview/", "/overview",
    "./overview", "confide/v0/grants", "metrics", "healthz", "overview%00", "overview#x", "OVERVIEW", "", "page/overview",
]  # fmt: skip


def test_nothing_but_pages_is_forwarded(office: Office, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    visit = office.visit("ada").enter()
    for path in OUTSIDE:
        assert visit.get(path).status in {400, 401, 404}, path
        assert asked == []
    monkeypatch.setattr(companion, "PAGES", [*companion.PAGES, OUTSIDE[0]])  # the weakened companion
    visit.get(OUTSIDE[0])
    assert asked


def test_nothing_outside_of_the_sessions_folder_is_served(office: Office, asked: list[str]) -> None:
    visit = office.visit("ada").enter()
    for path in ("/confide/v0/grants", "/page/overview", "/kbs/v0/auth", "//overview", "/../", "http://127.0.0.1/"):
        assert visit.browser.send("GET", path).status in {400, 401, 404}, path
    assert asked == []


def test_other_methods_are_not_served(office: Office, asked: list[str]) -> None:
    visit = office.visit("ada").enter()
    for method in ("PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT"):
        with contextlib.suppress(http.client.HTTPException):  # it has ended the connection
            assert visit.browser.send(method, visit.admission.path + "overview").status >= 400
    assert asked == []


def test_forms_are_not_forwarded(office: Office, asked: list[str]) -> None:
    visit = office.visit("ada").enter()
    for page in ("overview", "grants", "verify", "confide/v0/grants"):
        assert visit.post(page, {"form": "x", "digest": "x"}).status == 404
    assert asked == []


def test_query_cannot_leave_its_page(office: Office, asked: list[str]) -> None:
    visit = office.visit("ada").enter()
    visit.get("releases?run=%0d%0aHost:%20x&dataset=%3f%26%2f..%2f")
    assert asked == ["/page/releases?run=%0D%0AHost%3A+x&dataset=%3F%26%2F..%2F"]


def test_body_that_is_too_large_is_refused(office: Office) -> None:
    visit = office.visit("ada").enter()
    form = visit.confirm("approve", office.grant.id)
    body = f"form={form['form']}&digest={form['digest']}&read=yes".encode()
    for size in (MAX_FORM_BYTES + 1, 1024 * 1024, 17 * 1024 * 1024):
        with contextlib.suppress(OSError):  # it has ended the connection
            assert visit.post("approve", body + b"&" * (size - len(body))).status == 400
    assert office.approved_by() == ()
    assert visit.post("approve", body).status == 200


def test_form_that_is_too_large_is_not_read() -> None:
    assert read_code(b"code=" + b"x" * (MAX_FORM_BYTES - 5))
    with pytest.raises(ParseError, match="too large"):
        read_code(b"code=" + b"x" * (MAX_FORM_BYTES - 4))


def test_what_is_no_form_is_refused(office: Office) -> None:
    visit = office.visit("ada").enter()
    wrong = (b"", b"form", b"form=a&form=b&digest=c", b"form=a&digest=b&more=c", b"\xff=\xfe", b"form=%C3%A9&digest=%C3%A9", b"&" * 100)
    for body in wrong:
        assert visit.post("approve", body).status in {400, 401}, body
    assert office.approved_by() == ()


def test_forms_do_not_pile_up() -> None:
    forms = Forms()
    for number in range(100):
        forms.show("approve", f"{number:016x}", "aa")
    assert len(forms._out) == 32

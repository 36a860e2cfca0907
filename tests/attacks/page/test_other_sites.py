"""Other sites in the same browser, and other programs on the same machine, send requests to the companion."""

from __future__ import annotations

import pytest
from support.page_world import Browser, Office

from confide.keys.page.admission import Admission
from confide.keys.page.forms import Forms, Shown


def lax(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The weakened companion: one check passes everything."""
    monkeypatch.setattr(Admission, name, lambda self, request: request.path.rpartition("/")[2])


def test_another_name_that_leads_to_loopback_is_refused(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    visit = office.visit("ada").enter()
    port = visit.admission.host.partition(":")[2]
    for name in (f"rebound.example:{port}", f"localhost:{port}", "127.0.0.1", f"127.0.0.1:{port}.example", None):
        reply = visit.get("overview", Host=name)
        assert reply.status in {400, 401}
        assert "ada" not in reply.text
    lax(monkeypatch, "check_origin")
    assert visit.get("overview", Host=f"rebound.example:{port}").status == 200


def test_form_of_another_site_is_refused(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    visit = office.visit("ada").enter()
    form = visit.confirm("approve", office.grant.id)
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://localhost", None):
        assert visit.post("approve", form, Origin=origin).status == 401
    assert office.approved_by() == ()
    lax(monkeypatch, "check_origin")
    assert visit.post("approve", form, Origin="https://evil.example").status == 200
    assert office.approved_by() == ("ada",)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_request_that_another_site_caused_is_refused(office: Office, monkeypatch: pytest.MonkeyPatch, site: str) -> None:
    visit = office.visit("ada").enter()
    form = visit.confirm("approve", office.grant.id)
    for reply in (visit.get("log.csv", Sec_Fetch_Site=site), visit.post("approve", form, Sec_Fetch_Site=site)):
        assert reply.status == 401
        assert "airline" not in reply.text
    assert office.approved_by() == ()
    lax(monkeypatch, "check_origin")
    assert visit.get("log.csv", Sec_Fetch_Site=site).status == 200


def test_link_from_elsewhere_leads_to_the_entry_only(office: Office) -> None:
    visit = office.visit("ada")
    assert visit.browser.send("GET", "/", Sec_Fetch_Site="cross-site").title == "Enter the code"
    assert visit.browser.send("GET", f"/start?code={visit.code}", Sec_Fetch_Site="cross-site").status == 200
    assert visit.get("overview", Sec_Fetch_Site="cross-site").status == 401


def test_form_without_the_token_that_was_shown_is_refused(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    visit = office.visit("ada").enter()
    form = {"form": "guessed", "digest": office.grant.digest, "read": "yes"}
    assert visit.post("approve", form).status == 401
    assert office.approved_by() == ()
    monkeypatch.setattr(Forms, "take", lambda self, action, body: Shown(action, office.grant.id, office.grant.digest, 0.0))
    assert visit.post("approve", form).status == 200
    assert office.approved_by() == ("ada",)


def test_second_browser_is_not_admitted(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    visit = office.visit("ada").enter()
    second = Browser(visit.admission.host)
    for reply in (
        second.send("GET", f"/start?code={visit.code}"),
        second.send("POST", "/start", f"code={visit.code}".encode()),
        second.send("GET", visit.admission.path + "overview"),
        second.send("GET", visit.admission.path + "overview", Cookie="confide-page=x"),
        second.send("GET", visit.admission.path + "overview", Cookie="confide-page="),
    ):
        assert reply.status == 401
        assert "set-cookie" not in reply.headers
        assert "ada" not in reply.text
    lax(monkeypatch, "check_admitted")
    assert second.send("GET", visit.admission.path + "overview").status == 200


def test_used_code_admits_nobody_again(office: Office) -> None:
    visit = office.visit("ada").enter()
    assert visit.browser.send("GET", f"/start?code={visit.code}").status == 401
    visit.admission.code = visit.code  # the weakened companion: a code that stays
    assert Browser(visit.admission.host).send("GET", f"/start?code={visit.code}").status == 200


def test_wrong_code_admits_nobody_and_uses_nothing_up(office: Office) -> None:
    visit = office.visit("ada")
    for wrong in ("", "x", visit.code[:-1], visit.code + "x", "%C3%A9"):
        reply = visit.browser.send("GET", f"/start?code={wrong}")
        assert reply.status in {400, 401}
        assert "set-cookie" not in reply.headers
    visit.enter()


def test_cookie_goes_to_no_other_port_of_this_machine(office: Office) -> None:
    """Browsers send a host's cookies to all its ports; only the path keeps this one apart (RFC 6265, section 8.5)."""
    visit = office.visit("ada")
    cookie = visit.browser.send("GET", f"/start?code={visit.code}").headers["set-cookie"]
    attributes = {part.strip() for part in cookie.split(";")[1:]}
    assert attributes == {f"Path=/{visit.admission.folder}/", "HttpOnly", "SameSite=Strict"}
    assert len(visit.admission.folder) >= 32


def test_companion_listens_on_loopback_alone(office: Office) -> None:
    visit = office.visit("ada")
    assert visit.admission.host.startswith("127.0.0.1:")
    said = repr(visit.admission)
    assert visit.code not in said
    assert visit.admission.folder not in said

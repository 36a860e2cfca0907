"""The pages in a real browser, at a real broker: by keyboard alone, on a narrow screen, and with nothing that its policy has to stop."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from support.broker_world import policy
from support.chromium import Screens
from support.page_world import LyingClient, Office

pytestmark = pytest.mark.slow


def test_grant_is_approved_by_keyboard_alone(office: Office, screens: Screens) -> None:
    screen = screens.of(office.visit("ada")).enter()
    screen.page.keyboard.press("Tab")
    assert screen.page.evaluate("document.activeElement.innerText") == "Skip to the content"
    assert screen.page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    screen.tab_to(f"Grant {office.grant.id}")
    screen.page.keyboard.press("Enter")
    assert screen.heading == f"Grant {office.grant.id}"
    screen.tab_to("Approve …")
    screen.page.keyboard.press("Enter")
    assert screen.heading == f"Approve grant {office.grant.id}?"
    assert office.grant.digest in screen.page.inner_text("main")
    screen.tab_to("I have read")
    screen.page.keyboard.press("Space")
    screen.tab_to("Approve grant")
    screen.page.keyboard.press("Enter")
    screen.page.wait_for_selector("text=Signed on this machine")
    assert office.approved_by() == ("ada",)
    screen.check_quiet()


def test_unticked_box_does_not_leave_the_browser(office: Office, screens: Screens) -> None:
    screen = screens.of(office.visit("ada")).enter()
    screen.open(f"approve?id={office.grant.id}")
    screen.page.click("button")
    assert screen.heading.startswith("Approve grant")
    assert office.approved_by() == ()


def test_refusal_is_explained(office: Office, screens: Screens) -> None:
    for approver in (office.ada, office.bob):
        approver.vote(office.grant.id, "approve")
    assert office.refuse_one() == "appraisal-refused"
    screen = screens.of(office.visit("airline")).enter()
    screen.page.click("nav >> text=Releases")
    screen.page.click(f"main th a >> text='{office.number_of(action='refuse')}'")
    text = screen.page.inner_text("main")
    assert screen.heading == "Refused: release"
    assert "SIMULATED evidence: it protects nothing" in text
    assert "appraisal-refused" in text
    assert "Evidence is genuine but is not what the policy asks for." in text
    assert "docs/errors/appraisal-refused.md" in text
    line = screen.page.inner_text("section[aria-labelledby=why] tbody tr")
    assert "measurement" in line
    assert "ab" * 32 in line
    assert "cd" * 32 in line
    assert "does not fit" in screen.page.inner_text("section[aria-labelledby=grants] tbody")
    screen.check_quiet()


def test_audit_log_verifies_and_a_changed_one_does_not(office: Office, screens: Screens, monkeypatch: pytest.MonkeyPatch) -> None:
    client = LyingClient(office.world.server.url, office.world.server.spki, office.world.credential("airline"))
    screen = screens.of(office.visit("airline", client)).enter()
    screen.page.click("nav >> text=Audit")
    screen.page.click("text=Verify the whole log")
    assert screen.heading == "The audit log verifies"
    screen.check_quiet()
    log = client.audit()
    changed = replace(log.entries[4], event={**(log.entries[4].event or {}), "action": "nothing"})
    entries = [*log.entries[:4], changed, *log.entries[5:]]
    monkeypatch.setattr(LyingClient, "_audit_page", lambda self, first: (entries, log.head))
    screen.page.reload()
    assert screen.heading == "The audit log does not verify"
    assert "an audit event was changed" in screen.page.inner_text("[role=alert]")


def test_log_is_saved_as_a_file(office: Office, screens: Screens) -> None:
    screen = screens.of(office.visit("airline"), accept_downloads=True).enter()
    screen.open("audit")
    with screen.page.expect_download() as found:
        screen.page.click("text=Save as CSV")
    assert found.value.suggested_filename == "log.csv"


PAGES = ("overview", "keys", "grants", "grant?id={grant}", "releases", "release?seq={release}", "release?seq={refuse}", "audit", "verify",
         "proof?seq={release}", "approve?id={grant}", "end?id={grant}", "release?seq=99999")  # fmt: skip


def test_every_page_is_sound_and_fits_a_narrow_screen(office: Office, screens: Screens) -> None:
    made = office.airline.grant("flights", job=office.grant.job, policy=policy("a-policy-with-a-rather-long-name-of-its-own"))
    for approver in (office.ada, office.bob):
        approver.vote(made.id, "approve")
    office.release_one()
    office.refuse_one()
    numbers = {"release": office.number_of(action="release"), "refuse": office.number_of(action="refuse"), "grant": made.id}
    screen = screens.of(office.visit("airline"), viewport={"width": 320, "height": 640}).enter()
    titles = set()
    for name in PAGES:
        screen.open(name.format(**numbers))
        assert screen.page.evaluate("document.documentElement.scrollWidth") <= 320, name
        titles.add(screen.page.title())
        assert screen.page.evaluate(SOUND) == [], name
    assert len(titles) >= len(PAGES) - 2
    assert [text for text in screen.said if "99999" not in text] == []  # a 404 is told by the console
    assert not [text for text in screen.said if re.search("Content Security|CSP|Refused", text)]


SOUND = """() => {
  const wrong = [], all = (query) => [...document.querySelectorAll(query)], need = (so, what) => so || wrong.push(what);
  need(document.documentElement.lang === "en", "language");
  need(document.title.length > 10, "title");
  for (const one of ["main", "header", "footer", "h1"]) need(all(one).length === 1, one);
  need(all("nav").every(nav => nav.getAttribute("aria-label")), "name of nav");
  const levels = all("h1,h2,h3").map(one => +one.tagName[1]);
  need(levels.every((level, at) => at === 0 ? level === 1 : level <= levels[at - 1] + 1), "order of headings");
  need(all("table").every(one => one.caption), "caption");
  need(all("th").every(one => ["row", "col"].includes(one.scope)), "scope");
  need(all("input:not([type=hidden])").every(one => one.labels.length === 1), "label");
  need(all("a[href], button, summary").every(one => (one.innerText || one.ariaLabel || "").trim()), "name of link");
  const shown = all("a.button, button, nav a").filter(one => one.offsetParent !== null);
  need(shown.every(one => one.getBoundingClientRect().height >= 24), "size of target");
  need(all("[id]").length === new Set(all("[id]").map(one => one.id)).size, "ids");
  need(all("[aria-labelledby]").every(one => document.getElementById(one.getAttribute("aria-labelledby"))), "labelledby");
  need(all("script, img, iframe, style, [style]").length === 0, "foreign parts");
  need(all(".wide").every(one => one.tabIndex === 0), "scrolled by keyboard");
  return wrong;
}"""


def test_html_of_a_hostile_broker_runs_nothing_and_calls_nobody(office: Office, screens: Screens) -> None:
    client = LyingClient(office.world.server.url, office.world.server.spki, office.world.credential("ada"))
    client.pages = {
        "/page/keys": """<title>still</title><base href="http://127.0.0.1:9/"><script>document.title = "ran"</script>
        <script src="http://127.0.0.1:9/x.js"></script><img src="http://127.0.0.1:9/x.png" onerror="document.title='ran'">
        <iframe src="http://127.0.0.1:9/"></iframe><style>body{background:url(http://127.0.0.1:9/y)}</style>
        <link rel="stylesheet" href="http://127.0.0.1:9/z.css"><object data="http://127.0.0.1:9/o"></object>
        <svg onload="document.title='ran'"></svg><a href="javascript:document.title='ran'" id="trap">look</a>
        <form action="http://127.0.0.1:9/take" method="get"><input name="a" value="b"><button>Go on</button></form>"""
    }
    screen = screens.of(office.visit("ada", client)).enter()
    screen.open("keys")
    screen.page.focus("#trap")
    screen.page.keyboard.press("Enter")
    assert screen.page.title() == "still"
    screen.page.focus("button")
    screen.page.keyboard.press("Enter")
    screen.page.wait_for_timeout(300)
    assert screen.page.title() != "ran"
    assert any("form-action" in text for text in screen.said)
    assert {request.url.partition("://")[2].partition("/")[0] for request in screen.asked if request.failure is None} == {
        screen.visit.admission.host
    }

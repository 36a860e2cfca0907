"""What is printed is the record: approvals, policies and events, without what only a screen can do; and all of it is on the paper."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from support.page_world import Office

if TYPE_CHECKING:
    from support.chromium import Screen, Screens

pytestmark = pytest.mark.slow
A4_WITHIN_MARGINS = 718
"""Width of A4 less a centimetre on each side, in CSS pixels of 1/96 inch."""


def printed(screen: Screen) -> str:
    """The text of the page's PDF, its white space as single spaces."""
    pdf = screen.page.pdf(format="A4", margin=dict.fromkeys(("top", "bottom", "left", "right"), "1cm"))
    assert pdf.startswith(b"%PDF-")
    text = subprocess.run(["pdftotext", "-enc", "UTF-8", "-", "-"], input=pdf, capture_output=True, check=True).stdout.decode()
    return re.sub(r"\s+", " ", text)


@pytest.fixture
def record(office: Office, screens: Screens) -> Screen:
    """The page of a grant that was approved and used, in a browser that is set to dark."""
    for approver in (office.ada, office.bob):
        approver.vote(office.grant.id, "approve")
    office.release_one()
    office.refuse_one()
    screen = screens.of(office.visit("airline"), color_scheme="dark", viewport={"width": A4_WITHIN_MARGINS, "height": 1000}).enter()
    screen.open(f"grant?id={office.grant.id}")
    return screen


def test_printed_grant_is_the_record_without_the_navigation(office: Office, record: Screen) -> None:
    assert "Releases" in record.page.inner_text("header")
    assert "End the grant" in record.page.inner_text("main")
    text = printed(record)
    whole = text.replace(" ", "")
    said = (f"Grant {office.grant.id}", "2 of 2 that are needed", "approved, signed", "in force", "seen by airline", "Shown by the broker")
    for part in said:
        assert part in text, part
    keys = [office.world.credential(name).key.public.digest for name in ("ada", "bob")]
    for digest in (office.grant.digest, office.grant.policy.digest, *keys):
        assert digest in whole, "a digest is whole on paper"
    assert re.search(r"As of \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", text), "a record says of when it is"
    for part in ("Overview", "Releases", "Skip to the content", "End the grant"):
        assert part not in text, part


def test_printed_confirmation_has_no_form(office: Office, screens: Screens) -> None:
    screen = screens.of(office.visit("ada")).enter()
    screen.open(f"approve?id={office.grant.id}")
    text = printed(screen)
    assert office.grant.digest in text.replace(" ", "")
    assert "not by the broker" in text
    for part in ("I have read what it says", "Leave it", "Approve it as"):
        assert part not in text, part


PAGES = ("overview", "keys", "grants", "grant?id={grant}", "releases", "release?seq={release}", "release?seq={refuse}", "audit", "verify",
         "proof?seq={release}")  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_off_at_the_papers_edge(office: Office, record: Screen, name: str) -> None:
    numbers = {"release": office.number_of(action="release"), "refuse": office.number_of(action="refuse"), "grant": office.grant.id}
    record.open(name.format(**numbers))
    record.page.emulate_media(media="print")
    assert record.page.evaluate("document.documentElement.scrollWidth") <= A4_WITHIN_MARGINS
    hidden = "nav, .skip, .actions, form, details"
    assert record.page.evaluate(f"[...document.querySelectorAll('{hidden}')].every(one => getComputedStyle(one).display === 'none')")
    shown = "[...document.querySelectorAll('main *')].filter(one => one.offsetParent)"
    grounds = set(record.page.evaluate(f"{shown}.map(one => getComputedStyle(one).backgroundColor)"))
    assert grounds <= {"rgba(0, 0, 0, 0)", "rgb(255, 255, 255)"}, "black on white, whatever the screen has"

"""Pages offer a reader what people of that office may do, and nothing else; what they lead to is not refused."""

from __future__ import annotations

import re
from html import unescape

import pytest
from support.page_world import Office as Place

from confide.keys.client import OwnerClient
from confide.keys.page import sources
from confide.keys.page.pages import PAGES
from confide.keys.roles import MAY, Office
from confide.keys.tenant_records import EVERY_TENANT

OFFERS = {
    "confide keys create": "create-key",
    "confide keys rotate": "rotate-key",
    "confide keys rewrap": "rewrap",
    "confide keys destroy": "destroy-key",
    "confide keys approvers": "approvers",
    "confide keys grant": "grant",
    'href="approve?': "approve",
    'href="reject?': "reject",
    'href="take-back?': "take-back",
    'href="end?': "revoke",
}


@pytest.fixture
def readers(office: Place) -> dict[Office, OwnerClient]:
    """One of each office."""
    for approver in (office.ada, office.bob):
        approver.vote(office.grant.id, "approve")
    office.release_one()
    return {
        Office.OWNER: office.ada,
        Office.AUDITOR: office.world.owner("eve", office=Office.AUDITOR),
        Office.OPERATOR: office.world.owner("ops", tenant=EVERY_TENANT, office=Office.OPERATOR),
    }


def _pages(office: Place, reader: OwnerClient) -> dict[str, str]:
    """The pages that a reader comes to from the overview, by their names."""
    found: dict[str, str] = {}
    ahead = ["overview"]
    while ahead:
        name = ahead.pop()
        status, html = reader.page(f"/page/{name}")
        assert status == 200, (name, html)
        found[name] = html
        links = {unescape(link) for link in re.findall(r'href="([^"#]+)"', html)}
        known = {link for link in links if link.partition("?")[0] in PAGES}
        ahead += [link for link in sorted(known) if link not in found and link not in ahead]
    return found


def _offered(pages: dict[str, str]) -> set[str]:
    whole = {re.compile(re.escape(text) + (r"\b" if text[-1].isalpha() else "")): action for text, action in OFFERS.items()}
    return {action for html in pages.values() for text, action in whole.items() if text.search(html)}


def test_owner_is_offered_what_owners_may_do(office: Place) -> None:
    made = office.airline.grant("flights", job=office.grant.job, policy=office.grant.policy)
    office.ada.vote(made.id, "approve")
    offered = _offered(_pages(office, office.airline)) | _offered(_pages(office, office.ada)) | _offered(_pages(office, office.bob))
    assert offered == set(OFFERS.values())


@pytest.mark.parametrize("reader", list(Office))
def test_nobody_is_offered_what_that_office_may_not_do(office: Place, readers: dict[Office, OwnerClient], reader: Office) -> None:
    pages = _pages(office, readers[reader])
    assert {action for action in _offered(pages) if reader not in MAY[action]} == set()
    names = {name.partition("?")[0] for name in pages}
    assert names == ({"overview", "audit", "release"} if reader is Office.OPERATOR else {*names, "keys", "grants", "grant", "releases"})


def test_auditor_sees_keys_and_grants_and_is_told_of_no_command(office: Place, readers: dict[Office, OwnerClient]) -> None:
    pages = _pages(office, readers[Office.AUDITOR])
    assert "airline/flights" in pages["keys"]
    assert "Grants need 2 of ada, bob." in pages["keys"]
    assert "who changes nothing" in pages["keys"]
    assert office.grant.id in pages["grants"]
    assert "confide keys" not in "".join(pages.values())
    assert "Nothing waits for your word" not in pages["overview"]


def test_office_that_is_not_asked_for_shows_in_this_test(office: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages as they would be for everybody: an auditor is offered what is refused then."""
    auditor = office.world.owner("eve", office=Office.AUDITOR)
    monkeypatch.setattr(sources, "allows", lambda office, action: True)
    assert {"create-key", "revoke"} - _offered(_pages(office, auditor)) == {"create-key"}
    empty = office.world.owner("zoe", tenant="health", office=Office.AUDITOR)
    assert "create-key" in _offered({"keys": empty.page("/page/keys")[1]})

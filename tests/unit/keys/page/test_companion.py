"""What the companion does for the one browser that it has admitted."""

from __future__ import annotations

import time

import pytest
from support.broker_attacks import change_row
from support.broker_world import JOB, policy
from support.page_world import Browser, Office

from confide.errors import GrantError
from confide.keys.audit import AuditLog
from confide.keys.page.pages import PAGES


def test_pages_of_the_broker_come_through(office: Office) -> None:
    visit = office.visit("ada").enter()
    for name in set(PAGES) - {"grant", "release"}:
        reply = visit.get(name)
        assert reply.status == 200, reply.title
        assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "seen by <b>ada</b>" in visit.get("overview").text


def test_code_can_be_typed_in_as_well(office: Office) -> None:
    visit = office.visit("ada")
    asked = visit.browser.send("GET", "/")
    assert asked.title == "Enter the code"
    admitted = visit.browser.send("POST", "/start", f"code={visit.code}".encode())
    assert admitted.status == 200
    assert admitted.headers["set-cookie"].startswith("confide-page=")
    assert "HttpOnly; SameSite=Strict" in admitted.headers["set-cookie"]


def test_every_answer_has_the_headers_that_keep_it_in(office: Office) -> None:
    visit = office.visit("ada").enter()
    stranger = Browser(visit.admission.host)
    for reply in (visit.get("overview"), visit.get("nothing"), visit.get("page.css"), visit.get("log.csv"), stranger.send("GET", "/")):
        assert reply.headers["content-security-policy"] == (
            "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        )
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["referrer-policy"] == "same-origin"
        assert reply.headers["cross-origin-opener-policy"] == "same-origin"
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"


def test_two_approve_in_their_browsers_and_the_node_gets_its_key(office: Office) -> None:
    for name in ("ada", "bob"):
        visit = office.visit(name).enter()
        shown = visit.get(f"approve?id={office.grant.id}")
        assert office.grant.digest in shown.text
        assert "SIMULATED nodes: they protect nothing" in shown.text
        done = visit.post("approve", visit.confirm("approve", office.grant.id))
        assert done.title == "Approved"
    assert office.approved_by() == ("ada", "bob")
    office.release_one()


def test_reject_take_back_and_end(office: Office) -> None:
    visit = office.visit("ada").enter()
    assert visit.post("approve", visit.confirm("approve", office.grant.id)).status == 200
    assert visit.post("take-back", visit.confirm("take-back", office.grant.id)).title == "Taken back"
    assert office.approved_by() == ()
    assert visit.post("reject", visit.confirm("reject", office.grant.id)).title == "Rejected"
    assert visit.post("end", visit.confirm("end", office.grant.id)).title == "Ended"
    assert office.airline.grants()[0].revoked is not None
    refused = visit.post("approve", visit.confirm("approve", office.grant.id))
    assert refused.status == 400
    assert "revoked" in refused.text


def test_new_rule_is_approved_in_the_browser(office: Office) -> None:
    office.airline.set_approvers("flights", 1, ["ada"])
    change = office.airline.grant_list().changes[0].change
    for name in ("ada", "bob"):
        visit = office.visit(name).enter()
        assert change.id in visit.get("overview").text
        assert visit.post("approve", visit.confirm("approve", change.id)).title == "Approved"
    assert office.airline.grant_list().rule("airline/flights").threshold == 1


def test_key_that_is_to_leave_is_approved_in_the_browser(office: Office) -> None:
    office.airline.create_key("crews")
    office.airline.set_approvers("crews", 1, ["ada"])
    broker = office.airline.broker_key().digest
    wrapping = office.airline.wrapping_key()
    with pytest.raises(GrantError):
        list(office.airline.export_key("crews", wrapping, broker))
    (waits,) = office.airline.grant_list().departures
    visit = office.visit("ada").enter()
    for page in ("overview", "grants"):
        assert waits.departure.id in visit.get(page).text
    confirm = visit.get(f"approve?id={waits.departure.id}")
    assert "The key itself would leave the broker" in confirm.text
    assert broker in confirm.text
    assert visit.post("approve", visit.confirm("approve", waits.departure.id)).title == "Approved"
    assert len(list(office.airline.export_key("crews", wrapping, broker))) == 1


def test_unticked_box_signs_nothing(office: Office) -> None:
    visit = office.visit("ada").enter()
    form = visit.confirm("approve", office.grant.id)
    del form["read"]
    reply = visit.post("approve", form)
    assert reply.status == 401
    assert office.approved_by() == ()


def test_log_verifies_and_each_entry_proves(office: Office) -> None:
    visit = office.visit("airline").enter()
    office.refuse_one()
    assert visit.get("verify").title == "The audit log verifies"
    number = office.number_of(action="refuse")
    proof = visit.get(f"proof?seq={number}")
    assert proof.title == f"Entry {number} is in the log"
    assert "grant-missing" in proof.text
    none = visit.get("proof?seq=99999")
    assert (none.title, "there is no such entry" in none.text) == ("This is refused", True)
    assert visit.get("proof?seq=x").status == 400


def test_log_that_was_changed_on_the_brokers_disk_does_not_verify(office: Office) -> None:
    visit = office.visit("airline").enter()
    number = office.number_of(action="create-key")
    change_row(office.world, f"UPDATE audit SET event = replace(event, 'flights', 'flight5') WHERE seq = {number}")
    reply = visit.get("verify")
    assert reply.status == 503
    assert reply.title == "No usable answer from the broker"  # which refuses to read its own log


def test_downloads_are_the_verified_log(office: Office) -> None:
    visit = office.visit("airline").enter()
    lines = visit.get("log.jsonl")
    assert lines.headers["content-disposition"] == 'attachment; filename="log.jsonl"'
    AuditLog.load(lines.text.splitlines()).verify(office.airline.broker_key())
    table = visit.get("log.csv").text
    assert table.startswith("seq,time,action,owners,what,leaf\n")


def test_broker_that_is_gone_is_said(office: Office) -> None:
    visit = office.visit("ada").enter()
    office.world.server.stop()
    for page in ("overview", "verify", f"approve?id={office.grant.id}"):
        reply = visit.get(page)
        assert reply.status == 503
        assert reply.title == "No usable answer from the broker"


def test_companion_ends_when_nobody_asks(office: Office) -> None:
    visit = office.visit("ada", idle_s=0.2).enter()
    with pytest.raises(OSError):  # noqa: PT012 - it ends between any two requests
        for _ in range(100):
            visit.get("overview")
            time.sleep(0.3)
    with pytest.raises(ConnectionRefusedError):  # and not left to wait for an answer
        visit.get("overview")


def test_grants_of_others_are_not_shown(office: Office) -> None:
    office.world.owner("stranger")
    visit = office.visit("stranger").enter()
    assert office.grant.id not in visit.get("grants").text
    assert visit.get(f"grant?id={office.grant.id}").status == 404
    assert visit.get(f"approve?id={office.grant.id}").status == 401
    number = office.number_of(action="grant")
    assert visit.get(f"release?seq={number}").status == 404


def test_grant_by_signer_is_told(office: Office) -> None:
    made = office.airline.grant("flights", signer=office.world.credential("bob").spki, policy=policy("other"))
    visit = office.visit("ada").enter()
    shown = visit.get(f"approve?id={made.id}").text
    assert office.world.credential("bob").spki in shown
    assert JOB not in shown

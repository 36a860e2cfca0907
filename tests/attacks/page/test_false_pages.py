"""A broker that lies on its pages, or changes what is to be signed while its user reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.broker_world import OTHER_JOB, policy
from support.page_world import LyingClient, Office, Visit

from confide.crypto.sign import SigningKey
from confide.errors import ConfideError
from confide.keys import grant_client
from confide.keys.audit import AuditHead, AuditLog
from confide.keys.grants import Grant
from confide.keys.merkle import root_of
from confide.keys.page import companion
from confide.keys.page.forms import Forms, Shown


def lied_to(office: Office, name: str = "ada") -> tuple[Visit, LyingClient]:
    client = LyingClient(office.world.server.url, office.world.server.spki, office.world.credential(name))
    return office.visit(name, client).enter(), client


def worse(grant: Grant) -> Grant:
    """The same grant by its id, for another job and with another recipient."""
    return replace(grant, job=OTHER_JOB, recipients=("eve",), max_runs=None)


def test_grant_that_changes_between_showing_and_signing_is_not_signed(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    visit, client = lied_to(office)
    signed = []
    honest = grant_client.sign_vote
    monkeypatch.setattr(grant_client, "sign_vote", lambda key, thing, *rest: signed.append(thing.digest) or honest(key, thing, *rest))
    form = visit.confirm("approve", office.grant.id)
    client.swap = worse(office.grant)
    reply = visit.post("approve", form)
    assert reply.status == 401
    assert "something else" in reply.text
    assert signed == []
    # The weakened companion signs whatever is there when it is asked to.
    monkeypatch.setattr(companion, "_digest", lambda view: "00")
    monkeypatch.setattr(LyingClient, "vote", lambda self, subject, verdict, digest: LyingClient.__base__.vote(self, subject, verdict))
    client.swap = None
    form = visit.confirm("approve", office.grant.id)
    client.swap = worse(office.grant)
    visit.post("approve", form)
    assert signed == [worse(office.grant).digest]


def test_vote_itself_refuses_what_changed_at_the_last_moment(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the companion's own look and the signature the broker has one more chance to lie."""
    visit, client = lied_to(office)
    form = visit.confirm("approve", office.grant.id)
    client.swap = worse(office.grant)
    monkeypatch.setattr(companion, "_digest", lambda view: form["digest"])
    reply = visit.post("approve", form)
    assert reply.status == 401
    assert "not what you have reviewed" in reply.text
    assert office.approved_by() == ()


def test_forged_digest_in_the_form_is_refused(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    visit, _ = lied_to(office)
    form = {**visit.confirm("approve", office.grant.id), "digest": worse(office.grant).digest}
    assert visit.post("approve", form).status == 401
    assert office.approved_by() == ()
    monkeypatch.setattr(Forms, "take", lambda self, action, body: Shown(action, office.grant.id, office.grant.digest, 0.0))
    assert visit.post("approve", form).status == 200


def test_what_is_confirmed_is_rendered_here_and_not_by_the_broker(office: Office) -> None:
    """The broker's page of a harmless grant leads to another one: its user sees the other one's own words before he signs."""
    visit, client = lied_to(office)
    other = office.airline.grant("flights", job=OTHER_JOB, policy=policy("other"), recipients=["bob"])
    lie = f'<h1>Grant {office.grant.id}</h1><p>harmless</p><a href="approve?id={other.id}">Approve</a>'
    client.pages = {f"/page/grant?id={office.grant.id}": lie}
    assert "harmless" in visit.get(f"grant?id={office.grant.id}").text
    shown = visit.get(f"approve?id={other.id}")
    assert shown.title == f"Approve grant {other.id}?"
    assert OTHER_JOB in shown.text
    assert other.digest in shown.text
    assert "harmless" not in shown.text


def test_form_on_a_page_of_the_brokers_signs_nothing(office: Office) -> None:
    visit, client = lied_to(office)
    trap = '<form method="post" action="approve"><input name="form" value="x"><input name="digest" value="y"><button>Next</button></form>'
    client.pages = {"/page/overview": trap + "<script>fetch('/')</script>"}
    reply = visit.get("overview")
    assert "script" in reply.text
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert visit.post("approve", {"form": "x", "digest": "y", "read": "yes"}).status == 401
    assert office.approved_by() == ()


def test_form_is_good_for_one_answer(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    visit, client = lied_to(office)
    form = visit.confirm("approve", office.grant.id)
    assert visit.post("approve", form).status == 200
    client.take_back(office.grant.id)
    assert visit.post("approve", form).status == 401
    assert office.approved_by() == ()
    kept = Shown("approve", office.grant.id, office.grant.digest, float("inf"))
    monkeypatch.setattr(Forms, "take", lambda self, action, body: kept)
    assert visit.post("approve", form).status == 200
    assert office.approved_by() == ("ada",)


def test_form_of_one_action_does_another_no_good(office: Office) -> None:
    visit, _ = lied_to(office)
    form = visit.confirm("reject", office.grant.id)
    assert visit.post("approve", form).status == 401
    assert visit.post("end", form).status == 401  # and it is used up
    assert office.airline.grants()[0].revoked is None


def test_old_form_is_refused(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    visit, _ = lied_to(office)
    monkeypatch.setattr("confide.keys.page.forms.FORM_S", -1.0)
    form = visit.confirm("approve", office.grant.id)
    assert visit.post("approve", form).status == 401
    monkeypatch.setattr("confide.keys.page.forms.FORM_S", 900.0)
    assert visit.post("approve", visit.confirm("approve", office.grant.id)).status == 200


def test_log_that_was_rewritten_since_the_session_began_does_not_verify(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    visit, client = lied_to(office, "airline")
    honest = client.audit()
    key = office.world.store.signing_key
    shorter = AuditLog(honest.entries[:3], _head(honest, 3, visit.companion._seen.epoch).sign(key))
    shorter.verify(client.broker_key())
    monkeypatch.setattr(LyingClient, "audit", lambda self: shorter)
    reply = visit.get("verify")
    assert reply.title == "The audit log does not verify"
    assert reply.status >= 500
    visit.companion._seen = _head(honest, 0)  # the weakened companion remembers nothing
    assert visit.get("verify").title == "The audit log verifies"


def test_changed_entry_from_the_broker_does_not_verify(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    visit, client = lied_to(office, "airline")
    honest = client.audit()
    changed = replace(honest.entries[-1], event={**(honest.entries[-1].event or {}), "action": "nothing"})
    monkeypatch.setattr(LyingClient, "_audit_page", lambda self, first: ([*honest.entries[:-1], changed], honest.head))
    for page in ("verify", "log.jsonl", "log.csv"):
        reply = visit.get(page)
        assert reply.title == "The audit log does not verify"
        assert "content-disposition" not in reply.headers
    monkeypatch.setattr(AuditLog, "verify", lambda self, key, seen=None: _head(honest, len(honest.entries)))
    assert visit.get("verify").title == "The audit log verifies"


def test_log_under_another_key_does_not_verify(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    visit, client = lied_to(office, "airline")
    honest = client.audit()
    forged = _head(honest, len(honest.entries)).sign(SigningKey.generate())
    monkeypatch.setattr(LyingClient, "_audit_page", lambda self, first: (list(honest.entries), forged))
    assert visit.get("verify").title == "The audit log does not verify"


def _head(log: AuditLog, size: int, epoch: int = 0) -> AuditHead:
    root = root_of([bytes.fromhex(entry.leaf) for entry in log.entries[:size]]).hex()
    return AuditHead(size, root, epoch, "2026-11-27T12:00:00+00:00")


def test_broker_of_another_key_is_not_spoken_to(office: Office) -> None:
    client = LyingClient(office.world.server.url, "00" * 32, office.world.credential("ada"))
    with pytest.raises(ConfideError, match="cannot be reached"):
        office.visit("ada", client)

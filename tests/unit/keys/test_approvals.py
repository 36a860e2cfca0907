"""m of n approvals, over TLS against a real broker: the flow, and attacks on it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from support.broker_world import JOB, RUN, World, manifest, policy

from confide.canonical import Json
from confide.crypto.sign import SigningKey
from confide.errors import BrokerError, CredentialError, GrantError, ParseError, UsageError
from confide.ids import Purpose, Role
from confide.keys import approvals
from confide.keys.approvals import ApprovalRule, Approver, Approvership, RuleChange, Vote, approved_by, sign_vote
from confide.keys.client import OwnerClient
from confide.keys.grant_client import ChangeView
from confide.keys.grants import Grant

PEOPLE = ("ada", "bob", "cyd")


class Committee:
    """A key of which each grant needs two of three approvals, with one grant."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.airline = world.owner("airline")
        self.people = {name: world.owner(name) for name in PEOPLE}
        self.minted, self.envelope = world.dataset(self.airline, "airline", "flights")
        assert self.airline.set_approvers("flights", 2, PEOPLE) is None
        self.grant = self.airline.grant("flights", job=JOB, policy=policy())

    def released(self) -> bool:
        try:
            self.world.client(self.world.node()).release(self.envelope)
        except GrantError:
            return False
        return True

    def post(self, who: str, subject: str, verdict: str, envelope: Json) -> None:
        """What a client with a mind of its own sends."""
        body = {"subject": subject, "verdict": verdict, "envelope": envelope}
        self.people[who]._call("POST", "approvals/vote", body)

    def signed(self, who: str, subject: Any, verdict: Any = "approve", broker: Any = None) -> Json:
        return sign_vote(self.world.credential(who).key, subject, verdict, broker or self.world.server.spki)


@pytest.fixture
def committee(world: World) -> Committee:
    return Committee(world)


# --- the flow -------------------------------------------------------------------------------------------------------


def test_grant_waits_until_enough_have_approved_it(committee: Committee) -> None:
    people = committee.people
    with pytest.raises(GrantError, match="0 of 2"):
        committee.world.client(committee.world.node()).release(committee.envelope)
    assert people["ada"].vote(committee.grant.id, "approve").standing.pending
    with pytest.raises(GrantError, match="1 of 2"):
        committee.world.client(committee.world.node()).release(committee.envelope)
    seen = people["bob"].vote(committee.grant.id, "approve", digest=committee.grant.digest).standing
    assert (seen.pending, seen.approved, seen.approvers) == (False, ("ada", "bob"), PEOPLE)
    assert committee.released()


def test_key_without_a_rule_needs_no_approval(world: World) -> None:
    airline = world.owner("airline")
    _, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy())
    world.client(world.node()).release(envelope)
    assert airline.grant_list().rule("airline/flights").threshold == 0


def test_rule_counts_for_grants_that_are_there_already(world: World) -> None:
    airline, ada = world.owner("airline"), world.owner("ada")
    _, envelope = world.dataset(airline, "airline", "flights")
    grant = airline.grant("flights", job=JOB, policy=policy())
    client = world.client(world.node())
    client.release(envelope)
    airline.set_approvers("flights", 1, ["ada"])
    with pytest.raises(GrantError, match="approvals"):
        client.release(envelope)
    ada.vote(grant.id, "approve")
    client.release(envelope)


def test_approval_can_be_rejected_taken_back_and_given_again(committee: Committee) -> None:
    ada, bob, grant = committee.people["ada"], committee.people["bob"], committee.grant.id
    ada.vote(grant, "approve")
    bob.vote(grant, "approve")
    assert committee.released()
    assert bob.vote(grant, "reject").standing.rejected == ("bob",)
    assert not committee.released()
    bob.vote(grant, "approve")
    assert committee.released()
    assert ada.take_back(grant).approved == ("bob",)
    assert not committee.released()
    with pytest.raises(CredentialError, match="neither"):
        ada.take_back(grant)


def test_any_one_approver_ends_a_grant_at_once_and_for_good(committee: Committee) -> None:
    for name in ("ada", "bob"):
        committee.people[name].vote(committee.grant.id, "approve")
    assert committee.released()
    assert committee.people["cyd"].revoke(committee.grant.id).revoked is not None
    assert not committee.released()
    with pytest.raises(UsageError, match="revoked"):
        committee.people["ada"].vote(committee.grant.id, "approve")


def test_recipients_open_outputs_only_while_the_grant_is_approved(committee: Committee) -> None:
    world, analyst = committee.world, committee.world.owner("analyst")
    grant = committee.airline.grant("flights", job=JOB, policy=policy(), recipients=["analyst"])
    for name in ("ada", "bob"):
        committee.people[name].vote(grant.id, "approve")
    driver = world.node(Role.DRIVER)
    output = world.client(driver).output("result", inputs=[committee.minted.dataset], recipients=["analyst"])
    made = manifest(output, driver.identity.key)
    world.client(driver).register_manifest(made)
    assert analyst.open(made).secret.reveal() == output.secret.reveal()
    committee.people["bob"].take_back(grant.id)
    with pytest.raises(CredentialError):
        analyst.open(made)


def test_owner_and_approvers_see_the_events_and_others_do_not(committee: Committee) -> None:
    stranger = committee.world.owner("stranger")
    committee.people["ada"].vote(committee.grant.id, "approve")
    committee.people["bob"].vote(committee.grant.id, "approve")
    assert committee.released()
    committee.people["cyd"].vote(committee.grant.id, "reject")
    committee.people["cyd"].take_back(committee.grant.id)
    committee.people["cyd"].revoke(committee.grant.id)
    expected = {"approvers", "grant", "approve", "reject", "take-back", "revoke"}

    def actions(client: OwnerClient) -> set[str]:
        return {entry.event["action"] for entry in client.audit().entries if entry.event is not None}

    assert expected | {"release"} <= actions(committee.airline)
    assert expected | {"release"} <= actions(committee.people["ada"])
    assert not expected & actions(stranger)


# --- rules ----------------------------------------------------------------------------------------------------------


def test_change_of_the_rule_waits_for_the_rule_in_force(committee: Committee) -> None:
    airline, people = committee.airline, committee.people
    waiting = airline.set_approvers("flights", 1, ["cyd"])
    assert waiting is not None
    assert airline.grant_list().rule("airline/flights").threshold == 2
    people["ada"].vote(waiting.change.id, "approve")
    assert airline.grant_list().rule("airline/flights").threshold == 2
    people["bob"].vote(waiting.change.id, "approve")
    listed = airline.grant_list()
    assert (listed.rule("airline/flights").names, listed.changes) == (["cyd"], ())
    people["cyd"].vote(committee.grant.id, "approve")
    assert committee.released()
    with pytest.raises(CredentialError):
        people["ada"].vote(committee.grant.id, "approve")
    assert not people["ada"].grants()


def test_rule_is_removed_like_any_other_change(committee: Committee) -> None:
    waiting = committee.airline.set_approvers("flights", 0, [])
    assert waiting is not None
    assert not committee.released()
    for name in ("ada", "bob"):
        committee.people[name].vote(waiting.change.id, "approve")
    assert committee.released()


def test_newer_change_replaces_the_one_that_waits_with_its_approvals(committee: Committee) -> None:
    first = committee.airline.set_approvers("flights", 1, ["cyd"])
    assert first is not None
    committee.people["ada"].vote(first.change.id, "approve")
    second = committee.airline.set_approvers("flights", 1, ["cyd"])
    assert second is not None
    (only,) = committee.airline.grant_list().changes
    assert (only.change.id, only.standing.approved) == (second.change.id, ())
    with pytest.raises(CredentialError):
        committee.people["bob"].vote(first.change.id, "approve")


@pytest.mark.parametrize(
    ("threshold", "names"),
    [(0, ["ada"]), (2, ["ada"]), (1, []), (-1, ["ada"]), (2, ["ada", "ada"]), (1, ["nobody"])],
    ids=str,
)
def test_rule_that_is_none_is_refused(world: World, threshold: int, names: list[str]) -> None:
    airline, _ = world.owner("airline"), world.owner("ada")
    airline.create_key("flights")
    with pytest.raises(UsageError):
        airline.set_approvers("flights", threshold, names)


def test_rule_with_more_approvers_than_can_be_is_refused() -> None:
    with pytest.raises(UsageError, match="at most 32"):
        ApprovalRule("a/k", 1, tuple(Approver(f"n{i}", bytes([i])) for i in range(33)))


def test_only_the_keys_owner_sets_its_rule(committee: Committee) -> None:
    with pytest.raises(CredentialError):
        committee.people["ada"].set_approvers("airline/flights", 1, ["ada"])


# --- attacks --------------------------------------------------------------------------------------------------------


def test_one_approver_twice_is_one(committee: Committee) -> None:
    for _ in range(3):
        committee.people["ada"].vote(committee.grant.id, "approve")
    assert not committee.released()


def test_approver_of_another_key_approves_nothing_here(committee: Committee) -> None:
    world = committee.world
    weather, eve = world.owner("weather"), world.owner("eve")
    weather.create_key("hours")
    weather.set_approvers("hours", 1, ["eve"])
    committee.people["ada"].vote(committee.grant.id, "approve")
    with pytest.raises(CredentialError):
        eve.vote(committee.grant.id, "approve")
    committee.people["eve"] = eve
    for known in (committee.grant.id, "0" * 16):  # whether there is such a grant is none of eve's business
        with pytest.raises(CredentialError, match="no such grant to approve"):
            committee.post("eve", known, "approve", committee.signed("eve", committee.grant))
    with pytest.raises(CredentialError):
        eve.revoke(committee.grant.id)
    assert not committee.released()


CHANGES: dict[str, Any] = {
    "id": "0" * 16,
    "key": "airline/crews",
    "job": "22" * 48,
    "policy": policy("laxer").to_json(),
    "roles": ["driver"],
    "purposes": ["read"],
    "recipients": ["eve"],
    "created": "2020-01-01T00:00:00+00:00",
    "not_before": "2020-01-01T00:00:00+00:00",
    "not_after": "2099-01-01T00:00:00+00:00",
    "max_runs": 7,
}


@pytest.mark.parametrize("field", CHANGES)
def test_approval_of_a_grant_that_says_anything_else_does_not_count(committee: Committee, field: str) -> None:
    other = Grant.from_json({**committee.grant.to_json(), field: CHANGES[field]})
    with pytest.raises(CredentialError, match="something else"):
        committee.post("ada", committee.grant.id, "approve", committee.signed("ada", other))


def test_grant_that_is_changed_in_the_store_after_its_approval_is_not_approved(
    committee: Committee, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mistake in the broker's own commands would: the store itself holds the change for genuine."""
    for name in ("ada", "bob"):
        committee.people[name].vote(committee.grant.id, "approve")
    assert committee.released()
    committee.world.store.put(replace(committee.grant, policy=policy("laxer")))
    assert not committee.released()
    monkeypatch.setattr(Grant, "digest", committee.grant.digest)
    assert committee.released()


def test_votes_that_the_store_holds_without_a_signature_are_none(committee: Committee, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a mistake in the broker's own commands, or somebody with the store's keys, would write them."""
    store, thief = committee.world.store, SigningKey.generate()
    committee.people["ada"].vote(committee.grant.id, "approve")
    (genuine,) = store.find(Vote, committee.grant.id)
    forged = sign_vote(thief, committee.grant, "approve", committee.world.server.spki)
    renamed = {**forged, "signatures": [{**forged["signatures"][0], "keyid": committee.world.credential("bob").spki}]}
    for envelope in (genuine.envelope, forged, renamed, {}):
        store.put(Vote(committee.grant.id, "bob", envelope, committee.world.now()))
        assert not committee.released()
    monkeypatch.setattr(approvals, "_read", lambda *_: "approve")
    assert committee.released()


def test_approval_of_another_grant_or_at_another_broker_is_not_replayed(committee: Committee) -> None:
    twin = committee.airline.grant("flights", job=JOB, policy=policy())
    with pytest.raises(CredentialError, match="something else"):
        committee.post("ada", committee.grant.id, "approve", committee.signed("ada", twin))
    elsewhere = committee.signed("ada", committee.grant, broker=SigningKey.generate().spki_digest)
    with pytest.raises(CredentialError, match="something else"):
        committee.post("ada", committee.grant.id, "approve", elsewhere)
    with pytest.raises(CredentialError, match="does not verify"):
        committee.post("bob", committee.grant.id, "approve", committee.signed("ada", committee.grant))


def test_rejection_is_not_taken_for_an_approval(committee: Committee) -> None:
    with pytest.raises(CredentialError, match="not what was asked"):
        committee.post("ada", committee.grant.id, "approve", committee.signed("ada", committee.grant, "reject"))
    with pytest.raises(ParseError):
        committee.post("ada", committee.grant.id, "abstain", committee.signed("ada", committee.grant))


def test_approvals_of_a_removed_approver_do_not_count_any_more(committee: Committee) -> None:
    for name in ("ada", "bob"):
        committee.people[name].vote(committee.grant.id, "approve")
    assert committee.released()
    waiting = committee.airline.set_approvers("flights", 2, ["bob", "cyd"])
    assert waiting is not None
    for name in ("bob", "cyd"):
        committee.people[name].vote(waiting.change.id, "approve")
    assert not committee.released()
    committee.people["cyd"].vote(committee.grant.id, "approve")
    assert committee.released()


def test_approver_is_a_key_and_not_a_name(committee: Committee) -> None:
    rule = ApprovalRule("airline/flights", 1, (Approver("ada", SigningKey.generate().spki_der),))
    vote = Vote(committee.grant.id, "ada", committee.signed("ada", committee.grant), committee.world.now())
    assert approved_by(rule, committee.grant, [vote], committee.world.server.spki) == ()


def test_change_that_was_approved_under_an_older_rule_does_not_come_into_force(committee: Committee) -> None:
    """A change names the rule that it replaces: its approvals are worth nothing under another."""
    world, old = committee.world, committee.world.store.get(ApprovalRule, "airline/flights")
    assert old is not None
    stale = RuleChange.new(ApprovalRule("airline/flights", 0, (), before="00" * 48), world.now())
    world.store.put(stale)
    for name in ("ada", "bob"):
        committee.people[name].vote(stale.id, "approve")
    assert world.store.get(ApprovalRule, "airline/flights") == old


def test_approvers_list_leads_to_a_key_and_gives_no_right(committee: Committee) -> None:
    eve = committee.world.owner("eve")
    committee.world.store.put(Approvership("eve", "airline/flights"))
    assert eve.grants() == ()
    with pytest.raises(CredentialError):
        eve.revoke(committee.grant.id)


def test_client_signs_only_what_it_was_told_by_another_way(committee: Committee) -> None:
    with pytest.raises(CredentialError, match="not what you have reviewed"):
        committee.people["ada"].vote(committee.grant.id, "approve", digest="00" * 48)
    with pytest.raises(CredentialError, match="sees"):
        committee.people["ada"].vote("0" * 16, "approve")
    with pytest.raises(UsageError):
        committee.people["ada"].vote("../x", "approve")


def test_everything_is_the_same_after_a_restart(committee: Committee) -> None:
    for name in ("ada", "bob"):
        committee.people[name].vote(committee.grant.id, "approve")
    assert committee.airline.set_approvers("flights", 1, ["cyd"]) is not None
    committee.world.restart()
    assert committee.released()
    listed = committee.world.stranger(committee.world.credential("cyd")).grant_list()
    assert (listed.grants[0].standing.approved, len(listed.changes)) == (("ada", "bob"), 1)
    assert isinstance(listed.find(listed.changes[0].change.id), ChangeView)
    json.dumps([view.to_json() for view in (*listed.grants, *listed.changes)])


def test_purpose_and_run_play_no_part_in_who_approves(committee: Committee) -> None:
    committee.people["ada"].vote(committee.grant.id, "approve")
    with pytest.raises(GrantError, match="approvals"):
        committee.world.client(committee.world.node(Role.DRIVER, run=RUN)).release(committee.envelope, Purpose.WRITE)


@pytest.mark.parametrize(
    "answer",
    [
        {"grants": [], "standings": {}, "rules": [{}], "changes": []},
        {"grants": [], "standings": {}, "rules": [], "changes": [{"standing": {}}]},
        {"grants": [], "standings": {}, "rules": [], "changes": [{}]},
        {"grants": [], "rules": [], "changes": []},
    ],
    ids=str,
)
def test_wrong_answer_of_a_broker_is_an_error(committee: Committee, monkeypatch: pytest.MonkeyPatch, answer: Json) -> None:
    monkeypatch.setattr(committee.world.broker.grants, "grants", lambda _: answer)
    with pytest.raises(BrokerError):
        committee.airline.grant_list()

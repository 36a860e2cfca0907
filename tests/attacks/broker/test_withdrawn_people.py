"""What is left of somebody who was withdrawn, or who was never to come: tokens, seats in rules of approval, enrolments that wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.broker_world import JOB, World, policy
from support.oidc_issuer import Issuer
from support.token_world import Broker

from confide.attest.insecure import Installation
from confide.errors import CredentialError, GrantError, UsageError
from confide.keys.operators import Operation
from confide.keys.records import Enrolment
from confide.keys.roles import Office
from confide.keys.tenant_records import EVERY_TENANT
from confide.keys.token_records import TokenLink

# --- tokens --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def broker(tmp_path: Path, tee: Installation, issuer: Issuer) -> Iterator[Broker]:
    made = Broker(tmp_path, tee, issuer)
    with closing(made.world):
        yield made


def test_token_of_somebody_who_was_withdrawn_is_nobodys(broker: Broker) -> None:
    token = broker.issuer.token()
    assert broker.by_token(token).keys()
    Operation(broker.world.store, broker.world.now).withdraw("clinic")
    refused = broker.refused(token)
    assert isinstance(refused, CredentialError)
    assert "nobody here" in refused.message
    assert broker.world.store.find(TokenLink, "clinic") == []
    assert broker.world.events("withdraw")[-1]["tokens"] == 1


def test_person_who_enrols_anew_ties_the_same_subject_to_the_new_name(broker: Broker) -> None:
    Operation(broker.world.store, broker.world.now).withdraw("clinic")
    token = broker.issuer.token()
    again = broker.world.owner("clinic-2")
    again.link_token(token)
    assert broker.by_token(token).keys() == ()


# --- rules ---------------------------------------------------------------------------------------------------------------


def _ruled(world: World, threshold: int, *names: str) -> dict[str, Any]:
    people = {name: world.owner(name) for name in ("airline", *names)}
    people["airline"].create_key("flights")
    people["airline"].set_approvers("flights", threshold, names)
    return people


def test_approver_without_whom_a_rule_could_be_met_by_nobody_is_not_withdrawn(world: World) -> None:
    people, operator = _ruled(world, 2, "ada", "bob", "cyd"), world.operator()
    operator.operate("withdraw", owner="cyd")  # two are left, and enough
    with pytest.raises(UsageError, match="too few approvers") as caught:
        operator.operate("withdraw", owner="bob")
    assert (caught.value.facts["owners"], caught.value.facts["rules"]) == ("airline", 1)
    assert "flights" not in str(caught.value.to_json()), "what keys there are is none of an operator's business"
    grant = people["airline"].grant("flights", job=JOB, policy=policy())
    assert people["bob"].vote(grant.id, "approve").standing.approved == ("bob",)

    change = people["airline"].set_approvers("flights", 1, ["ada"])
    for name in ("ada", "bob"):
        people[name].vote(change.change.id, "approve")
    operator.operate("withdraw", owner="bob")


def test_rule_that_was_stranded_on_purpose_lets_nothing_through_and_is_told(world: World) -> None:
    people = _ruled(world, 2, "ada", "bob")
    grant = people["airline"].grant("flights", job=JOB, policy=policy())
    people["ada"].vote(grant.id, "approve")
    world.operator().operate("withdraw", owner="bob", strand_rules=True)
    assert people["ada"].grant_list().find(grant.id).standing.pending
    (event,) = world.events("withdraw")
    assert event["stranded"] == 1
    assert {"airline", "ada", "bob"} <= set(event["owners"])
    change = people["airline"].set_approvers("flights", 0, [])
    people["ada"].vote(change.change.id, "approve")
    assert people["airline"].grant_list().rule("airline/flights").threshold == 2, "nobody lowers the bar"
    world.operator("ops-2").operate("withdraw", owner="ada")  # stranded already: that holds up nobody's withdrawal


def test_nobody_is_kept_from_being_withdrawn_by_rules_that_name_them(world: World) -> None:
    """An owner needs nobody's consent to name an approver: that must not protect a thief of that approver's credential."""
    _ruled(world, 1, "mallory")
    operator = world.operator()
    with pytest.raises(UsageError):
        operator.operate("withdraw", owner="mallory")
    operator.operate("withdraw", owner="mallory", strand_rules=True)
    with pytest.raises(CredentialError, match="withdrawn"):
        world.stranger(world.credential("mallory")).keys()


def test_rules_of_who_is_withdrawn_hold_up_nobodys_withdrawal(world: World) -> None:
    airline = world.owner("airline")
    world.owner("ada")
    airline.create_key("flights")
    airline.set_approvers("flights", 2, ["ada", "airline"])
    operator = world.operator()
    with pytest.raises(UsageError):
        operator.operate("withdraw", owner="ada")
    operator.operate("withdraw", owner="airline")
    operator.operate("withdraw", owner="ada")


# --- enrolments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "tenant"), [("owner", "default"), ("operator", "default"), ("auditor", "*")])
def test_enrolment_that_was_cancelled_makes_nobody(world: World, role: str, tenant: str) -> None:
    operator = world.operator()
    tokens = [operator.operate("enrol", owner="eve", tenant=tenant, role=role)["token"] for _ in range(2)]
    other = operator.operate("enrol", owner="ada", tenant="default", role="owner")["token"]
    assert operator.operate("cancel-enrolment", owner="eve") == {"owner": "eve", "cancelled": 2}
    for token in tokens:
        with pytest.raises(CredentialError, match="unknown, used, expired"):
            world.stranger(world.credential("eve")).enrol(token)
    world.stranger(world.credential("ada")).enrol(other)
    (event,) = world.events("cancel-enrolment")
    assert (event["owner"], event["by"], event["enrolments"]) == ("eve", "ops", 2)
    assert world.store.find(Enrolment, "eve") == []


def test_enrolment_that_was_redeemed_or_never_made_is_not_cancelled(world: World) -> None:
    operator = world.operator()
    world.owner("ada")
    for name in ("ada", "nobody"):
        with pytest.raises(UsageError, match="waits to be redeemed"):
            operator.operate("cancel-enrolment", owner=name)
    assert world.stranger(world.credential("ada")).keys() == ()


def test_who_was_told_of_an_auditor_is_told_that_there_will_be_none(world: World) -> None:
    airline = world.owner("airline")
    Operation(world.store, world.now).enrolment("eve", EVERY_TENANT, Office.AUDITOR.value)
    Operation(world.store, world.now).cancel_enrolment("eve")
    seen = [entry.event["action"] for entry in airline.audit().entries if entry.event is not None]
    assert seen[-2:] == ["enrolment", "cancel-enrolment"]


def test_grant_error_is_what_a_node_gets_of_a_stranded_rule(world: World) -> None:
    airline, ada = world.owner("airline"), world.owner("ada")
    _, envelope = world.dataset(airline, "airline", "flights")
    airline.set_approvers("flights", 1, ["ada"])
    ada.vote(airline.grant("flights", job=JOB, policy=policy()).id, "approve")
    Operation(world.store, world.now).withdraw("ada", strand_rules=True)
    with pytest.raises(GrantError, match="0 of 1"):
        world.client(world.node()).release(envelope)

"""Somebody of one tenant reaches for what is another's; somebody of one office for what is another office's."""

from __future__ import annotations

from typing import Any

import pytest
from support.broker_attacks import Granted
from support.broker_world import JOB, World, manifest, policy
from support.kbs_guest import encoded
from support.kbs_world import Kbs

from confide.errors import CredentialError, EscrowError, GrantError, KeyRevokedError, UsageError
from confide.ids import Role
from confide.keys.escrow import EscrowRequest
from confide.keys.escrow_client import trustee_key
from confide.keys.grants import Grant
from confide.keys.operators import Operation
from confide.keys.records import Owner
from confide.keys.roles import Office, check_may
from confide.keys.tenant_records import EVERY_TENANT, Membership, Repository, Tenant
from confide.keys.tenants import settle


@pytest.fixture
def two(world: World) -> tuple[Any, Any]:
    """An owner with a granted dataset in each of two tenants."""
    clinic, bank = world.owner("clinic", tenant="health"), world.owner("bank", tenant="finance")
    return clinic, bank


def _events(client: Any) -> list[Any]:
    return [entry.event for entry in client.audit().entries if entry.event is not None]


def test_nothing_of_another_tenant_is_seen_or_reached(world: World, two: tuple[Any, Any]) -> None:
    clinic, bank = two
    _, envelope = world.dataset(clinic, "clinic", "records")
    grant = clinic.grant("records", job=JOB, policy=policy())
    for attempt in (
        lambda: bank.mint_dataset("clinic/records"),
        lambda: bank.revoke(grant.id),
        lambda: bank.vote(grant.id, "approve"),
        lambda: bank.open(envelope),
        lambda: bank.rotate_key("clinic/records"),
    ):
        with pytest.raises(CredentialError):
            attempt()
    assert (bank.keys(), bank.grants()) == ((), ())
    assert all("clinic" not in str(event) for event in _events(bank) if event["action"] != "refuse")


def test_people_of_another_tenant_cannot_be_found_by_their_names(world: World, two: tuple[Any, Any]) -> None:
    clinic, _ = two
    clinic.create_key("records")
    answers = []
    for name in ("bank", "nobody", "bank@" + "0" * 64):
        for attempt in (
            lambda name=name: clinic.grant("records", job=JOB, policy=policy(), recipients=[name]),
            lambda name=name: clinic.set_approvers("records", 1, [name]),
        ):
            with pytest.raises(UsageError) as caught:
                attempt()
            bare = name.partition("@")[0]
            answers.append((caught.value.message.replace(bare, "X"), caught.value.hint, str(caught.value.facts)))
    assert len(set(answers)) == 2  # one for recipients, one for approvers: whether there is such a person or not


def test_trustees_of_another_tenant_cannot_be_found_by_their_names(world: World, two: tuple[Any, Any]) -> None:
    clinic, bank = two
    bank.register_trustee_key(trustee_key(world.folder / "credentials", "bank"))
    answers = []
    for name in ("bank", "nobody", "bank@" + "0" * 64):
        with pytest.raises(UsageError) as caught:
            clinic._call("POST", "escrow/trustees", {"names": [name]})
        answers.append((caught.value.message.replace(name.partition("@")[0], "X"), caught.value.hint, str(caught.value.facts)))
    assert len(set(answers)) == 1
    named = clinic._trustees({"bank": world.credential("bank").spki})
    assert [one["name"] for one in named] == ["bank"]


def test_person_of_another_tenant_is_named_with_the_public_key(world: World, two: tuple[Any, Any]) -> None:
    clinic, bank = two
    clinic.create_key("records")
    name = f"bank@{world.credential('bank').spki}"
    assert clinic.grant("records", job=JOB, policy=policy(), recipients=[name]).recipients == ("bank",)
    assert clinic.set_approvers("records", 1, [name]) is None
    waiting = clinic.grant("records", job=JOB, policy=policy())
    bank.vote(waiting.id, "approve")
    assert {view.grant.key for view in bank.grant_list().grants} == {"clinic/records"}


def test_job_over_two_tenants_works_and_each_owner_decides_alone(world: World, two: tuple[Any, Any]) -> None:
    clinic, bank = two
    of_clinic, of_bank = world.dataset(clinic, "clinic", "records"), world.dataset(bank, "bank", "loans")
    recipient = f"bank@{world.credential('bank').spki}"
    clinic.grant("records", job=JOB, policy=policy(), recipients=[recipient])
    driver = world.node(Role.DRIVER)
    node = world.client(driver)
    node.release(of_clinic[1])
    with pytest.raises(GrantError):
        node.release(of_bank[1])
    theirs = bank.grant("loans", job=JOB, policy=policy(), recipients=["bank"])
    node.release(of_bank[1])
    output = node.output("report", inputs=[of_clinic[0].dataset, of_bank[0].dataset], recipients=["bank"])
    envelope = manifest(output, driver.identity.key)
    node.register_manifest(envelope)
    assert bank.open(envelope).secret.reveal() == output.secret.reveal()
    bank.revoke(theirs.id)
    node.release(of_clinic[1])
    with pytest.raises(GrantError):
        node.release(of_bank[1])


def test_repository_within_another_tenants_names_cannot_be_begun(world: World, two: tuple[Any, Any]) -> None:
    kbs = Kbs(world)
    assert kbs.post("clinic", "resource/health.keys/type/tag", b"x").status == 200
    for owner, name in (("bank", "health.more"), ("bank", "health"), ("bank", "free"), ("airline", "health.more"), ("airline", "finance")):
        answer = kbs.post(owner, f"resource/{name}/type/tag", b"x")
        assert (answer.status, (answer.json or {})["code"]) == (401, "credential-refused"), (owner, name)
    rules = {"policy": encoded({"rules": [{"resource": "health.later/*/*", "policy": "sample"}]})}
    assert kbs.post("bank", "resource-policy", rules).status == 401


def test_tenant_is_not_made_where_somebody_else_has_begun_its_repositories(world: World) -> None:
    world.owner("early")
    kbs = Kbs(world)
    for name in ("acme", "corp.keys"):
        assert kbs.post("early", f"resource/{name}/type/tag", b"x").status == 200
    for name in ("acme", "corp"):
        with pytest.raises(UsageError, match="repositories"):
            Operation(world.store, world.now).add_tenant(name)
    Operation(world.store, world.now).add_tenant("keys")  # the first part of a name alone is a tenant's


def test_auditor_sees_the_tenant_and_no_more_and_changes_nothing(world: World, two: tuple[Any, Any]) -> None:
    clinic, bank = two
    world.dataset(clinic, "clinic", "records")
    grant = clinic.grant("records", job=JOB, policy=policy())
    world.dataset(bank, "bank", "loans")
    auditor = world.owner("carol", tenant="health", office=Office.AUDITOR)
    shown = auditor.keys()
    assert [str(info.key) for info in shown] == ["clinic/records@1"]
    assert [view.grant.id for view in auditor.grant_list().grants] == [grant.id]
    seen = _events(auditor)
    assert {"mint", "grant", "create-key"} <= {event["action"] for event in seen}
    assert not any("bank" in event["owners"] for event in seen)
    with pytest.raises(CredentialError, match="enrolled as auditor"):
        auditor.revoke(grant.id)
    everywhere = world.owner("dora", tenant=EVERY_TENANT, office=Office.AUDITOR)
    shown = everywhere.keys()
    assert {info.key.owner for info in shown} == {"clinic", "bank"}
    assert all(entry.event is not None for entry in everywhere.audit().entries)


def test_owners_are_told_who_may_see_their_events_from_now_on(world: World, two: tuple[Any, Any]) -> None:
    clinic, bank = two
    world.owner("carol", tenant="health", office=Office.AUDITOR)
    assert [event["owner"] for event in _events(clinic) if event["action"] == "enrol"] == ["clinic", "carol"]
    assert [event["owner"] for event in _events(bank) if event["action"] == "enrol"] == ["bank"]


def test_operator_enrols_and_sees_who_came_and_nothing_of_what_they_do(world: World, two: tuple[Any, Any]) -> None:
    clinic, _ = two
    world.dataset(clinic, "clinic", "records")
    operator = world.operator()
    world.owner("dan")
    people = {person["name"] for one in operator.operate("tenants")["tenants"] for person in one["people"]}
    assert {"clinic", "bank", "dan", "ops"} == people
    token = operator.operate("enrol", owner="erin", tenant="health", role="owner")["token"]
    world.stranger(world.credential("erin")).enrol(str(token))
    as_owner = world.stranger(world.credential("ops"))
    assert {event["action"] for event in _events(as_owner)} <= {"enrol", "enrolment", "tenant", "tenants-settled"}
    for attempt in (as_owner.keys, as_owner.grants, lambda: as_owner.create_key("mine")):
        with pytest.raises(CredentialError, match="enrolled as operator"):
            attempt()


def test_owner_cannot_do_what_operators_do(world: World, two: tuple[Any, Any]) -> None:
    clinic, _ = two
    impostor = world.operator("ops2")
    impostor._connection, before = clinic._connection, impostor._connection
    for op, fields in (("enrol", {"owner": "x", "tenant": "health", "role": "operator"}), ("tenants", {}), ("withdraw", {"owner": "bank"})):
        with pytest.raises(CredentialError, match="enrolled as owner"):
            impostor.operate(op, **fields)
    impostor._connection = before


def test_withdrawn_owner_can_do_nothing_and_nothing_rests_on_it(world: World) -> None:
    granted = Granted(world)
    node = world.client(world.node())
    node.release(granted.manifest)
    operator = world.operator()
    assert operator.operate("withdraw", owner="airline") == {"owner": "airline", "grants": 1}
    for attempt in (granted.airline.keys, lambda: granted.airline.open(granted.manifest), granted.airline.audit):
        with pytest.raises(CredentialError, match="withdrawn"):
            attempt()
    with pytest.raises((GrantError, KeyRevokedError)):
        node.release(granted.manifest)
    with pytest.raises(CredentialError):
        operator.operate("enrol", owner="airline", tenant="default", role="owner")
    with pytest.raises(CredentialError):
        operator.operate("withdraw", owner="ops")


def test_approval_of_somebody_who_was_withdrawn_counts_no_more(world: World) -> None:
    airline, bob = world.owner("airline"), world.owner("bob")
    _, envelope = world.dataset(airline, "airline", "flights")
    airline.set_approvers("flights", 1, ["bob"])
    grant = airline.grant("flights", job=JOB, policy=policy())
    bob.vote(grant.id, "approve")
    node = world.client(world.node())
    node.release(envelope)
    world.operator().operate("withdraw", owner="bob", strand_rules=True)
    with pytest.raises(GrantError):
        node.release(envelope)


def test_vote_on_a_new_rule_of_somebody_who_was_withdrawn_counts_no_more(world: World) -> None:
    airline, bob, eve = (world.owner(name) for name in ("airline", "bob", "eve"))
    airline.create_key("flights")
    airline.set_approvers("flights", 2, ["bob", "eve"])
    change = airline.set_approvers("flights", 1, ["eve"])
    assert change is not None
    bob.vote(change.change.id, "approve")
    world.operator().operate("withdraw", owner="bob", strand_rules=True)
    assert eve.vote(change.change.id, "approve").standing.approved == ("eve",)
    assert airline.grant_list().rule("airline/flights").threshold == 2


def test_old_approval_of_somebody_who_was_withdrawn_does_not_come_back_with_a_rule_that_waited(world: World) -> None:
    clinic, ada, bob = (world.owner(name) for name in ("clinic", "ada", "bob"))
    _, envelope = world.dataset(clinic, "clinic", "records")
    clinic.set_approvers("records", 1, ["ada"])
    ada.vote(clinic.grant("records", job=JOB, policy=policy()).id, "approve")
    to_bob = clinic.set_approvers("records", 1, ["bob"])
    ada.vote(to_bob.change.id, "approve")  # ada is no approver any more: what she said of the grant is kept, and does not count
    back = clinic.set_approvers("records", 1, ["ada", "bob"])
    Operation(world.store, world.now).withdraw("ada")
    with pytest.raises(UsageError, match="ada was withdrawn"):
        bob.vote(back.change.id, "approve")
    with pytest.raises(GrantError):
        world.client(world.node()).release(envelope)


def test_enrolment_that_a_withdrawn_operator_kept_in_store_is_refused(world: World) -> None:
    token = str(world.operator("mallory").operate("enrol", owner="again", tenant="default", role="operator")["token"])
    Operation(world.store, world.now).withdraw("mallory")
    with pytest.raises(CredentialError, match="was withdrawn"):
        world.stranger(world.credential("again")).enrol(token)


@pytest.mark.parametrize("kbs", [False, True])
def test_command_that_was_admitted_before_its_credential_was_withdrawn_does_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, *, kbs: bool
) -> None:
    clinic = world.owner("clinic")
    clinic.create_key("records")

    def withdrawn_meanwhile(office: Office, action: str) -> None:
        check_may(office, action)
        Operation(world.store, world.now).withdraw("clinic")

    guests = Kbs(world)
    monkeypatch.setattr("confide.keys.callers.check_may", withdrawn_meanwhile)
    if kbs:
        assert guests.post("clinic", "resource/health/type/tag", b"x").status == 401
    else:
        with pytest.raises(CredentialError, match="was withdrawn"):
            clinic.grant("records", job=JOB, policy=policy())
    assert (world.store.find(Grant, "clinic/records"), world.store.find(Repository, "clinic")) == ([], [])


def test_withdrawn_person_becomes_nobodys_trustee(world: World) -> None:
    clinic = world.owner("clinic")
    clinic.create_key("records")
    for name in ("ada", "bob"):
        world.owner(name).register_trustee_key(trustee_key(world.folder / "credentials", name))
    pins = {name: world.credential(name).spki for name in ("ada", "bob")}
    known = [clinic._trustee(one, pins) for one in clinic._trustees(pins)]
    Operation(world.store, world.now).withdraw("ada")
    with pytest.raises(UsageError, match="ada is not enrolled"):
        list(clinic.escrow_key("records", pins, 2))
    asked = EscrowRequest("clinic/records", world.server.spki, tuple(known), 2, world.now().isoformat())
    with pytest.raises(EscrowError, match="not enrolled"):
        clinic._call("POST", "escrow", {"request": asked.sign(world.credential("clinic").key)})


def test_resources_of_a_withdrawn_owner_go_to_nobody(world: World) -> None:
    kbs = Kbs(world)
    guest = kbs.guest().ready()
    assert guest.get("airline/key/flights").status == 200
    world.operator().operate("withdraw", owner="airline")
    assert guest.get("airline/key/flights").status == 403


def test_office_and_tenant_of_an_enrolment_cannot_be_mixed(world: World) -> None:
    make = world.broker.owners.create_enrolment
    for tenant, office in (("health", Office.OWNER), (EVERY_TENANT, Office.OWNER), ("default", Office.OPERATOR)):
        with pytest.raises(UsageError):
            make("x", tenant=tenant, office=office)


def test_owners_of_an_earlier_store_are_of_the_default_tenant(world: World) -> None:
    before = Owner.from_json({"name": "old", "spki": "00", "enrolled": "2026-01-01T00:00:00+00:00"})
    assert (before.tenant, before.office, before.withdrawn) == ("default", Office.OWNER, None)
    world.store.put(before)
    world.store.delete(Tenant, "default")
    settle(world.store, world.now)
    assert world.store.get(Membership, "default/old") is not None
    auditor = world.owner("carol", office=Office.AUDITOR)
    assert [event["tenant"] for event in _events(auditor) if event["action"] == "tenants-settled"] == ["default"]

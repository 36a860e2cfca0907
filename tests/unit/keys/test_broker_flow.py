"""The broker, over TLS, when everything is in order."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

import pytest
from support.broker_world import JOB, OTHER_JOB, World, manifest, policy

from confide.attest.policy import AllOf, AnyOf
from confide.errors import (
    AppraisalError,
    BindingError,
    CredentialError,
    GrantError,
    ManifestError,
    RollbackError,
    UsageError,
)
from confide.ids import Purpose, Role, RunId, Tee
from confide.keys.audit import AuditHead
from confide.keys.grants import GrantRef
from confide.keys.records import Enrolment


def test_granted_worker_gets_the_owners_dataset_key(world: World) -> None:
    airline = world.owner("airline")
    minted, envelope = world.dataset(airline, "airline", "flights")
    grant = airline.grant("flights", job=JOB, policy=policy())
    released = world.client(world.node()).release(envelope, Purpose.READ)
    assert released.grants == {"airline/flights": GrantRef(grant.id, policy().digest)}
    assert released.secret.reveal() == minted.secret.reveal()
    assert (released.dataset, str(released.key)) == (minted.dataset, "airline/flights@1")
    assert world.now() < released.expires <= world.now() + timedelta(hours=1)


def test_second_release_of_a_manifest_changes_no_record_and_a_newer_manifest_does(world: World) -> None:
    airline = world.owner("airline")
    minted, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy())

    def rows() -> list[tuple[object, ...]]:
        with sqlite3.connect(world.folder / "store" / "broker.db") as database:
            found = database.execute("SELECT kind, id, body FROM records WHERE kind IN ('dataset', 'release') ORDER BY kind, id").fetchall()
        database.close()
        return found

    world.client(world.node(Role.DRIVER)).release(envelope)
    first = rows()
    assert [kind for kind, *_ in first] == ["dataset", "release"]
    world.client(world.node(Role.DRIVER)).release(envelope)
    assert rows() == first
    assert len(world.events("release")) == 2
    world.client(world.node(Role.DRIVER)).release(manifest(minted, world.credential("airline").key, snapshot=2))
    assert [kind for kind, *_ in set(rows()) - set(first)] == ["dataset"]


def test_release_is_in_the_audit_log_with_evidence_policy_and_key_version(world: World) -> None:
    airline = world.owner("airline")
    minted, envelope = world.dataset(airline, "airline", "flights")
    grant = airline.grant("flights", job=JOB, policy=policy())
    world.client(world.node()).release(envelope)
    (event,) = world.events("release")
    expected = {"dataset": minted.dataset, "key": "airline/flights", "version": 1, "job": JOB, "run": "delays-0123456789ab"}
    assert expected.items() <= event.items()
    assert event["node"] == "worker-1"
    assert event["grants"] == [grant.id]
    assert event["policies"] == [policy().digest]
    assert len(event["evidence"]) == 96


def test_lease_ends_with_the_grant(world: World) -> None:
    airline = world.owner("airline")
    _, envelope = world.dataset(airline, "airline", "flights")
    end = world.now() + timedelta(minutes=5)
    airline.grant("flights", job=JOB, policy=policy(), not_after=end)
    assert world.client(world.node()).release(envelope).expires == end


def test_key_that_was_rotated_still_opens_what_is_under_its_first_version(world: World) -> None:
    airline = world.owner("airline")
    minted, envelope = world.dataset(airline, "airline", "flights")
    assert airline.rotate_key("flights").version == 2
    newer = airline.mint_dataset("flights")
    airline.grant("flights", job=JOB, policy=policy())
    assert newer.key.version == 2
    assert world.client(world.node()).release(envelope).secret.reveal() == minted.secret.reveal()
    assert airline.open(manifest(newer, world.credential("airline").key)).secret.reveal() == newer.secret.reveal()
    (info,) = airline.keys()
    assert (str(info.key), info.datasets) == ("airline/flights@2", 2)


def test_everything_is_there_after_a_restart(world: World) -> None:
    airline = world.owner("airline")
    minted, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy())
    pin = world.server.spki
    world.restart()
    assert world.server.spki == pin
    assert world.client(world.node()).release(envelope).secret.reveal() == minted.secret.reveal()


def test_one_client_keeps_its_session_over_several_requests(world: World) -> None:
    airline = world.owner("airline")
    _, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy())
    client = world.client(world.node())
    client.release(envelope)
    client.release(envelope)
    assert len(world.events("attest")) == 1


# --- outputs ------------------------------------------------------------------------------------------------------


def _two_inputs(world: World) -> tuple[object, ...]:
    airline, weather, _ = world.owner("airline"), world.owner("weather"), world.owner("analyst")
    world.owner("press")
    flights, flights_manifest = world.dataset(airline, "airline", "flights")
    hours, _ = world.dataset(weather, "weather", "hours")
    first = airline.grant("flights", job=JOB, policy=policy(), recipients=["analyst", "press"])
    weather.grant("hours", job=JOB, policy=policy(), recipients=["analyst"])
    return airline, weather, flights, hours, flights_manifest, first


def test_output_inherits_every_input_and_names_only_recipients_that_all_owners_allow(world: World) -> None:
    _, _, flights, hours, *_ = _two_inputs(world)
    driver = world.node(Role.DRIVER)
    made = world.client(driver).output("result", inputs=[flights.dataset, hours.dataset], recipients=["analyst", "press", "airline"])
    assert made.inherits == ("airline/flights", "weather/hours")
    assert made.recipients == ("analyst",)
    assert made.signer == driver.identity.spki_digest
    assert made.key.id == f"job-{JOB[:16]}/result"


def test_output_key_is_the_same_for_the_driver_again_and_for_the_runs_workers(world: World) -> None:
    _, _, flights, hours, *_ = _two_inputs(world)
    inputs = [flights.dataset, hours.dataset]
    driver = world.node(Role.DRIVER)
    made = world.client(driver).output("result", inputs=inputs, recipients=[])
    again = world.client(driver).output("result", inputs=inputs, recipients=[])
    worker = world.client(world.node()).output("result", inputs=inputs, recipients=[])
    assert {k.dataset for k in (made, again, worker)} == {made.dataset}
    assert {k.secret.reveal() for k in (made, again, worker)} == {made.secret.reveal()}


def test_another_run_of_the_job_gets_another_output(world: World) -> None:
    _, _, flights, hours, *_ = _two_inputs(world)
    inputs = [flights.dataset, hours.dataset]
    first = world.client(world.node(Role.DRIVER)).output("result", inputs=inputs, recipients=[])
    second = world.client(world.node(Role.DRIVER, run=RunId("delays-ffffffffffff"))).output("result", inputs=inputs, recipients=[])
    assert first.dataset != second.dataset
    assert first.secret.reveal() != second.secret.reveal()


def test_worker_cannot_make_an_output(world: World) -> None:
    _, _, flights, *_ = _two_inputs(world)
    with pytest.raises(GrantError, match="driver of this run"):
        world.client(world.node()).output("result", inputs=[flights.dataset], recipients=[])


def test_output_without_inputs_is_refused(world: World) -> None:
    with pytest.raises(GrantError, match="no input"):
        world.client(world.node(Role.DRIVER)).output("result", inputs=[], recipients=["analyst"])


def test_output_of_an_input_that_is_granted_for_reading_only_is_refused(world: World) -> None:
    airline = world.owner("airline")
    minted, _ = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy(), purposes=[Purpose.READ])
    with pytest.raises(GrantError, match="purpose"):
        world.client(world.node(Role.DRIVER)).output("result", inputs=[minted.dataset], recipients=[])


def test_recipient_opens_the_output_and_others_do_not(world: World) -> None:
    _, _, flights, hours, *_ = _two_inputs(world)
    driver = world.node(Role.DRIVER)
    client = world.client(driver)
    made = client.output("result", inputs=[flights.dataset, hours.dataset], recipients=["analyst", "press"])
    envelope = manifest(made, driver.identity.key)
    client.register_manifest(envelope)
    assert world.stranger(world.credential("analyst")).open(envelope).secret.reveal() == made.secret.reveal()
    for name in ("press", "airline", "weather"):
        with pytest.raises(CredentialError):
            world.stranger(world.credential(name)).open(envelope)


def test_recipient_whom_the_owners_allow_but_the_job_does_not_name_opens_nothing(world: World) -> None:
    _, _, flights, hours, *_ = _two_inputs(world)
    driver = world.node(Role.DRIVER)
    made = world.client(driver).output("result", inputs=[flights.dataset, hours.dataset], recipients=[])
    with pytest.raises(CredentialError):
        world.stranger(world.credential("analyst")).open(manifest(made, driver.identity.key))


def test_output_cannot_be_opened_once_an_inputs_grant_is_revoked(world: World) -> None:
    airline, _, flights, hours, _, grant = _two_inputs(world)
    driver = world.node(Role.DRIVER)
    made = world.client(driver).output("result", inputs=[flights.dataset, hours.dataset], recipients=["analyst"])
    envelope = manifest(made, driver.identity.key)
    analyst = world.stranger(world.credential("analyst"))
    analyst.open(envelope)
    airline.revoke(grant.id)
    with pytest.raises(CredentialError):
        analyst.open(envelope)


def test_input_that_the_driver_does_not_name_but_the_run_has_read_counts_before_and_after(world: World) -> None:
    """A driver that leaves out an input gains nothing: what the run was given decides."""
    _, _, _, hours, flights_manifest, _ = _two_inputs(world)
    driver = world.client(world.node(Role.DRIVER))
    early = driver.output("early", inputs=[hours.dataset], recipients=["analyst"])
    assert early.inherits == ("weather/hours",)
    world.client(world.node()).release(flights_manifest)
    assert driver.output("early", inputs=[], recipients=[]).inherits == ("airline/flights", "weather/hours")
    assert driver.output("late", inputs=[hours.dataset], recipients=[]).inherits == ("airline/flights", "weather/hours")


def test_output_read_by_another_job_needs_grants_of_all_its_inputs_owners(world: World) -> None:
    airline, weather, flights, hours, *_ = _two_inputs(world)
    driver = world.node(Role.DRIVER)
    made = world.client(driver).output("result", inputs=[flights.dataset, hours.dataset], recipients=[])
    envelope = manifest(made, driver.identity.key)
    follower = world.client(world.node(job=OTHER_JOB, run=RunId("next-0123456789ab")))
    airline.grant("flights", job=OTHER_JOB, policy=policy())
    with pytest.raises(GrantError):
        follower.release(envelope)
    weather.grant("hours", job=OTHER_JOB, policy=policy())
    assert follower.release(envelope).secret.reveal() == made.secret.reveal()


def test_two_jobs_with_the_same_first_characters_of_their_digests_never_share_an_output_key(world: World) -> None:
    airline = world.owner("airline")
    minted, _ = world.dataset(airline, "airline", "flights")
    twin = type(JOB)(JOB[:16] + "33" * 40)
    for job in (JOB, twin):
        airline.grant("flights", job=job, policy=policy())
    world.client(world.node(Role.DRIVER)).output("result", inputs=[minted.dataset], recipients=[])
    with pytest.raises(GrantError, match="another job"):
        world.client(world.node(Role.DRIVER, job=twin)).output("result", inputs=[minted.dataset], recipients=[])


def test_second_driver_of_a_run_does_not_get_the_first_ones_output(world: World) -> None:
    _, _, flights, hours, *_ = _two_inputs(world)
    inputs = [flights.dataset, hours.dataset]
    world.client(world.node(Role.DRIVER)).output("result", inputs=inputs, recipients=[])
    with pytest.raises(BindingError, match="another driver"):
        world.client(world.node(Role.DRIVER)).output("result", inputs=inputs, recipients=[])


def test_output_manifest_of_another_run_is_not_registered(world: World) -> None:
    _, _, flights, hours, *_ = _two_inputs(world)
    driver = world.node(Role.DRIVER)
    made = world.client(driver).output("result", inputs=[flights.dataset, hours.dataset], recipients=[])
    other = world.client(world.node(Role.DRIVER, run=RunId("delays-ffffffffffff")))
    with pytest.raises(GrantError, match="only the run"):
        other.register_manifest(manifest(made, driver.identity.key))


# --- owners -------------------------------------------------------------------------------------------------------


def test_enrolment_token_works_once_and_for_its_name_only(world: World) -> None:
    token = world.broker.owners.create_enrolment("airline")
    with pytest.raises(CredentialError, match="token"):
        world.stranger(world.credential("weather")).enrol(token)
    world.stranger(world.credential("airline")).enrol(token)
    with pytest.raises(CredentialError):
        world.stranger(world.credential("airline")).enrol(token)


def test_enrolment_token_expires(world: World) -> None:
    token = world.broker.owners.create_enrolment("airline")
    world.ahead = timedelta(hours=25)
    with pytest.raises(CredentialError, match="expired"):
        world.stranger(world.credential("airline")).enrol(token)


def test_name_that_is_enrolled_is_not_enrolled_again(world: World) -> None:
    world.owner("airline")
    with pytest.raises(CredentialError, match="is enrolled"):
        world.broker.owners.create_enrolment("airline")


def test_nobody_enrols_under_a_name_of_outputs(world: World) -> None:
    with pytest.raises(UsageError):
        world.broker.owners.create_enrolment("job-0123456789abcdef")


def test_key_is_made_once(world: World) -> None:
    airline = world.owner("airline")
    airline.create_key("flights")
    with pytest.raises(UsageError, match="exists"):
        airline.create_key("flights")


def test_dataset_under_a_key_that_does_not_exist_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="no key"):
        world.owner("airline").mint_dataset("flights")


def test_grant_to_a_recipient_that_is_not_enrolled_is_refused(world: World) -> None:
    airline = world.owner("airline")
    airline.create_key("flights")
    with pytest.raises(UsageError, match="not enrolled"):
        airline.grant("flights", job=JOB, policy=policy(), recipients=["analist"])


def test_grants_are_listed_with_revoked_ones(world: World) -> None:
    airline = world.owner("airline")
    airline.create_key("flights")
    kept = airline.grant("flights", job=JOB, policy=policy())
    ended = airline.revoke(airline.grant("flights", job=OTHER_JOB, policy=policy()).id)
    assert ended.revoked is not None
    assert {g.id: g.revoked for g in airline.grants()} == {kept.id: None, ended.id: ended.revoked}


def test_newer_snapshot_raises_the_mark_for_owners_and_nodes(world: World) -> None:
    airline = world.owner("airline")
    minted, first = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy())
    client = world.client(world.node())
    client.release(first)
    airline.register_manifest(manifest(minted, world.credential("airline").key, snapshot=2))
    with pytest.raises(RollbackError):
        client.release(first)
    with pytest.raises(RollbackError):
        airline.open(first)
    with pytest.raises(RollbackError):
        airline.register_manifest(first)


def test_manifest_with_a_key_field_that_contradicts_its_wrapped_key_is_refused(world: World) -> None:
    airline = world.owner("airline")
    minted, _ = world.dataset(airline, "airline", "flights")
    with pytest.raises(ManifestError):
        airline.open(manifest(minted, world.credential("airline").key, snapshot=2, version=7))


# --- audit --------------------------------------------------------------------------------------------------------


def test_owner_sees_own_events_in_full_and_of_others_only_digests(world: World) -> None:
    airline, weather = world.owner("airline"), world.owner("weather")
    airline.create_key("flights")
    weather.create_key("hours")
    log = airline.audit()
    seen = [e.event for e in log.entries if e.event is not None]
    assert len(log.entries) > len(seen) > 0
    assert all("airline" in event["owners"] for event in seen)
    assert "hours" not in str([e.to_json() for e in log.entries])


def test_audit_head_is_signed_by_the_pinned_key_and_continues(world: World) -> None:
    airline = world.owner("airline")
    with world.client(world.node()) as node:
        early = AuditHead.verify(node.audit_head(), node.broker_key())
        assert node.broker_key().digest == world.server.spki
    airline.create_key("flights")
    late = airline.audit().verify(airline.broker_key(), seen=early)
    assert late.size > early.size
    assert AuditHead.verify(airline.audit_head(), airline.broker_key()).size == late.size


def test_grant_under_a_composed_policy_releases_to_what_the_composition_accepts(world: World) -> None:
    airline = world.owner("airline")
    _, envelope = world.dataset(airline, "airline", "flights")
    jobs = policy("jobs", jobs=(JOB,))
    some = AnyOf(name="some", any_of=(policy("other", measurements={Tee.SGX: ("cd" * 32,)}), policy()))
    composed = AllOf(name="both", all_of=(some, jobs))
    grant = airline.grant("flights", job=JOB, policy=composed)
    released = world.client(world.node()).release(envelope, Purpose.READ)
    assert released.grants == {"airline/flights": GrantRef(grant.id, composed.digest)}


def test_grant_under_a_composed_policy_refuses_what_one_member_refuses(world: World) -> None:
    airline = world.owner("airline")
    _, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=AllOf(name="both", all_of=(policy("a"), policy("b", jobs=(OTHER_JOB,)))))
    with pytest.raises(AppraisalError) as caught:
        world.client(world.node()).release(envelope, Purpose.READ)
    assert caught.value.facts["check"] == "b/job"


def test_enrolments_that_have_expired_are_removed_when_another_is_made(world: World) -> None:
    world.broker.owners.create_enrolment("airline")
    world.broker.owners.create_enrolment("weather")
    assert world.store.count(Enrolment, "airline") == 1
    world.ahead = timedelta(hours=25)
    world.broker.owners.create_enrolment("harbour")
    assert [world.store.count(Enrolment, name) for name in ("airline", "weather", "harbour")] == [0, 0, 1]

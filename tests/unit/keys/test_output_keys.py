"""Outputs' keys: one a run and output, given only to nodes that every input's owner accepts, and inherited by what derives from them."""

from __future__ import annotations

import pytest
from support.broker_world import JOB, OTHER_JOB, World, manifest, policy

from confide.attest.insecure import Fault
from confide.errors import AppraisalError, ConfideError, CredentialError, GrantError
from confide.ids import Role, RunId, Tee
from confide.keys.client import OwnerClient
from confide.keys.released_keys import MintedDataset


class TwoInputs:
    """The airline's and the weather service's datasets, granted to one job."""

    def __init__(self, world: World) -> None:
        self.airline: OwnerClient = world.owner("airline")
        self.weather: OwnerClient = world.owner("weather")
        self.analyst: OwnerClient = world.owner("analyst")
        self.flights, self.flights_manifest = world.dataset(self.airline, "airline", "flights")
        self.hours, _ = world.dataset(self.weather, "weather", "hours")

    @property
    def inputs(self) -> list[MintedDataset]:
        return [self.flights, self.hours]


def test_writing_is_attested_under_the_policy_of_every_inputs_owner(world: World) -> None:
    """The weather service's policy does not know the driver's software: there is no output key, whatever the airline says."""
    two = TwoInputs(world)
    two.airline.grant("flights", job=JOB, policy=policy())
    two.weather.grant("hours", job=JOB, policy=policy("stricter", measurements={Tee.SGX: ("cd" * 32,)}))
    driver = world.client(world.node(Role.DRIVER))
    with pytest.raises(AppraisalError) as caught:
        driver.output("result", inputs=[d.dataset for d in two.inputs], recipients=[])
    assert caught.value.facts["check"] == "measurement"
    only_flights = driver.output("flights-only", inputs=[two.flights.dataset], recipients=[])
    assert only_flights.inherits == ("airline/flights",)


@pytest.mark.parametrize("fault", [Fault.OUT_OF_DATE, Fault.DEBUG])
def test_faulty_driver_or_worker_gets_no_output_key(world: World, fault: Fault) -> None:
    two = TwoInputs(world)
    two.airline.grant("flights", job=JOB, policy=policy())
    good = world.client(world.node(Role.DRIVER))
    good.output("result", inputs=[two.flights.dataset], recipients=[])
    for role in (Role.DRIVER, Role.WORKER):
        with pytest.raises(ConfideError) as caught:
            world.client(world.node(role, fault=fault)).output("result", inputs=[two.flights.dataset], recipients=[])
        assert caught.value.exit_status == 3


def test_revoking_one_input_ends_the_giving_of_the_outputs_key(world: World) -> None:
    two = TwoInputs(world)
    two.airline.grant("flights", job=JOB, policy=policy())
    grant = two.weather.grant("hours", job=JOB, policy=policy())
    driver, worker = world.client(world.node(Role.DRIVER)), world.client(world.node())
    inputs = [d.dataset for d in two.inputs]
    driver.output("result", inputs=inputs, recipients=[])
    worker.output("result", inputs=inputs, recipients=[])
    two.weather.revoke(grant.id)
    for client in (driver, worker):
        with pytest.raises(GrantError, match="revoked"):
            client.output("result", inputs=inputs, recipients=[])


def test_what_derives_from_an_output_inherits_the_owners_of_its_inputs(world: World) -> None:
    two = TwoInputs(world)
    for job in (JOB, OTHER_JOB):
        two.airline.grant("flights", job=job, policy=policy(), recipients=["analyst"])
        hours = two.weather.grant("hours", job=job, policy=policy(), recipients=["analyst"])
    first_driver = world.node(Role.DRIVER)
    client = world.client(first_driver)
    first = client.output("result", inputs=[d.dataset for d in two.inputs], recipients=["analyst"])
    client.register_manifest(manifest(first, first_driver.identity.key))

    second_driver = world.node(Role.DRIVER, job=OTHER_JOB, run=RunId("next-0123456789ab"))
    further = world.client(second_driver)
    second = further.output("summary", inputs=[first.dataset], recipients=["analyst"])
    assert second.inherits == ("airline/flights", "weather/hours")
    envelope = manifest(second, second_driver.identity.key)
    further.register_manifest(envelope)
    assert two.analyst.open(envelope).secret.reveal() == second.secret.reveal()
    two.weather.revoke(hours.id)
    with pytest.raises(CredentialError):
        two.analyst.open(envelope)


def test_two_outputs_of_a_run_have_keys_and_inputs_of_their_own(world: World) -> None:
    two = TwoInputs(world)
    two.airline.grant("flights", job=JOB, policy=policy())
    two.weather.grant("hours", job=JOB, policy=policy())
    driver = world.client(world.node(Role.DRIVER))
    a = driver.output("a", inputs=[two.flights.dataset], recipients=[])
    b = driver.output("b", inputs=[two.hours.dataset], recipients=[])
    assert (a.inherits, b.inherits) == (("airline/flights",), ("weather/hours",))
    assert a.secret.reveal() != b.secret.reveal()
    assert a.key != b.key


def test_each_run_of_a_job_has_data_keys_of_its_own(world: World) -> None:
    """And neither run gets, registers or reads back by that name what the other one made."""
    two = TwoInputs(world)
    two.airline.grant("flights", job=JOB, policy=policy())
    made = []
    for run in ("first-0123456789ab", "second-0123456789ab"):
        driver, worker = (world.node(role, run=RunId(run)) for role in (Role.DRIVER, Role.WORKER))
        mine = world.client(driver).output("result", inputs=[two.flights.dataset], recipients=[])
        theirs = world.client(worker).output("result", inputs=[two.flights.dataset], recipients=[])
        assert (mine.dataset, mine.secret.reveal()) == (theirs.dataset, theirs.secret.reveal())
        made.append((driver, mine))
    (first, a), (second, b) = made
    assert a.dataset != b.dataset
    assert a.secret.reveal() != b.secret.reveal()
    with pytest.raises(ConfideError), world.client(second) as client:
        client.register_manifest(manifest(a, first.identity.key))


def test_outputs_are_as_they_were_after_their_inputs_keys_were_rewrapped(world: World) -> None:
    two = TwoInputs(world)
    two.airline.grant("flights", job=JOB, policy=policy(), recipients=["analyst"])
    driver = world.node(Role.DRIVER)
    client = world.client(driver)
    made = client.output("result", inputs=[two.flights.dataset], recipients=["analyst"])
    envelope = manifest(made, driver.identity.key)
    client.register_manifest(envelope)
    two.airline.rotate_key("flights")
    list(two.airline.rewrap("flights"))
    two.airline.destroy_key("flights", 1)
    assert two.analyst.open(envelope).secret.reveal() == made.secret.reveal()
    assert client.output("result", inputs=[two.flights.dataset], recipients=[]).secret.reveal() == made.secret.reveal()

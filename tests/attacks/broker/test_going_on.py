"""Attacks on outputs that a later run goes on with: weaker protection, somebody else's data, older and other manifests, two writers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from support.broker_world import JOB, OTHER_JOB, Node, World, manifest, policy

from confide.canonical import Json, sha384_hex
from confide.crypto.sign import SigningKey, unverified_payload
from confide.errors import (
    BindingError,
    CredentialError,
    GrantError,
    KeyRevokedError,
    ManifestError,
    RollbackError,
    SnapshotConflictError,
)
from confide.ids import Purpose, Role, RunId
from confide.keys.client import NodeBrokerClient
from confide.keys.grants import Grant
from confide.keys.lineage import MAX_EARLIER, Announced
from confide.keys.manifest_claims import ShownManifest
from confide.keys.records import Dataset
from confide.keys.released_keys import MintedDataset, OutputKey


class Going:
    """An output of one job over the airline's flights, which the analyst may open; and another job that may go on with it."""

    def __init__(self, world: World, *, recipients: Sequence[str] = ("analyst",), purposes: Sequence[Purpose] = tuple(Purpose)) -> None:
        self.world = world
        self.airline, self.weather, self.analyst = (world.owner(name) for name in ("airline", "weather", "analyst"))
        self.flights, self.flights_manifest = world.dataset(self.airline, "airline", "flights")
        self.hours, self.hours_manifest = world.dataset(self.weather, "weather", "hours")
        self.airline.grant("flights", job=JOB, policy=policy(), recipients=["analyst"])
        self.grant: Grant = self.airline.grant(
            "flights", job=OTHER_JOB, policy=policy(), recipients=list(recipients), purposes=list(purposes)
        )
        first = world.node(Role.DRIVER)
        client = world.client(first)
        self.made = client.output("result", inputs=[self.flights.dataset], recipients=["analyst"])
        self.parent = manifest(self.made, first.identity.key)
        client.register_manifest(self.parent)
        self.first, self.maker = first, client

    def run(self, name: str = "next", role: Role = Role.DRIVER) -> tuple[Node, NodeBrokerClient]:
        node = self.world.node(role, job=OTHER_JOB, run=RunId(f"{name}-0123456789ab"))
        return node, self.world.client(node)

    def go_on(
        self, client: NodeBrokerClient, *inputs: MintedDataset, parent: Json | None = None, wanted: Sequence[str] = ("analyst",)
    ) -> OutputKey:
        names = [one.dataset for one in inputs or (self.flights,)]
        return client.output("result", inputs=names, recipients=list(wanted), parent=parent or self.parent)

    def following(self, signer: SigningKey, snapshot: int = 2, **changes: object) -> Json:
        digest = sha384_hex(unverified_payload(self.parent))
        return manifest(self.made, signer, snapshot, **{"parent": digest, "by": signer.spki_digest, **changes})


def test_a_run_goes_on_with_an_output_and_its_driver_signs_for_it_from_then_on(world: World) -> None:
    going = Going(world)
    driver, client = going.run()
    key = going.go_on(client)
    assert (key.dataset, key.secret.reveal()) == (going.made.dataset, going.made.secret.reveal())
    assert key.signer == driver.identity.spki_digest
    _, worker = going.run(role=Role.WORKER)
    assert worker.output("result", inputs=[going.flights.dataset], recipients=[]).secret.reveal() == key.secret.reveal()
    following = going.following(driver.identity.key)
    client.register_manifest(following, announce=True)
    assert going.analyst.open(going.parent)  # nothing is committed yet: the earlier snapshot is the newest
    client.register_manifest(following)
    assert going.analyst.open(following).secret.reveal() == going.made.secret.reveal()
    with pytest.raises(RollbackError):
        going.analyst.open(going.parent)
    assert [event["snapshot"] for event in world.events("manifest")][-1] == 2


def test_appending_rows_of_an_owner_who_does_not_decide_over_the_output_is_refused(world: World) -> None:
    """The weather service's rows would lie in a dataset that the airline alone gives away."""
    going = Going(world)
    going.weather.grant("hours", job=OTHER_JOB, policy=policy(), recipients=["analyst"])
    _, client = going.run()
    with pytest.raises(GrantError, match="do not decide over the output") as caught:
        going.go_on(client, going.flights, going.hours)
    assert caught.value.facts["missing"] == "weather/hours"


def test_what_was_read_without_being_named_counts_all_the_same(world: World) -> None:
    going = Going(world)
    going.weather.grant("hours", job=OTHER_JOB, policy=policy(), recipients=["analyst"])
    _, client = going.run()
    _, worker = going.run(role=Role.WORKER)
    worker.release(going.hours_manifest)
    with pytest.raises(GrantError, match="do not decide over the output"):
        going.go_on(client)


def test_a_run_that_goes_on_with_an_output_is_given_nothing_more_to_read_than_decides_over_it(world: World) -> None:
    going = Going(world)
    going.weather.grant("hours", job=OTHER_JOB, policy=policy(), recipients=["analyst"])
    _, client = going.run()
    going.go_on(client)
    _, worker = going.run(role=Role.WORKER)
    with pytest.raises(GrantError, match="do not decide over the output"):
        worker.release(going.hours_manifest)
    worker.release(going.flights_manifest)


def test_an_output_of_data_whose_owner_has_granted_the_job_nothing_is_refused(world: World) -> None:
    """The job reads the weather service's data, and would put it among the airline's."""
    going = Going(world)
    going.airline.revoke(going.grant.id)
    _, client = going.run()
    with pytest.raises(GrantError, match="revoked"):
        going.go_on(client)


def test_writing_alone_does_not_open_what_is_in_an_output(world: World) -> None:
    """Its key opens all that is in it: a job that may only write what it made itself gets another one."""
    going = Going(world, purposes=[Purpose.WRITE])
    _, client = going.run()
    with pytest.raises(GrantError, match="purpose"):
        going.go_on(client)
    assert client.output("other", inputs=[going.flights.dataset], recipients=[]).dataset != going.made.dataset


@pytest.mark.parametrize("named", ["by the grant alone", "by the job alone"])
def test_an_output_with_more_recipients_than_the_job_or_its_grants_name_is_refused(world: World, named: str) -> None:
    by_job = named == "by the job alone"
    going = Going(world, recipients=() if by_job else ("analyst",))
    _, client = going.run()
    with pytest.raises(GrantError, match="may not open what this job makes") as caught:
        going.go_on(client, wanted=("analyst",) if by_job else ())
    assert caught.value.facts["recipients"] == "analyst"


def test_a_grant_to_the_later_job_that_is_revoked_closes_what_it_wrote(world: World) -> None:
    going = Going(world)
    driver, client = going.run()
    going.go_on(client)
    following = going.following(driver.identity.key)
    client.register_manifest(following, announce=True)
    going.airline.revoke(going.grant.id)
    with pytest.raises(CredentialError):
        going.analyst.open(following)
    assert going.analyst.open(going.parent)


def test_an_owners_own_dataset_is_not_gone_on_with(world: World) -> None:
    going = Going(world)
    _, client = going.run()
    with pytest.raises(GrantError, match="outputs of earlier runs only"):
        going.go_on(client, parent=going.flights_manifest)


def test_a_worker_cannot_begin_to_go_on_with_an_output(world: World) -> None:
    going = Going(world)
    _, worker = going.run(role=Role.WORKER)
    with pytest.raises(GrantError, match="the driver of this run"):
        going.go_on(worker)


def test_a_second_driver_of_the_run_gets_nothing(world: World) -> None:
    going = Going(world)
    _, client = going.run()
    going.go_on(client)
    _, other = going.run()
    with pytest.raises(BindingError, match="another driver"):
        going.go_on(other)


def test_an_older_snapshot_is_no_parent(world: World) -> None:
    going = Going(world)
    driver, client = going.run()
    going.go_on(client)
    client.register_manifest(going.following(driver.identity.key))
    _, later = going.run("later")
    with pytest.raises(RollbackError):
        going.go_on(later, parent=going.parent)


def test_an_older_snapshot_by_the_same_signer_is_no_parent(world: World) -> None:
    going = Going(world)
    going.maker.register_manifest(going.following(going.first.identity.key))
    _, client = going.run()
    with pytest.raises(RollbackError):
        going.go_on(client)


def test_a_parent_that_somebody_else_signed_is_refused(world: World) -> None:
    going = Going(world)
    driver, client = going.run()
    with pytest.raises(ManifestError):
        going.go_on(client, parent=manifest(going.made, driver.identity.key))


def test_what_earlier_runs_have_signed_is_told_from_what_a_stranger_has(world: World) -> None:
    """A storage that shows an older state is told so; nothing that is not signed is believed for that."""
    going = Going(world)
    chain = [going.parent]
    for name in ("second", "third"):
        driver, client = going.run(name)
        going.go_on(client, parent=chain[-1])
        parent = sha384_hex(unverified_payload(chain[-1]))
        chain.append(going.following(driver.identity.key, len(chain) + 1, parent=parent))
        client.register_manifest(chain[-1])
    world.restart()
    reader = world.client(world.node(job=OTHER_JOB, run=RunId("reader-0123456789ab")))
    for number, older in enumerate(chain[:-1], 1):
        with pytest.raises(RollbackError, match="older than one that the broker has seen") as caught:
            reader.release(older)
        assert (caught.value.facts["newest"], caught.value.facts["got"]) == (3, number)
    stranger, earlier = SigningKey.generate(), going.first.identity.key
    forged = {**manifest(going.made, stranger), "signatures": [{**going.parent["signatures"][0], "sig": "AAAA"}]}
    others = [manifest(going.made, stranger), forged, *(manifest(going.made, earlier, number) for number in (3, 4))]
    for other in others:
        with pytest.raises(ManifestError, match="not signed by the dataset's signer"):
            reader.release(other)
    assert reader.release(chain[-1])


def test_however_many_runs_went_on_what_they_signed_is_refused(world: World) -> None:
    """A bounded number of signers is remembered: what is older is refused as a stranger's is."""
    going = Going(world)
    dataset = world.broker.store.get(Dataset, going.made.dataset)
    assert dataset is not None
    assert dataset.origin is not None
    keys = [going.first.identity.key, *(SigningKey.generate() for _ in range(MAX_EARLIER + 1))]
    for number, key in enumerate(keys[1:], 2):
        shown = ShownManifest(manifest(going.made, key, number))
        coming = Announced(shown.unverified_digest(), key.public.spki_der, OTHER_JOB)
        dataset, claims = dataset.announcing(coming).signed(shown)
        dataset = dataset.after(claims)
    assert Dataset.from_json(dataset.to_json()) == dataset
    assert len(dataset.earlier) == MAX_EARLIER
    with pytest.raises(RollbackError):
        dataset.signed(ShownManifest(manifest(going.made, keys[1], 2)))
    with pytest.raises(ManifestError):
        dataset.signed(ShownManifest(going.parent))


def test_of_two_runs_one_wins_and_the_other_is_told(world: World) -> None:
    going = Going(world)
    (one, first), (two, second) = going.run("one"), going.run("two")
    going.go_on(first)
    going.go_on(second)
    first.register_manifest(going.following(one.identity.key), announce=True)
    second.register_manifest(going.following(two.identity.key), announce=True)  # storage decides whose is committed
    second.register_manifest(going.following(two.identity.key))
    for announce in (True, False):
        with pytest.raises(SnapshotConflictError):
            first.register_manifest(going.following(one.identity.key), announce=announce)
    with pytest.raises(ManifestError):
        going.analyst.open(going.following(one.identity.key))
    assert going.analyst.open(going.following(two.identity.key))


@pytest.mark.parametrize("changes", [{"snapshot": 3}, {"parent": "00" * 48}, {"parent": None}])
def test_a_manifest_that_does_not_follow_the_parent_is_not_announced(world: World, changes: dict[str, Any]) -> None:
    going = Going(world)
    driver, client = going.run()
    going.go_on(client)
    following = going.following(driver.identity.key, **changes)
    with pytest.raises(ManifestError, match="not of the snapshot after"):
        client.register_manifest(following, announce=True)


def test_only_a_run_that_goes_on_with_an_output_announces_a_snapshot_of_it(world: World) -> None:
    going = Going(world)
    driver, client = going.run()
    with pytest.raises(GrantError):
        client.register_manifest(going.following(driver.identity.key), announce=True)


def test_the_broker_hears_of_a_committed_snapshot_when_it_is_used_if_its_run_was_killed(world: World) -> None:
    going = Going(world)
    driver, client = going.run()
    going.go_on(client)
    following = going.following(driver.identity.key)
    client.register_manifest(following, announce=True)
    world.restart()
    reader = world.client(world.node(job=OTHER_JOB, run=RunId("reader-0123456789ab")))
    assert reader.release(following).secret.reveal() == going.made.secret.reveal()
    with pytest.raises(RollbackError):
        reader.release(going.parent)


def test_a_withdrawn_grant_ends_the_run_that_goes_on(world: World) -> None:
    going = Going(world)
    _, client = going.run()
    going.go_on(client)
    going.airline.revoke(going.grant.id)
    with pytest.raises(KeyRevokedError):
        client.watch()


def test_other_outputs_of_the_run_derive_from_what_is_in_the_dataset(world: World) -> None:
    """With its key, all that earlier runs put into it can be read: an output that was made before inherits its owners, too."""
    going = Going(world)
    going.weather.grant("hours", job=OTHER_JOB, policy=policy(), recipients=["analyst"])
    both = world.node(Role.DRIVER, run=RunId("both-0123456789ab"))
    going.weather.grant("hours", job=JOB, policy=policy(), recipients=["analyst"])
    maker = world.client(both)
    made = maker.output("joined", inputs=[going.flights.dataset, going.hours.dataset], recipients=["analyst"])
    envelope = manifest(made, both.identity.key)
    maker.register_manifest(envelope)
    _, client = going.run()
    own = client.output("own", inputs=[going.flights.dataset], recipients=[])
    assert own.inherits == ("airline/flights",)
    client.output("joined", inputs=[going.flights.dataset], recipients=["analyst"], parent=envelope)
    assert client.output("own", inputs=[going.flights.dataset], recipients=[]).inherits == ("airline/flights", "weather/hours")

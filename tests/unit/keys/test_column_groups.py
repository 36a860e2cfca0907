"""Column groups at the broker: each is released by the grants of its own key, and only as its table's signed manifest has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.broker_world import JOB, RUN, World, manifest, policy

from confide.canonical import Json
from confide.crypto.envelope import WrappedKey, wrap
from confide.crypto.secret import SecretBytes
from confide.errors import BrokerError, CredentialError, GrantError, KeyRevokedError, ManifestError, ParseError, RollbackError
from confide.ids import DatasetId, Purpose, Role
from confide.keys.column_groups import asked_groups
from confide.keys.records import Dataset, Release, run_ref
from confide.keys.released_keys import MintedDataset, ReleasedKey

BOTH = [Purpose.READ, Purpose.WRITE]


class Table:
    """A table of ``clinic`` with two column groups, of which one job was granted the table and ``diagnoses``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clinic = world.owner("clinic")
        for key in ("visits", "diagnoses", "names"):
            self.clinic.create_key(key)
        self.minted = self.clinic.mint_dataset("visits")
        self.groups = {name: self.clinic.mint_dataset(name) for name in ("diagnoses", "names")}
        self.envelope = self.signed(self.groups)
        self.clinic.register_manifest(self.envelope)
        for key in ("visits", "diagnoses"):
            self.clinic.grant(key, job=JOB, policy=policy(), roles=list(Role), purposes=BOTH)

    def signed(self, groups: dict[str, MintedDataset], snapshot: int = 1) -> Json:
        said = [{"name": name, "columns": ["x"], "wrapped": one.wrapped.to_json()} for name, one in groups.items()]
        return manifest(self.minted, self.world.credential("clinic").key, snapshot, groups=said)

    def asked(self, *names: str, envelope: Json | None = None, **ids: str) -> ReleasedKey:
        wanted = {name: DatasetId(ids.get(name, self.groups[name].dataset if name in self.groups else "0" * 32)) for name in names}
        (found,) = self.world.client(self.world.node()).releases([envelope or self.envelope], groups=[wanted])
        return found

    def given(self) -> set[str]:
        return {release.dataset for release in self.world.store.find(Release, run_ref(RUN))}


@pytest.fixture
def table(world: World) -> Table:
    return Table(world)


def test_a_granted_group_comes_with_its_table_and_each_is_recorded(table: Table) -> None:
    found = table.asked("diagnoses")
    assert found.secret.reveal() == table.minted.secret.reveal()
    assert {name: key.secret.reveal() for name, key in found.groups.items()} == {"diagnoses": table.groups["diagnoses"].secret.reveal()}
    assert set(found.groups["diagnoses"].grants) == {"clinic/diagnoses"}
    of_table, of_group = table.world.events("release")
    assert (of_table["key"], "group" in of_table) == ("clinic/visits", False)
    assert (of_group["key"], of_group["group"], of_group["table"]) == ("clinic/diagnoses", "diagnoses", table.minted.dataset)
    assert table.given() == {table.minted.dataset, table.groups["diagnoses"].dataset}


def test_the_table_alone_brings_no_group(table: Table) -> None:
    assert table.asked().groups == {}
    assert table.given() == {table.minted.dataset}


@pytest.mark.parametrize("asked", [("names",), ("diagnoses", "names")])
def test_a_group_without_a_grant_is_refused_and_nothing_is_given(table: Table, asked: tuple[str, ...]) -> None:
    with pytest.raises(GrantError, match="covers this job") as refusal:
        table.asked(*asked)
    assert refusal.value.facts["key"] == "clinic/names"
    assert table.given() == set()
    (event,) = table.world.events("refuse")
    assert (event["group"], event["table"], event["key"]) == ("names", table.minted.dataset, "clinic/names")


def test_a_group_that_the_manifest_does_not_have_is_refused(table: Table) -> None:
    with pytest.raises(ManifestError, match="no such column group"):
        table.asked("addresses")


def test_a_group_under_another_ones_name_is_given_by_its_own_keys_grants(table: Table) -> None:
    """Renaming is the owner's to do, and changes nothing: grants are by key."""
    renamed = table.signed({"diagnoses": table.groups["names"]}, snapshot=2)
    with pytest.raises(GrantError) as refusal:
        table.asked("diagnoses", envelope=renamed, diagnoses=table.groups["names"].dataset)
    assert refusal.value.facts["key"] == "clinic/names"


def test_groups_changed_by_anybody_else_are_refused(table: Table) -> None:
    said = [{"name": "diagnoses", "columns": ["x"], "wrapped": table.groups["diagnoses"].wrapped.to_json()}]
    forged = manifest(table.minted, table.world.credential("mallory").key, groups=said)
    with pytest.raises(ManifestError, match="not signed by the dataset's signer"):
        table.asked("diagnoses", envelope=forged)


def test_a_key_of_another_owner_is_no_group(table: Table) -> None:
    bank = table.world.owner("bank")
    theirs, _ = table.world.dataset(bank, "bank", "accounts")
    bank.grant("accounts", job=JOB, policy=policy())
    envelope = table.signed({"accounts": theirs}, snapshot=2)
    with pytest.raises(ManifestError, match="none of the table's owner"):
        table.asked("accounts", envelope=envelope, accounts=theirs.dataset)


def test_a_wrapped_key_that_the_broker_did_not_make_is_no_group(table: Table) -> None:
    own = table.groups["diagnoses"]
    made_up = wrap(SecretBytes.random(), SecretBytes.random(), key="clinic/diagnoses", version=1, dataset=own.dataset)
    envelope = table.signed({"diagnoses": MintedDataset(own.dataset, own.key, own.secret, made_up)}, snapshot=2)
    with pytest.raises(ManifestError, match="none of the table's owner"):
        table.asked("diagnoses", envelope=envelope)


def test_an_older_manifest_gives_no_group_either(table: Table) -> None:
    table.clinic.register_manifest(table.signed(table.groups, snapshot=2))
    with pytest.raises(RollbackError):
        table.asked("diagnoses")


def test_an_output_derives_from_the_groups_that_its_run_reads(table: Table) -> None:
    driver = table.world.client(table.world.node(Role.DRIVER))
    found = driver.output("result", inputs=[table.minted.dataset, table.groups["diagnoses"].dataset], recipients=[])
    assert found.inherits == ("clinic/diagnoses", "clinic/visits")


def test_a_group_given_later_is_inherited_too(table: Table) -> None:
    driver = table.world.client(table.world.node(Role.DRIVER))
    assert driver.output("result", inputs=[table.minted.dataset], recipients=[]).inherits == ("clinic/visits",)
    table.asked("diagnoses")
    assert driver.output("result", inputs=[table.minted.dataset], recipients=[]).inherits == ("clinic/diagnoses", "clinic/visits")


def test_a_rewrapped_group_is_the_same_group(table: Table) -> None:
    table.clinic.rotate_key("diagnoses")
    assert list(table.clinic.rewrap("diagnoses"))[-1].left == 0
    found = table.asked("diagnoses").groups["diagnoses"]
    assert (found.secret.reveal(), found.key.version) == (table.groups["diagnoses"].secret.reveal(), 2)


def test_a_group_that_is_taken_back_ends_the_run_that_has_it(table: Table) -> None:
    node = table.world.node()
    wanted = {"diagnoses": table.groups["diagnoses"].dataset}
    client = table.world.client(node)
    client.releases([table.envelope], groups=[wanted])
    (grant,) = (one for one in table.clinic.grants() if one.key == "clinic/diagnoses")
    table.clinic.revoke(grant.id)
    with pytest.raises(KeyRevokedError) as withdrawn:
        client.watch()
    assert withdrawn.value.facts["key"] == "clinic/diagnoses"


def test_the_owner_opens_groups_and_nobody_else_does(table: Table) -> None:
    assert table.clinic.open(table.envelope, "names").secret.reveal() == table.groups["names"].secret.reveal()
    with pytest.raises(ManifestError, match="no such column group"):
        table.clinic.open(table.envelope, "addresses")
    with pytest.raises(CredentialError):
        table.world.owner("bank").open(table.envelope, "names")
    (event,) = table.world.events("open")
    assert (event["group"], event["key"], event["dataset"]) == ("names", "clinic/names", table.minted.dataset)


def test_a_table_is_adopted_with_its_groups(table: Table) -> None:
    for one in (table.minted, *table.groups.values()):
        table.world.store.delete(Dataset, one.dataset)
    assert table.clinic.adopt_dataset(table.envelope)
    assert table.clinic.open(table.envelope, "names").secret.reveal() == table.groups["names"].secret.reveal()
    assert set(table.asked("diagnoses").groups) == {"diagnoses"}


def test_a_broker_that_answers_with_another_groups_key_is_not_believed(table: Table) -> None:
    with pytest.raises(BrokerError, match="another dataset's key"):
        table.asked("diagnoses", diagnoses=table.groups["names"].dataset)


@pytest.mark.parametrize("given", [{}, [], [["a"], ["b"]], ["a"], [[1]], [["a", "a"]], [None]])
def test_groups_of_a_request_are_lists_of_names_for_each_manifest(given: Any) -> None:
    with pytest.raises(ParseError):
        asked_groups(given, [{}])


def rewrapped(table: Table) -> WrappedKey:
    """The form of the group ``diagnoses`` after its key was put under a newer version."""
    table.clinic.rotate_key("diagnoses")
    list(table.clinic.rewrap("diagnoses"))
    return table.clinic.wrapped_form(table.envelope, "diagnoses")


def test_a_groups_newest_form_is_for_the_next_manifest(table: Table) -> None:
    own = table.groups["diagnoses"]
    form = rewrapped(table)
    assert (form.version, form.dataset, form.key) == (2, own.dataset, "clinic/diagnoses")
    newer = replace(own, wrapped=form)
    second = table.signed({**table.groups, "diagnoses": newer}, snapshot=2)
    table.clinic.register_manifest(second)
    assert table.asked("diagnoses", envelope=second).groups["diagnoses"].secret.reveal() == own.secret.reveal()
    table.clinic.rotate_key("diagnoses")
    list(table.clinic.rewrap("diagnoses"))
    assert table.clinic.open(second, "diagnoses").secret.reveal() == own.secret.reveal()
    (*_, event) = table.world.events("wrapped-form")
    assert (event["group"], event["table"], event["dataset"]) == ("diagnoses", table.minted.dataset, own.dataset)


def test_a_groups_form_is_for_who_signs_the_table_and_its_newest_manifest(table: Table) -> None:
    with pytest.raises(CredentialError):
        table.world.owner("bank").wrapped_form(table.envelope, "diagnoses")
    with pytest.raises(ManifestError, match="no such column group"):
        table.clinic.wrapped_form(table.envelope, "addresses")
    table.clinic.register_manifest(table.signed(table.groups, snapshot=2))
    with pytest.raises(RollbackError):
        table.clinic.wrapped_form(table.envelope, "diagnoses")


def test_no_form_of_another_owners_key_is_given_as_a_groups(table: Table) -> None:
    bank = table.world.owner("bank")
    theirs, _ = table.world.dataset(bank, "bank", "accounts")
    envelope = table.signed({"accounts": theirs}, snapshot=2)
    with pytest.raises(ManifestError, match="none of the table's owner"):
        table.clinic.wrapped_form(envelope, "accounts")


def test_a_table_that_is_adopted_anew_keeps_its_groups_newest_form(table: Table) -> None:
    """A broker that came back from a backup has forgotten that it gave the form out; the manifest that is adopted says so."""
    second = table.signed({**table.groups, "diagnoses": replace(table.groups["diagnoses"], wrapped=rewrapped(table))}, snapshot=2)
    row = table.world.store.get(Dataset, table.groups["diagnoses"].dataset)
    assert row is not None
    assert len(row.given) == 2
    with table.world.store.transaction():
        table.world.store.put(replace(row, given=row.given[:1]))
    table.clinic.adopt_dataset(second)
    table.clinic.rotate_key("diagnoses")
    list(table.clinic.rewrap("diagnoses"))
    assert table.clinic.open(second, "diagnoses").secret.reveal() == table.groups["diagnoses"].secret.reveal()


def test_a_group_is_opened_by_who_signs_for_its_key_not_only_for_the_tables(table: Table) -> None:
    """A credential that took over the table's key, and not the group's, has the table."""
    row = table.world.store.get(Dataset, table.groups["diagnoses"].dataset)
    assert row is not None
    with table.world.store.transaction():
        table.world.store.put(replace(row, signer=table.world.credential("mallory").key.public.spki_der))
    assert table.clinic.open(table.envelope).secret.reveal() == table.minted.secret.reveal()
    with pytest.raises(CredentialError, match="may not open that column group"):
        table.clinic.open(table.envelope, "diagnoses")
    with pytest.raises(CredentialError, match="no such column group"):
        table.clinic.wrapped_form(table.envelope, "diagnoses")

"""Jobs whose input has its key from a key broker service: ours, in a process of its own, and a stand-in of Trustee.  Over HTTPS."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.custody.tls import Tls
from support.kbs_world import Kbs
from support.node_services import node, read
from support.several_brokers import BrokerProcess
from support.stage import PEOPLE, Stage, outputs_of
from support.trustee_stand_in import TrusteeStandIn

from confide.canonical import canonical
from confide.crypto.secret import SecretBytes
from confide.data.commit import create_dataset
from confide.data.files import read_table
from confide.data.manifest import verify_manifest
from confide.data.snapshots import load_manifest
from confide.errors import (
    ConfideError,
    GrantError,
    JobError,
    ManifestError,
    ReceiptError,
    ResourceDeniedError,
    SecretLeakError,
    UnwrapError,
)
from confide.ids import JobDigest, Role, new_dataset_id
from confide.job import Job
from confide.job_form import kbs_resource
from confide.jobs import kbs_keys
from confide.jobs.inputs import open_inputs
from confide.jobs.receipt import load_bundle
from confide.jobs.release_checks import check_releases
from confide.jobs.statement import ReleaseEntry, Statement
from confide.keys.credentials import Credential
from confide.keys.kbs.dataset_key import key_of, wrap_dataset_key
from confide.keys.kbs.resources import ResourceName
from confide.keys.released_keys import ReleasedKey

NAME = ResourceName("airline", "key", "People_1")
FETCH = kbs_keys.fetch


@dataclass
class Kept:
    """A dataset whose key is at a key broker service: the job's words for it, and the resource's value."""

    stage: Stage
    source: dict[str, str]
    value: SecretBytes

    def job(self, **changes: Any) -> Job:
        inputs = {
            "people": {"path": str(self.stage.root / "kept"), "key": {**self.source, **changes.pop("source", {})}},
            "cities": {"path": str(self.stage.root / "cities")},
        }
        return self.stage.job(**{"inputs": inputs, **changes})


def encrypt(stage: Stage) -> SecretBytes:
    """The airline's dataset, as ``confide data encrypt --key-resource`` makes it."""
    value, dataset_key, dataset = SecretBytes.random(), SecretBytes.random(), new_dataset_id()
    wrapped = wrap_dataset_key(value, dataset_key, owner="airline", name=NAME, dataset=dataset)
    signer = Credential.load(stage.settings.credentials_dir, "airline").key
    create_dataset(PEOPLE, stage.root / "kept", name="people", owner="airline", dataset=dataset, dataset_key=dataset_key, wrapped=wrapped,
                   signer=signer, now=datetime.now(UTC))  # fmt: skip
    return value


@pytest.fixture(scope="module")
def value(stage: Stage) -> SecretBytes:
    return encrypt(stage)


@pytest.fixture
def ours(stage: Stage, value: SecretBytes, world: Kbs, service: BrokerProcess) -> Kept:
    assert world.post("airline", f"resource/{NAME.path}", value.reveal()).status == 200
    assert world.set_policy("airline", "nodes", stage.policy).status == 200
    world.set_rules("airline", [{"resource": "airline/key/*", "policy": "nodes"}])
    address = service.url.removeprefix("https://")
    return Kept(stage, {"resource": f"kbs://{address}/{NAME.path}", "spki": service.spki}, value)


@pytest.fixture
def trustee(tmp_path: Path) -> Iterator[TrusteeStandIn]:
    found = TrusteeStandIn(Tls(tmp_path / "tls"))
    yield found
    found.stop()


@pytest.fixture
def theirs(stage: Stage, value: SecretBytes, trustee: TrusteeStandIn) -> Kept:
    trustee.resources[NAME.path] = value.reveal()
    address = trustee.url.removeprefix("https://")
    return Kept(stage, {"resource": f"kbs://{address}/{NAME.path}", "ca": trustee.ca_pem}, value)


@pytest.fixture(params=["ours", "theirs"])
def kept(request: pytest.FixtureRequest) -> Kept:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


# --- whole runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.run
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("nothing_left_behind")
def test_job_runs_on_a_key_of_a_key_broker_service_to_a_receipt_that_names_it(kept: Kept) -> None:
    stage, job = kept.stage, kept.job(arguments=(kept.source["resource"],))
    stage.clients["weather"].grant("cities", job=JobDigest(job.digest), policy=stage.parsed, recipients=["analyst"])
    result, events = stage.run(job)
    statement = result.verification.require()
    assert kbs_resource(statement.form, "people") == kept.source["resource"]
    given = {row.node: (row.key, row.version, row.grants) for row in statement.releases if row.name == "people"}
    key = key_of("airline", NAME)
    assert given == dict.fromkeys(("driver", "worker-1", "worker-2"), (key.id, 1, {}))
    assert any(kept.source["resource"] in str(check) for check in result.verification.checks)
    opened = [event for event in events if event.type == "key-opened" and event.fields["name"] == "people"]
    assert {event.fields["source"] for event in opened} == {kept.source["resource"]}
    signed = load_manifest(Path(job.outputs["summary"].path))
    secret = stage.clients["analyst"].open(signed.envelope).secret
    table = read_table(signed.folder, verify_manifest(signed.envelope, signed.signer), secret).sort_by("country").to_pylist()
    assert table == [{"country": "a", "count": 40}, {"country": "b", "count": 60}]
    _receipt_with_other_releases_is_refused(result.folder)


def _receipt_with_other_releases_is_refused(folder: Path) -> None:
    from confide.crypto.sign import unverified_payload

    statement = Statement.from_bytes(unverified_payload(load_bundle(folder).receipt))
    row = next(row for row in statement.releases if row.name == "people")
    grant = {"grant": "ab" * 8, "policy": "cd" * 48}
    wrong: list[ReleaseEntry] = [
        dataclasses.replace(row, grants={row.key: grant}),
        dataclasses.replace(row, key="airline/kbs-" + "0" * 32),
        dataclasses.replace(row, version=2),
        dataclasses.replace(next(one for one in statement.releases if one.name == "cities"), grants={}),
    ]
    check_releases(statement, {})
    for one in wrong:
        with pytest.raises(ReceiptError):
            check_releases(dataclasses.replace(statement, releases=(*statement.releases, one)), {})


@pytest.mark.run
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("nothing_left_behind")
def test_refusal_of_the_service_is_told_to_the_user_with_code_and_hint(ours: Kept, world: Kbs) -> None:
    world.set_rules("airline", [])
    job = ours.job(arguments=("refused",))
    ours.stage.clients["weather"].grant("cities", job=JobDigest(job.digest), policy=ours.stage.parsed, recipients=["analyst"])
    with pytest.raises(ResourceDeniedError) as refused:
        ours.stage.run(job)
    assert refused.value.code == "resource-denied"
    assert NAME.path in refused.value.message
    assert refused.value.hint
    assert outputs_of(job) == []


# --- a node's keys ---------------------------------------------------------------------------------------------------------


def test_worker_holds_the_key_and_driver_proves_that_it_is_admitted(kept: Kept) -> None:
    job = kept.job()
    found = open_inputs(job)["people"]
    with node(kept.stage, job) as (there, keys):
        keys.open_inputs([found])
        assert read(keys, found)
        assert [(one["key"], one["grants"]) for one in there.told] == [(key_of("airline", NAME).id, {})]
    with node(kept.stage, job, Role.DRIVER) as (there, keys):
        keys.prove_admitted(found)
        assert len(there.told) == 1
        with pytest.raises(ManifestError):  # it proved that it might, and keeps nothing
            read(keys, found)


def test_what_the_service_takes_back_ends_with_the_lease(ours: Kept, world: Kbs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol has no push: a service's owner waits for five minutes at most (here: no time)."""
    assert timedelta() < kbs_keys.LEASE <= timedelta(minutes=5)
    monkeypatch.setattr(kbs_keys, "LEASE", timedelta(milliseconds=500))
    job = ours.job()
    found = open_inputs(job)["people"]
    with node(ours.stage, job) as (_, keys):
        keys.open_inputs([found])
        read(keys, found)
        world.set_rules("airline", [])
        import time

        time.sleep(0.6)
        with pytest.raises(ResourceDeniedError):
            read(keys, found)


@pytest.mark.parametrize("resource", [bytes(31), b"0" * 64, b'{"kty":"oct","k":"AAAA"}', bytes(32)], ids=["short", "hex", "jwk", "other"])
def test_resource_that_is_not_the_key_opens_nothing(theirs: Kept, trustee: TrusteeStandIn, resource: bytes) -> None:
    trustee.resources[NAME.path] = resource
    job = theirs.job()
    with node(theirs.stage, job) as (there, keys), pytest.raises(UnwrapError):
        keys.open_inputs([open_inputs(job)["people"]])
    assert there.told == []


def test_services_key_is_wiped_when_the_broker_refuses_the_others(theirs: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    job = theirs.job(arguments=(secrets.token_hex(8),))  # its owners have granted nothing to it
    fetched: list[SecretBytes] = []

    def fetch(*words: Any) -> ReleasedKey:
        key = FETCH(*words)
        fetched.append(key.secret)
        return key

    monkeypatch.setattr(kbs_keys, "fetch", fetch)
    with node(theirs.stage, job) as (there, keys), pytest.raises(GrantError):
        keys.open_inputs([*open_inputs(job).values()])
    assert there.told == []
    with pytest.raises(SecretLeakError, match="wiped"):
        fetched[0].reveal()


def test_another_resource_than_the_dataset_is_under_is_refused(theirs: Kept, trustee: TrusteeStandIn) -> None:
    trustee.resources["airline/key/other"] = theirs.value.reveal()
    other = theirs.source["resource"].replace(NAME.tag, "other")
    job = theirs.job(source={"resource": other})
    with node(theirs.stage, job) as (_, keys), pytest.raises(ManifestError, match="another key"):
        keys.open_inputs([open_inputs(job)["people"]])


def test_denied_missing_and_false_services_give_no_key(theirs: Kept, trustee: TrusteeStandIn, tmp_path: Path) -> None:
    def code(job: Job) -> str:
        with node(theirs.stage, job) as (_, keys), pytest.raises(ConfideError) as refused:
            keys.open_inputs([open_inputs(job)["people"]])
        assert refused.value.hint or refused.value.code == "resource-missing"
        return refused.value.code

    trustee.denied.add(NAME.path)
    assert code(theirs.job()) == "resource-denied"
    trustee.denied.clear()
    trustee.resources.clear()
    assert code(theirs.job()) == "resource-missing"
    asked = len(trustee.asked)
    stranger = Tls(tmp_path / "stranger").ca.read_text(encoding="ascii")
    assert code(theirs.job(source={"ca": stranger})) == "kbs-unavailable"
    assert code(theirs.job(source={"ca": "", "spki": "00" * 32})) == "kbs-unavailable"
    assert len(trustee.asked) == asked  # nothing was sent to a server that is not the one that the job names


# --- the job -------------------------------------------------------------------------------------------------------------------


def test_source_is_in_the_digest_and_jobs_without_one_have_the_digest_that_they_had(theirs: Kept) -> None:
    job = theirs.job()
    form = job.canonical_form()
    assert set(form["inputs"]["cities"]) == {"dataset", "signer"}
    assert set(form["inputs"]["people"]["key"]) == {"resource", "ca"}
    changed = [
        theirs.job(source={"resource": theirs.source["resource"] + "x"}),
        theirs.job(source={"ca": theirs.source["ca"] + "\n"}),
        theirs.job(source={"ca": "", "spki": "00" * 32}),
    ]
    assert len({job.digest, *(one.digest for one in changed)}) == 4
    assert canonical(Job.from_json(job.to_json()).canonical_form()) == canonical(form)


@pytest.mark.parametrize("source", [
    {"resource": "https://kbs.example/a/b/c"}, {"resource": "kbs:///a/b/c"}, {"resource": "kbs://h/a/b"}, {"resource": "kbs://h/a/../c"},
    {"resource": "kbs://u@h/a/b/c"}, {"resource": "kbs://h/a/b/c?d"}, {"ca": ""}, {"spki": "00" * 32}, {"spki": "zz"}, {"verify": False},
], ids=str)  # fmt: skip
def test_source_of_another_form_or_without_one_trust_is_no_job(theirs: Kept, source: dict[str, Any]) -> None:
    with pytest.raises(JobError):
        theirs.job(source=source)


def test_job_file_names_the_resource_and_the_certificates(theirs: Kept, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(theirs.source["ca"])
    (tmp_path / "p.py").write_text("")
    (tmp_path / "p.json").write_bytes(canonical(theirs.stage.policy))
    text = (
        'name = "j"\nprogram = "p.py"\npolicy = "p.json"\n[broker]\nurl = "https://h:1"\nspki = "' + "00" * 32 + '"\n'
        f'[inputs.people]\npath = "{theirs.stage.root / "kept"}"\nkey = "{theirs.source["resource"]}"\n'
    )
    (tmp_path / "job.toml").write_text(text + 'key_ca = "ca.pem"\n')
    found = Job.load(tmp_path / "job.toml").inputs["people"].key
    assert found is not None
    assert (found.resource, found.ca, found.spki) == (theirs.source["resource"], theirs.source["ca"], "")
    for wrong in ("", 'key_ca = "none.pem"\n', 'key_ca = "ca.pem"\nkey_spki = "' + "00" * 32 + '"\n', "key_ca = 1\n"):
        (tmp_path / "job.toml").write_text(text + wrong)
        with pytest.raises(JobError):
            Job.load(tmp_path / "job.toml")


def test_job_whose_inputs_are_all_elsewhere_is_refused_before_it_starts_anything(theirs: Kept) -> None:
    from confide.jobs.workload import JobDriver

    job = theirs.job()
    job = job.model_copy(update={"inputs": {"people": job.inputs["people"]}})
    with node(theirs.stage, job, Role.DRIVER) as (there, _), pytest.raises(JobError, match="no input is at the broker"):
        JobDriver().prepare(there.services)

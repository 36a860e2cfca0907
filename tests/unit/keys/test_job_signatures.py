"""Grants to the jobs of a signer, over TLS against a real broker: the flow, and attacks on it."""

from __future__ import annotations

from typing import Any

import pytest
from support.broker_world import JOB, OTHER_JOB, World, manifest, policy

from confide.canonical import Json
from confide.crypto.sign import SigningKey, dsse_sign, unverified_payload
from confide.errors import CredentialError, GrantError, ParseError, UsageError
from confide.ids import JobDigest, Role, RunId
from confide.keys import grants, job_signatures
from confide.keys.client import OwnerClient
from confide.keys.job_signatures import PAYLOAD_TYPE, JobSignature, verify_all


@pytest.fixture(scope="module")
def reviewer() -> SigningKey:
    return SigningKey.generate()


def signed(key: SigningKey, job: JobDigest = JOB, **changes: Any) -> Json:
    return {**JobSignature.sign(key, job).to_json(), **changes}


class Trusting:
    """An airline whose flights are granted to whatever the reviewer has signed."""

    def __init__(self, world: World, reviewer: SigningKey, **terms: Any) -> None:
        self.world = world
        self.airline: OwnerClient = world.owner("airline")
        self.minted, self.envelope = world.dataset(self.airline, "airline", "flights")
        self.grant = self.airline.grant("flights", signer=reviewer.spki_digest, policy=policy(), **terms)

    def release(self, *signatures: Json, **node: Any) -> bytes:
        return self.world.client(self.world.node(**node), signatures=signatures).release(self.envelope).secret.reveal()


@pytest.fixture
def trusting(world: World, reviewer: SigningKey) -> Trusting:
    return Trusting(world, reviewer)


# --- the flow -------------------------------------------------------------------------------------------------------


def test_job_that_the_signer_has_signed_gets_the_key(trusting: Trusting, reviewer: SigningKey) -> None:
    other = signed(SigningKey.generate())
    assert trusting.release(other, signed(reviewer)) == trusting.minted.secret.reveal()
    assert trusting.release(signed(reviewer, OTHER_JOB), job=OTHER_JOB) == trusting.minted.secret.reveal()
    (event, _) = trusting.world.events("release")
    assert event["grants"] == [trusting.grant.id]


def test_grant_is_for_one_job_or_for_one_signer(world: World, reviewer: SigningKey) -> None:
    airline = world.owner("airline")
    airline.create_key("flights")
    for wrong in ({}, {"job": JOB, "signer": reviewer.spki_digest}, {"signer": "Ab" * 32}):
        with pytest.raises(UsageError):
            airline.grant("flights", policy=policy(), **wrong)


def test_runs_of_different_jobs_with_one_name_are_counted_apart(world: World, reviewer: SigningKey) -> None:
    trusting = Trusting(world, reviewer, max_runs=1)
    run = RunId("same-name")
    trusting.release(signed(reviewer), run=run)
    with pytest.raises(GrantError, match="all the runs"):
        trusting.release(signed(reviewer, OTHER_JOB), job=OTHER_JOB, run=run)


def test_recipients_open_outputs_of_signed_jobs_and_no_others(world: World, reviewer: SigningKey) -> None:
    trusting, analyst = Trusting(world, reviewer), world.owner("analyst")
    trusting.airline.grant("flights", signer=reviewer.spki_digest, policy=policy(), recipients=["analyst"])
    driver = world.node(Role.DRIVER)
    client = world.client(driver, signatures=[signed(reviewer)])
    output = client.output("result", inputs=[trusting.minted.dataset], recipients=["analyst", "airline"])
    assert (output.recipients, output.inherits) == (("analyst",), ("airline/flights",))
    made = manifest(output, driver.identity.key)
    client.register_manifest(made)
    assert analyst.open(made).secret.reveal() == output.secret.reveal()
    for grant in trusting.airline.grants():
        trusting.airline.revoke(grant.id)
    with pytest.raises(CredentialError):
        analyst.open(made)


def test_recipients_of_a_signers_grant_get_nothing_of_a_job_that_was_not_signed(world: World, reviewer: SigningKey) -> None:
    trusting, analyst = Trusting(world, reviewer), world.owner("analyst")
    trusting.airline.grant("flights", signer=reviewer.spki_digest, policy=policy(), recipients=["analyst"])
    trusting.airline.grant("flights", job=JOB, policy=policy())
    output = world.client(world.node(Role.DRIVER)).output("result", inputs=[trusting.minted.dataset], recipients=["analyst"])
    assert output.recipients == ()
    assert analyst.keys() == ()


# --- attacks --------------------------------------------------------------------------------------------------------


def test_job_without_a_signature_gets_no_key(trusting: Trusting) -> None:
    with pytest.raises(GrantError, match="covers this job"):
        trusting.release()
    assert ("release", "grant-missing") in trusting.world.refusals()


def test_signature_of_somebody_else_gets_no_key(trusting: Trusting, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GrantError, match="covers this job"):
        trusting.release(signed(SigningKey.generate()))
    monkeypatch.setattr(grants, "covers", lambda *_: True)
    assert trusting.release(signed(SigningKey.generate()))


def test_signature_that_was_kept_for_one_run_does_not_stand_in_for_one_that_is_not_shown(trusting: Trusting, reviewer: SigningKey) -> None:
    trusting.release(signed(reviewer))
    with pytest.raises(GrantError, match="covers this job"):
        trusting.release(run=RunId("another"))


def test_signature_of_another_job_is_refused(trusting: Trusting, reviewer: SigningKey) -> None:
    with pytest.raises(GrantError, match="another job"):
        trusting.release(signed(reviewer, OTHER_JOB))
    with pytest.raises(GrantError, match="another job"):
        trusting.release({**signed(reviewer, OTHER_JOB), "job": JOB})
    assert ("job-signature", "grant-missing") in trusting.world.refusals()


def test_signature_with_the_signers_name_and_another_key_is_refused(
    trusting: Trusting, reviewer: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    thief = SigningKey.generate()
    honest, forged = signed(reviewer), signed(thief)
    renamed = {**forged["envelope"], "signatures": [{**forged["envelope"]["signatures"][0], "keyid": reviewer.spki_digest}]}
    for lie in (
        {**forged, "signer": honest["signer"]},
        {**forged, "signer": honest["signer"], "envelope": renamed},
        {**honest, "signer": forged["signer"]},
        {**honest, "envelope": {**honest["envelope"], "payload": signed(reviewer, OTHER_JOB)["envelope"]["payload"]}},
    ):
        with pytest.raises(GrantError, match="does not verify"):
            trusting.release(lie)
    monkeypatch.setattr(job_signatures, "dsse_verify", lambda envelope, *_: unverified_payload(envelope))
    assert trusting.release({**forged, "signer": honest["signer"]})


def test_what_the_signer_signed_for_another_use_is_no_signature_of_a_job(trusting: Trusting, reviewer: SigningKey) -> None:
    payload = signed(reviewer)["envelope"]["payload"]
    other = dsse_sign(reviewer, "application/vnd.confide.approval+json", payload.encode())
    with pytest.raises(GrantError, match="does not verify"):
        trusting.release(signed(reviewer, envelope=other))
    loose = dsse_sign(reviewer, PAYLOAD_TYPE, b'{"format":"confide-job-signature-v1"}')
    with pytest.raises(GrantError, match="another job"):
        trusting.release(signed(reviewer, envelope=loose))


@pytest.mark.parametrize("wrong", [{}, {"format": "x"}, {"more": 1}, {"signer": 3}, {"signer": "bm8ga2V5"}, {"envelope": {}}], ids=str)
def test_what_is_no_signature_is_refused(trusting: Trusting, reviewer: SigningKey, wrong: Json) -> None:
    with pytest.raises(GrantError):
        trusting.release(signed(reviewer, **wrong) if wrong else {})


def test_too_many_signatures_are_refused(trusting: Trusting, reviewer: SigningKey) -> None:
    with pytest.raises(GrantError, match="at most 16"):
        trusting.release(*[signed(reviewer)] * 17)


def test_kept_signature_is_verified_when_it_is_read(reviewer: SigningKey) -> None:
    kept = JobSignature.sign(reviewer, JOB)
    assert JobSignature.from_json(kept.to_json()) == kept
    assert verify_all([kept.to_json()], JOB) == (kept,)
    for wrong in ({"job": OTHER_JOB}, {"job": None}, {"envelope": {}}):
        with pytest.raises(ParseError):
            JobSignature.from_json({**kept.to_json(), **wrong})


def test_signatures_that_are_no_list_are_refused(trusting: Trusting, reviewer: SigningKey, monkeypatch: pytest.MonkeyPatch) -> None:
    client = trusting.world.client(trusting.world.node())
    monkeypatch.setattr(client, "_shown", lambda: {"signatures": signed(reviewer)})
    with pytest.raises(ParseError, match="list"):
        client.release(trusting.envelope)
    monkeypatch.setattr(client, "_shown", lambda: {"more": []})
    with pytest.raises(ParseError, match="not a release"):
        client.release(trusting.envelope)

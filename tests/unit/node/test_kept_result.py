"""A run's result that is kept for its client: nobody else reads it, nobody changes it unnoticed, and only the run's driver makes one."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from confide.attest.binding import SessionBinding
from confide.attest.evidence import NodeContext
from confide.attest.insecure import Fault
from confide.attest.policy import Policy
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import Json, b64url, from_b64url
from confide.crypto.seal import SealKey
from confide.crypto.sign import SigningKey, dsse_sign
from confide.errors import AppraisalError, AttestationError, BindingError, ProtocolError
from confide.ids import JobDigest, NodeId, Nonce, ReportData, Role, RunId
from confide.node import kept_result
from confide.node.kept_result import KeptResult, open_result, seal_result
from confide.node.record import EvidenceRecord
from confide.node.session import VerifierSide

RUN, NODE = RunId("demo-1"), NodeId("driver")
CLIENT = SigningKey.generate()
RESULT: Json = {"ok": True, "summary": {"rows": 3}, "receipt": {"arguments": ["--patient", "4711"]}}


@dataclass
class Driver:
    """A node with a key and evidence for it."""

    world: Any
    run: RunId = RUN
    node: str = "driver"
    role: Role = Role.DRIVER
    job: JobDigest | None = None
    fault: Fault | None = None

    def __post_init__(self) -> None:
        self.key = SigningKey.generate()
        context = NodeContext(self.job or self.world.job.digest, self.run, NodeId(self.node), SealKey.generate().public_jwk())
        nonce, exporter = Nonce(secrets.token_bytes(32)), secrets.token_bytes(32)
        binding = SessionBinding(role=self.role, exporter=exporter, nonce=nonce, spki=self.key.spki_der, context=context)
        evidence = self.world.attester(self.fault).quote(ReportData(binding.report_data))
        self.shown = EvidenceRecord(self.role, context, evidence, exporter, nonce, self.key.spki_der, datetime.now(UTC))

    def seal(self, result: Json = RESULT, client: SigningKey = CLIENT) -> str:
        return seal_result(result, client.spki_der, self.key, self.shown)


@pytest.fixture
def driver(world: Any) -> Driver:
    return Driver(world)


@pytest.fixture
def kept(driver: Driver) -> str:
    return driver.seal()


def take(kept: str | KeptResult, world: Any, *, known: Driver | None = None, run: RunId = RUN, policy: Policy | None = None) -> Json:
    """The result, as a client takes it that has attested the driver ``known``, or none."""
    found = open_result(kept, CLIENT, run) if isinstance(kept, str) else kept
    side = world.side if policy is None else VerifierSide(world.verifier, policy)
    key = None if known is None else known.key.spki_digest
    return found.by_driver(NODE, job=world.job.digest, run=run, side=side, known=key)


@pytest.fixture(params=["driver known", "driver not known"])
def pinned(request: pytest.FixtureRequest, driver: Driver) -> Driver | None:
    return driver if request.param == "driver known" else None


# --- sealed --------------------------------------------------------------------------------------------------------


def test_the_client_reads_what_was_kept(kept: str, world: Any, pinned: Driver | None) -> None:
    assert take(kept, world, known=pinned) == RESULT


def test_nothing_of_it_is_to_be_read(kept: str, driver: Driver) -> None:
    body = from_b64url(json.loads(kept)["body"])
    assert b"patient" not in body
    assert "patient" not in kept
    assert driver.seal() != kept


def test_another_client_or_run_is_refused(kept: str) -> None:
    with pytest.raises(ProtocolError):
        open_result(kept, SigningKey.generate(), RUN)
    with pytest.raises(ProtocolError):
        open_result(kept, CLIENT, RunId("demo-2"))


def test_any_changed_byte_is_refused(kept: str) -> None:
    fields = json.loads(kept)
    body = from_b64url(fields["body"])
    for place in range(0, len(body), 7):
        changed = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        with pytest.raises(ProtocolError):
            open_result(json.dumps({**fields, "body": b64url(changed)}), CLIENT, RUN)


def test_a_truncated_one_is_refused(kept: str) -> None:
    fields = json.loads(kept)
    body = from_b64url(fields["body"])
    for length in (0, 11, 12, 28, len(body) // 2, len(body) - 1):
        with pytest.raises(ProtocolError):
            open_result(json.dumps({**fields, "body": b64url(body[:length])}), CLIENT, RUN)
    for length in (0, 1, len(kept) // 2, len(kept) - 1):
        with pytest.raises(ProtocolError):
            open_result(kept[:length], CLIENT, RUN)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"key": "a.b.c.d.e", "body": ""}', '{"key": 1, "body": 2}'])
def test_what_is_no_result_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        open_result(text, CLIENT, RUN)


def test_a_result_that_unpacks_without_end_is_refused(driver: Driver) -> None:
    kept = driver.seal({"a": "b" * 10_000})
    with pytest.raises(ProtocolError, match="too large"):
        open_result(kept, CLIENT, RUN, most=1000)


# --- signed by the driver --------------------------------------------------------------------------------------------

FORGED: Json = {"ok": False, "error": {"code": "job-failed", "message": "run it again, without --encrypt"}, "evidence": {}}
"""What a control plane would like the client to believe; it knows the client's key, with which it can seal."""


def test_a_result_sealed_by_whoever_keeps_it_is_refused(driver: Driver, world: Any, pinned: Driver | None) -> None:
    """It has a key of its own, and the driver's evidence, which is no secret."""
    forged = seal_result(FORGED, CLIENT.spki_der, SigningKey.generate(), driver.shown)
    with pytest.raises(BindingError, match="not signed by the run's driver"):
        take(forged, world, known=pinned)


def test_a_result_signed_by_a_node_without_a_tee_is_refused(driver: Driver, world: Any) -> None:
    stranger = SigningKey.generate()
    forged = seal_result(FORGED, CLIENT.spki_der, stranger, replace(driver.shown, spki=stranger.spki_der))
    with pytest.raises(AttestationError):
        take(forged, world)
    with pytest.raises(BindingError, match="by another key"):
        take(forged, world, known=driver)


def test_another_result_under_the_drivers_signature_is_refused(kept: str, world: Any, pinned: Driver | None) -> None:
    found = open_result(kept, CLIENT, RUN)
    with pytest.raises(BindingError, match="signed another result"):
        take(replace(found, result=FORGED), world, known=pinned)
    changed = {**RESULT, "summary": {"rows": 4}}
    with pytest.raises(BindingError, match="signed another result"):
        take(replace(found, result=changed), world, known=pinned)


def test_a_stripped_signature_is_refused(driver: Driver, monkeypatch: pytest.MonkeyPatch, world: Any, pinned: Driver | None) -> None:
    for stripped in ({}, {**dsse_sign(driver.key, kept_result.PAYLOAD_TYPE, b"{}"), "signatures": []}):
        monkeypatch.setattr(kept_result, "dsse_sign", lambda *_, stripped=stripped: stripped)
        with pytest.raises(BindingError, match="not signed by the run's driver"):
            take(driver.seal(), world, known=pinned)


def test_a_result_without_a_part_is_refused(driver: Driver) -> None:
    whole: Json = {"result": RESULT, "signed": {}, "evidence": driver.shown.to_json()}
    for name in whole:
        with pytest.raises(ProtocolError):
            KeptResult.parse(json.dumps({part: value for part, value in whole.items() if part != name}).encode(), CLIENT.spki_der)
        with pytest.raises(ProtocolError):
            KeptResult.parse(json.dumps({**whole, name: None}).encode(), CLIENT.spki_der)


def test_a_result_of_another_run_is_refused(world: Any) -> None:
    """Of the same job and the same client, sealed anew as the run's."""
    other = Driver(world, run=RunId("demo-0"))
    found = open_result(other.seal(), CLIENT, RunId("demo-0"))
    with pytest.raises(BindingError, match="another run"):
        take(found, world)


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"role": Role.WORKER}, "role"), ({"node": "worker-1"}, "node"), ({"job": "0" * 96}, "job digest"), ({"run": "demo-0"}, "run")],
)
def test_a_result_signed_by_another_node_is_refused(world: Any, driver: Driver, changes: Json, what: str) -> None:
    """One whose evidence is genuine, and accepted where it belongs."""
    other = Driver(world, **changes)
    for known in (driver, other, None):
        with pytest.raises(BindingError, match=f"by another {what}"):
            take(open_result(other.seal(), CLIENT, other.run), world, known=known)


def test_a_result_for_another_client_is_refused(driver: Driver, world: Any, pinned: Driver | None) -> None:
    """The driver of a run that the control plane has started for itself, with a client of its own, signs results for that client."""
    other = SigningKey.generate()
    found = open_result(driver.seal(client=other), other, RUN)
    with pytest.raises(BindingError, match="signed another result"):
        take(replace(found, client=CLIENT.spki_der), world, known=pinned)


def test_a_second_driver_is_not_the_one_that_was_attested(driver: Driver, world: Any) -> None:
    second = Driver(world)
    assert take(second.seal(), world) == RESULT
    with pytest.raises(BindingError, match="by another key"):
        take(second.seal(), world, known=driver)


@pytest.mark.parametrize("change", [lambda r: replace(r, nonce=Nonce(bytes(32))), lambda r: replace(r, exporter=bytes(32))])
def test_evidence_that_does_not_hold_the_drivers_key_is_refused(
    world: Any, driver: Driver, change: Callable[[EvidenceRecord], EvidenceRecord]
) -> None:
    driver.shown = change(driver.shown)
    with pytest.raises(BindingError):
        take(driver.seal(), world)


def test_a_driver_that_the_policy_would_refuse_is_refused(world: Any) -> None:
    other = replace(world, verifier=Verifier(TrustRoots(), world.installation.collateral_source()))
    driver = Driver(world)
    with pytest.raises(AttestationError):
        take(driver.seal(), other)


def test_a_driver_in_debug_mode_is_refused_by_a_client_that_did_not_attest_it(world: Any) -> None:
    with pytest.raises(AppraisalError):
        take(Driver(world, fault=Fault.DEBUG).seal(), world)


def test_a_driver_with_other_init_data_is_refused_by_a_client_that_did_not_attest_it(world: Any, driver: Driver) -> None:
    found = open_result(driver.seal(), CLIENT, RUN)
    side = VerifierSide(world.verifier, world.policy, init_data="11" * 64)
    with pytest.raises(AppraisalError, match="init-data"):
        found.by_driver(NODE, job=world.job.digest, run=RUN, side=side, known=None)

"""What others say of a node (a token, a certificate's quote) has claims too, and is a result nowhere: by type and at run time."""

from __future__ import annotations

import typing
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto.jwk import JWK
from support.ratls import gramine

from confide.attest.binding import SessionBinding
from confide.attest.ear import EarClaims, EarReader, EarRequest, write_ear
from confide.attest.evidence import Evidence
from confide.attest.policy import AttestationResult, Policy, Rules, appraise
from confide.attest.ratls import UnboundResult, verify_ratls
from confide.attest.tokens.verified import VerifiedToken
from confide.attest.verify import VerifiedEvidence, Verifier
from confide.ids import JobDigest, Purpose, Role, Tee
from confide.keys.grants import Decision, Grant, Request, Standing, decide


@pytest.fixture(scope="module")
def accepting(measurements: dict[Tee, str]) -> Policy:
    return Rules(name="p", measurements={tee: (value,) for tee, value in measurements.items()}, allow=("simulated",))


@pytest.fixture
def unbound(make_evidence: Callable[..., Evidence], verifier: Verifier, accepting: Policy, now: datetime) -> UnboundResult:
    return verify_ratls(gramine(make_evidence, now), verifier, accepting, now=now, accept_not_session_bound=True)


@pytest.fixture
def ear(result: AttestationResult, signing_key: ec.EllipticCurvePrivateKey, now: datetime) -> EarClaims:
    text = write_ear(result, EarRequest("confide-broker", "us"), signing_key, now=now)
    return EarReader("confide-broker", JWK.from_pyca(signing_key.public_key()), "us").read(text, now=now)


class Lookalike:
    """What an attacker of the calling code would hand in: every field that a result has."""

    def __init__(self, of: AttestationResult) -> None:
        self.claims, self.policy_digest, self.role, self.context = of.claims, of.policy_digest, of.role, of.context


def test_no_key_is_granted_on_anything_but_a_result(
    unbound: UnboundResult, ear: EarClaims, result: AttestationResult, accepting: Policy, now: datetime
) -> None:
    job: JobDigest = result.context.job
    roles, purposes = [Role.WORKER], [Purpose.READ]
    grant = Grant.new(
        "airline/flights", job=job, policy=accepting, roles=roles, purposes=purposes, recipients=[], not_after=now + timedelta(1), now=now
    )
    request = Request("airline/flights", job, Role.WORKER, Purpose.READ, result.context.run, frozenset())
    standings = {grant.id: Standing(needed=0)}
    assert decide([grant], request, lambda _: result, now, standings).result is result
    for other in (unbound, ear, Lookalike(result), None):
        with pytest.raises(TypeError, match="results of appraise only"):
            decide([grant], request, cast(Any, lambda _, other=other: other), now, standings)
        with pytest.raises(TypeError, match="results of appraise only"):
            Decision(grant, cast(Any, other))


def test_nothing_but_what_was_verified_is_appraised(
    unbound: UnboundResult, ear: EarClaims, result: AttestationResult, binding: SessionBinding, *, accepting: Policy, now: datetime
) -> None:
    """Even where its claims hold this session's report data: who verified it, and against what, is not known of it."""
    for other in (unbound, ear, result, Lookalike(result)):
        with pytest.raises(TypeError, match="appraised"):
            appraise(cast(Any, other), accepting, binding, now=now)


def test_types_say_so_too() -> None:
    granted = typing.get_type_hints(Decision)["result"]
    judged = typing.get_args(typing.get_type_hints(appraise, globalns=_names())["verified"])
    assert granted is AttestationResult
    assert set(judged) == {VerifiedEvidence, VerifiedToken}
    for other in (UnboundResult, EarClaims):
        assert not issubclass(other, AttestationResult | VerifiedEvidence | VerifiedToken)


def _names() -> dict[str, Any]:
    return {**vars(__import__("confide.attest.appraisal", fromlist=["_"])), **globals()}

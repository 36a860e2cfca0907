"""A simulated vendor whose every key the attacker may hold, and what an honest verifier accepts of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from confide.attest import intel
from confide.attest.binding import SessionBinding
from confide.attest.collateral import Collateral
from confide.attest.collateral_sources import FixedCollateral
from confide.attest.evidence import Evidence, NodeContext
from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.attest.insecure.authority import Signer
from confide.attest.insecure.installation import raw_signature
from confide.attest.intel_tcb import PlatformRatings, QeRatings
from confide.attest.policy import AttestationResult, Policy, appraise
from confide.attest.quote import Quote, TdBody, parse_quote
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import b64url
from confide.ids import JobDigest, NodeId, Nonce, ReportData, Role, RunId, Tee

NOW = datetime(2030, 6, 1, tzinfo=UTC)

MEASUREMENTS = {Tee.SGX: "5a" * 32, Tee.TDX: "5a" * 48}

BOTH = pytest.mark.parametrize("tee", [Tee.SGX, Tee.TDX])

CONTEXT = NodeContext(
    JobDigest("ab" * 48),
    RunId("demo-0123456789ab"),
    NodeId("worker-1"),
    {"kty": "EC", "crv": "P-256", "x": b64url(bytes(32)), "y": b64url(bytes(32))},
)

BINDING = SessionBinding(Role.WORKER, b"e" * 32, Nonce(b"n" * 32), b"spki", CONTEXT)

POLICY = Policy.from_json(
    {"name": "demo", "measurements": {tee.value: [value] for tee, value in MEASUREMENTS.items()}, "allow": ["simulated"]}
)


def accept(verifier: Verifier, evidence: Evidence, binding: SessionBinding = BINDING) -> AttestationResult:
    return appraise(verifier.verify(evidence, NOW), POLICY, binding, now=NOW)


def pem(*signers: Signer) -> str:
    return "".join(signer.certificate.public_bytes(Encoding.PEM).decode() for signer in signers)


def signed_tcb(collateral: Collateral, signer: Signer, chain: str, **changes: object) -> Collateral:
    """The collateral with a TCB info of the attacker's, signed by ``signer``."""
    text = json.dumps({**collateral.tcb, **changes})
    signature = raw_signature(signer.key, text.encode())
    return dataclasses.replace(collateral, tcb_info=text, tcb_info_signature=signature, tcb_info_issuer_chain=chain)


def all_up_to_date(collateral: Collateral) -> list[object]:
    return [{**level, "tcbStatus": "UpToDate", "advisoryIDs": []} for level in collateral.tcb["tcbLevels"]]


def resigned(quote: Quote, key: ec.EllipticCurvePrivateKey) -> Evidence:
    signature = dataclasses.replace(quote.signature, signature=raw_signature(key, quote.signed_bytes))
    return Evidence(quote.tee, dataclasses.replace(quote, signature=signature).to_bytes())


def td(vendor: Installation, attributes: int) -> Evidence:
    """A simulated TD with other attributes."""
    attester = InsecureAttester(vendor, Tee.TDX, MEASUREMENTS[Tee.TDX])
    quote = parse_quote(attester.quote(BINDING.report_data).quote)
    assert isinstance(quote.body, TdBody)
    body = dataclasses.replace(quote.body, td_attributes=attributes.to_bytes(8, "little"))
    return resigned(dataclasses.replace(quote, body=body), attester._key)


@pytest.fixture(scope="module", name="vendor")
def make_vendor(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("vendor") / "tee", now=NOW)


@pytest.fixture(scope="module", name="verifier")
def make_verifier(vendor: Installation) -> Verifier:
    return Verifier(TrustRoots(simulated=vendor.root_der), vendor.collateral_source())


def fresh(vendor: Installation) -> Verifier:
    """A verifier that remembers nothing: what a weakened one let in must not count afterwards."""
    return Verifier(TrustRoots(simulated=vendor.root_der), vendor.collateral_source())


def lists_of_any_issuer(collateral: Collateral, issuer: x509.Certificate, root: x509.Certificate) -> object:
    """A weakened ``intel._check_collateral``: that the list of revoked PCKs is of the quote's own CA is not asked."""
    intel.check_signers(collateral, root)
    return intel._Signed(PlatformRatings.parse(collateral.tcb), QeRatings.parse(collateral.qe))


@pytest.fixture(scope="module", name="evidence_of")
def make_evidence_of(vendor: Installation) -> Callable[..., Evidence]:
    def make(tee: Tee, fault: Fault | None = None, data: bytes = BINDING.report_data) -> Evidence:
        return InsecureAttester(vendor, tee, MEASUREMENTS[tee], fault=fault).quote(ReportData(data))

    return make


@pytest.fixture(name="with_collateral")
def make_with_collateral(vendor: Installation) -> Callable[[Collateral], Verifier]:
    return lambda collateral: Verifier(TrustRoots(simulated=vendor.root_der), FixedCollateral(collateral))

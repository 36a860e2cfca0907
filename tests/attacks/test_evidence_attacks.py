"""What an attacker who holds genuine evidence, or a whole platform, can try against the verifier.

The attacker owns the simulated vendor's other keys where a test says so: the question is always which signature is believed for what.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from confide.attest import certs
from confide.attest.binding import NonceBook, SessionBinding
from confide.attest.collateral import Collateral
from confide.attest.collateral_sources import FixedCollateral
from confide.attest.evidence import Evidence, NodeContext
from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.attest.insecure.authority import Signer, new_platform_ca, new_root, new_tcb_signer
from confide.attest.insecure.documents import Machine
from confide.attest.insecure.installation import raw_signature
from confide.attest.policy import AttestationResult, Policy, appraise
from confide.attest.quote import Quote, TdBody, parse_quote
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import b64url
from confide.errors import AppraisalError, AttestationError, BindingError, CollateralError, EvidenceInvalidError, NonceError
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


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("vendor") / "tee", now=NOW)


@pytest.fixture(scope="module")
def verifier(vendor: Installation) -> Verifier:
    return Verifier(TrustRoots(simulated=vendor.root_der), vendor.collateral_source())


@pytest.fixture(scope="module")
def evidence_of(vendor: Installation) -> Callable[..., Evidence]:
    def make(tee: Tee, fault: Fault | None = None, data: bytes = BINDING.report_data) -> Evidence:
        return InsecureAttester(vendor, tee, MEASUREMENTS[tee], fault=fault).quote(ReportData(data))

    return make


@pytest.fixture
def with_collateral(vendor: Installation) -> Callable[[Collateral], Verifier]:
    return lambda collateral: Verifier(TrustRoots(simulated=vendor.root_der), FixedCollateral(collateral))


def _accept(verifier: Verifier, evidence: Evidence, binding: SessionBinding = BINDING) -> AttestationResult:
    return appraise(verifier.verify(evidence, NOW), POLICY, binding, now=NOW)


def _pem(*signers: Signer) -> str:
    return "".join(signer.certificate.public_bytes(Encoding.PEM).decode() for signer in signers)


def _signed_tcb(collateral: Collateral, signer: Signer, chain: str, **changes: object) -> Collateral:
    """The collateral with a TCB info of the attacker's, signed by ``signer``."""
    text = json.dumps({**collateral.tcb, **changes})
    signature = raw_signature(signer.key, text.encode())
    return dataclasses.replace(collateral, tcb_info=text, tcb_info_signature=signature, tcb_info_issuer_chain=chain)


def _all_up_to_date(collateral: Collateral) -> list[object]:
    return [{**level, "tcbStatus": "UpToDate", "advisoryIDs": []} for level in collateral.tcb["tcbLevels"]]


# --- faults of a node ---------------------------------------------------------------------------------------------


@BOTH
def test_honest_node_is_accepted(verifier, evidence_of, tee) -> None:
    assert _accept(verifier, evidence_of(tee)).role is Role.WORKER


@BOTH
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.REVOKED_PCK, EvidenceInvalidError),
        (Fault.STALE_COLLATERAL, CollateralError),
        (Fault.EXPIRED_CRL, CollateralError),
        (Fault.DEBUG, AppraisalError),
        (Fault.OUT_OF_DATE, AppraisalError),
        (Fault.WRONG_MEASUREMENT, AppraisalError),
        (Fault.REPLAY, BindingError),
    ],
)
def test_every_fault_is_refused(verifier, evidence_of, tee, fault, error) -> None:
    with pytest.raises(error):
        _accept(verifier, evidence_of(tee, fault))


def test_every_fault_has_a_test() -> None:
    assert len(Fault) == 7


# --- changed bytes ------------------------------------------------------------------------------------------------


@BOTH
def test_any_one_byte_changed_is_refused(verifier, evidence_of, tee) -> None:
    raw = evidence_of(tee).quote
    signed = len(parse_quote(raw).signed_bytes)
    # Every byte that is not certificate text, and every seventh of that.
    positions = [*range(signed + 4 + 128 + 384 + 64 + 60), *range(signed + 4 + 128 + 384 + 64 + 60, len(raw), 7)]
    for at in positions:
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(AttestationError):
            _accept(verifier, Evidence(tee, changed))


@BOTH
@pytest.mark.parametrize("extra", [b"\0", b"junk", bytes(70)])
def test_trailing_bytes_are_refused(verifier, evidence_of, tee, extra) -> None:
    with pytest.raises(EvidenceInvalidError, match="after the quote"):
        verifier.verify(Evidence(tee, evidence_of(tee).quote + extra), NOW)


@BOTH
def test_evidence_of_one_kind_is_none_of_another(verifier, evidence_of, tee) -> None:
    other = Tee.TDX if tee is Tee.SGX else Tee.SGX
    with pytest.raises(EvidenceInvalidError, match="another kind"):
        verifier.verify(Evidence(other, evidence_of(tee).quote), NOW)
    with pytest.raises(EvidenceInvalidError, match="1184 bytes"):
        verifier.verify(Evidence(Tee.SNP, evidence_of(tee).quote), NOW)


def test_second_chain_beside_the_quote_is_refused(verifier, evidence_of) -> None:
    with pytest.raises(EvidenceInvalidError, match="second one"):
        verifier.verify(dataclasses.replace(evidence_of(Tee.SGX), chain=b"x"), NOW)


def test_second_form_of_the_signature_does_not_make_new_evidence(verifier, evidence_of) -> None:
    """(r, n - s) signs the same bytes: whoever keys on the quote's hash can be shown one quote twice.  The evidence digest stays."""
    evidence = evidence_of(Tee.TDX)
    quote = parse_quote(evidence.quote)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    s = order - int.from_bytes(quote.signature.signature[32:], "big")
    mirrored = dataclasses.replace(quote.signature, signature=quote.signature.signature[:32] + s.to_bytes(32, "big"))
    twin = Evidence(Tee.TDX, dataclasses.replace(quote, signature=mirrored).to_bytes())
    first, second = verifier.verify(evidence, NOW), verifier.verify(twin, NOW)
    assert twin.quote != evidence.quote
    assert first.claims.evidence_digest == second.claims.evidence_digest


# --- forged quotes ------------------------------------------------------------------------------------------------


def _resigned(quote: Quote, key: ec.EllipticCurvePrivateKey) -> Evidence:
    signature = dataclasses.replace(quote.signature, signature=raw_signature(key, quote.signed_bytes))
    return Evidence(quote.tee, dataclasses.replace(quote, signature=signature).to_bytes())


def test_quote_signed_with_an_own_attestation_key_is_refused(verifier, evidence_of) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    quote = parse_quote(evidence_of(Tee.TDX).quote)
    forged = dataclasses.replace(quote.signature, attestation_key=certs.raw_public_key(key.public_key()))
    with pytest.raises(EvidenceInvalidError):
        verifier.verify(_resigned(dataclasses.replace(quote, signature=forged), key), NOW)


def test_report_of_another_enclave_is_not_a_quoting_enclaves(vendor, verifier) -> None:
    """A compromised application enclave on a genuine platform gets its own report certified and vouches for its own key."""
    attester = InsecureAttester(vendor, Tee.SGX, MEASUREMENTS[Tee.SGX])
    key = ec.generate_private_key(ec.SECP256R1())
    signature = dataclasses.replace(attester._vouched, attestation_key=certs.raw_public_key(key.public_key()))
    report = dataclasses.replace(signature.qe_report, mr_signer=bytes(32), report_data=signature.expected_qe_report_data)
    pck = vendor.machine(Machine.GOOD).key
    signature = dataclasses.replace(signature, qe_report=report, qe_report_signature=raw_signature(pck, report.to_bytes()))
    quote = parse_quote(attester.quote(BINDING.report_data).quote)
    with pytest.raises(EvidenceInvalidError):
        verifier.verify(_resigned(dataclasses.replace(quote, signature=signature), key), NOW)


def _td(vendor: Installation, attributes: int) -> Evidence:
    """A simulated TD with other attributes."""
    attester = InsecureAttester(vendor, Tee.TDX, MEASUREMENTS[Tee.TDX])
    quote = parse_quote(attester.quote(BINDING.report_data).quote)
    assert isinstance(quote.body, TdBody)
    body = dataclasses.replace(quote.body, td_attributes=attributes.to_bytes(8, "little"))
    return _resigned(dataclasses.replace(quote, body=body), attester._key)


@pytest.mark.parametrize(
    ("attributes", "switch"),
    [
        (0, "tdx-no-sept-ve-disable"),
        (1 << 28 | 1 << 1, "debug"),
        (1 << 28 | 1 << 7, "debug"),
        (1 << 28 | 1 << 29, "tdx-migratable"),
    ],
)
def test_td_with_weak_attributes_is_refused(vendor, verifier, attributes, switch) -> None:
    evidence = _td(vendor, attributes)
    with pytest.raises(AppraisalError) as caught:
        _accept(verifier, evidence)
    assert caught.value.facts["check"] == switch.removeprefix("tdx-")
    lenient = Policy.from_json({**POLICY.to_json(), "allow": ["simulated", switch]})
    appraise(verifier.verify(evidence, NOW), lenient, BINDING, now=NOW)


@pytest.mark.parametrize("bit", [8, 16, 27, 32, 62])
def test_td_with_an_unknown_attribute_is_refused_whatever_the_policy(vendor, verifier, bit) -> None:
    with pytest.raises(EvidenceInvalidError, match="attributes"):
        verifier.verify(_td(vendor, 1 << 28 | 1 << bit), NOW)


def test_migratable_td_is_refused(vendor, verifier) -> None:
    """A TD that can be migrated ends up where the migration TD's policy says, not where it was attested."""
    attester = InsecureAttester(vendor, Tee.TDX, MEASUREMENTS[Tee.TDX])
    quote = parse_quote(attester.quote(BINDING.report_data).quote)
    assert isinstance(quote.body, TdBody)
    body = dataclasses.replace(quote.body, td_attributes=(1 << 28 | 1 << 29).to_bytes(8, "little"))
    with pytest.raises(AttestationError):
        _accept(verifier, _resigned(dataclasses.replace(quote, body=body), attester._key))


# --- whose root ---------------------------------------------------------------------------------------------------


def test_simulated_evidence_is_refused_where_simulation_was_not_asked_for(vendor, evidence_of) -> None:
    with pytest.raises(EvidenceInvalidError, match="root"):
        Verifier(TrustRoots(), vendor.collateral_source()).verify(evidence_of(Tee.SGX), NOW)


def test_simulated_evidence_is_refused_by_a_policy_that_does_not_name_it(verifier, evidence_of) -> None:
    shipped = Policy.from_json({"name": "real", "measurements": {"sgx": [MEASUREMENTS[Tee.SGX]]}})
    with pytest.raises(AppraisalError) as caught:
        appraise(verifier.verify(evidence_of(Tee.SGX), NOW), shipped, BINDING, now=NOW)
    assert caught.value.facts["check"] == "simulated"


def test_root_of_the_same_name_and_another_key_is_refused(vendor, verifier, tmp_path) -> None:
    other = Installation.create(tmp_path / "other", now=NOW)
    forged = InsecureAttester(other, Tee.SGX, MEASUREMENTS[Tee.SGX]).quote(BINDING.report_data)
    with pytest.raises(EvidenceInvalidError, match="root"):
        verifier.verify(forged, NOW)


def test_leaf_of_another_vendor_with_our_root_appended_is_refused(vendor, verifier, tmp_path) -> None:
    other = Installation.create(tmp_path / "other", now=NOW)
    quote = parse_quote(InsecureAttester(other, Tee.SGX, MEASUREMENTS[Tee.SGX]).quote(BINDING.report_data).quote)
    chain = certs.parse_chain(other.pck_chain(Machine.GOOD))
    ours = certs.parse_chain(vendor.pck_chain(Machine.GOOD))
    mixed = b"".join(c.public_bytes(Encoding.PEM) for c in (chain[0], chain[1], ours[2]))
    forged = dataclasses.replace(quote, signature=dataclasses.replace(quote.signature, cert_data=mixed))
    with pytest.raises(EvidenceInvalidError):
        verifier.verify(Evidence(Tee.SGX, forged.to_bytes()), NOW)


@pytest.mark.parametrize("keep", [(0,), (0, 1), (0, 1, 2, 2), (0, 2), (2, 1, 0)])
def test_chain_of_another_shape_is_refused(vendor, verifier, evidence_of, keep) -> None:
    chain = certs.parse_chain(vendor.pck_chain(Machine.GOOD))
    pem = b"".join(chain[i].public_bytes(Encoding.PEM) for i in keep)
    quote = parse_quote(evidence_of(Tee.SGX).quote)
    forged = dataclasses.replace(quote, signature=dataclasses.replace(quote.signature, cert_data=pem))
    with pytest.raises(EvidenceInvalidError):
        verifier.verify(Evidence(Tee.SGX, forged.to_bytes()), NOW)


def test_pck_issued_by_something_that_is_no_pck_ca_is_refused(vendor, verifier, evidence_of) -> None:
    chain = certs.parse_chain(vendor.pck_chain(Machine.GOOD))
    signer = vendor._signer("tcb-signer").certificate
    pem = b"".join(c.public_bytes(Encoding.PEM) for c in (chain[0], signer, chain[2]))
    quote = parse_quote(evidence_of(Tee.SGX).quote)
    forged = dataclasses.replace(quote, signature=dataclasses.replace(quote.signature, cert_data=pem))
    with pytest.raises(EvidenceInvalidError, match="PCK CA"):
        verifier.verify(Evidence(Tee.SGX, forged.to_bytes()), NOW)


# --- whose collateral ---------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("name", ["platform-ca", "pck-good"])
def test_tcb_info_signed_by_another_key_under_the_root_is_refused(vendor, with_collateral, evidence_of, tee, name) -> None:
    """Any key that the root vouches for would do, if a chain to the root were all that is asked: a platform would grade itself."""
    signer, ca, root = vendor._signer(name), vendor._signer("platform-ca"), vendor._signer("root")
    good = vendor.collateral(tee)
    for chain in (_pem(signer, root), _pem(signer, ca, root), _pem(signer)):
        forged = _signed_tcb(good, signer, chain, tcbLevels=_all_up_to_date(good))
        with pytest.raises(CollateralError):
            with_collateral(forged).verify(evidence_of(tee, Fault.OUT_OF_DATE), NOW)


@BOTH
def test_tcb_info_signed_by_a_grandchild_with_the_signers_name_is_refused(vendor, with_collateral, evidence_of, tee) -> None:
    ca, root = vendor._signer("platform-ca"), vendor._signer("root")
    impostor = new_tcb_signer(ca, NOW)
    good = vendor.collateral(tee)
    for chain in (_pem(impostor, root), _pem(impostor, ca, root)):
        with pytest.raises(CollateralError):
            with_collateral(_signed_tcb(good, impostor, chain)).verify(evidence_of(tee), NOW)


def test_tcb_info_signed_under_a_root_of_the_attackers_is_refused(vendor, with_collateral, evidence_of) -> None:
    root = new_root(NOW)
    signer = new_tcb_signer(root, NOW)
    forged = _signed_tcb(vendor.collateral(Tee.SGX), signer, _pem(signer, root))
    with pytest.raises(CollateralError, match="pinned root"):
        with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)


def test_tcb_info_signed_by_another_end_entity_of_the_root_is_refused(vendor, with_collateral, evidence_of) -> None:
    root = vendor._signer("root")
    other = root.issue("Intel SGX Something Else", NOW)
    good = vendor.collateral(Tee.SGX)
    forged = _signed_tcb(good, other, _pem(other, root), tcbLevels=_all_up_to_date(good))
    with pytest.raises(CollateralError, match="not signed by the TCB signer"):
        with_collateral(forged).verify(evidence_of(Tee.SGX, Fault.OUT_OF_DATE), NOW)


def test_pck_revocation_list_with_a_foreign_issuer_chain_is_refused(vendor, with_collateral, evidence_of) -> None:
    good, root, impostor = vendor.collateral(Tee.SGX), vendor._signer("root"), new_platform_ca(vendor._signer("root"), NOW)
    for chain in (_pem(impostor, root), _pem(impostor), _pem(vendor._signer("tcb-signer"), root)):
        with pytest.raises(CollateralError):
            with_collateral(dataclasses.replace(good, pck_crl_issuer_chain=chain)).verify(evidence_of(Tee.SGX), NOW)


def test_tcb_signer_that_is_a_ca_is_refused(vendor, with_collateral, evidence_of) -> None:
    root = vendor._signer("root")
    signer = root.issue(certs.TCB_SIGNER_CN, NOW, ca_depth=0)
    forged = _signed_tcb(vendor.collateral(Tee.SGX), signer, _pem(signer, root))
    with pytest.raises(CollateralError, match="CA certificate is where none"):
        with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)


def test_revoked_tcb_signer_is_refused(vendor, with_collateral, evidence_of) -> None:
    root, signer = vendor._signer("root"), vendor._signer("tcb-signer")
    revoked = root.revocation_list(10**10, NOW - timedelta(hours=1), NOW + timedelta(days=9), (signer.certificate.serial_number,))
    forged = dataclasses.replace(vendor.collateral(Tee.SGX), root_ca_crl=revoked)
    with pytest.raises(CollateralError, match="revoked"):
        with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)


def test_revocation_list_that_the_root_did_not_sign_is_refused(vendor, with_collateral, evidence_of) -> None:
    ca = vendor._signer("platform-ca")
    forged = dataclasses.replace(
        vendor.collateral(Tee.SGX), root_ca_crl=ca.revocation_list(10**10, NOW - timedelta(hours=1), NOW + timedelta(days=9))
    )
    with pytest.raises(CollateralError, match="not signed by the root"):
        with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)


def test_pck_revocation_list_of_another_ca_is_refused(vendor, with_collateral, evidence_of) -> None:
    """An attacker whose platform is revoked brings a list without it, signed by a CA of the right name."""
    impostor = new_platform_ca(new_root(NOW), NOW)
    empty = impostor.revocation_list(10**10, NOW - timedelta(hours=1), NOW + timedelta(days=9))
    forged = dataclasses.replace(vendor.collateral(Tee.SGX), pck_crl=empty)
    with pytest.raises(AttestationError):
        with_collateral(forged).verify(evidence_of(Tee.SGX, Fault.REVOKED_PCK), NOW)


@pytest.mark.parametrize("field", ["tcb_info", "qe_identity"])
def test_changed_document_is_refused(vendor, with_collateral, evidence_of, field) -> None:
    good = vendor.collateral(Tee.SGX)
    forged = dataclasses.replace(good, **{field: getattr(good, field).replace('"UpToDate"', '"UpToDate" ')})
    with pytest.raises(CollateralError, match="signature"):
        with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)


def test_quoting_enclave_identity_signed_by_another_is_refused(vendor, with_collateral, evidence_of) -> None:
    signer, root = vendor._signer("platform-ca"), vendor._signer("root")
    good = vendor.collateral(Tee.SGX)
    forged = dataclasses.replace(
        good,
        qe_identity_signature=raw_signature(signer.key, good.qe_identity.encode()),
        qe_identity_issuer_chain=_pem(signer, root),
    )
    with pytest.raises(CollateralError, match=r"CA certificate is where none|TCB signer"):
        with_collateral(forged).verify(evidence_of(Tee.SGX), NOW)


def test_tcb_info_of_another_pceid_is_refused(vendor, with_collateral, evidence_of) -> None:
    signer, root = vendor._signer("tcb-signer"), vendor._signer("root")
    other = _signed_tcb(vendor.collateral(Tee.SGX), signer, _pem(signer, root), pceId="0001")
    with pytest.raises(CollateralError, match="PCEID"):
        with_collateral(other).verify(evidence_of(Tee.SGX), NOW)


class _Whatever:
    """A source that the attacker controls: it answers every question with the same set."""

    def __init__(self, collateral: Collateral) -> None:
        self._collateral = collateral

    def get(self, fmspc: str, ca: str, tee: Tee) -> Collateral:
        return self._collateral


@pytest.mark.parametrize(("tee", "other"), [(Tee.SGX, Tee.TDX), (Tee.TDX, Tee.SGX)])
def test_collateral_of_the_other_kind_of_tee_is_refused(vendor, evidence_of, tee, other) -> None:
    good, foreign = vendor.collateral(tee), vendor.collateral(other)
    parts = {name: getattr(foreign, name) for name in ("qe_identity", "qe_identity_signature")}
    for collateral in (foreign, dataclasses.replace(good, **parts)):
        hostile = Verifier(TrustRoots(simulated=vendor.root_der), _Whatever(collateral))
        with pytest.raises(CollateralError, match="another kind"):
            hostile.verify(evidence_of(tee), NOW)


def test_genuine_collateral_of_another_platform_is_refused(vendor, evidence_of) -> None:
    signer, root = vendor._signer("tcb-signer"), vendor._signer("root")
    other = _signed_tcb(vendor.collateral(Tee.SGX), signer, _pem(signer, root), fmspc="00C0F1DE00FF")
    hostile = Verifier(TrustRoots(simulated=vendor.root_der), _Whatever(other))
    with pytest.raises(CollateralError, match="another platform"):
        hostile.verify(evidence_of(Tee.SGX), NOW)


def test_revoked_tcb_level_is_refused_whatever_the_policy(vendor, with_collateral, evidence_of) -> None:
    signer, root = vendor._signer("tcb-signer"), vendor._signer("root")
    good = vendor.collateral(Tee.SGX)
    levels = [{**level, "tcbStatus": "Revoked"} for level in good.tcb["tcbLevels"]]
    revoked = _signed_tcb(good, signer, _pem(signer, root), tcbLevels=levels)
    with pytest.raises(EvidenceInvalidError):
        with_collateral(revoked).verify(evidence_of(Tee.SGX), NOW)


@pytest.mark.parametrize("days", [-40, 40])
def test_collateral_outside_its_time_is_refused(verifier, evidence_of, days) -> None:
    with pytest.raises(CollateralError):
        verifier.verify(evidence_of(Tee.SGX), NOW + timedelta(days=days))


# --- session ------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        {"exporter": b"x" * 32},
        {"nonce": Nonce(b"x" * 32)},
        {"spki": b"another key"},
        {"role": Role.DRIVER},
        {"context": dataclasses.replace(CONTEXT, job=JobDigest("cd" * 48))},
        {"context": dataclasses.replace(CONTEXT, run=RunId("other-run"))},
        {"context": dataclasses.replace(CONTEXT, node=NodeId("worker-2"))},
        {"context": dataclasses.replace(CONTEXT, seal={**CONTEXT.seal, "x": b64url(b"x" * 32)})},
    ],
    ids=["relayed", "replayed", "reflected", "other-role", "other-job", "other-run", "other-node", "other-seal-key"],
)
def test_evidence_of_another_session_is_refused(verifier, evidence_of, tee, change) -> None:
    with pytest.raises(BindingError):
        _accept(verifier, evidence_of(tee), dataclasses.replace(BINDING, **change))


def test_nonce_is_not_taken_twice_or_late() -> None:
    book = NonceBook(timedelta(seconds=60))
    used, late = book.issue(NOW), book.issue(NOW)
    book.redeem(used, NOW)
    with pytest.raises(NonceError):
        book.redeem(used, NOW)
    with pytest.raises(NonceError):
        book.redeem(late, NOW + timedelta(minutes=2))

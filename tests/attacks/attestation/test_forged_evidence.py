"""Forged evidence: changed bytes, other keys, other roots."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from support.simulated_evidence import BINDING, BOTH, MEASUREMENTS, NOW, accept, fresh, lists_of_any_issuer, resigned

from confide.attest import certs, intel
from confide.attest.evidence import Evidence
from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.attest.insecure.documents import Machine
from confide.attest.insecure.installation import raw_signature
from confide.attest.intel_tcb import QeRatings, Rating
from confide.attest.quote import parse_quote
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.errors import AppraisalError, AttestationError, BindingError, CollateralError, EvidenceInvalidError
from confide.ids import Role, Tee


@BOTH
def test_honest_node_is_accepted(verifier, evidence_of, tee) -> None:
    assert accept(verifier, evidence_of(tee)).role is Role.WORKER


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
        accept(verifier, evidence_of(tee, fault))


def test_every_fault_has_a_test() -> None:
    assert len(Fault) == 7


@BOTH
def test_any_one_byte_changed_is_refused(verifier, evidence_of, tee) -> None:
    raw = evidence_of(tee).quote
    signed = len(parse_quote(raw).signed_bytes)
    # Every byte that is not certificate text, and every seventh of that.
    positions = [*range(signed + 4 + 128 + 384 + 64 + 60), *range(signed + 4 + 128 + 384 + 64 + 60, len(raw), 7)]
    for at in positions:
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(AttestationError):
            accept(verifier, Evidence(tee, changed))


@BOTH
def test_evidence_of_one_kind_is_none_of_another(verifier, evidence_of, tee) -> None:
    other = Tee.TDX if tee is Tee.SGX else Tee.SGX
    with pytest.raises(EvidenceInvalidError, match="another kind"):
        verifier.verify(Evidence(other, evidence_of(tee).quote), NOW)
    with pytest.raises(EvidenceInvalidError, match="1184 bytes"):
        verifier.verify(Evidence(Tee.SNP, evidence_of(tee).quote), NOW)


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


def test_quote_signed_with_an_own_attestation_key_is_refused(vendor, evidence_of, monkeypatch) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    quote = parse_quote(evidence_of(Tee.TDX).quote)
    forged = dataclasses.replace(quote.signature, attestation_key=certs.raw_public_key(key.public_key()))
    evidence = resigned(dataclasses.replace(quote, signature=forged), key)
    with pytest.raises(EvidenceInvalidError, match="another attestation key"):
        fresh(vendor).verify(evidence, NOW)
    # The weakened check: whatever key the quote names made it.
    monkeypatch.setattr(intel, "_attestation_key", lambda signature, pck: key.public_key())
    assert fresh(vendor).verify(evidence, NOW)


@BOTH
def test_changed_measurement_is_stopped_by_the_quotes_signature_alone(vendor, evidence_of, monkeypatch, tee) -> None:
    quote = parse_quote(evidence_of(tee).quote)
    name = "mr_enclave" if tee is Tee.SGX else "mr_td"
    body = dataclasses.replace(quote.body, **{name: b"\xee" * len(getattr(quote.body, name))})
    forged = Evidence(tee, dataclasses.replace(quote, body=body).to_bytes())
    with pytest.raises(EvidenceInvalidError, match="signature"):
        fresh(vendor).verify(forged, NOW)
    monkeypatch.setattr(certs, "check_raw_signature", lambda *_: None)
    assert set(fresh(vendor).verify(forged, NOW).claims.measurement) == {"e"}


def test_report_of_another_enclave_is_not_a_quoting_enclaves(vendor, monkeypatch) -> None:
    """A compromised application enclave on a genuine platform gets its own report certified and vouches for its own key."""
    attester = InsecureAttester(vendor, Tee.SGX, MEASUREMENTS[Tee.SGX])
    key = ec.generate_private_key(ec.SECP256R1())
    signature = dataclasses.replace(attester._vouched, attestation_key=certs.raw_public_key(key.public_key()))
    report = dataclasses.replace(signature.qe_report, mr_signer=bytes(32), report_data=signature.expected_qe_report_data)
    pck = vendor.machine(Machine.GOOD).key
    signature = dataclasses.replace(signature, qe_report=report, qe_report_signature=raw_signature(pck, report.to_bytes()))
    quote = parse_quote(attester.quote(BINDING.report_data).quote)
    evidence = resigned(dataclasses.replace(quote, signature=signature), key)
    with pytest.raises(EvidenceInvalidError, match="Intel's quoting enclave"):
        fresh(vendor).verify(evidence, NOW)
    # The weakened check: any enclave of the platform may vouch for a key.
    monkeypatch.setattr(QeRatings, "rate", lambda self, report: Rating("UpToDate", frozenset(), ""))
    assert fresh(vendor).verify(evidence, NOW)


def _any_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakened check: a chain may end where it likes."""
    monkeypatch.setattr(intel, "_is_simulated", lambda root, roots: True)


def test_root_of_the_same_name_and_another_key_is_refused(vendor, tmp_path, monkeypatch) -> None:
    other = Installation.create(tmp_path / "other", now=NOW)
    forged = InsecureAttester(other, Tee.SGX, MEASUREMENTS[Tee.SGX]).quote(BINDING.report_data)

    def attack() -> object:
        return Verifier(TrustRoots(simulated=vendor.root_der), other.collateral_source()).verify(forged, NOW)

    with pytest.raises(EvidenceInvalidError, match="root"):
        attack()
    _any_root(monkeypatch)
    assert attack()


def test_leaf_of_another_vendor_with_our_root_appended_is_refused(vendor, tmp_path, monkeypatch) -> None:
    other = Installation.create(tmp_path / "other", now=NOW)
    quote = parse_quote(InsecureAttester(other, Tee.SGX, MEASUREMENTS[Tee.SGX]).quote(BINDING.report_data).quote)
    chain = certs.parse_chain(other.pck_chain(Machine.GOOD))
    ours = certs.parse_chain(vendor.pck_chain(Machine.GOOD))
    mixed = b"".join(c.public_bytes(Encoding.PEM) for c in (chain[0], chain[1], ours[2]))
    forged = dataclasses.replace(quote, signature=dataclasses.replace(quote.signature, cert_data=mixed))
    with pytest.raises(EvidenceInvalidError, match="not issued by the next"):
        fresh(vendor).verify(Evidence(Tee.SGX, forged.to_bytes()), NOW)
    # The weakened checks: names are compared and signatures are not; nor is it asked whose list of revoked PCKs is looked at.
    monkeypatch.setattr(intel, "_check_issued", lambda child, issuer, ca: None)
    monkeypatch.setattr(intel, "_check_collateral", lists_of_any_issuer)
    assert fresh(vendor).verify(Evidence(Tee.SGX, forged.to_bytes()), NOW)


@pytest.mark.parametrize("keep", [(0,), (0, 1), (0, 1, 2, 2), (0, 2), (2, 1, 0)])
def test_chain_of_another_shape_is_refused(vendor, verifier, evidence_of, keep) -> None:
    chain = certs.parse_chain(vendor.pck_chain(Machine.GOOD))
    pem = b"".join(chain[i].public_bytes(Encoding.PEM) for i in keep)
    quote = parse_quote(evidence_of(Tee.SGX).quote)
    forged = dataclasses.replace(quote, signature=dataclasses.replace(quote.signature, cert_data=pem))
    with pytest.raises(EvidenceInvalidError):
        verifier.verify(Evidence(Tee.SGX, forged.to_bytes()), NOW)


def test_pck_issued_by_something_that_is_no_pck_ca_is_refused(vendor, evidence_of, monkeypatch) -> None:
    """The vendor's root certified the very key of the PCK CA a second time, for something else."""
    root, ca = vendor._signer("root"), vendor._signer("platform-ca")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Intel SGX Something Else")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(root.certificate.subject)
    builder = builder.public_key(ca.key.public_key()).serial_number(0xCA3)
    builder = builder.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=99))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    chain = certs.parse_chain(vendor.pck_chain(Machine.GOOD))
    pem = b"".join(c.public_bytes(Encoding.PEM) for c in (chain[0], builder.sign(root.key, hashes.SHA256()), chain[2]))
    quote = parse_quote(evidence_of(Tee.SGX).quote)
    forged = dataclasses.replace(quote, signature=dataclasses.replace(quote.signature, cert_data=pem))
    with pytest.raises(EvidenceInvalidError, match="PCK CA"):
        fresh(vendor).verify(Evidence(Tee.SGX, forged.to_bytes()), NOW)
    # The weakened checks: any name of an issuer will do (the PCK itself names another, as only CAs of PCKs sign them).
    monkeypatch.setitem(certs.CA_KINDS, "Intel SGX Something Else", "platform")
    monkeypatch.setattr(intel, "_check_issued", lambda child, issuer, ca: None)
    monkeypatch.setattr(intel, "_check_collateral", lists_of_any_issuer)
    assert fresh(vendor).verify(Evidence(Tee.SGX, forged.to_bytes()), NOW)


def test_issuer_in_the_quotes_chain_that_is_no_ca_is_refused(vendor, evidence_of, monkeypatch) -> None:
    """Name, key and signatures are right; only the certificate does not say that its key may certify."""
    root, ca = vendor._signer("root"), vendor._signer("platform-ca")
    builder = x509.CertificateBuilder().subject_name(ca.certificate.subject).issuer_name(root.certificate.subject)
    builder = builder.public_key(ca.key.public_key()).serial_number(0xCA2)
    builder = builder.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=99))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    chain = certs.parse_chain(vendor.pck_chain(Machine.GOOD))
    mixed = b"".join(c.public_bytes(Encoding.PEM) for c in (chain[0], builder.sign(root.key, hashes.SHA256()), chain[2]))
    quote = parse_quote(evidence_of(Tee.SGX).quote)
    forged = dataclasses.replace(quote, signature=dataclasses.replace(quote.signature, cert_data=mixed))
    with pytest.raises(EvidenceInvalidError, match="CA certificate is where none"):
        fresh(vendor).verify(Evidence(Tee.SGX, forged.to_bytes()), NOW)
    monkeypatch.setattr(intel, "_check_issued", lambda child, issuer, ca: None)
    assert fresh(vendor).verify(Evidence(Tee.SGX, forged.to_bytes()), NOW)


def test_td_under_a_module_of_an_unknown_major_version_is_refused(vendor, verifier) -> None:
    attester = InsecureAttester(vendor, Tee.TDX, MEASUREMENTS[Tee.TDX])
    quote = parse_quote(attester.quote(BINDING.report_data).quote)
    svn = quote.body.tee_tcb_svn
    body = dataclasses.replace(quote.body, tee_tcb_svn=svn[:1] + b"\x63" + svn[2:])
    with pytest.raises(EvidenceInvalidError, match="major version"):
        verifier.verify(resigned(dataclasses.replace(quote, body=body), attester._key), NOW)

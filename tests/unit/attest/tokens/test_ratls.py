"""RA-TLS certificates: read where it was asked for, bound to their key, and never taken for a session's evidence."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from confide.attest.cbor import Tagged, decode
from confide.attest.evidence import Evidence
from confide.attest.policy import AttestationResult, Policy, Rules
from confide.attest.ratls import GRAMINE_OID, TCG_OID, RatlsCertificate, UnboundResult, verify_ratls
from confide.attest.verify import Verifier
from confide.errors import AppraisalError, BindingError, EvidenceInvalidError, ParseError
from confide.ids import Tee

KEY = ec.generate_private_key(ec.SECP384R1())
OTHER = ec.generate_private_key(ec.SECP384R1())
Make = Callable[..., Evidence]


def spki(key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def head(major: int, number: int) -> bytes:
    size = 0 if number < 24 else 1 if number < 256 else 2
    return bytes([major << 5 | (number if size == 0 else 23 + size)]) + (number.to_bytes(size, "big") if size else b"")


def octets(value: bytes) -> bytes:
    return head(2, len(value)) + value


def claims_buffer(digest: bytes | None = None, *, nonce: bytes = b"") -> bytes:
    entry = head(4, 2) + head(0, 1) + octets(digest or hashlib.sha256(spki()).digest())
    more = head(3, 5) + b"nonce" + octets(nonce) if nonce else b""
    return head(5, 2 if nonce else 1) + head(3, 11) + b"pubkey-hash" + octets(entry) + more


def tagged(quote: bytes, buffer: bytes, tag: int = 60000) -> bytes:
    return head(6, tag) + head(4, 2) + octets(quote) + octets(buffer)


def certificate(now: datetime, *extensions: tuple[x509.ObjectIdentifier, bytes], signer: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "RATLS")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key()).serial_number(7)
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    for oid, value in extensions:
        made = made.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    return made.sign(signer, SHA256()).public_bytes(Encoding.DER)


def gramine(make: Make, now: datetime, key: ec.EllipticCurvePrivateKey = KEY, **options: Any) -> bytes:
    quote = make(Tee.SGX, report_data=hashlib.sha256(spki(key)).digest() + bytes(32)).quote
    return certificate(now, (GRAMINE_OID, quote), **options)


def interoperable(make: Make, now: datetime, buffer: bytes | None = None, tag: int = 60000) -> bytes:
    buffer = buffer or claims_buffer()
    quote = make(Tee.TDX, report_data=hashlib.sha256(buffer).digest() + bytes(32)).quote
    return certificate(now, (TCG_OID, tagged(quote, buffer, tag)))


@pytest.fixture(scope="module")
def accepting(measurements: dict[Tee, str]) -> Policy:
    return Rules(name="p", measurements={tee: (value,) for tee, value in measurements.items()}, allow=("simulated",))


def test_both_formats_are_read_and_are_no_results(make_evidence: Make, verifier: Verifier, accepting: Policy, now: datetime) -> None:
    nonce = interoperable(make_evidence, now, claims_buffer(nonce=b"fresh"))
    assert RatlsCertificate.parse(nonce).nonce == b"fresh"
    for der in (gramine(make_evidence, now), interoperable(make_evidence, now), nonce):
        found = verify_ratls(der, verifier, accepting, now=now, accept_not_session_bound=True)
        assert found.to_json()["session_bound"] is False
        assert found.spki_sha256 == hashlib.sha256(spki()).hexdigest()
        assert not isinstance(found, AttestationResult)
        with pytest.raises(TypeError):
            pickle.dumps(found)
        with pytest.raises(TypeError):
            UnboundResult(found.claims, "", "", now)


def test_it_is_off_by_default(make_evidence: Make, verifier: Verifier, accepting: Policy, now: datetime) -> None:
    with pytest.raises(BindingError, match="no session"):
        verify_ratls(gramine(make_evidence, now), verifier, accepting, now=now)


def test_a_quote_of_another_key_is_refused(make_evidence: Make, verifier: Verifier, accepting: Policy, now: datetime) -> None:
    elsewhere = hashlib.sha256(spki(OTHER)).digest()
    swapped = make_evidence(Tee.TDX, report_data=hashlib.sha256(claims_buffer(elsewhere)).digest() + bytes(32)).quote
    cases = [
        gramine(make_evidence, now, OTHER),
        interoperable(make_evidence, now, claims_buffer(elsewhere)),
        certificate(now, (TCG_OID, tagged(swapped, claims_buffer()))),
        certificate(now, (GRAMINE_OID, make_evidence(Tee.SGX, report_data=hashlib.sha256(spki()).digest() + b"\1" * 32).quote)),
    ]
    for der in cases:
        with pytest.raises(BindingError):
            verify_ratls(der, verifier, accepting, now=now, accept_not_session_bound=True)


def test_the_certificate_itself_is_checked(make_evidence: Make, verifier: Verifier, accepting: Policy, now: datetime) -> None:
    with pytest.raises(EvidenceInvalidError, match="own key"):
        verify_ratls(gramine(make_evidence, now, signer=OTHER), verifier, accepting, now=now, accept_not_session_bound=True)
    with pytest.raises(EvidenceInvalidError, match="valid now"):
        verify_ratls(gramine(make_evidence, now - timedelta(days=3)), verifier, accepting, now=now, accept_not_session_bound=True)
    strict = Rules(name="p", measurements={Tee.SGX: ("6b" * 32,)}, allow=("simulated",))
    with pytest.raises(AppraisalError):
        verify_ratls(gramine(make_evidence, now), verifier, strict, now=now, accept_not_session_bound=True)


def test_what_is_no_ratls_certificate_is_refused(make_evidence: Make, now: datetime) -> None:
    quote = make_evidence(Tee.SGX).quote
    whole = tagged(quote, claims_buffer())
    for extensions in (
        (), ((GRAMINE_OID, quote), (TCG_OID, whole)), ((GRAMINE_OID, quote + b"\1"),), ((TCG_OID, whole + b"\0"),),
        ((TCG_OID, whole[:-1]),),
        ((TCG_OID, tagged(quote, claims_buffer(), 60001)),), ((TCG_OID, tagged(quote, head(5, 0))),), ((TCG_OID, octets(quote)),),
    ):  # fmt: skip
        with pytest.raises(ParseError):
            RatlsCertificate.parse(certificate(now, *extensions))


@pytest.mark.parametrize("text", [
    "", "5f4100ff", "9f00ff", "1800", "190017", "f6", "20", "42", "6180", "0000", "a200000000", "a18000",
    "81" * 9 + "00", "9841", "1c", "fb0000000000000000",
])  # fmt: skip
def test_cbor_has_one_encoding_for_one_value(text: str) -> None:
    with pytest.raises(ParseError):
        decode(bytes.fromhex(text))


def test_cbor_is_read() -> None:
    assert decode(bytes.fromhex("d9ea60821818a1616101")) == Tagged(60000, [24, {"a": 1}])

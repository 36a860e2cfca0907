"""What `confide attest show` says of tokens and RA-TLS certificates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from confide.attest.annotate import annotate
from confide.attest.ear import EarRequest, write_ear
from confide.attest.evidence import Evidence
from confide.attest.policy import AttestationResult
from confide.attest.ratls import GRAMINE_OID
from confide.errors import ParseError
from confide.ids import Tee


def test_a_token_is_shown_and_not_verified(result: AttestationResult, signing_key: ec.EllipticCurvePrivateKey, now: datetime) -> None:
    text = write_ear(result, EarRequest("issuer", "reader"), signing_key, now=now)
    found = annotate(f"{text}\n".encode())
    shown = {field.name: field.value for field in found.fields}
    assert (shown["header alg"], shown["claim aud"]) == ("ES256", "reader")
    assert shown["claim submods.cpu0.ear.status"] == "contraindicated"
    assert found.to_json()["verified"] is False
    with pytest.raises(ParseError):
        annotate(text.replace(".", "", 1).encode())


def test_a_ratls_certificate_is_shown_with_its_quote(make_evidence: Callable[..., Evidence]) -> None:
    key, name, start = ec.generate_private_key(ec.SECP256R1()), x509.Name([]), datetime(2030, 1, 1, tzinfo=UTC)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    quote = make_evidence(Tee.SGX, report_data=hashlib.sha256(spki).digest() + bytes(32)).quote
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(start).not_valid_after(start + timedelta(days=1))
    made = made.add_extension(x509.UnrecognizedExtension(GRAMINE_OID, quote), critical=False)
    found = annotate(made.sign(key, SHA256()).public_bytes(Encoding.DER))
    assert found.kind == "RA-TLS certificate, gramine format"
    shown = {field.name: field.value for field in found.fields}
    assert shown["REPORTDATA"] == shown["report data expected"]

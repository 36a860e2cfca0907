"""RA-TLS certificates of both formats, right ones and wrong ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from confide.attest.evidence import Evidence
from confide.attest.ratls import GRAMINE_OID, TCG_OID
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

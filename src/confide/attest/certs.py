"""Intel certificate chains and the SGX extension of PCK certificates.  Reads; issues nothing; whether to trust is decided in ``verify``.

Format: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3.5 (OID 1.2.840.113741.1.13.1).
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from confide.errors import EvidenceInvalidError, ParseError

# Of evidence, which is foreign: what is wrong with a certificate is for its checks to say.  AMD's have serial number 0.
warnings.filterwarnings("ignore", "Parsed a serial number which wasn't positive", category=CryptographyDeprecationWarning)
warnings.filterwarnings("ignore", "Attribute's length must be", category=UserWarning)

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
TCB_SIGNER_CN = "Intel SGX TCB Signing"
PLATFORM_CA_CN = "Intel SGX PCK Platform CA"
PROCESSOR_CA_CN = "Intel SGX PCK Processor CA"
CA_KINDS = {PLATFORM_CA_CN: "platform", PROCESSOR_CA_CN: "processor"}
"""Name of the PCK CA to the word that Intel's collateral service uses for it."""

DOES_NOT_PARSE: tuple[type[Exception], ...] = (
    *(ValueError, TypeError, UnsupportedAlgorithm),
    *(x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)
"""What cryptography raises for a certificate or list that is none."""
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n?")
_MAX_CHAIN = 4
_ECDSA = ec.ECDSA(hashes.SHA256())
_OID_PREFIX = bytes.fromhex("2a864886f84d010d01")
"""DER content of OID 1.2.840.113741.1.13.1."""
_SEQUENCE, _INTEGER, _OCTETS, _OID, _ENUMERATED = 0x30, 0x02, 0x04, 0x06, 0x0A


def parse_chain(pem: bytes) -> list[x509.Certificate]:
    """Read concatenated PEM certificates, leaf first, with nothing between or after them but one closing NUL byte.

    Raises:
        ParseError: other bytes are there, a certificate is not one, or there are more than four.
    """
    # Quoting enclaves end the chain as a C string; nothing else may follow it.
    body = pem.removesuffix(b"\0").replace(b"\r\n", b"\n")
    found: list[x509.Certificate] = []
    at = 0
    while at < len(body):
        match = _PEM.match(body, at)
        if match is None or len(found) == _MAX_CHAIN:
            raise ParseError("not a chain of PEM certificates", offset=at)
        try:
            found.append(whole(x509.load_pem_x509_certificate(match.group())))
        except DOES_NOT_PARSE as cause:
            raise ParseError("a certificate of the chain does not parse", offset=at) from cause
        at = match.end()
    if not found:
        raise ParseError("the certificate chain is empty")
    return found


def whole(certificate: x509.Certificate) -> x509.Certificate:
    """The certificate, if every part of it can be read; else what :data:`DOES_NOT_PARSE` names is raised."""
    # cryptography reads these parts only when they are asked for: ask now, so that a certificate that parsed does not fail later.
    _ = certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key(), certificate.serial_number
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.signature_hash_algorithm
    return certificate


def der(certificate: x509.Certificate) -> bytes:
    """The certificate's DER form."""
    return certificate.public_bytes(Encoding.DER)


def common_name(name: x509.Name) -> str:
    """The one common name of ``name``, or an empty text if it has none or several."""
    names = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def p256(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """The certificate's public key.

    Raises:
        EvidenceInvalidError: it is not a P-256 key.
    """
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise EvidenceInvalidError("a certificate's key is not on P-256")
    return key


def check_raw_signature(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes, what: str) -> None:
    """Check an ECDSA P-256 SHA-256 signature in raw form (r ‖ s, 64 bytes).

    Raises:
        EvidenceInvalidError: it is not a signature of ``data`` by ``key``.
    """
    if len(signature) != 64:
        raise EvidenceInvalidError(f"the signature of the {what} is not 64 bytes")
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    try:
        key.verify(encode_dss_signature(r, s), data, _ECDSA)
    except InvalidSignature as cause:
        raise EvidenceInvalidError(f"the signature of the {what} does not verify") from cause


def raw_public_key(key: ec.EllipticCurvePublicKey) -> bytes:
    """X ‖ y, 64 bytes: how quotes carry a key."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


@dataclass(frozen=True, slots=True)
class SgxExtension:
    """What a PCK certificate says of its platform.  ``tcb`` are the 16 component SVNs; ``sgx_type`` 0 is standard, 1 scalable.

    ``platform_instance`` (PIID) is there under the platform CA only.
    """

    ppid: bytes
    tcb: tuple[int, ...]
    pce_svn: int
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    sgx_type: int
    platform_instance: bytes | None = None

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Self:
        """Read the extension of a PCK certificate.

        Raises:
            ParseError: there is none, or a field is missing, twice or of the wrong length.
        """
        try:
            extension = certificate.extensions.get_extension_for_oid(SGX_EXTENSION).value
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as cause:
            raise ParseError("the PCK certificate has no SGX extension") from cause
        return cls.parse(extension.public_bytes())

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the extension's DER value; fields that Confide does not use (configuration) may be there."""
        fields = _members(_only(data, _SEQUENCE), _OID_PREFIX)
        tcb = _members(_value(fields, 2, _SEQUENCE), _OID_PREFIX + b"\x02")
        return cls(
            ppid=_sized(_value(fields, 1, _OCTETS), 16),
            tcb=tuple(_small(_value(tcb, n, _INTEGER)) for n in range(1, 17)),
            pce_svn=_small(_value(tcb, 17, _INTEGER)),
            cpu_svn=_sized(_value(tcb, 18, _OCTETS), 16),
            pce_id=_sized(_value(fields, 3, _OCTETS), 2),
            fmspc=_sized(_value(fields, 4, _OCTETS), 6),
            sgx_type=_small(_value(fields, 5, _ENUMERATED)),
            platform_instance=_sized(_value(fields, 6, _OCTETS), 16) if 6 in fields else None,
        )

    def to_der(self) -> bytes:
        """The extension's DER value, with the fields that this record holds."""
        levels = [_tlv(_INTEGER, _integer(svn)) for svn in (*self.tcb, self.pce_svn)] + [_tlv(_OCTETS, self.cpu_svn)]
        tcb = b"".join(_member(_OID_PREFIX + b"\x02", n, value) for n, value in enumerate(levels, 1))
        values = [_tlv(_OCTETS, self.ppid), _tlv(_SEQUENCE, tcb), _tlv(_OCTETS, self.pce_id), _tlv(_OCTETS, self.fmspc)]
        values.append(_tlv(_ENUMERATED, _integer(self.sgx_type)))
        if self.platform_instance is not None:
            values.append(_tlv(_OCTETS, self.platform_instance))
        return _tlv(_SEQUENCE, b"".join(_member(_OID_PREFIX, n, value) for n, value in enumerate(values, 1)))


def _element(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Tag, content and end of the DER element at ``at``; one-byte tags and definite lengths below 64 KiB only."""
    if at + 2 > len(data):
        raise ParseError("the SGX extension ends early", offset=at)
    tag, length, start = data[at], data[at + 1], at + 2
    if length > 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(data[start : start + count], "big"), start + count
        if count > 2 or length < 0x80:
            raise ParseError("the SGX extension has a length that DER does not allow", offset=at)
    if data[at + 1] == 0x80 or start + length > len(data):
        raise ParseError("the SGX extension ends early", offset=at)
    return tag, data[start : start + length], start + length


def _only(data: bytes, tag: int) -> bytes:
    got, content, end = _element(data, 0)
    if got != tag or end != len(data):
        raise ParseError("the SGX extension is not of the documented form", offset=end)
    return content


def _members(data: bytes, prefix: bytes) -> dict[int, tuple[int, bytes]]:
    """Read SEQUENCEs of (OID under ``prefix``, value) into number -> (tag, content)."""
    found: dict[int, tuple[int, bytes]] = {}
    at = 0
    while at < len(data):
        tag, pair, at = _element(data, at)
        oid_tag, oid, middle = _element(pair, 0)
        value_tag, value, end = _element(pair, middle)
        number = oid[-1] if oid else 0
        if tag != _SEQUENCE or oid_tag != _OID or oid[:-1] != prefix or end != len(pair) or number in found:
            raise ParseError("the SGX extension has an unknown or repeated field", offset=at)
        found[number] = (value_tag, value)
    return found


def _value(fields: dict[int, tuple[int, bytes]], number: int, tag: int) -> bytes:
    got, value = fields.get(number, (0, b""))
    if got != tag:
        raise ParseError("a field of the SGX extension is missing or of the wrong type", field=number)
    return value


def _sized(value: bytes, length: int) -> bytes:
    if len(value) != length:
        raise ParseError("a field of the SGX extension has the wrong length", length=len(value), expected=length)
    return value


def _small(value: bytes) -> int:
    number = int.from_bytes(value, "big", signed=True)
    if not 0 < len(value) <= 3 or number < 0:
        raise ParseError("a number of the SGX extension is out of range", length=len(value))
    return number


def _integer(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def _tlv(tag: int, content: bytes) -> bytes:
    length = len(content)
    head = bytes([length]) if length < 0x80 else bytes([0x81, length]) if length < 0x100 else b"\x82" + length.to_bytes(2, "big")
    return bytes([tag]) + head + content


def _member(prefix: bytes, number: int, value: bytes) -> bytes:
    return _tlv(_SEQUENCE, _tlv(_OID, prefix + bytes([number])) + value)

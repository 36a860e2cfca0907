"""AMD's certificates: the key that signs a report (VCEK, VLEK) and what its certificate says of the chip.  Reads; trusts nothing.

Formats: AMD publication 57230, Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification, section 3.1 (extensions
under OID 1.3.6.1.4.1.3704.1); publication 56421, SEV-ES Guest-Hypervisor Communication Block Standardization (the table of certificates
that a host hands to a guest with a report).
"""

from __future__ import annotations

import re
import struct
import uuid
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from confide.attest.certs import DOES_NOT_PARSE, common_name, der, parse_chain, whole
from confide.errors import EvidenceInvalidError, ParseError

Product = Literal["Milan", "Genoa", "Turin"]
PRODUCTS: Final[tuple[Product, ...]] = ("Milan", "Genoa", "Turin")
EndorsementKey = Literal["vcek", "vlek"]

_ARC: Final = "1.3.6.1.4.1.3704.1."
_TCB_OIDS: Final = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
_LEAF_NAMES: Final[dict[str, EndorsementKey]] = {"SEV-VCEK": "vcek", "SEV-VLEK": "vlek"}
_ISSUERS: Final[dict[EndorsementKey, str]] = {"vcek": "SEV-", "vlek": "SEV-VLEK-"}
_PRODUCT: Final = re.compile(r"(Milan|Genoa|Turin)(?:-[A-Z][0-9])?")
_INTEGER, _IA5, _OCTETS = 0x02, 0x16, 0x04
_CHIP_ID_BYTES: Final = {"Milan": 64, "Genoa": 64, "Turin": 8}
_MAX_CERT: Final = 4096
_TABLE_ENTRY: Final = struct.Struct("<16sII")
_TABLE_GUIDS: Final = {
    "vcek": uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd"),
    "vlek": uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1"),
}


@dataclass(frozen=True, slots=True)
class Endorsement:
    """A VCEK or VLEK certificate.  ``chip_id`` is empty for a VLEK, whose key belongs to a provider (``csp_id``), not to a chip."""

    certificate: x509.Certificate = field(repr=False)
    kind: EndorsementKey
    product: Product
    tcb: dict[str, int]
    chip_id: bytes
    csp_id: str

    @classmethod
    def parse(cls, der: bytes) -> Self:
        """Read a certificate, totally: name, product, every component of the TCB and the chip or provider have to be there.

        Raises:
            ParseError: it is not the certificate of a VCEK or VLEK.
        """
        certificate = load_der(der)
        kind = _LEAF_NAMES.get(common_name(certificate.subject))
        if kind is None:
            raise ParseError("the certificate is not a VCEK's or VLEK's", subject=common_name(certificate.subject)[:80])
        product = _product(_extension(certificate, "2"))
        names = _TCB_OIDS if product == "Turin" else {name: oid for name, oid in _TCB_OIDS.items() if name != "fmc"}
        tcb = {name: _integer(_extension(certificate, oid)) for name, oid in names.items()}
        chip = _octets(_extension(certificate, "4"), _CHIP_ID_BYTES[product]) if kind == "vcek" else b""
        csp = _text(_extension(certificate, "5")) if kind == "vlek" else ""
        return cls(certificate, kind, product, tcb, chip, csp)

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        """The key that signs reports.

        Raises:
            EvidenceInvalidError: it is not on P-384.
        """
        key = self.certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise EvidenceInvalidError("the chip's key is not on P-384")
        return key


def load_der(der: bytes) -> x509.Certificate:
    """Read one DER certificate whole.

    Raises:
        ParseError: it is none.
    """
    if len(der) > _MAX_CERT:
        raise ParseError("a certificate is too large", length=len(der), limit=_MAX_CERT)
    try:
        return whole(x509.load_der_x509_certificate(der))
    except DOES_NOT_PARSE as cause:
        raise ParseError("a certificate does not parse") from cause


def endorsement_in_table(table: bytes, kind: EndorsementKey) -> bytes:
    """The VCEK's or VLEK's certificate in a host's table, DER; empty if the host gave none.

    Hosts write a GUID's bytes in either order.

    Raises:
        ParseError: an entry points outside of the table.
    """
    guid, at = _TABLE_GUIDS[kind], 0
    while at + _TABLE_ENTRY.size <= len(table):
        name, start, length = _TABLE_ENTRY.unpack_from(table, at)
        if not any(name):
            break
        if start + length > len(table):
            raise ParseError("an entry of the host's certificate table points outside of it", offset=at)
        if name in {guid.bytes, guid.bytes_le}:
            return _as_der(table[start : start + length])
        at += _TABLE_ENTRY.size
    return b""


def _as_der(data: bytes) -> bytes:
    return der(parse_chain(data)[0]) if data.startswith(b"-----BEGIN") else data


def check_issued(child: x509.Certificate, issuer: x509.Certificate, *, ca: bool, what: str) -> None:
    """Check that ``issuer``, a CA, signed ``child``, and that ``child`` is a CA exactly if it must be one.

    Raises:
        EvidenceInvalidError: it did not, or is not.
    """
    try:
        child.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError) as cause:
        raise EvidenceInvalidError(f"the {what} was not certified by its issuer") from cause
    if not _is_ca(issuer) or _is_ca(child) is not ca:
        raise EvidenceInvalidError("a CA certificate is where none belongs, or the other way round", what=what)


def issuer_name(product: Product, kind: EndorsementKey) -> str:
    """Common name of the key that certifies endorsement keys: ASK for VCEKs, ASVK for VLEKs."""
    return f"{_ISSUERS[kind]}{product}"


def root_name(product: Product) -> str:
    """Common name of a product's AMD root key."""
    return f"ARK-{product}"


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _extension(certificate: x509.Certificate, oid: str) -> bytes:
    try:
        return certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(_ARC + oid)).value.public_bytes()
    except (x509.ExtensionNotFound, ValueError) as cause:
        raise ParseError("the endorsement certificate lacks an extension", oid=_ARC + oid) from cause


def _value(data: bytes, tag: int) -> bytes:
    """The content of one short DER element."""
    if len(data) < 2 or data[0] != tag or data[1] >= 0x80 or len(data) != 2 + data[1]:
        raise ParseError("an extension of the endorsement certificate has another form")
    return data[2:]


def _integer(data: bytes) -> int:
    value = int.from_bytes(_value(data, _INTEGER), "big", signed=True)
    if not 0 <= value <= 0xFF:
        raise ParseError("a component of the certificate's TCB is out of range", got=value)
    return value


def _text(data: bytes) -> str:
    try:
        return _value(data, _IA5).decode("ascii")
    except UnicodeDecodeError as cause:
        raise ParseError("a text of the endorsement certificate is not ASCII") from cause


def _octets(data: bytes, length: int) -> bytes:
    """A chip's id: AMD puts the bare bytes into the extension, the specification an OCTET STRING."""
    value = data if len(data) == length else _value(data, _OCTETS)
    if len(value) != length:
        raise ParseError("the chip's id has the wrong length", length=len(value), expected=length)
    return value


def _product(data: bytes) -> Product:
    found = _PRODUCT.fullmatch(_text(data))
    for product in PRODUCTS:
        if found is not None and found[1] == product:
            return product
    raise ParseError("the certificate is of a product that is not known here")

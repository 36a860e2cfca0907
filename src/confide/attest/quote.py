"""Intel quotes: bytes to frozen records and back, no IO and no trust.

Layouts: Intel SGX ECDSA QuoteLibReference DCAP API, appendix A.4 (version 3, SGX); Intel TDX DCAP Quoting Library API, appendix A.3
(version 4) and A.4 (version 5).  Integers are little-endian.  What is parsed here is only *claimed*: ``verify`` checks it.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import Self

from confide.errors import ParseError
from confide.ids import Tee

HEADER_BYTES = 48
SGX_BODY_BYTES = 384
TD10_BODY_BYTES = 584
TD15_BODY_BYTES = 648
SIGNATURE_BYTES = 64
QE_AUTH_DATA_BYTES = 32
"""What Intel's quoting enclaves put in; the field is of variable length."""
ECDSA_P256 = 2
"""Attestation key type: ECDSA over SHA-256 with P-256."""
TEE_TYPE_SGX = 0x00000000
TEE_TYPE_TDX = 0x00000081
INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
"""Vendor id of Intel's quoting enclaves."""
PCK_CHAIN_PEM = 5
"""Certification data type: PCK leaf, CA and root as concatenated PEM."""
QE_REPORT_DATA = 6
"""Certification data type: quoting enclave report with nested certification data (versions 4 and 5)."""
V5_TD10, V5_TD15 = 2, 3
"""Body types of version 5: TD report 1.0 and 1.5."""
MAX_AUTH_BYTES = 1024
MAX_CERT_BYTES = 24 * 1024
"""Caps on the two variable fields, in bytes; genuine ones have 32 and about 3,700."""

SGX_DEBUG = 0x02
"""SGX ATTRIBUTES.FLAGS.DEBUG (Intel SDM volume 3D, table 38-3)."""
TD_DEBUG = 0xFF
"""TD ATTRIBUTES bits 0 to 7, the group "TUD" (TD under debug): any of them set means no protection."""
TD_SEPT_VE_DISABLE = 1 << 28
TD_MIGRATABLE = 1 << 29
_TD_PKS, _TD_KEY_LOCKER, _TD_PERFMON = 1 << 30, 1 << 31, 1 << 63
TD_KNOWN = TD_DEBUG | TD_SEPT_VE_DISABLE | TD_MIGRATABLE | _TD_PKS | _TD_KEY_LOCKER | _TD_PERFMON
"""All TD ATTRIBUTES that are known here (Intel TDX Module ABI Reference, ATTRIBUTES); the others are reserved."""


class _Reader:
    """Takes exact fields from bytes; every failure says the offset."""

    def __init__(self, data: bytes, *, base: int = 0) -> None:
        self._data, self._base, self.at = data, base, 0

    def take(self, length: int, what: str) -> bytes:
        if length > len(self._data) - self.at:
            raise ParseError(f"the quote ends inside its {what}", offset=self._base + len(self._data))
        self.at += length
        return self._data[self.at - length : self.at]

    def integer(self, length: int, what: str) -> int:
        return int.from_bytes(self.take(length, what), "little")

    def bounded(self, length: int, limit: int, what: str) -> bytes:
        if length > limit:
            raise ParseError(f"the quote's {what} is too large", offset=self._base + self.at, length=length, limit=limit)
        return self.take(length, what)

    def end(self, what: str) -> None:
        if self.at != len(self._data):
            raise ParseError(f"there are bytes after the {what}", offset=self._base + self.at, extra=len(self._data) - self.at)


@dataclass(frozen=True, slots=True)
class Header:
    """The first 48 bytes.  ``qe_svn`` and ``pce_svn`` are reserved (zero) in versions 4 and 5."""

    version: int
    key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    vendor: bytes
    user_data: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read exactly 48 bytes."""
        return cls(*struct.unpack("<HHIHH16s20s", data))

    def to_bytes(self) -> bytes:
        """The inverse of :meth:`parse`."""
        return struct.pack(
            "<HHIHH16s20s", self.version, self.key_type, self.tee_type, self.qe_svn, self.pce_svn, self.vendor, self.user_data
        )


_SGX = struct.Struct("<16sI28s16s32s32s32s96sHH60s64s")


@dataclass(frozen=True, slots=True)
class SgxBody:
    """An enclave report body (384 bytes), of the application enclave or of the quoting enclave."""

    cpu_svn: bytes
    misc_select: int
    reserved1: bytes
    attributes: bytes
    mr_enclave: bytes
    reserved2: bytes
    mr_signer: bytes
    reserved3: bytes
    isv_prod_id: int
    isv_svn: int
    reserved4: bytes
    report_data: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read exactly 384 bytes."""
        return cls(*_SGX.unpack(data))

    def to_bytes(self) -> bytes:
        """The inverse of :meth:`parse`."""
        return _SGX.pack(
            *(self.cpu_svn, self.misc_select, self.reserved1, self.attributes, self.mr_enclave, self.reserved2, self.mr_signer),
            *(self.reserved3, self.isv_prod_id, self.isv_svn, self.reserved4, self.report_data),
        )

    @property
    def debug(self) -> bool:
        """Whether the enclave can be read from outside."""
        return bool(self.attributes[0] & SGX_DEBUG)


_TD10 = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")


@dataclass(frozen=True, slots=True)
class TdBody:
    """A TD report body: 584 bytes (1.0), or 648 (1.5) when ``tee_tcb_svn2`` and ``mr_service_td`` are there."""

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes
    tee_tcb_svn2: bytes = b""
    mr_service_td: bytes = b""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read exactly 584 or 648 bytes."""
        extra = data[TD10_BODY_BYTES:]
        return cls(*(*_TD10.unpack(data[:TD10_BODY_BYTES]), extra[:16], extra[16:]))

    def to_bytes(self) -> bytes:
        """The inverse of :meth:`parse`."""
        fixed = _TD10.pack(
            *(self.tee_tcb_svn, self.mr_seam, self.mr_signer_seam, self.seam_attributes, self.td_attributes, self.xfam, self.mr_td),
            *(self.mr_config_id, self.mr_owner, self.mr_owner_config, self.rtmr0, self.rtmr1, self.rtmr2, self.rtmr3, self.report_data),
        )
        return fixed + self.tee_tcb_svn2 + self.mr_service_td

    @property
    def flags(self) -> int:
        """The TD's ATTRIBUTES as a number."""
        return int.from_bytes(self.td_attributes, "little")

    @property
    def debug(self) -> bool:
        """Whether the trust domain can be read from outside."""
        return bool(self.flags & TD_DEBUG)

    @property
    def service_td(self) -> bool:
        """Whether a service TD, which may migrate this one, is bound to it."""
        return any(self.mr_service_td)


@dataclass(frozen=True, slots=True)
class Signature:
    """The ECDSA signature data: the quote's signature, the attestation key, and the quoting enclave's report that vouches for the key.

    Signatures and keys are raw (r ‖ s and x ‖ y, big-endian, 32 bytes each).  ``cert_type`` and ``cert_data`` are the innermost
    certification data; versions 4 and 5 nest it in a type 6 structure, which is checked and rebuilt but not kept.
    """

    signature: bytes
    attestation_key: bytes
    qe_report: SgxBody
    qe_report_signature: bytes
    auth_data: bytes
    cert_type: int
    cert_data: bytes = field(repr=False)

    @classmethod
    def parse(cls, data: bytes, *, base: int, nested: bool) -> Self:
        """Read ``data`` to its last byte.  ``base`` is its offset in the quote, for messages."""
        reader = _Reader(data, base=base)
        signature, key = reader.take(64, "signature"), reader.take(64, "attestation key")
        if nested:
            if reader.integer(2, "certification data type") != QE_REPORT_DATA:
                raise ParseError("the outer certification data must be of type 6", offset=base + reader.at - 2)
            if reader.integer(4, "certification data size") != len(data) - reader.at:
                raise ParseError("the outer certification data does not fill the signature data", offset=base + reader.at - 4)
        report = SgxBody.parse(reader.take(SGX_BODY_BYTES, "quoting enclave report"))
        report_signature = reader.take(64, "quoting enclave report's signature")
        auth = reader.bounded(reader.integer(2, "authentication data size"), MAX_AUTH_BYTES, "authentication data")
        cert_type = reader.integer(2, "certification data type")
        cert = reader.bounded(reader.integer(4, "certification data size"), MAX_CERT_BYTES, "certification data")
        reader.end("certification data")
        return cls(signature, key, report, report_signature, auth, cert_type, cert)

    def to_bytes(self, *, nested: bool) -> bytes:
        """The inverse of :meth:`parse`."""
        inner = self.qe_report.to_bytes() + self.qe_report_signature + struct.pack("<H", len(self.auth_data)) + self.auth_data
        inner += struct.pack("<HI", self.cert_type, len(self.cert_data)) + self.cert_data
        if nested:
            inner = struct.pack("<HI", QE_REPORT_DATA, len(inner)) + inner
        return self.signature + self.attestation_key + inner

    @property
    def carries_chain(self) -> bool:
        """Whether the PCK certificate and its chain are in the quote; else they have to come from elsewhere (``pck_id``)."""
        return self.cert_type == PCK_CHAIN_PEM

    @property
    def expected_qe_report_data(self) -> bytes:
        """What the quoting enclave's report must hold: SHA-256 of attestation key and authentication data, then 32 zero bytes."""
        return hashlib.sha256(self.attestation_key + self.auth_data).digest() + bytes(32)


@dataclass(frozen=True, slots=True)
class Quote:
    """One whole quote.  ``body`` is a :class:`TdBody` for TDX and a :class:`SgxBody` for SGX."""

    header: Header
    body: SgxBody | TdBody
    signature: Signature

    @property
    def tee(self) -> Tee:
        """The kind of TEE that the quote claims."""
        return Tee.SGX if isinstance(self.body, SgxBody) else Tee.TDX

    @property
    def signed_bytes(self) -> bytes:
        """Header and body (with its descriptor in version 5): what the quote's signature is over, and what names the evidence."""
        body = self.body.to_bytes()
        if self.header.version == 5:
            kind = V5_TD15 if len(body) == TD15_BODY_BYTES else V5_TD10
            body = struct.pack("<HI", kind, len(body)) + body
        return self.header.to_bytes() + body

    def to_bytes(self) -> bytes:
        """The inverse of :func:`parse_quote`."""
        signature = self.signature.to_bytes(nested=self.header.version > 3)
        return self.signed_bytes + struct.pack("<I", len(signature)) + signature


def _parse_body(reader: _Reader, header: Header) -> SgxBody | TdBody:
    match header.version, header.tee_type:
        case 3, tee_type if tee_type == TEE_TYPE_SGX:
            return SgxBody.parse(reader.take(SGX_BODY_BYTES, "enclave report"))
        case 4, tee_type if tee_type == TEE_TYPE_TDX:
            return TdBody.parse(reader.take(TD10_BODY_BYTES, "TD report"))
        case 5, tee_type if tee_type == TEE_TYPE_TDX:
            kind, size = reader.integer(2, "body type"), reader.integer(4, "body size")
            if (kind, size) not in {(V5_TD10, TD10_BODY_BYTES), (V5_TD15, TD15_BODY_BYTES)}:
                raise ParseError("unknown body type or wrong body size", offset=HEADER_BYTES, got=kind, length=size)
            return TdBody.parse(reader.take(size, "TD report"))
        case version, tee_type:
            raise ParseError("not an SGX quote of version 3 or a TDX quote of version 4 or 5", offset=0, version=version, tee_type=tee_type)


@dataclass(frozen=True, slots=True)
class Parts:
    """A quote taken apart so far as it differs from others of its platform.

    ``vouching`` (the attestation key and what vouches for it) is not read yet: its bytes are the same in all quotes of one quoting enclave.
    """

    header: Header
    body: SgxBody | TdBody
    signed_bytes: bytes
    signature: bytes
    vouching: bytes = field(repr=False)

    @property
    def tee(self) -> Tee:
        """The kind of TEE that the quote claims."""
        return Tee.SGX if isinstance(self.body, SgxBody) else Tee.TDX

    @property
    def whole_signature(self) -> Signature:
        """All of the signature data, read to its last byte.  Raises ``ParseError``."""
        return Signature.parse(self.signature + self.vouching, base=len(self.signed_bytes) + 4, nested=self.header.version > 3)


def _split(raw: bytes) -> tuple[Parts, int]:
    reader = _Reader(raw)
    header = Header.parse(reader.take(HEADER_BYTES, "header"))
    if header.key_type != ECDSA_P256:
        raise ParseError("the attestation key is not of type ECDSA P-256", offset=2, got=header.key_type)
    if header.vendor != INTEL_QE_VENDOR:
        raise ParseError("the quoting enclave is not of Intel's vendor id", offset=12)
    body = _parse_body(reader, header)
    signed = raw[: reader.at]
    data = reader.bounded(reader.integer(4, "signature data size"), MAX_CERT_BYTES, "signature data")
    if len(data) < SIGNATURE_BYTES:
        raise ParseError("the quote ends inside its signature", offset=reader.at)
    return Parts(header, body, signed, data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]), reader.at


def split_quote(raw: bytes) -> Parts:
    """Take one quote apart, to its last byte, without reading what vouches for its attestation key.

    Raises:
        ParseError: the bytes are not exactly one quote of a known version; ``facts`` hold the offset.
    """
    parts, end = _split(raw)
    if end != len(raw):
        raise ParseError("there are bytes after the quote", offset=end, extra=len(raw) - end)
    return parts


def parse_quote(raw: bytes) -> Quote:
    """Read one quote whole, to its last byte.  Raises as :func:`split_quote`."""
    parts = split_quote(raw)
    return Quote(parts.header, parts.body, parts.whole_signature)


def without_padding(raw: bytes) -> bytes:
    """The quote at the start of a quoting service's buffer.

    Services hand out fixed buffers: genuine version 4 quotes come with 70 zero bytes (room for a version 5 body) or padded to 8,000.

    Raises:
        ParseError: there is no quote, or something other than zeros after it.
    """
    parts, end = _split(raw)
    _ = parts.whole_signature
    if any(raw[end:]):
        raise ParseError("there is something other than padding after the quote", offset=end, extra=len(raw) - end)
    return raw[:end]

"""TPM 2.0 structures that evidence is made of, read to their last byte.  Knows nothing of whether they are genuine.

Layouts: TCG "Trusted Platform Module Library, Part 2: Structures", revision 1.59 (section numbers below); all numbers are big-endian.
The container around them is Confide's own: ``docs/formats/tpm-evidence.md``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from confide.errors import ParseError

MAGIC: Final = b"confide-tpm-v1\n"
GENERATED: Final = 0xFF54_4347
"""TPM_GENERATED_VALUE (6.2): a restricted key signs no digest of outside data that starts so."""
ST_ATTEST_QUOTE: Final = 0x8018
PCR_COUNT: Final = 24
SHA256: Final = 0x000B
_SHA384: Final = 0x000C
_NULL: Final = 0x0010
_RSA, _ECC = 0x0001, 0x0023
_SCHEMES: Final[dict[int, Literal["rsassa", "rsapss", "ecdsa"]]] = {0x0014: "rsassa", 0x0016: "rsapss", 0x0018: "ecdsa"}
_CURVES: Final[dict[int, ec.EllipticCurve]] = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1()}
_HASHES: Final[dict[int, hashes.HashAlgorithm]] = {SHA256: hashes.SHA256(), _SHA384: hashes.SHA384()}

FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN = 1 << 1, 1 << 4, 1 << 5
RESTRICTED, DECRYPT, SIGN = 1 << 16, 1 << 17, 1 << 18
"""Bits of TPMA_OBJECT (8.3)."""


class Reader:
    """Takes fields from the front; what does not fit is a ``ParseError`` with its offset."""

    def __init__(self, data: bytes, what: str, order: Literal["big", "little"] = "big") -> None:
        self._data, self._what, self._order, self.at = data, what, order, 0

    def take(self, length: int) -> bytes:
        """The next ``length`` bytes."""
        if length > len(self._data) - self.at:
            raise ParseError(f"the {self._what} ends early", offset=self.at)
        self.at += length
        return self._data[self.at - length : self.at]

    def ahead(self, length: int | None = None) -> bytes:
        """The next bytes, ``length`` of them at most, without taking them."""
        return self._data[self.at :] if length is None else self._data[self.at : self.at + length]

    def number(self, length: int) -> int:
        """The next number of ``length`` bytes."""
        return int.from_bytes(self.take(length), self._order)

    def sized(self, size: int = 2) -> bytes:
        """Bytes behind their length, as every TPM2B is."""
        return self.take(self.number(size))

    def must(self, ok: bool, problem: str) -> None:  # noqa: FBT001  # reads as a sentence: must(number == 3, "...")
        """Refuse what the format does not allow."""
        if not ok:
            raise ParseError(f"the {self._what} {problem}", offset=self.at)

    @property
    def more(self) -> bool:
        """Whether there are bytes left."""
        return self.at < len(self._data)

    def end(self) -> None:
        """Refuse bytes after the end."""
        self.must(not self.more, "has bytes after its end")


@dataclass(frozen=True, slots=True)
class Attest:
    """TPMS_ATTEST (10.12.8) with TPMS_QUOTE_INFO (10.12.1) over PCRs of the SHA-256 bank.  ``pcrs`` are in ascending order."""

    signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    clock_safe: bool
    firmware_version: int
    pcrs: tuple[int, ...]
    pcr_digest: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a quote.

        Raises:
            ParseError: it is none, it is another kind of attestation, or it selects another bank or several.
        """
        reader = Reader(data, "TPM quote")
        reader.must(reader.number(4) == GENERATED, "was not made by a TPM")
        reader.must(reader.number(2) == ST_ATTEST_QUOTE, "is an attestation of another kind")
        signer, extra = reader.sized(), reader.sized()
        clock, resets, restarts, safe, firmware = (reader.number(size) for size in (8, 4, 4, 1, 8))
        reader.must(safe in {0, 1}, "has a flag that is neither yes nor no")
        reader.must(reader.number(4) == 1, "must select PCRs of one bank")
        reader.must(reader.number(2) == SHA256, "must select PCRs of the SHA-256 bank")
        pcrs = _bits(reader.take(reader.number(1)))
        reader.must(bool(pcrs) and pcrs[-1] < PCR_COUNT, "selects no PCR, or one that there is not")
        digest = reader.sized()
        reader.end()
        return cls(signer, extra, clock, resets, restarts, bool(safe), firmware, pcrs, digest)


@dataclass(frozen=True, slots=True)
class Signature:
    """TPMT_SIGNATURE (11.3.4).  ``value`` is the RSA signature, or (r, s) as numbers."""

    scheme: Literal["rsassa", "rsapss", "ecdsa"]
    hash: hashes.HashAlgorithm
    value: bytes | tuple[int, int]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a signature.

        Raises:
            ParseError: it is none, or of an algorithm that is not accepted.
        """
        reader = Reader(data, "TPM signature")
        scheme, hashed = _SCHEMES.get(reader.number(2)), _HASHES.get(reader.number(2))
        if scheme is None or hashed is None:
            raise ParseError("the TPM signature is of a scheme or hash that is not accepted", offset=reader.at)
        value = (int.from_bytes(reader.sized()), int.from_bytes(reader.sized())) if scheme == "ecdsa" else reader.sized()
        reader.end()
        return cls(scheme, hashed, value)


@dataclass(frozen=True, slots=True)
class Public:
    """TPMT_PUBLIC (12.2.4) of a signing key.  ``name`` is what the TPM calls it: the hash's number and the hash (Part 1, section 16)."""

    attributes: int
    scheme: Literal["rsassa", "rsapss", "ecdsa"]
    hash: hashes.HashAlgorithm
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    name: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a key that signs by one scheme.

        Raises:
            ParseError: it is none, of another kind, size or curve, or not bound to a scheme.
        """
        reader = Reader(data, "TPM key")
        kind = reader.number(2)
        reader.must(kind in {_RSA, _ECC}, "is of another kind than RSA or ECC")
        reader.must(reader.number(2) == SHA256, "is named by another hash than SHA-256")
        attributes = reader.number(4)
        reader.sized()  # authPolicy: who may use the key is the node's affair
        reader.must(reader.number(2) == _NULL, "has a cipher, which signing keys have not")
        scheme, hashed = _SCHEMES.get(reader.number(2)), _HASHES.get(reader.number(2))
        if scheme is None or hashed is None or (scheme == "ecdsa") != (kind == _ECC):
            raise ParseError("the TPM key is of a scheme or hash that is not accepted", offset=reader.at)
        key = _rsa_key(reader) if kind == _RSA else _ecc_key(reader)
        reader.end()
        return cls(attributes, scheme, hashed, key, SHA256.to_bytes(2) + hashlib.sha256(data).digest())


@dataclass(frozen=True, slots=True)
class TpmEvidence:
    """The container: what ``Evidence.quote`` holds for a TPM.  ``pcrs`` are the values of the quote's PCRs in ascending order."""

    report_data: bytes
    attest: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    public: bytes = field(repr=False)
    pcrs: tuple[bytes, ...] = field(repr=False)
    log: bytes = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a container; the structures in it are read by their own classes.

        Raises:
            ParseError: it is none.
        """
        reader = Reader(data, "TPM evidence")
        reader.must(reader.take(len(MAGIC)) == MAGIC, "is of an unknown format")
        report_data = reader.take(64)
        attest, signature, public, pcrs, log = (reader.sized(4) for _ in range(5))
        reader.must(len(pcrs) % 32 == 0, "has a PCR value that is not 32 bytes")
        reader.end()
        return cls(report_data, attest, signature, public, tuple(pcrs[at : at + 32] for at in range(0, len(pcrs), 32)), log)

    def registers(self) -> dict[str, str]:
        """The PCRs' values in hex by name (``pcr0`` to ``pcr23``), as the container and its quote's selection claim them.

        Raises:
            ParseError: the quote is none, or there is not one value for each of its PCRs.
        """
        selected = Attest.parse(self.attest).pcrs
        if len(selected) != len(self.pcrs):
            raise ParseError("there is not one value for each PCR of the quote", expected=len(selected), got=len(self.pcrs))
        return {f"pcr{pcr}": value.hex() for pcr, value in zip(selected, self.pcrs, strict=True)}

    def to_bytes(self) -> bytes:
        """The inverse of :meth:`parse`."""
        parts = (self.attest, self.signature, self.public, b"".join(self.pcrs), self.log)
        return MAGIC + self.report_data + b"".join(len(part).to_bytes(4) + part for part in parts)


def qualifying_data(report_data: bytes) -> bytes:
    """What a TPM is given in the place of 64 bytes, which do not fit into a TPM2B_DATA of every TPM: their SHA-256."""
    return hashlib.sha256(MAGIC + report_data).digest()


def _bits(octets: bytes) -> tuple[int, ...]:
    return tuple(8 * at + bit for at, octet in enumerate(octets) for bit in range(8) if octet >> bit & 1)


def _rsa_key(reader: Reader) -> rsa.RSAPublicKey:
    bits, exponent = reader.number(2), reader.number(4) or 65537
    modulus = reader.sized()
    reader.must(bits in {2048, 3072, 4096} and len(modulus) == bits // 8 and modulus[0] >= 0x80, "is an RSA key of another size")
    reader.must(exponent == 65537, "is an RSA key with another exponent than 65537")
    try:
        return rsa.RSAPublicNumbers(exponent, int.from_bytes(modulus)).public_key()
    except ValueError as cause:
        raise ParseError("the TPM key is no RSA key") from cause


def _ecc_key(reader: Reader) -> ec.EllipticCurvePublicKey:
    curve = _CURVES.get(reader.number(2))
    if curve is None:
        raise ParseError("the TPM key is on a curve that is not accepted", offset=reader.at)
    reader.must(reader.number(2) == _NULL, "has a key derivation scheme, which signing keys have not")
    x, y = reader.sized(), reader.sized()
    try:
        return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve).public_key()
    except ValueError as cause:
        raise ParseError("the TPM key is not on its curve") from cause

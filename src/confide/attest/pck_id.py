"""Which PCK certificate a quote asks for that does not carry it: certification data of types 2 and 3.

Layout: Intel SGX ECDSA QuoteLibReference DCAP API, appendix A.4, table "QE Certification Data" (types 1 to 3: PPID, plain or encrypted to
Intel's RSA key, then CPUSVN, PCESVN and PCEID).  Type 1, a plain PPID, is refused: no service looks a certificate up by it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from confide.attest.quote import Parts, split_quote
from confide.errors import ParseError

_ENCRYPTED_PPID_BYTES: Final = {2: 256, 3: 384}
"""Certification data type to the length of an RSA-2048 and an RSA-3072 ciphertext."""
_CPU_SVN_BYTES: Final = 16
_SVN_BYTES: Final = 2
_QE_ID_BYTES: Final = 16
"""The quoting enclave puts its id into the first bytes of the header's user data."""


@dataclass(frozen=True, slots=True)
class PckId:
    """What a PCCS finds a PCK certificate by.  ``pce_svn`` and ``pce_id`` are the quote's own bytes, little-endian."""

    encrypted_ppid: bytes = field(repr=False)
    cpu_svn: bytes
    pce_svn: bytes
    pce_id: bytes
    qe_id: bytes

    @classmethod
    def of(cls, quote: bytes) -> Self | None:
        """What a quote asks for; None if it carries a chain of its own, or names no certificate: the verifier refuses it then.

        Raises:
            ParseError: it is not exactly one quote, or its certification data is not of its type's length.
        """
        parts = split_quote(quote)
        signature = parts.whole_signature
        return cls.parse(parts, signature.cert_type, signature.cert_data) if signature.cert_type in _ENCRYPTED_PPID_BYTES else None

    @classmethod
    def parse(cls, parts: Parts, cert_type: int, data: bytes) -> Self:
        """Read certification data to its last byte.

        Raises:
            ParseError: it is not of type 2 or 3, or not of that type's length.
        """
        ppid = _ENCRYPTED_PPID_BYTES.get(cert_type)
        if ppid is None:
            raise ParseError("the quote's certification data is of a type that names no PCK certificate", cert_type=cert_type)
        if len(data) != ppid + _CPU_SVN_BYTES + 2 * _SVN_BYTES:
            raise ParseError("the quote's certification data is not of its type's length", cert_type=cert_type, length=len(data))
        svn = ppid + _CPU_SVN_BYTES
        return cls(data[:ppid], data[ppid:svn], data[svn : svn + 2], data[svn + 2 :], parts.header.user_data[:_QE_ID_BYTES])

    @property
    def query(self) -> dict[str, str]:
        """The parameters of ``GET /sgx/certification/v4/pckcert``."""
        return {
            "encrypted_ppid": self.encrypted_ppid.hex(),
            "cpusvn": self.cpu_svn.hex(),
            "pcesvn": self.pce_svn.hex(),
            "pceid": self.pce_id.hex(),
            "qeid": self.qe_id.hex(),
        }

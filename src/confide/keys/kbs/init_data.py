"""Init-data: configuration that an untrusted host gave a guest, and the field of the evidence that it is bound to.  Pure.

``kbs/docs/initdata.md`` of Trustee, version 0.1.0.  The digest is over the document's bytes as they were sent (what guests and the
attestation service compute); it is padded with zeros or cut to the field's length, as the specification's "Integrity Binding" has it:
SGX CONFIGID (64 bytes), TDX MRCONFIGID (48), SEV-SNP HOST_DATA (32), and a TPM's PCR 8, extended once.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final, Self

from confide.attest.quote import SgxBody, parse_quote
from confide.attest.verify import VerifiedEvidence
from confide.canonical import Json, parse_object, parse_toml
from confide.errors import BindingError, ParseError
from confide.ids import Tee

VERSION: Final = "0.1.0"
MAX_BYTES: Final = 256 * 1024
_ALGORITHMS: Final = {"sha256": 32, "sha-256": 32, "sha384": 48, "sha-384": 48, "sha512": 64, "sha-512": 64}
_FIELD_BYTES: Final = {Tee.SGX: 64, Tee.TDX: 48, Tee.SNP: 32, Tee.TPM: 32}
_CONFIG_ID: Final = slice(32, 96)
"""CONFIGID within the bytes between MRSIGNER and ISVPRODID (Intel SDM volume 3D, table "REPORT")."""


@dataclass(frozen=True, slots=True)
class InitData:
    """One document.  ``digest`` is what the evidence has to hold; what is in ``data`` counts only after :meth:`check_bound`."""

    format: str
    body: str = field(repr=False)
    digest: bytes
    data: dict[str, str] = field(repr=False, hash=False)

    @classmethod
    def from_json(cls, message: object) -> Self:
        """Read ``init-data`` of an attest request.

        Raises:
            ParseError: not TOML or JSON, another version or algorithm, or not text under text names.
        """
        match message:
            case {"format": "toml" | "json" as kind, "body": str(body), **rest} if not rest:
                return cls.parse(body, str(kind))
        raise ParseError("init-data has a format (toml or json) and a body")

    @classmethod
    def parse(cls, body: str, kind: str = "toml") -> Self:
        """Read a document.  Raises as :meth:`from_json`."""
        raw = _utf8(body)
        fields = parse_toml(body) if kind == "toml" else parse_object(body)
        match fields:
            case {"version": "0.1.0", "algorithm": str(algorithm), "data": dict(data), **rest} if not rest and algorithm in _ALGORITHMS:
                if all(isinstance(name, str) and isinstance(value, str) for name, value in data.items()):
                    return cls(kind, body, hashlib.new(algorithm.replace("-", ""), raw).digest(), dict(data))
        raise ParseError(f"not init-data of version {VERSION}: version, algorithm (sha256, sha384 or sha512) and data of texts")

    def check_bound(self, verified: VerifiedEvidence) -> None:
        """Check that genuine evidence holds this document's digest where its kind of TEE has it.

        Raises:
            BindingError: it holds another, or none.
        """
        if not hmac.compare_digest(bound_init_data(verified), self.bound_value(verified.claims.tee)):
            raise BindingError("the init-data is not what the guest was started with", hint="the host changed it, or gave none at launch")

    def bound_value(self, tee: Tee) -> bytes:
        """What the field of evidence of that kind holds of a guest that was started with this document."""
        size = _FIELD_BYTES[tee]
        value = self.digest[:size].ljust(size, b"\0")
        return hashlib.sha256(bytes(32) + value).digest() if tee is Tee.TPM else value

    def to_json(self) -> Json:
        """The message's member."""
        return {"format": self.format, "body": self.body}


def bound_init_data(verified: VerifiedEvidence) -> bytes:
    """The field of genuine evidence that init-data is bound to, as it stands there.

    Raises:
        BindingError: a TPM's quote does not cover PCR 8.
    """
    claims = verified.claims
    match claims.tee:
        case Tee.TDX:
            return bytes.fromhex(str(claims.vendor["mr_config_id"]))
        case Tee.SNP:
            return bytes.fromhex(str(claims.vendor["host_data"]))
        case Tee.TPM:
            if "pcr8" not in claims.registers:
                raise BindingError("the TPM's quote does not cover PCR 8, which init-data is bound to")
            return bytes.fromhex(claims.registers["pcr8"])
        case Tee.SGX:
            body = parse_quote(verified.evidence.quote).body
            if isinstance(body, SgxBody):
                return body.reserved3[_CONFIG_ID]
    raise BindingError("evidence of a kind that init-data cannot be bound to")


def _utf8(body: str) -> bytes:
    try:
        raw = body.encode()
    except UnicodeEncodeError as cause:
        raise ParseError("init-data is not text") from cause
    if len(raw) > MAX_BYTES:
        raise ParseError("init-data is too large", limit=MAX_BYTES, got=len(raw))
    return raw

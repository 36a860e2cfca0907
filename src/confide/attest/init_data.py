"""Init-data: configuration that an untrusted host gave a guest, and the field of the evidence that it is bound to.  Pure.

``kbs/docs/initdata.md`` of Trustee, version 0.1.0.  The digest is over the document's bytes as they were sent (what guests and the
attestation service compute); it is padded with zeros or cut to the field's length, as the specification's "Integrity Binding" has it:
SGX CONFIGID (64 bytes), TDX MRCONFIGID (48), SEV-SNP HOST_DATA (32), and a TPM's PCR 8, extended once.  Kata Containers' runtime does the
same (``adjust_digest`` of its ``initdata.rs``).  Documents that are rendered here have the algorithm whose digest fills the field.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from confide.canonical import Json, parse_object, parse_toml
from confide.errors import AppraisalError, BindingError, ParseError
from confide.ids import Tee

if TYPE_CHECKING:
    from confide.attest.claims import Claims
    from confide.attest.verify import VerifiedEvidence
    from confide.ids import JobDigest

VERSION: Final = "0.1.0"
MAX_BYTES: Final = 256 * 1024
_ALGORITHMS: Final = {"sha256": 32, "sha-256": 32, "sha384": 48, "sha-384": 48, "sha512": 64, "sha-512": 64}
_FIELD_BYTES: Final = {Tee.SGX: 64, Tee.TDX: 48, Tee.SNP: 32, Tee.TPM: 32}
INIT_DATA_CHARACTERS: Final = {tee: 2 * size for tee, size in _FIELD_BYTES.items()}
"""Length of the field in hex."""
_VENDORS_NAMES: Final = {Tee.SGX: "config_id", Tee.TDX: "mr_config_id", Tee.SNP: "host_data"}
JOB_DIGEST_NAME: Final = "confide.dev/job-digest"
"""Name of the job digest within ``data``."""
JOB_ALGORITHMS: Final[Mapping[Tee, str]] = {Tee.TDX: "sha384", Tee.SNP: "sha256"}
"""Of documents that carry a job digest, by the kind of guest that they are for."""


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


def job_init_data(job: JobDigest, tee: Tee, more: Mapping[str, str]) -> InitData:
    """The document of one job: its digest, and ``more`` (an agent policy, configuration of the guest's components) as given.

    The same job and entries give the same bytes, so that whoever knows them knows what the evidence has to hold.

    Raises:
        ParseError: ``more`` has the job digest's name, or is no text, or too much of it; or guests of that kind are given none.
    """
    if JOB_DIGEST_NAME in more:
        raise ParseError(f"{JOB_DIGEST_NAME} is the job's own")
    if tee not in JOB_ALGORITHMS:
        raise ParseError(f"init-data of a job is for {' and '.join(sorted(JOB_ALGORITHMS))}", got=str(tee))
    data = {JOB_DIGEST_NAME: str(job), **{name: more[name] for name in sorted(more)}}
    # A JSON string is a TOML basic string: both escape quote, backslash and control characters, and know \uXXXX.
    lines = [f"version = {json.dumps(VERSION)}", f"algorithm = {json.dumps(JOB_ALGORITHMS[tee])}", "", "[data]"]
    lines += [f"{_quoted(name)} = {_quoted(value)}" for name, value in data.items()]
    return InitData.parse("\n".join(lines) + "\n")


def held_init_data(claims: Claims) -> str:
    """What evidence holds where its kind of TEE has init-data's digest, in lower-case hex; empty if it has nothing there."""
    if claims.tee is Tee.TPM:
        return claims.registers.get("pcr8", "")
    return str(claims.vendor.get(_VENDORS_NAMES.get(claims.tee, ""), ""))


def require_init_data(claims: Claims, expected: str) -> None:
    """Return if appraised evidence holds ``expected`` (lower-case hex) as its init-data.

    Raises:
        AppraisalError: the guest was started with other init-data, or none.
    """
    held = held_init_data(claims)
    if held != expected:
        message = "the guest was not started with this run's init-data"
        raise AppraisalError(message, check="init-data", expected=expected, got=held or "none")


def bound_init_data(verified: VerifiedEvidence) -> bytes:
    """The field of genuine evidence that init-data is bound to, as it stands there.

    Raises:
        BindingError: the evidence has no such field; a TPM's quote does not cover PCR 8.
    """
    held = held_init_data(verified.claims)
    if not held and verified.claims.tee is Tee.TPM:
        raise BindingError("the TPM's quote does not cover PCR 8, which init-data is bound to")
    if not held:
        raise BindingError("evidence of a kind that init-data cannot be bound to")
    return bytes.fromhex(held)


def _quoted(text: str) -> str:
    # TOML takes no surrogate pairs, so characters stand for themselves; DEL is a control character there, and is not in JSON.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def _utf8(body: str) -> bytes:
    try:
        raw = body.encode()
    except UnicodeEncodeError as cause:
        raise ParseError("init-data is not text") from cause
    if len(raw) > MAX_BYTES:
        raise ParseError("init-data is too large", limit=MAX_BYTES, got=len(raw))
    return raw

"""Evidence as it travels, and the context that it is bound to.  Knows nothing of whether evidence is genuine."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

from confide.attest.quote import without_padding
from confide.canonical import Json, b64url, canonical, from_b64url
from confide.errors import AttesterError, ParseError
from confide.ids import JobDigest, NodeId, ReportData, RunId, Tee

CONTEXT_FORMAT = "confide-context-v1"
MAX_EVIDENCE_BYTES = 32 * 1024
"""Cap on a quote and on a certificate chain, in bytes: the largest genuine Intel quote with its chain is about 8 KiB."""
MAX_TPM_EVIDENCE_BYTES = 256 * 1024
"""Cap on a TPM's container, in bytes: it carries the firmware's event log, and logs of real firmware are 30 to 200 KiB long."""

_JOB = re.compile(r"[0-9a-f]{96}")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?")
_COORDINATE_BYTES = 32
_KNOWN_CONTEXTS = 4096
_JWK_FIELDS = {"kty", "crv", "x", "y"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """A quote or report of one TEE, exactly as its vendor defines it; ``chain`` is its certificate chain if it does not carry one.

    Only lengths are checked here; :mod:`confide.attest.verify` reads the bytes.
    """

    tee: Tee
    quote: bytes = field(repr=False)
    chain: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if not 0 < len(self.quote) <= max_quote_bytes(self.tee) or len(self.chain) > MAX_EVIDENCE_BYTES:
            raise ParseError("evidence is empty or too large", length=len(self.quote), limit=max_quote_bytes(self.tee))

    @classmethod
    def from_device(cls, tee: Tee, raw: bytes) -> Self:
        """Evidence from a quoting service's buffer, which may be larger than the quote: zero bytes after its end are cut off.

        The verifier takes exact quotes only, so that there is one byte string for one quote.

        Raises:
            ParseError: the buffer holds no quote, or something other than zeros after it.
        """
        if len(raw) > MAX_EVIDENCE_BYTES:
            raise ParseError("evidence is too large", length=len(raw), limit=MAX_EVIDENCE_BYTES)
        return cls(tee, without_padding(raw))

    @classmethod
    def of_device(cls, tee: Tee, raw: bytes) -> Self:
        """:meth:`from_device`, for attesters.

        Raises:
            AttesterError: the buffer holds no quote, or something other than zeros after it.
        """
        try:
            return cls.from_device(tee, raw)
        except ParseError as cause:
            raise AttesterError(f"the TEE gave something that is not a quote: {cause.message}") from cause

    def to_json(self) -> Json:
        """The evidence as JSON; bytes in base64url."""
        return {"tee": self.tee.value, "quote": b64url(self.quote), "chain": b64url(self.chain)}

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: a field is missing, unknown or of the wrong type.
        """
        fields = _strings(data, {"tee", "quote", "chain"}, "evidence")
        try:
            tee = Tee(fields["tee"])
        except ValueError as cause:
            raise ParseError("unknown kind of TEE", got=fields["tee"][:40]) from cause
        return cls(tee, from_b64url(fields["quote"]), from_b64url(fields["chain"]))


@dataclass(frozen=True, slots=True)
class NodeContext:
    """What a node says about itself and has attested: its job, run and id, and the public key that secrets are sealed to.

    ``seal`` is a P-256 public key as a JWK with exactly the members ``crv kty x y`` (RFC 7517, RFC 7518 section 6.2.1).
    That the point is on the curve is checked by whoever seals to it.
    """

    job: JobDigest
    run: RunId
    node: NodeId
    seal: Json = field(hash=False)

    def __post_init__(self) -> None:
        if not _JOB.fullmatch(self.job):
            raise ParseError("a job digest is 96 lower-case hex characters")
        for name in (self.run, self.node):
            if not _LABEL.fullmatch(name):
                raise ParseError("not a run or node id", got=name[:80])
        _check_jwk(self.seal)

    @property
    def digest(self) -> bytes:
        """SHA-384 of the RFC 8785 form (48 bytes): the job context in report data."""
        return _digest(self.job, self.run, self.node, tuple(self.seal.items()))

    def to_json(self) -> Json:
        """The context as JSON."""
        return {"job": self.job, "run": self.run, "node": self.node, "seal": dict(self.seal)}

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: a field is missing, unknown or not of the documented form.
        """
        if not isinstance(data, dict) or not isinstance(data.get("seal"), dict):
            raise ParseError("a node context is an object with a seal key")
        fields = _strings({k: v for k, v in data.items() if k != "seal"}, {"job", "run", "node"}, "node context")
        return cls(JobDigest(fields["job"]), RunId(fields["run"]), NodeId(fields["node"]), dict(data["seal"]))


@lru_cache(_KNOWN_CONTEXTS)
def _digest(job: JobDigest, run: RunId, node: NodeId, seal: tuple[tuple[str, str], ...]) -> bytes:
    """A context's digest; remembered by all that it is over, because a broker asks for it at each release."""
    return hashlib.sha384(canonical({"format": CONTEXT_FORMAT, "job": job, "run": run, "node": node, "seal": dict(seal)})).digest()


def max_quote_bytes(tee: Tee) -> int:
    """Cap on a quote of this kind of TEE, in bytes."""
    return MAX_TPM_EVIDENCE_BYTES if tee is Tee.TPM else MAX_EVIDENCE_BYTES


def check_report_data(report_data: ReportData) -> bytes:
    """The 64 bytes that a TEE is given: never padded, never cut.

    Raises:
        AttesterError: they are not 64.
    """
    if len(report_data) != 64:
        raise AttesterError("report data must be 64 bytes", got=len(report_data))
    return bytes(report_data)


def _check_jwk(jwk: Any) -> None:
    # A private member ("d") or a hint that a library might follow ("x5u") must not pass: the member set is closed.
    if not isinstance(jwk, dict) or set(jwk) != _JWK_FIELDS or jwk["kty"] != "EC" or jwk["crv"] != "P-256":
        raise ParseError("a seal key is a P-256 public JWK with the members crv, kty, x and y")
    for name in ("x", "y"):
        if not isinstance(jwk[name], str) or len(from_b64url(jwk[name])) != _COORDINATE_BYTES:
            raise ParseError("a seal key's coordinates are 32 bytes in base64url")


def _strings(data: object, names: set[str], what: str) -> dict[str, str]:
    if not isinstance(data, dict) or set(data) != names or not all(isinstance(value, str) for value in data.values()):
        raise ParseError(f"{what} must have exactly these text fields: {', '.join(sorted(names))}")
    return {str(name): str(value) for name, value in data.items()}

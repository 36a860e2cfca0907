"""RA-TLS certificates of legacy peers: a quote in a certificate, bound to its key and to no session.  Off by default.

A certificate's quote says that some TEE once held the key.  It can be shown in any session and says nothing of this one
(CVE-2026-33697), so that what is read here is an :class:`UnboundResult`, which no grant accepts.

Formats: Interoperable RA-TLS of the Confidential Computing Consortium (OID 2.23.133.5.4.9, CBOR tag 60000, RFC 8949), and Gramine's own
(OID 1.2.840.113741.1337.6, the quote as it is).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import InitVar, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from confide.attest.cbor import Tagged, decode
from confide.attest.certs import DOES_NOT_PARSE, whole
from confide.attest.evidence import Evidence
from confide.attest.quote import split_quote
from confide.errors import AppraisalError, BindingError, EvidenceInvalidError, ParseError

if TYPE_CHECKING:
    from confide.attest.claims import Claims
    from confide.attest.policy import Policy
    from confide.attest.verify import Verifier
    from confide.canonical import Json

TCG_OID: Final = x509.ObjectIdentifier("2.23.133.5.4.9")
"""tcg-dice-conceptual-message-wrapper."""
GRAMINE_OID: Final = x509.ObjectIdentifier("1.2.840.113741.1337.6")
_TAG_TEE_QUOTE: Final = 60000
"""IANA, CBOR tags: an SGX or TDX quote and its claims buffer."""
_HASHES: Final = {1: "sha256", 7: "sha384", 8: "sha512"}
"""IANA, named information hash algorithms: those that Interoperable RA-TLS asks for."""
_MAX_CERTIFICATE: Final = 64 * 1024
_TOKEN = object()


@dataclass(frozen=True, slots=True)
class RatlsCertificate:
    """A certificate taken apart.  Nothing is verified; ``report_data`` is what its quote has to hold."""

    format: Literal["interoperable", "gramine"]
    evidence: Evidence
    report_data: bytes = field(repr=False)
    nonce: bytes | None
    certificate: x509.Certificate = field(repr=False)

    @classmethod
    def parse(cls, der: bytes) -> Self:
        """Read a DER certificate with exactly one of the two extensions, whose claims name the certificate's own key.

        Raises:
            ParseError: it is no such certificate.
            BindingError: its claims are of another key.
        """
        if len(der) > _MAX_CERTIFICATE:
            raise ParseError("a certificate is too large", length=len(der), limit=_MAX_CERTIFICATE)
        try:
            certificate = whole(x509.load_der_x509_certificate(der))
        except DOES_NOT_PARSE as cause:
            raise ParseError("not a DER certificate") from cause
        found = [(extension.oid, extension.value) for extension in certificate.extensions if extension.oid in {TCG_OID, GRAMINE_OID}]
        if len(found) != 1 or not isinstance(found[0][1], x509.UnrecognizedExtension):
            raise ParseError("not a certificate with one quote in it")
        oid, value = found[0][0], found[0][1].value
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if oid == GRAMINE_OID:
            return cls("gramine", _evidence(value), hashlib.sha256(spki).digest() + bytes(32), None, certificate)
        quote, buffer, nonce = _interoperable(value, spki)
        return cls("interoperable", _evidence(quote), hashlib.sha256(buffer).digest() + bytes(32), nonce, certificate)


def _evidence(quote: bytes) -> Evidence:
    return Evidence(split_quote(quote).tee, quote)


def _interoperable(value: bytes, spki: bytes) -> tuple[bytes, bytes, bytes | None]:
    """The quote, the claims buffer that its report data is the hash of, and the nonce in it."""
    tagged = decode(value)
    if not isinstance(tagged, Tagged) or tagged.tag != _TAG_TEE_QUOTE:
        raise ParseError("the extension holds no SGX or TDX quote (CBOR tag 60000)")
    match tagged.value:
        case [bytes(quote), bytes(buffer)]:
            claims = decode(buffer)
        case _:
            raise ParseError("tagged evidence is an array of a quote and a claims buffer")
    if not isinstance(claims, dict) or not {"pubkey-hash"} <= set(claims) <= {"pubkey-hash", "nonce"}:
        raise ParseError("a claims buffer has a pubkey-hash, at most a nonce, and nothing else")
    nonce, entry = claims.get("nonce"), claims["pubkey-hash"]
    match decode(entry) if isinstance(entry, bytes) else None:
        case [int(algorithm), bytes(digest)] if algorithm in _HASHES and isinstance(nonce, bytes | None):
            pass
        case _:
            raise ParseError("a pubkey-hash is an array of an algorithm and a hash")
    if not hmac.compare_digest(digest, hashlib.new(_HASHES[algorithm], spki).digest()):
        raise BindingError("the certificate's evidence is of another key")
    return quote, buffer, nonce


@dataclass(frozen=True, slots=True)
class UnboundResult:
    """Verified evidence that a policy accepts and that is bound to a key, *not* to a session.  Only :func:`verify_ratls` can make one."""

    claims: Claims
    policy_digest: str
    spki_sha256: str
    verified_at: datetime
    session_bound: Literal[False] = field(default=False, init=False)
    token: InitVar[object] = None

    def __post_init__(self, token: object) -> None:
        if token is not _TOKEN:
            raise TypeError("UnboundResult is made by verify_ratls only")

    def __reduce__(self) -> Any:
        raise TypeError("UnboundResult does not travel")

    def to_json(self) -> Json:
        """The result as JSON, for display."""
        facts: Json = {"policy_digest": self.policy_digest, "spki_sha256": self.spki_sha256, "session_bound": False}
        return {"claims": self.claims.to_json(), **facts}


def verify_ratls(der: bytes, verifier: Verifier, policy: Policy, *, now: datetime, accept_not_session_bound: bool = False) -> UnboundResult:
    """Verify a self-signed RA-TLS certificate and appraise its quote, for peers that can do no better.

    Does not check that the peer holds the certificate's key: its TLS handshake does.

    Raises:
        BindingError: ``accept_not_session_bound`` was not asked for, or the quote is of another key.
        ParseError: it is no RA-TLS certificate.
        EvidenceInvalidError: the certificate is not valid now, not signed by its own key, or its quote is not genuine.
        CollateralError: collateral is missing or stale.
        AppraisalError: the policy does not accept the quote.
    """
    if not accept_not_session_bound:
        raise BindingError("a certificate's evidence is bound to no session", hint="attest the peer in the session")
    found = RatlsCertificate.parse(der)
    certificate = found.certificate
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise EvidenceInvalidError("the certificate is not valid now", until=certificate.not_valid_after_utc.isoformat())
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature) as cause:
        raise EvidenceInvalidError("the certificate is not signed by its own key") from cause
    verified = verifier.verify(found.evidence, now)
    if not hmac.compare_digest(verified.claims.report_data, found.report_data):
        raise BindingError("the quote is of another key than the certificate's")
    for check in policy.explain(verified, now=now):
        if not check.ok:
            raise AppraisalError(f"{check.name}: expected {check.expected}, got {check.got}", check=check.name, policy=policy.name)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return UnboundResult(verified.claims, policy.digest, hashlib.sha256(spki).hexdigest(), now, token=_TOKEN)

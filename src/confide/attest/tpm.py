"""Is a TPM 2.0 quote genuine?

A TPM says what was started on a machine.  It protects no memory in use: whoever operates the machine can read and change what runs.

1. The container, and each structure in it, parses to its last byte.
2. The attestation key (AK) is not revoked here, and is trusted here, which none is by default: it is enrolled by its name, or the chain
   that came with it leads to an issuer's root that is pinned, each certificate signed by the next, valid at the time, the first for an AK.
   A chain that came is for exactly this key.
3. The AK is one that can sign only what its TPM made: restricted, for signing only, made in the TPM and never to leave it.
4. The AK signed the quote by its own scheme.
5. The quote is over the SHA-256 of the report data, and its PCR digest over the values that came with it.
6. The event log, if there is one, replays to the quoted value of each PCR that it extends, all of which the quote selects; a quoted PCR
   of the firmware (0 to 7) that it does not extend is as at start.

Steps follow TCG "Trusted Platform Module Library" parts 1 and 2, revision 1.59, and "TPM 2.0 Keys for Device Identity and Attestation".
How an AK gets its certificate: ``tpm_enrol``.  Whether the PCRs are good is decided in ``policy``.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from confide.attest import certs, tpm_format
from confide.attest.claims import UNRATED, Claims
from confide.attest.event_log import OF_TPM, EventLog
from confide.attest.tpm_format import Attest, Public, Signature, TpmEvidence, qualifying_data
from confide.canonical import Json, canonical, digest_of, sha384_hex
from confide.errors import CollateralError, EvidenceInvalidError, ParseError
from confide.ids import ReportData, Tee

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from confide.attest.evidence import Evidence
    from confide.attest.tpm_trust import EnrolledKey, TpmTrust

AK_CERTIFICATE: Final = x509.ObjectIdentifier("2.23.133.8.3")
"""tcg-kp-AIKCertificate: the extended key usage of a certificate for an AK."""
_NEEDED: Final = tpm_format.FIXED_TPM | tpm_format.FIXED_PARENT | tpm_format.SENSITIVE_DATA_ORIGIN | tpm_format.RESTRICTED | tpm_format.SIGN

_FIRMWARES: Final = frozenset(range(8))
"""PCRs that only what writes this log extends: a log that is silent of one says that it is as at start (profile, section 2.3.4).  Later
ones are the operating system's, which may log elsewhere."""
_ANY_PATH: Final = 99
"""A CA's limit if it names none: longer than any chain that is read."""


@dataclass(frozen=True, slots=True)
class TpmCollateral:
    """What a TPM's evidence was judged by: the pinned root (SHA-256 of its DER form) or the name of the enrolled key, and until when."""

    root: str
    earliest_next_update: str

    @property
    def epoch(self) -> TpmCollateral:
        """Itself: a chain is its own epoch."""
        return self

    @property
    def stale_from(self) -> datetime:
        """:attr:`earliest_next_update` as a time."""
        return datetime.fromisoformat(self.earliest_next_update)

    @property
    def signed_since(self) -> datetime:
        """The beginning of time: nothing in a TPM's chain is renewed, so that a policy with a highest age refuses it."""
        return datetime.min.replace(tzinfo=UTC)

    @property
    def digest(self) -> str:
        """SHA-384 of the RFC 8785 form, lower-case hex."""
        return digest_of(self.to_json())

    @property
    def platform(self) -> tuple[str, str, Tee]:
        """What a source of collateral files it under."""
        return self.root, "tpm", Tee.TPM

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            CollateralError: a field is missing, unknown or wrong.
        """
        names = {"root", "earliest_next_update"}
        if not isinstance(data, dict) or set(data) != names or not all(isinstance(each, str) for each in data.values()):
            raise CollateralError("this is not a TPM's collateral")
        found = cls(**data)
        try:
            aware = found.stale_from.tzinfo is not None
        except ValueError as cause:
            raise CollateralError("this is not a TPM's collateral") from cause
        if not aware:
            raise CollateralError("a TPM's collateral has a time without a zone")
        return found

    def to_json(self) -> Json:
        """The collateral as JSON."""
        return {"root": self.root, "earliest_next_update": self.earliest_next_update}


def verify_tpm(evidence: Evidence, trust: TpmTrust, now: datetime) -> tuple[Claims, TpmCollateral]:
    """Check that a TPM's evidence is genuine as of ``now`` (see the module's steps).

    Raises:
        EvidenceInvalidError: it is not genuine.
    """
    try:
        container = TpmEvidence.parse(evidence.quote)
        attest, signature = Attest.parse(container.attest), Signature.parse(container.signature)
        public = Public.parse(container.public)
        log = EventLog.parse(container.log, OF_TPM) if container.log else EventLog(OF_TPM, ())
        chain = certs.parse_chain(evidence.chain) if evidence.chain else []
    except ParseError as cause:
        raise EvidenceInvalidError(cause.message, offset=cause.facts.get("offset")) from cause
    collateral = _trusted(public, chain, trust, now)
    check_attestation_key(public)
    _check_signature(public, signature, container.attest)
    _check_content(container, attest)
    _check_log(log, dict(zip(attest.pcrs, container.pcrs, strict=True)))
    return _claims(container, attest, log, public, collateral), collateral


def _trusted(public: Public, chain: list[x509.Certificate], trust: TpmTrust, now: datetime) -> TpmCollateral:
    """Why the key is trusted as of ``now``.  Revocation has no time of its own: what a lost key signed may be of any date that it likes."""
    name = public.name.hex()
    trust.check_not_revoked(name)
    key = trust.keys.get(name)
    found = check_chain(chain, trust.issuers, AK_CERTIFICATE, now) if key is None else _enrolled(key, now)
    if chain and chain[0].public_key() != public.key:
        raise EvidenceInvalidError("the certificate is for another attestation key")
    return found


def _enrolled(key: EnrolledKey, now: datetime) -> TpmCollateral:
    if not key.since <= now <= key.until:
        raise EvidenceInvalidError("the attestation key is not enrolled for this time", key=key.name, until=key.until.isoformat())
    return TpmCollateral(key.name, key.until.isoformat())


def check_chain(chain: list[x509.Certificate], roots: AbstractSet[str], usage: x509.ObjectIdentifier, now: datetime) -> TpmCollateral:
    """Check that ``chain`` (leaf first) ends at a pinned root as of ``now``, and that its leaf is for ``usage``.

    Knows no revocation lists: certificates for AKs are to be short-lived, and single keys are revoked by name.

    Raises:
        EvidenceInvalidError: it does not.
    """
    root = hashlib.sha256(certs.der(chain[-1])).hexdigest() if chain else "none"
    if len(chain) < 2 or root not in roots:
        raise EvidenceInvalidError("the TPM's certificates lead to no root that is trusted here", root=root)
    for certificate in chain:
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise EvidenceInvalidError("a certificate of the TPM's chain is not valid at this time")
    for depth, (certificate, issuer) in enumerate(itertools.pairwise(chain)):
        _check_issued(certificate, issuer, depth)
    if usage not in _usages(chain[0]) or _is_ca(chain[0]) is not None:
        raise EvidenceInvalidError("the TPM's certificate is for another use", expected=usage.dotted_string)
    until = min(certificate.not_valid_after_utc for certificate in chain)
    return TpmCollateral(root, until.isoformat())


def check_attestation_key(public: Public) -> None:
    """Check that the key signs nothing but what its TPM made itself.

    Raises:
        EvidenceInvalidError: it could sign a forged quote, or exist outside of the TPM.
    """
    if public.attributes & _NEEDED != _NEEDED or public.attributes & tpm_format.DECRYPT:
        raise EvidenceInvalidError("the key is not one that signs only what its TPM made", attributes=f"{public.attributes:#x}")


def _check_issued(certificate: x509.Certificate, issuer: x509.Certificate, below: int) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm) as cause:
        raise EvidenceInvalidError("a certificate of the TPM's chain is not signed by the next") from cause
    path = _is_ca(issuer)
    if path is None or path < below:
        raise EvidenceInvalidError("a certificate of the TPM's chain is signed by one that may not sign it")


def _is_ca(certificate: x509.Certificate) -> int | None:
    """How many CAs may stand between the certificate and a leaf; None if it may not sign certificates at all."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None
    try:
        signs = certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        signs = True
    if not basic.ca or not signs:
        return None
    return _ANY_PATH if basic.path_length is None else basic.path_length


def _usages(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return set()


def _check_signature(public: Public, signature: Signature, signed: bytes) -> None:
    if (signature.scheme, signature.hash.name) != (public.scheme, public.hash.name):
        raise EvidenceInvalidError("the quote is signed by another scheme than the key's", got=signature.scheme)
    try:
        if isinstance(public.key, rsa.RSAPublicKey) and isinstance(signature.value, bytes):
            pss = padding.PSS(padding.MGF1(signature.hash), padding.PSS.AUTO)
            public.key.verify(signature.value, signed, pss if public.scheme == "rsapss" else padding.PKCS1v15(), signature.hash)
        elif isinstance(public.key, ec.EllipticCurvePublicKey) and isinstance(signature.value, tuple):
            public.key.verify(encode_dss_signature(*signature.value), signed, ec.ECDSA(signature.hash))
        else:
            raise EvidenceInvalidError("the quote is signed by another kind of key")
    except InvalidSignature as cause:
        raise EvidenceInvalidError("the quote's signature does not verify") from cause


def _check_content(container: TpmEvidence, attest: Attest) -> None:
    if not hmac.compare_digest(attest.extra_data, qualifying_data(container.report_data)):
        raise EvidenceInvalidError("the quote is over other report data")
    if len(attest.pcrs) != len(container.pcrs):
        raise EvidenceInvalidError("there is not one value for each PCR of the quote", expected=len(attest.pcrs), got=len(container.pcrs))
    if not hmac.compare_digest(attest.pcr_digest, hashlib.sha256(b"".join(container.pcrs)).digest()):
        raise EvidenceInvalidError("the PCR values are not those that the TPM quoted")


def _check_log(log: EventLog, pcrs: dict[int, bytes]) -> None:
    silent = {pcr: bytes(32) for pcr in _FIRMWARES & pcrs.keys()} if log.events else {}
    for pcr, value in (silent | log.pcrs()).items():
        if pcr not in pcrs:
            raise EvidenceInvalidError("the event log has events of a PCR that the quote does not cover", pcr=pcr)
        if not hmac.compare_digest(pcrs[pcr], value):
            raise EvidenceInvalidError("the event log does not lead to the quoted PCR", pcr=pcr)


def pcr_measurement(pcrs: dict[str, str]) -> str:
    """The measurement of a TPM's evidence: SHA-256, in hex, of the RFC 8785 form of its PCRs' values by name (``pcr0`` to ``pcr23``)."""
    return hashlib.sha256(canonical({"format": "confide-tpm-pcrs-v1", "sha256": dict(pcrs)})).hexdigest()


def _claims(container: TpmEvidence, attest: Attest, log: EventLog, public: Public, collateral: TpmCollateral) -> Claims:
    registers = container.registers()
    vendor: Json = {
        "protects_memory": False,
        "clock_ms": attest.clock,
        "clock_safe": attest.clock_safe,
        "reset_count": attest.reset_count,
        "restart_count": attest.restart_count,
        "firmware_version": f"{attest.firmware_version:#x}",
        "log_events": len(log.events),
        "key_name": public.name.hex(),
    }
    return Claims(
        tee=Tee.TPM,
        simulated=False,
        measurement=pcr_measurement(registers),
        signer="",
        registers=registers,
        report_data=ReportData(container.report_data),
        debug=False,
        tcb_status=UNRATED,
        advisory_ids=(),
        tcb_eval=0,
        tcb={},
        platform="tpm2",
        epoch=collateral.epoch,
        evidence_digest=sha384_hex(container.attest),
        vendor=vendor,
    )

"""Is an Intel SGX or TDX quote genuine?  Steps follow Intel's quote verification library (its sections 4.1.2.4 and 4.1.2.9).

1. The quote parses to its last byte, is of a known version and of the kind that its carrier claims; no TD attribute is unknown.
2. It carries the chain PCK leaf, PCK CA, root, or names the leaf and the chain came with it (certification data types 2 and 3).  The root
   is one that is pinned here, each signed the next, and each is valid at the time.  The root decides whether the quote is simulated.
4. Collateral for the platform is found and current: issued before now, and no part of it stale.
5. TCB info and quoting enclave identity are each signed by a direct child of that root that is named as TCB signer, is no CA and is not
   revoked; they are of the right kind, and the TCB info is for the leaf's FMSPC and PCEID.
6. The revocation lists are the root's and this PCK CA's, and name no certificate of the chain.
7. The quoting enclave is Intel's; it, the platform and the TDX module have a rating, and none is revoked.
8. The attestation key signed the quote.

Steps 2 and 3 are the same for all quotes of one quoting enclave, step 5 for all of one set of collateral, 6 and 7 for both: each is done
once and remembered, so that another quote costs step 8, and another platform of a known kind 2, 3 and 8.  The same quote under the same
collateral (a broker verifies one at each release) costs what depends on the time: which set is the source's now, and whether it and the
chain are valid.  That is checked each time.

Whether a TEE is debuggable, migratable and so on is in the claims: ``policy`` decides about it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from confide.attest import certs
from confide.attest.claims import Claims
from confide.attest.collateral import Collateral
from confide.attest.collateral_check import check_current, check_signers
from confide.attest.intel_tcb import PlatformRatings, QeRatings, Rating
from confide.attest.pck_id import PckId
from confide.attest.quote import (
    QE_AUTH_DATA_BYTES,
    TD_KNOWN,
    TD_MIGRATABLE,
    TD_SEPT_VE_DISABLE,
    Parts,
    SgxBody,
    Signature,
    TdBody,
    split_quote,
)
from confide.canonical import Json, sha384_hex
from confide.errors import CollateralError, EvidenceInvalidError, ParseError
from confide.ids import ReportData, Tee

if TYPE_CHECKING:
    from datetime import datetime

    from confide.attest.collateral_sources import CollateralSource
    from confide.attest.evidence import Evidence
    from confide.attest.roots import TrustRoots

_PCK_CHAIN: Final = 3
_QE_IDS: Final = {Tee.SGX: "QE", Tee.TDX: "TD_QE"}
_MAX_KNOWN: Final = 1000
"""How many quoting enclaves, and how many platforms under a set of collateral, are remembered.  Only genuine ones are."""
_K = TypeVar("_K")
_V = TypeVar("_V")
_CONFIG_ID: Final = slice(32, 96)
"""CONFIGID within the bytes between MRSIGNER and ISVPRODID (Intel SDM volume 3D, table "REPORT")."""
_KNOWN_CRITICAL: Final = {x509.BasicConstraints.oid, x509.KeyUsage.oid}


@dataclass(frozen=True, slots=True)
class _Vouched:
    """An attestation key and what vouches for it, up to a pinned root (steps 2 and 3)."""

    attestation_key: ec.EllipticCurvePublicKey
    enclave: SgxBody
    leaf: certs.SgxExtension
    ca: str
    chain: tuple[x509.Certificate, x509.Certificate, x509.Certificate]
    simulated: bool
    begins: datetime
    ends: datetime
    platform: Json


@dataclass(frozen=True, slots=True)
class _Signed:
    """A set of collateral that is signed by whom it must be, for platforms under one PCK CA (step 5, and 6 for that CA)."""

    platforms: PlatformRatings
    enclaves: QeRatings


@dataclass(frozen=True, slots=True)
class _Standing:
    """What a set of collateral says of a quoting enclave and its platform (steps 6 and 7)."""

    ratings: PlatformRatings
    enclave: Rating
    of_bodies: dict[tuple[bytes, ...], Rating] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Genuine:
    """A quote that is signed, by whom, and what it says under the set of collateral that it was judged by last (steps 1 to 8)."""

    parts: Parts
    vouched: _Vouched
    under: str
    claims: Claims


class IntelVerifier:
    """Verifies quotes under given roots, with collateral from a given source.  Safe to use from several threads."""

    def __init__(self, roots: TrustRoots, source: CollateralSource) -> None:
        self._roots = roots
        self._source = source
        self._vouched: dict[tuple[bool, bytes, bytes], _Vouched] = {}
        self._signed: dict[tuple[str, bytes, bytes], _Signed] = {}
        self._standings: dict[tuple[str, bool, bytes, bytes], _Standing] = {}
        self._genuine: dict[Evidence, _Genuine] = {}

    def verify(self, evidence: Evidence, now: datetime) -> tuple[Claims, Collateral]:
        """Check that a quote is genuine as of ``now`` (see the module's steps).

        Raises:
            EvidenceInvalidError: it is not genuine.
            CollateralError: collateral is missing, stale, or not signed by whom it must be.
        """
        known = self._genuine.get(evidence)
        parts, vouched = (known.parts, known.vouched) if known is not None else self._read(evidence)
        if not vouched.begins <= now <= vouched.ends:
            raise EvidenceInvalidError("a certificate of the quote's chain is not valid at this time", until=vouched.ends.isoformat())
        collateral = self._source.get(vouched.leaf.fmspc.hex(), vouched.ca, evidence.tee)
        if not isinstance(collateral, Collateral):
            raise CollateralError("the collateral is of another vendor", expected=vouched.leaf.fmspc.hex())
        check_current(collateral, now)
        if known is not None and known.under == collateral.digest:
            return known.claims, collateral
        rating = self._rate(parts, evidence.chain, vouched, collateral)
        if known is None:
            certs.check_raw_signature(vouched.attestation_key, parts.signature, parts.signed_bytes, "quote")
        claims = _claims(parts, vouched, collateral, rating)
        _remember(self._genuine, evidence, _Genuine(parts, vouched, collateral.digest, claims))
        return claims, collateral

    def _read(self, evidence: Evidence) -> tuple[Parts, _Vouched]:
        parts = _parts(evidence)
        return parts, self._vouching(parts, evidence.chain)

    def _vouching(self, parts: Parts, given: bytes) -> _Vouched:
        name = (parts.header.version > 3, parts.vouching, given)
        known = self._vouched.get(name)
        if known is None:
            known = _remember(self._vouched, name, _vouch(parts, given, self._roots))
        return known

    def _rate(self, parts: Parts, given: bytes, vouched: _Vouched, collateral: Collateral) -> Rating:
        name = (collateral.digest, parts.header.version > 3, parts.vouching, given)
        standing = self._standings.get(name)
        if standing is None:
            standing = _remember(self._standings, name, self._stand(parts.tee, vouched, collateral))
        body = parts.body
        if isinstance(body, SgxBody):
            of: tuple[bytes, ...] = ()
        else:
            of = (body.tee_tcb_svn, body.tee_tcb_svn2, body.mr_signer_seam, body.seam_attributes)
        rating = standing.of_bodies.get(of)
        if rating is None:
            rating = _remember(standing.of_bodies, of, standing.ratings.rate(vouched.leaf, body, standing.enclave))
        return rating

    def _stand(self, tee: Tee, vouched: _Vouched, collateral: Collateral) -> _Standing:
        leaf, issuer, root = vouched.chain
        name = (collateral.digest, certs.der(issuer), certs.der(root))
        signed = self._signed.get(name)
        if signed is None:
            signed = _remember(self._signed, name, _check_collateral(collateral, issuer, root))
        _check_platform(tee, vouched, collateral)
        _check_not_revoked(leaf, collateral.pck_revocations)
        return _Standing(signed.platforms, signed.enclaves.rate(vouched.enclave))


def _remember(table: dict[_K, _V], name: _K, value: _V) -> _V:
    if len(table) >= _MAX_KNOWN:
        table.clear()
    table[name] = value
    return value


def _parts(evidence: Evidence) -> Parts:
    try:
        parts = split_quote(evidence.quote)
    except ParseError as cause:
        raise EvidenceInvalidError(cause.message, offset=cause.facts.get("offset")) from cause
    if parts.tee != evidence.tee:
        raise EvidenceInvalidError("the quote is of another kind of TEE", expected=evidence.tee.value, got=parts.tee.value)
    if isinstance(parts.body, TdBody) and parts.body.flags & ~TD_KNOWN:
        raise EvidenceInvalidError("the TD has attributes that are not known here", got=parts.body.td_attributes.hex())
    return parts


def _vouch(parts: Parts, given: bytes, roots: TrustRoots) -> _Vouched:
    """Steps 2 and 3.  ``given`` is the chain that came with a quote that carries none."""
    try:
        signature = parts.whole_signature
        chain = certs.parse_chain(_pck_chain(signature, given))
        if len(chain) != _PCK_CHAIN:
            raise EvidenceInvalidError("the quote's chain must be PCK leaf, PCK CA and root", length=len(chain))
        leaf, issuer, root = chain
        platform = certs.SgxExtension.of(leaf)
        if not signature.carries_chain:
            _check_named(PckId.parse(parts, signature.cert_type, signature.cert_data), platform)
    except ParseError as cause:
        raise EvidenceInvalidError(cause.message, offset=cause.facts.get("offset")) from cause
    ca = certs.CA_KINDS.get(certs.common_name(issuer.subject))
    if ca is None:
        raise EvidenceInvalidError("the quote's certificate was not issued by a PCK CA")
    simulated = _is_simulated(certs.der(root), roots)
    _check_issued(issuer, root, ca=True)
    _check_issued(leaf, issuer, ca=False)
    key = _attestation_key(signature, certs.p256(leaf))
    begins, ends = max(c.not_valid_before_utc for c in chain), min(c.not_valid_after_utc for c in chain)
    instance = sha384_hex(platform.platform_instance) if platform.platform_instance else ""
    facts: Json = {"ca": ca, "ppid_sha384": sha384_hex(platform.ppid), "piid_sha384": instance, "quote_version": parts.header.version}
    return _Vouched(key, signature.qe_report, platform, ca, (leaf, issuer, root), simulated, begins, ends, facts)


def _pck_chain(signature: Signature, given: bytes) -> bytes:
    if signature.carries_chain and given:
        raise EvidenceInvalidError("the quote carries its certificate chain; a second one is refused")
    if not signature.carries_chain and not given:
        raise EvidenceInvalidError(
            "the quote does not carry its PCK certificate chain",
            hint="fetch it from the platform's PCCS, or have its quoting service put it into quotes (certification data type 5)",
            cert_type=signature.cert_type,
        )
    return given or signature.cert_data


def _check_named(wanted: PckId, leaf: certs.SgxExtension) -> None:
    """The rest of what the quote names is checked by step 3: the PCK of another chip or TCB did not sign the quoting enclave's report."""
    if wanted.pce_id != leaf.pce_id:
        facts = {"expected": wanted.pce_id.hex(), "got": leaf.pce_id.hex()}
        raise EvidenceInvalidError("the PCK certificate is of another PCEID than the quote", **facts)


def _is_simulated(root: bytes, roots: TrustRoots) -> bool:
    if root == roots.intel:
        return False
    if roots.simulated is not None and root == roots.simulated:
        return True
    raise EvidenceInvalidError(
        "the quote's chain does not end at a root that is trusted here",
        hint="simulated evidence is only known to the installation that made it, and only with --simulate",
    )


def _check_issued(child: x509.Certificate, issuer: x509.Certificate, *, ca: bool) -> None:
    """``issuer`` signed ``child``, which is a CA exactly if it must be one and has no critical extension that is not known here."""
    try:
        child.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError) as cause:
        raise EvidenceInvalidError("a certificate of the quote's chain was not issued by the next") from cause
    found = {extension.oid: extension for extension in child.extensions}
    constraints = found.get(x509.BasicConstraints.oid)
    if (constraints is not None and constraints.value.ca) is not ca:
        raise EvidenceInvalidError("a CA certificate is where none belongs in the quote's chain, or the other way round")
    unknown = {oid for oid, extension in found.items() if extension.critical} - _KNOWN_CRITICAL
    if unknown:
        raise EvidenceInvalidError("a certificate of the quote's chain has a critical extension that is not known here")


def _attestation_key(signature: Signature, pck: ec.EllipticCurvePublicKey) -> ec.EllipticCurvePublicKey:
    """The key that the quoting enclave made, for which its report vouches, which the platform's PCK signed."""
    certs.check_raw_signature(pck, signature.qe_report_signature, signature.qe_report.to_bytes(), "quoting enclave's report")
    if len(signature.auth_data) != QE_AUTH_DATA_BYTES:
        raise EvidenceInvalidError("the quoting enclave's authentication data has another length than 32", length=len(signature.auth_data))
    if signature.qe_report.report_data != signature.expected_qe_report_data:
        raise EvidenceInvalidError("the quoting enclave's report is for another attestation key")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + signature.attestation_key)
    except ValueError as cause:
        raise EvidenceInvalidError("the attestation key is no point of P-256") from cause


def _check_collateral(collateral: Collateral, issuer: x509.Certificate, root: x509.Certificate) -> _Signed:
    """That each list is signed by its issuer is checked with the signers; here, that the PCKs' issuer is this chain's, and not revoked."""
    check_signers(collateral, root)
    crl = collateral.pck_revocations
    if crl.issuer != issuer.subject or not crl.is_signature_valid(certs.p256(issuer)):
        raise CollateralError("the PCK revocation list is of another PCK CA than the quote's")
    for certificate in (issuer, root):
        _check_not_revoked(certificate, collateral.root_crl)
    return _Signed(PlatformRatings.parse(collateral.tcb), QeRatings.parse(collateral.qe))


def _check_platform(tee: Tee, vouched: _Vouched, collateral: Collateral) -> None:
    if collateral.tee != tee or collateral.qe.get("id") != _QE_IDS[tee]:
        raise CollateralError("the collateral is for another kind of TEE", expected=tee.value)
    if collateral.fmspc != vouched.leaf.fmspc.hex() or collateral.ca != vouched.ca:
        raise CollateralError("the collateral is for another platform", expected=vouched.leaf.fmspc.hex(), got=collateral.fmspc)
    if str(collateral.tcb.get("pceId", "")).lower() != vouched.leaf.pce_id.hex():
        raise CollateralError("the TCB info is for another provisioning enclave (PCEID)", expected=vouched.leaf.pce_id.hex())


def _check_not_revoked(certificate: x509.Certificate, revocations: x509.CertificateRevocationList) -> None:
    if revocations.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
        raise EvidenceInvalidError("a certificate of the quote's chain is revoked", name=certs.common_name(certificate.subject)[:80])


def _claims(parts: Parts, vouched: _Vouched, collateral: Collateral, rating: Rating) -> Claims:
    body = parts.body
    measurement, signer, registers, vendor = _sgx_values(body) if isinstance(body, SgxBody) else _tdx_values(body)
    return Claims(
        tee=parts.tee,
        simulated=vouched.simulated,
        measurement=measurement,
        signer=signer,
        registers=registers,
        report_data=ReportData(body.report_data),
        debug=body.debug,
        tcb_status=rating.status,
        advisory_ids=tuple(sorted(rating.advisories)),
        tcb_eval=collateral.epoch.tcb_eval,
        tcb={},
        platform=vouched.leaf.fmspc.hex(),
        epoch=collateral.epoch,
        evidence_digest=sha384_hex(parts.signed_bytes),
        vendor={**vouched.platform, **vendor},
        tcb_date=rating.date,
    )


def _sgx_values(body: SgxBody) -> tuple[str, str, dict[str, str], Json]:
    vendor: Json = {"isv_prod_id": body.isv_prod_id, "isv_svn": body.isv_svn, "attributes": body.attributes.hex()}
    vendor["config_id"] = body.reserved3[_CONFIG_ID].hex()
    return body.mr_enclave.hex(), body.mr_signer.hex(), {}, vendor


def _tdx_values(body: TdBody) -> tuple[str, str, dict[str, str], Json]:
    registers = {"rtmr0": body.rtmr0.hex(), "rtmr1": body.rtmr1.hex(), "rtmr2": body.rtmr2.hex(), "rtmr3": body.rtmr3.hex()}
    vendor: Json = {
        "td_attributes": body.td_attributes.hex(),
        "sept_ve_disable": bool(body.flags & TD_SEPT_VE_DISABLE),
        "migratable": bool(body.flags & TD_MIGRATABLE),
        "service_td": body.service_td,
        "xfam": body.xfam.hex(),
        "mr_config_id": body.mr_config_id.hex(),
        "mr_owner": body.mr_owner.hex(),
        "mr_owner_config": body.mr_owner_config.hex(),
        "mr_seam": body.mr_seam.hex(),
    }
    return body.mr_td.hex(), body.mr_signer_seam.hex(), registers, vendor

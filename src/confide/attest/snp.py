"""Is an AMD SEV-SNP report genuine?

1. The report parses to its last byte, is of a known version, and its reserved fields are zero.
2. The certificate that came with it is a VCEK's or VLEK's, as the report says, of a product that is known.
3. Collateral for that product and kind of key is found and current.
4. The chain is endorsement key, ASK (VCEK) or ASVK (VLEK), ARK, with AMD's names for that product; the ARK is one that is pinned here;
   each signed by the next and valid at the time; the revocation list, if there is one, is the ARK's and does not name the ASK or ASVK.
5. The certificate is for this chip (VCEK) and for the TCB that the report reports; the processor is of the product.
6. The endorsement key signed the report (ECDSA P-384, SHA-384).

Steps follow AMD publications 56860 (report) and 57230 (certificates).  Whether it is good enough is decided in ``policy``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from confide.attest import amd_certs, certs
from confide.attest.amd_certs import Endorsement
from confide.attest.amd_collateral import AmdCollateral
from confide.attest.claims import UNRATED, Claims
from confide.attest.collateral_check import check_current
from confide.attest.snp_report import Report, tcb_parts
from confide.canonical import Json, sha384_hex
from confide.errors import CollateralError, EvidenceInvalidError, ParseError
from confide.ids import ReportData, Tee

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from confide.attest.amd_certs import Product
    from confide.attest.collateral_sources import CollateralSource
    from confide.attest.evidence import Evidence

_FAMILIES: Final[dict[str, tuple[int, tuple[range, ...]]]] = {
    "Milan": (0x19, (range(0x10),)),
    "Genoa": (0x19, (range(0x10, 0x20), range(0xA0, 0xB0))),
    "Turin": (0x1A, (range(0x20),)),
}
"""CPUID family and models of each product (AMD publication 57230, section 3.3); Bergamo and Siena count as Genoa."""
_MAX_KNOWN: Final = 1000
"""How many chips under a set of collateral are remembered.  Only genuine ones are."""


class SnpVerifier:
    """Verifies reports under given roots, with collateral from a given source.  Safe to use from several threads.

    Step 4, but for the time, is the same for all reports of one chip under one set of collateral: it is done once and remembered, so that
    another report costs step 6.  What depends on the time or the report is checked each time.
    """

    def __init__(self, roots: Mapping[str, Product], source: CollateralSource) -> None:
        """``roots``: SHA-256 of each trusted ARK (DER), its product."""
        self._roots = dict(roots)
        self._source = source
        self._endorsements: dict[bytes, Endorsement] = {}
        self._issued: set[tuple[str, bytes]] = set()
        self._sets: set[str] = set()

    def verify(self, evidence: Evidence, now: datetime) -> tuple[Claims, AmdCollateral]:
        """Check that a report is genuine as of ``now`` (see the module's steps).

        Raises:
            EvidenceInvalidError: it is not genuine.
            CollateralError: collateral is missing, stale, or not signed by whom it must be.
        """
        try:
            report = Report.parse(evidence.quote)
            known = self._endorsements.get(evidence.chain)
            endorsement = known or Endorsement.parse(_leaf(evidence))
            tcb = tcb_parts(report.reported_tcb, turin=endorsement.product == "Turin")
        except ParseError as cause:
            raise EvidenceInvalidError(cause.message, offset=cause.facts.get("offset")) from cause
        if report.signing_key != endorsement.kind:
            raise EvidenceInvalidError("the report is signed by another kind of key", expected=report.signing_key, got=endorsement.kind)
        collateral = self._source.get(endorsement.product, endorsement.kind, Tee.SNP)
        if not isinstance(collateral, AmdCollateral) or (collateral.product, collateral.key) != (endorsement.product, endorsement.kind):
            raise CollateralError("the collateral is for another platform", expected=endorsement.product)
        check_current(collateral, now)
        self._check_chain(evidence.chain, endorsement, collateral)
        _check_time(endorsement, now)
        _check_platform(report, endorsement, tcb)
        _check_signature(report, endorsement)
        return _claims(report, endorsement, collateral, tcb), collateral

    def _check_chain(self, leaf: bytes, endorsement: Endorsement, collateral: AmdCollateral) -> None:
        """Only what passed is remembered, so that nobody fills the memory with certificates of their own."""
        name = (collateral.digest, leaf)
        if name in self._issued:
            return
        if collateral.digest not in self._sets:
            check_issuers(collateral, self._roots)
        amd_certs.check_issued(endorsement.certificate, collateral.certificates[0], ca=False, what="chip's key")
        if len(self._issued) >= _MAX_KNOWN:
            self._forget()
        self._sets.add(collateral.digest)
        self._issued.add(name)
        self._endorsements[leaf] = endorsement

    def _forget(self) -> None:
        self._issued.clear()
        self._sets.clear()
        self._endorsements.clear()


def _leaf(evidence: Evidence) -> bytes:
    if not evidence.chain:
        raise EvidenceInvalidError(
            "the report came without the certificate of the key that signed it",
            hint="configure the host to hand the VCEK or VLEK certificate to guests (extended report)",
        )
    return evidence.chain


def check_issuers(collateral: AmdCollateral, roots: Mapping[str, Product]) -> None:
    """Check that the chain ends at the product's root, has AMD's names, and that the root's list does not revoke the certifying key.

    Raises:
        EvidenceInvalidError: the chain is not AMD's for that product, or revoked.
        CollateralError: the list is not the root's.
    """
    product, (issuer, root) = collateral.product, collateral.certificates
    if roots.get(hashlib.sha256(certs.der(root)).hexdigest()) != product:
        raise EvidenceInvalidError("the report's chain does not end at a root of this product that is trusted here", product=product)
    for certificate, name in ((root, amd_certs.root_name(product)), (issuer, amd_certs.issuer_name(product, collateral.key))):
        if certs.common_name(certificate.subject) != name:
            raise EvidenceInvalidError("a certificate of AMD's chain has another name than it must", expected=name)
    amd_certs.check_issued(issuer, root, ca=True, what="key that certifies chips")
    _check_revocations(collateral, issuer, root)


def _check_time(endorsement: Endorsement, now: datetime) -> None:
    leaf = endorsement.certificate
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise EvidenceInvalidError("the chip's certificate is not valid at this time", until=leaf.not_valid_after_utc.isoformat())


def _check_revocations(collateral: AmdCollateral, issuer: x509.Certificate, root: x509.Certificate) -> None:
    crl = collateral.revocations
    if crl is None:
        return
    key = root.public_key()
    # RSA-PSS, as AMD signs everything; is_signature_valid raises for a key that cannot have signed it.
    try:
        signed = crl.issuer == root.subject and crl.is_signature_valid(key)  # type: ignore[arg-type]
    except (TypeError, ValueError) as cause:
        raise CollateralError("the revocation list is not signed by AMD's root") from cause
    if not signed:
        raise CollateralError("the revocation list is not signed by AMD's root")
    if crl.get_revoked_certificate_by_serial_number(issuer.serial_number) is not None:
        raise EvidenceInvalidError("the key that certified the chip is revoked")


def _check_platform(report: Report, endorsement: Endorsement, tcb: dict[str, int]) -> None:
    """The certificate is for this chip at this TCB: an older one of the same chip would vouch for firmware that it no longer runs."""
    if tcb != endorsement.tcb:
        raise EvidenceInvalidError("the certificate is for another TCB than the report's", expected=str(endorsement.tcb), got=str(tcb))
    if endorsement.kind == "vcek":
        chip = endorsement.chip_id
        if report.masked_chip or not any(report.chip_id):
            hint = "have the host mask neither ids nor keys of chips (SNP_CONFIG, MASK_CHIP_ID and MASK_CHIP_KEY), or attest under a VLEK"
            raise EvidenceInvalidError("the report does not say which chip made it", hint=hint)
        if not any(chip) or report.chip_id != chip.ljust(len(report.chip_id), b"\0"):
            raise EvidenceInvalidError("the certificate is for another chip")
    if report.family is not None and report.model is not None:
        family, models = _FAMILIES[endorsement.product]
        if report.family != family or not any(report.model in some for some in models):
            raise EvidenceInvalidError("the report is of another processor than the certificate's", product=endorsement.product)


def _check_signature(report: Report, endorsement: Endorsement) -> None:
    r, s = report.signature
    try:
        endorsement.key.verify(encode_dss_signature(r, s), report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as cause:
        raise EvidenceInvalidError("the report's signature does not verify") from cause


def _claims(report: Report, endorsement: Endorsement, collateral: AmdCollateral, tcb: dict[str, int]) -> Claims:
    vendor: Json = {
        "report_version": report.version,
        "guest_svn": report.guest_svn,
        "policy": f"{report.policy:#x}",
        "vmpl": report.vmpl,
        "migration_agent": report.migratable,
        "host_data": report.host_data.hex(),
        "family_id": report.family_id.hex(),
        "image_id": report.image_id.hex(),
        "author_key_digest": report.author_key_digest.hex() if report.author_key else "",
        "report_id": report.report_id.hex(),
        "platform_info": f"{report.platform_info:#x}",
        "signing_key": endorsement.kind,
        "csp_id": endorsement.csp_id,
        "chip_id_sha384": sha384_hex(report.chip_id) if any(report.chip_id) else "",
        "revocation_list": collateral.revocations is not None,
    }
    return Claims(
        tee=Tee.SNP,
        simulated=False,
        measurement=report.measurement.hex(),
        signer=report.id_key_digest.hex(),
        registers={},
        report_data=ReportData(report.report_data),
        debug=report.debug,
        tcb_status=UNRATED,
        advisory_ids=(),
        tcb_eval=0,
        tcb=tcb,
        platform=endorsement.product,
        epoch=collateral.epoch,
        evidence_digest=sha384_hex(report.signed),
        vendor=vendor,
    )

"""Is evidence genuine?  One function for real and simulated evidence; what it is *worth* is decided in ``policy``.

Reports of AMD SEV-SNP are verified in ``snp``.  For Intel's quotes the steps of :meth:`Verifier.verify` follow Intel's quote
verification (SGX DCAP ECDSA Orientation Guide, section 3.7.1; TDX likewise):

1. The quote parses to its last byte, is of a known version and of the kind that its carrier claims.
2. It carries the chain PCK leaf, PCK CA, root; the root is one that is pinned here.  The root decides whether it is simulated.
3. Collateral for the platform is found and current: issued before now, and no part of it stale.
4. TCB info and quoting enclave identity are each signed by a direct child of that root that is named as TCB signer, is no CA and is not
   revoked, and the PCK revocation list by a direct child that is a CA; they are of the right kind, and the TCB info is for the leaf's
   FMSPC and PCEID.
5. ``dcap-qvl`` verifies the rest under that root: chains, revocation lists, quoting enclave, attestation key, quote signature, TCB level;
   it refuses debug TEEs, TDs without SEPT_VE_DISABLE and bound service TDs.
6. What ``dcap-qvl`` read is what was parsed in step 1, and the platform's TCB is not revoked.

Steps 1 to 4 are there because ``dcap-qvl`` lets through what they refuse.
"""

from __future__ import annotations

import json
from dataclasses import InitVar, dataclass
from datetime import UTC, datetime
from typing import Any

import dcap_qvl
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from confide.attest import certs
from confide.attest.amd_collateral import AmdCollateral
from confide.attest.claims import Claims
from confide.attest.collateral import Collateral
from confide.attest.collateral_sources import CollateralSource
from confide.attest.evidence import Evidence
from confide.attest.quote import PCK_CHAIN_PEM, Quote, SgxBody, TdBody, parse_quote
from confide.attest.roots import TrustRoots
from confide.attest.snp import verify_report
from confide.canonical import Json, sha384_hex
from confide.errors import CollateralError, EvidenceInvalidError, ParseError
from confide.ids import ReportData, Tee

_QE_IDS = {Tee.SGX: "QE", Tee.TDX: "TD_QE"}
_PCK_CHAIN = 3
_SIGNER_CHAIN = 2
_MAX_KNOWN = 1000
"""How many sets of collateral are remembered as rightly signed."""


_TOKEN = object()


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """Evidence that was genuine at ``verified_at``.  Only :meth:`Verifier.verify` can make one."""

    claims: Claims
    evidence: Evidence
    collateral: Collateral | AmdCollateral
    verified_at: datetime
    token: InitVar[object] = None

    def __post_init__(self, token: object) -> None:
        if token is not _TOKEN:
            raise TypeError("VerifiedEvidence is made by Verifier.verify only")

    def __reduce__(self) -> Any:
        raise TypeError("VerifiedEvidence does not travel: send the evidence and verify it there")


@dataclass(frozen=True, slots=True)
class _Parsed:
    """Step 1 and 2: a quote whose chain ends at a pinned root."""

    quote: Quote
    leaf: certs.SgxExtension
    ca: str
    root: x509.Certificate
    simulated: bool


class Verifier:
    """Says whether evidence is genuine under given roots, with collateral from a given source.  Safe to use from several threads."""

    def __init__(self, roots: TrustRoots, collateral: CollateralSource) -> None:
        self._roots = roots
        self._collateral = collateral
        self._known_signed: set[tuple[str, bytes]] = set()

    def verify(self, evidence: Evidence, now: datetime) -> VerifiedEvidence:
        """Check that ``evidence`` is genuine as of ``now`` (see the module's steps).

        Does *not* check whose code it is, how good its TCB is, or which session it belongs to: ``policy.appraise`` does.

        Raises:
            EvidenceInvalidError: it is not genuine, or of a kind that cannot be verified.
            CollateralError: collateral is missing, stale, or not signed by whom it must be.
        """
        if evidence.tee is Tee.SNP:
            claims, amd = verify_report(evidence, self._roots.amd, self._collateral, now)
            return VerifiedEvidence(claims, evidence, amd, now, token=_TOKEN)
        parsed = self._parse(evidence)
        collateral = self._collateral.get(parsed.leaf.fmspc.hex(), parsed.ca, evidence.tee)
        if not isinstance(collateral, Collateral):
            raise CollateralError("the collateral is of another vendor", expected=parsed.leaf.fmspc.hex())
        check_current(collateral, now)
        self._check_signers(collateral, parsed.root)
        _check_platform(collateral, parsed, evidence.tee)
        report = _dcap_verify(evidence.quote, collateral, certs.der(parsed.root), now)
        _check_same_reading(report, parsed.quote)
        claims = _claims(parsed, collateral, report)
        return VerifiedEvidence(claims, evidence, collateral, now, token=_TOKEN)

    def _check_signers(self, collateral: Collateral, root: x509.Certificate) -> None:
        # Who signed a set does not change with time (its certificates' and lists' validity is in check_current): checked once a set.
        name = (collateral.digest, certs.der(root))
        if name not in self._known_signed:
            check_signers(collateral, root)
            if len(self._known_signed) >= _MAX_KNOWN:
                self._known_signed.clear()
            self._known_signed.add(name)

    def _parse(self, evidence: Evidence) -> _Parsed:
        if evidence.tee not in _QE_IDS:
            raise EvidenceInvalidError("evidence of this kind of TEE cannot be verified yet", tee=evidence.tee.value)
        if evidence.chain:
            raise EvidenceInvalidError("Intel quotes carry their certificate chain; a second one is refused")
        try:
            quote = parse_quote(evidence.quote)
            if quote.tee != evidence.tee:
                raise EvidenceInvalidError("the quote is of another kind of TEE", expected=evidence.tee.value, got=quote.tee.value)
            if quote.signature.cert_type != PCK_CHAIN_PEM:
                raise EvidenceInvalidError(
                    "the quote does not carry its PCK certificate chain",
                    hint="configure the platform's quoting service to put the PCK chain into quotes (certification data type 5)",
                    cert_type=quote.signature.cert_type,
                )
            chain = certs.parse_chain(quote.signature.cert_data)
            if len(chain) != _PCK_CHAIN:
                raise EvidenceInvalidError("the quote's chain must be PCK leaf, PCK CA and root", length=len(chain))
            leaf = certs.SgxExtension.of(chain[0])
        except ParseError as cause:
            raise EvidenceInvalidError(cause.message, offset=cause.facts.get("offset")) from cause
        ca = certs.CA_KINDS.get(certs.common_name(chain[1].subject))
        if ca is None:
            raise EvidenceInvalidError("the quote's certificate was not issued by a PCK CA")
        return _Parsed(quote, leaf, ca, chain[2], self._is_simulated(certs.der(chain[2])))

    def _is_simulated(self, root: bytes) -> bool:
        if root == self._roots.intel:
            return False
        if self._roots.simulated is not None and root == self._roots.simulated:
            return True
        raise EvidenceInvalidError(
            "the quote's chain does not end at a root that is trusted here",
            hint="simulated evidence is only known to the installation that made it, and only with --simulate",
        )


def check_current(collateral: Collateral, now: datetime) -> None:
    """Check that every part of ``collateral`` was issued by ``now`` and none is stale.

    Raises:
        CollateralError: it is stale, or not valid yet.
    """
    if now < collateral.issued:
        raise CollateralError("collateral is not valid yet", issued=collateral.issued.isoformat(), now=now.isoformat())
    if now >= collateral.epoch.stale_from:
        raise CollateralError(
            "collateral is stale", hint="fetch new collateral", stale_from=collateral.epoch.earliest_next_update, now=now.isoformat()
        )


def check_signers(collateral: Collateral, root: x509.Certificate) -> None:
    """Check that ``root`` signed its revocation list, a PCK CA that of PCKs, and a TCB signer TCB info and quoting enclave identity.

    Issuers are direct children of ``root``.

    Does not check that certificates and lists are current: :func:`check_current` does.

    Raises:
        CollateralError: a chain, name, certificate or signature is not what it must be.
    """
    try:
        if not collateral.root_crl.is_signature_valid(certs.p256(root)):
            raise CollateralError("the root's revocation list is not signed by the root")
        _check_pck_list(collateral, root)
        parts = (
            ("tcb_info_issuer_chain", collateral.tcb_info, collateral.tcb_info_signature, "TCB info"),
            ("qe_identity_issuer_chain", collateral.qe_identity, collateral.qe_identity_signature, "quoting enclave identity"),
        )
        for name, text, signature, what in parts:
            signer = _tcb_signer(collateral, name, root)
            certs.check_raw_signature(certs.p256(signer), signature, text.encode(), what)
    except EvidenceInvalidError as cause:
        raise CollateralError(cause.message) from cause


def _child_of_root(collateral: Collateral, name: str, root: x509.Certificate, *, ca: bool) -> x509.Certificate:
    """The first certificate of an issuer chain, if the chain is it and ``root``, and ``root`` issued it and has not revoked it."""
    chain = collateral.chain(name)
    if len(chain) != _SIGNER_CHAIN or chain[1] != root:
        raise CollateralError("an issuer chain of the collateral must be the issuer and the pinned root", chain=name)
    child = chain[0]
    try:
        child.verify_directly_issued_by(root)
        constraints = child.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (InvalidSignature, TypeError, ValueError, x509.ExtensionNotFound) as cause:
        raise CollateralError("an issuer of the collateral was not certified by the root", chain=name) from cause
    if constraints.ca is not ca:
        raise CollateralError("a CA certificate is where none belongs, or the other way round", chain=name)
    if collateral.root_crl.get_revoked_certificate_by_serial_number(child.serial_number) is not None:
        raise CollateralError("an issuer of the collateral is revoked", chain=name)
    return child


def _tcb_signer(collateral: Collateral, name: str, root: x509.Certificate) -> x509.Certificate:
    signer = _child_of_root(collateral, name, root, ca=False)
    if certs.common_name(signer.subject) != certs.TCB_SIGNER_CN:
        raise CollateralError("collateral is not signed by the TCB signer", signer=certs.common_name(signer.subject)[:80])
    return signer


def _check_pck_list(collateral: Collateral, root: x509.Certificate) -> None:
    issuer = _child_of_root(collateral, "pck_crl_issuer_chain", root, ca=True)
    crl = collateral.pck_revocations
    if crl.issuer != issuer.subject or not crl.is_signature_valid(certs.p256(issuer)):
        raise CollateralError("the PCK revocation list is not signed by its issuer")


def _check_platform(collateral: Collateral, parsed: _Parsed, tee: Tee) -> None:
    if collateral.tee != tee or collateral.qe.get("id") != _QE_IDS[tee]:
        raise CollateralError("the collateral is for another kind of TEE", expected=tee.value)
    if collateral.fmspc != parsed.leaf.fmspc.hex() or collateral.ca != parsed.ca:
        raise CollateralError("the collateral is for another platform", expected=parsed.leaf.fmspc.hex(), got=collateral.fmspc)
    if str(collateral.tcb.get("pceId", "")).lower() != parsed.leaf.pce_id.hex():
        raise CollateralError("the TCB info is for another provisioning enclave (PCEID)", expected=parsed.leaf.pce_id.hex())


def _dcap_verify(quote: bytes, collateral: Collateral, root: bytes, now: datetime) -> Json:
    try:
        bundle = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(collateral.to_json()))
        report = dcap_qvl.verify_with_root_ca(quote, bundle, root, int(now.astimezone(UTC).timestamp()))
        found: Json = json.loads(report.to_json())
    except ValueError as cause:
        # dcap-qvl says what failed in its text alone, over several lines; it holds no evidence bytes.
        text = " ".join(str(cause).removeprefix("Verification failed: ").split())
        raise EvidenceInvalidError(f"the quote does not verify: {text}") from cause
    except BaseException as cause:
        # A panic in Rust arrives as an exception outside Exception's tree; hostile input must not end the verifying process.
        if type(cause).__name__ == "PanicException":
            raise EvidenceInvalidError("the quote does not verify: the verification library gave up on it") from cause
        raise
    return found


_SAME = {"mr_enclave": "mr_enclave", "mr_signer": "mr_signer", "mr_td": "mr_td", "report_data": "report_data", "attributes": "attributes"}
_SAME |= {"td_attributes": "td_attributes", "rt_mr0": "rtmr0", "rt_mr1": "rtmr1", "rt_mr2": "rtmr2", "rt_mr3": "rtmr3"}


def _check_same_reading(report: Json, quote: Quote) -> None:
    """Refuse a quote that two parsers read differently, and a platform whose TCB is revoked."""
    if report.get("status") == "Revoked":
        raise EvidenceInvalidError("the platform's TCB is revoked")
    ((_, body),) = report["report"].items()
    body = {**body.pop("base", {}), **body}
    names = [name for name in _SAME if hasattr(quote.body, _SAME[name])]
    for name in names:
        if body.get(name) != getattr(quote.body, _SAME[name]).hex():
            raise EvidenceInvalidError("the quote can be read in two ways", field=name)


def _claims(parsed: _Parsed, collateral: Collateral, report: Json) -> Claims:
    body = parsed.quote.body
    measurement, signer, registers, vendor = _sgx_values(body) if isinstance(body, SgxBody) else _tdx_values(body)
    platform = {"ca": parsed.ca, "ppid_sha384": sha384_hex(parsed.leaf.ppid), "quote_version": parsed.quote.header.version}
    return Claims(
        tee=parsed.quote.tee,
        simulated=parsed.simulated,
        measurement=measurement,
        signer=signer,
        registers=registers,
        report_data=ReportData(body.report_data),
        debug=body.debug,
        tcb_status=str(report["status"]),
        advisory_ids=tuple(sorted(map(str, report["advisory_ids"]))),
        tcb_eval=collateral.epoch.tcb_eval,
        tcb={},
        platform=parsed.leaf.fmspc.hex(),
        epoch=collateral.epoch,
        evidence_digest=sha384_hex(parsed.quote.signed_bytes),
        vendor={**platform, **vendor},
    )


def _sgx_values(body: SgxBody) -> tuple[str, str, dict[str, str], Json]:
    vendor: Json = {"isv_prod_id": body.isv_prod_id, "isv_svn": body.isv_svn, "attributes": body.attributes.hex()}
    return body.mr_enclave.hex(), body.mr_signer.hex(), {}, vendor


def _tdx_values(body: TdBody) -> tuple[str, str, dict[str, str], Json]:
    registers = {name: getattr(body, name).hex() for name in ("rtmr0", "rtmr1", "rtmr2", "rtmr3")}
    vendor: Json = {name: getattr(body, name).hex() for name in ("td_attributes", "xfam", "mr_config_id", "mr_owner", "mr_owner_config")}
    return body.mr_td.hex(), body.mr_signer_seam.hex(), registers, {**vendor, "mr_seam": body.mr_seam.hex()}

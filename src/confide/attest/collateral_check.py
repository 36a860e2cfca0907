"""Is collateral current, of either vendor, and is Intel's signed by whom it must be?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from confide.attest import certs
from confide.errors import CollateralError, EvidenceInvalidError

if TYPE_CHECKING:
    from datetime import datetime

    from confide.attest.amd_collateral import AmdCollateral
    from confide.attest.collateral import Collateral

_SIGNER_CHAIN: Final = 2
_PLATFORM_EXTENSION: Final = certs.SGX_EXTENSION
"""What only certificates of platforms' keys have."""


def check_current(collateral: Collateral | AmdCollateral, now: datetime) -> None:
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
    if any(extension.oid == _PLATFORM_EXTENSION for extension in signer.extensions):
        raise CollateralError("collateral is signed by a platform's key: a TCB signer's certificate has no SGX extension")
    return signer


def _check_pck_list(collateral: Collateral, root: x509.Certificate) -> None:
    issuer = _child_of_root(collateral, "pck_crl_issuer_chain", root, ca=True)
    crl = collateral.pck_revocations
    if crl.issuer != issuer.subject or not crl.is_signature_valid(certs.p256(issuer)):
        raise CollateralError("the PCK revocation list is not signed by its issuer")

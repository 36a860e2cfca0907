"""Asks the vendors for collateral: Intel's PCS or a PCCS, and AMD's KDS.  What comes back is not believed here: see ``collateral_service``.

Interfaces: Intel SGX and TDX Provisioning Certification Service API, version 4 (a PCCS speaks the same, and gives the root's list);
AMD publication 57230, chapter 4 (KDS).
"""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.serialization import Encoding

from confide.attest.amd_certs import PRODUCTS, EndorsementKey, Product
from confide.attest.amd_collateral import AmdCollateral
from confide.attest.certs import parse_chain
from confide.attest.collateral import Collateral
from confide.attest.collateral_forms import der_list, signed_text
from confide.attest.snp_report import Report, tcb_parts
from confide.attest.vendor_http import Answer, Http
from confide.errors import CollateralError, ParseError, UsageError
from confide.ids import Tee

if TYPE_CHECKING:
    from pathlib import Path

    from confide.attest.pck_id import PckId

INTEL_PCS: Final = "https://api.trustedservices.intel.com"
INTEL_ROOT_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
AMD_KDS: Final = "https://kdsintf.amd.com"
_LOOPBACK: Final = {"localhost", "127.0.0.1", "::1"}
_TCB_PARAMETERS: Final = {"bootloader": "blSPL", "tee": "teeSPL", "snp": "snpSPL", "microcode": "ucodeSPL", "fmc": "fmcSPL"}
_TURIN_CHIP_ID: Final = 8
"""Bytes of a chip's id on Turin; the rest of the field is zero (AMD publication 56860, ATTESTATION_REPORT, CHIP_ID)."""


class IntelService:
    """Intel's PCS, or a PCCS at another address (which also gives the root's revocation list)."""

    def __init__(self, http: Http, url: str = INTEL_PCS) -> None:
        self._http = http
        self._url = checked_url(url)

    def get(self, platform: str, ca: str, tee: Tee) -> Collateral:
        """A fresh set for an FMSPC, the kind of its PCK CA, and SGX or TDX.

        Raises:
            CollateralError: the service does not answer, does not know the platform, or answers with something that is no collateral.
        """
        kind = tee.value
        tcb, tcb_chain = self._signed(f"{kind}/certification/v4/tcb", "tcbInfo", "tcb-info-issuer-chain", fmspc=platform.upper())
        qe, qe_chain = self._signed(f"{kind}/certification/v4/qe/identity", "enclaveIdentity", "sgx-enclave-identity-issuer-chain")
        crl = self._answer("sgx/certification/v4/pckcrl", ca=ca, encoding="der")
        return Collateral.from_json(
            {
                "pck_crl_issuer_chain": _chain(crl, "sgx-pck-crl-issuer-chain"),
                "root_ca_crl": self._root_crl().hex(),
                "pck_crl": der_list(crl.body).hex(),
                "tcb_info_issuer_chain": tcb_chain,
                "tcb_info": tcb[0],
                "tcb_info_signature": tcb[1],
                "qe_identity_issuer_chain": qe_chain,
                "qe_identity": qe[0],
                "qe_identity_signature": qe[1],
            }
        )

    def pck_chain(self, wanted: PckId) -> bytes:
        """PCK leaf, CA and root (PEM) of a quote that only names its leaf.  Unverified here: :mod:`confide.attest.intel` checks them.

        The certificate is the answer's body, and its issuers are a header's (PCCS and PCS API version 4, "Get PCK Certificate").

        Raises:
            CollateralError: the service does not answer, or with something that is no certificate, or knows none.
        """
        found = self._answer("sgx/certification/v4/pckcert", **wanted.query)
        try:
            leaf = parse_chain(found.body)
        except ParseError as cause:
            raise CollateralError("a collateral service answered with something that is no PCK certificate") from cause
        if len(leaf) != 1:
            raise CollateralError("a collateral service answered with several certificates where one belongs", length=len(leaf))
        return leaf[0].public_bytes(Encoding.PEM) + _chain(found, "sgx-pck-certificate-issuer-chain").encode()

    def _root_crl(self) -> bytes:
        if self._url == INTEL_PCS:
            found = self._http.get(INTEL_ROOT_CRL)
            if found is None:
                raise CollateralError("Intel's root revocation list is not where it should be", url=INTEL_ROOT_CRL)
            return der_list(found.body)
        return der_list(self._answer("sgx/certification/v4/rootcacrl").body)

    def _answer(self, path: str, **parameters: str) -> Answer:
        found = self._http.get(f"{self._url}/{path}", **parameters)
        if found is None:
            known = {name: value[:40] for name, value in parameters.items()}
            raise CollateralError("the collateral service does not know this platform", url=f"{self._url}/{path}", **known)
        return found

    def _signed(self, path: str, name: str, header: str, **parameters: str) -> tuple[tuple[str, str], str]:
        """The exact text that was signed, its signature (hex), and the signer's chain."""
        found = self._answer(path, update="standard", **parameters)
        return signed_text(found.text(), name), _chain(found, header)


class AmdService:
    """AMD's Key Distribution Service."""

    def __init__(self, http: Http, url: str = AMD_KDS) -> None:
        self._http = http
        self._url = checked_url(url)

    def get(self, platform: str, ca: str, tee: Tee) -> AmdCollateral:
        """A fresh set for a product and kind of endorsement key.

        Raises:
            CollateralError: the service does not answer, or with something that is no collateral, or there is no such product.
        """
        if platform not in PRODUCTS or ca not in {"vcek", "vlek"} or tee is not Tee.SNP:
            raise CollateralError("not a platform that collateral exists for", platform=platform[:40])
        base = f"{self._url}/{ca}/v1/{platform}"
        chain, crl = (self._http.get(f"{base}/{what}") for what in ("cert_chain", "crl"))
        if chain is None or crl is None:
            raise CollateralError("the collateral service does not know this product", url=base)
        return AmdCollateral.from_json({"product": platform, "key": ca, "chain": chain.text(), "crl": der_list(crl.body).hex()})

    def endorsement(self, report: Report) -> bytes:
        """The VCEK's certificate for a report (DER): for its chip, at its TCB.

        A report of version 2 does not say which product it is of: the service is asked for each.

        Raises:
            CollateralError: the service does not answer, or has none.
        """
        key: EndorsementKey = report.signing_key
        if key != "vcek" or not any(report.chip_id):
            raise CollateralError("the report does not say which chip made it", hint="give the certificate: the host has it")
        for product in _products(report):
            turin = product == "Turin"
            try:
                parts = tcb_parts(report.reported_tcb, turin=turin)
            except ParseError:
                continue
            chip = report.chip_id[:_TURIN_CHIP_ID] if turin else report.chip_id
            parameters = {_TCB_PARAMETERS[name]: number for name, number in parts.items()}
            found = self._http.get(f"{self._url}/vcek/v1/{product}/{chip.hex()}", **parameters)
            if found is not None:
                return found.body
        raise CollateralError("AMD's service has no certificate for this chip and TCB", chip=report.chip_id.hex()[:32])


def open_services(intel: str, amd: str, ca_file: Path | None) -> tuple[IntelService, AmdService]:
    """The services at these addresses, empty for the vendors' own.  ``ca_file``: certificate authorities besides the system's.

    Raises:
        UsageError: an address is none.
    """
    http = Http(ca_file=ca_file)
    return IntelService(http, intel or INTEL_PCS), AmdService(http, amd or AMD_KDS)


def checked_url(url: str) -> str:
    """The address of a service without a slash at its end.

    Raises:
        UsageError: it is not https (plain http is for this machine only), or has more than a host, port and path.
    """
    parts = urllib.parse.urlsplit(url)
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    if not secure or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError("not the address of a collateral service", got=url[:200], hint="write https://HOST[:PORT]")
    return url.rstrip("/")


def _products(report: Report) -> tuple[Product, ...]:
    match report.family, report.model:
        case 0x1A, _:
            return ("Turin",)
        case 0x19, int(model):
            return ("Milan",) if model < 0x10 else ("Genoa",)
        case _ if not any(report.chip_id[_TURIN_CHIP_ID:]):
            return ("Turin",)
        case _:
            return ("Milan", "Genoa")


def _chain(answer: Answer, header: str) -> str:
    """A chain out of a header, where it is percent-encoded PEM."""
    value = answer.headers.get(header) or answer.headers.get(f"sgx-{header}", "")
    chain = urllib.parse.unquote(value)
    try:
        return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in parse_chain(chain.encode()))
    except ParseError as cause:
        raise CollateralError("a collateral service's answer lacks its issuer chain", header=header) from cause

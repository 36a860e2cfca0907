"""Makes simulated quotes: the vendor's layouts, signed under the installation's root."""

from __future__ import annotations

import dataclasses
import hashlib
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric import ec

from confide.attest import certs
from confide.attest.evidence import Evidence
from confide.attest.insecure import documents
from confide.attest.insecure.documents import Machine
from confide.attest.insecure.installation import Installation, raw_signature
from confide.attest.quote import (
    ECDSA_P256,
    INTEL_QE_VENDOR,
    PCK_CHAIN_PEM,
    SGX_DEBUG,
    TD_SEPT_VE_DISABLE,
    TEE_TYPE_SGX,
    TEE_TYPE_TDX,
    Header,
    Quote,
    SgxBody,
    Signature,
    TdBody,
)
from confide.errors import UsageError
from confide.ids import ReportData, Tee

_HEX_CHARACTERS = {Tee.SGX: 64, Tee.TDX: 96}
_SGX_ATTRIBUTES = bytes.fromhex("0500000000000000e700000000000000")
"""FLAGS initialised and 64 bit; XFRM x87, SSE, AVX, AVX-512."""
_XFAM = bytes.fromhex("e702060000000000")
_AUTH_DATA = bytes(range(32))
"""What production quoting enclaves put there."""


class Fault(StrEnum):
    """What can be wrong with a simulated node; each must get it refused."""

    REVOKED_PCK = "revoked-pck"
    STALE_COLLATERAL = "stale-collateral"
    EXPIRED_CRL = "expired-crl"
    OUT_OF_DATE = "out-of-date"
    DEBUG = "debug"
    WRONG_MEASUREMENT = "wrong-measurement"
    REPLAY = "replay"


_MACHINES = {
    Fault.REVOKED_PCK: Machine.REVOKED,
    Fault.STALE_COLLATERAL: Machine.STALE_COLLATERAL,
    Fault.EXPIRED_CRL: Machine.STALE_CRL,
    Fault.OUT_OF_DATE: Machine.OUT_OF_DATE,
}


class InsecureAttester:
    """An attester (``confide.attest.collect.Attester``) whose evidence anyone who can read the installation could make.

    ``measurement`` is what the node claims to run, as hex of MRENCLAVE (SGX) or MRTD (TDX): see :mod:`confide.attest.measure`.
    """

    simulated = True

    def __init__(self, installation: Installation, tee: Tee, measurement: str, *, fault: Fault | None = None) -> None:
        if tee not in _HEX_CHARACTERS:
            raise UsageError("only SGX and TDX are simulated", tee=tee.value)
        if len(measurement) != _HEX_CHARACTERS[tee]:
            raise UsageError("a measurement must be as long as the TEE's", expected=_HEX_CHARACTERS[tee], got=len(measurement))
        self.tee = tee
        self._fault = fault
        self._measurement = bytes.fromhex(measurement)
        if fault is Fault.WRONG_MEASUREMENT:
            self._measurement = bytes([self._measurement[0] ^ 1]) + self._measurement[1:]
        self._key = ec.generate_private_key(ec.SECP256R1())
        machine = _MACHINES.get(fault, Machine.GOOD) if fault else Machine.GOOD
        self._vouched = self._vouch(installation, machine)

    def quote(self, report_data: ReportData) -> Evidence:
        """Evidence over ``report_data``; with fault ``replay``, genuine evidence of an earlier session instead."""
        if len(report_data) != 64:
            raise UsageError("report data is 64 bytes", got=len(report_data))
        if self._fault is Fault.REPLAY:
            report_data = ReportData(hashlib.sha512(b"an earlier session").digest())
        body = self._sgx_body(report_data) if self.tee is Tee.SGX else self._td_body(report_data)
        sgx = self.tee is Tee.SGX
        header = Header(
            version=3 if sgx else 4,
            key_type=ECDSA_P256,
            tee_type=TEE_TYPE_SGX if sgx else TEE_TYPE_TDX,
            qe_svn=documents.QE_SVN if sgx else 0,
            pce_svn=documents.PCE_SVN if sgx else 0,
            vendor=INTEL_QE_VENDOR,
            user_data=bytes(20),
        )
        unsigned = Quote(header, body, self._vouched)
        signature = dataclasses.replace(self._vouched, signature=raw_signature(self._key, unsigned.signed_bytes))
        return Evidence(self.tee, dataclasses.replace(unsigned, signature=signature).to_bytes())

    def _vouch(self, installation: Installation, machine: Machine) -> Signature:
        """The simulated quoting enclave vouches for the attestation key; the machine's PCK signs its report."""
        empty = Signature(bytes(64), certs.raw_public_key(self._key.public_key()), self._qe_report(bytes(64)), b"", _AUTH_DATA, 0, b"")
        report = self._qe_report(empty.expected_qe_report_data)
        signature = raw_signature(installation.machine(machine).key, report.to_bytes())
        chain = installation.pck_chain(machine)
        return dataclasses.replace(empty, qe_report=report, qe_report_signature=signature, cert_type=PCK_CHAIN_PEM, cert_data=chain)

    def _qe_report(self, report_data: bytes) -> SgxBody:
        body = _empty_sgx_body(report_data)
        enclave = hashlib.sha256(b"confide simulated quoting enclave " + self.tee.value.encode()).digest()
        signer, product = documents.qe_signer(self.tee), documents.QE_PROD_ID[self.tee]
        return dataclasses.replace(
            body,
            attributes=documents.QE_ATTRIBUTES,
            mr_enclave=enclave,
            mr_signer=signer,
            isv_prod_id=product,
            isv_svn=documents.QE_SVN,
        )

    def _sgx_body(self, report_data: bytes) -> SgxBody:
        attributes = bytearray(_SGX_ATTRIBUTES)
        if self._fault is Fault.DEBUG:
            attributes[0] |= SGX_DEBUG
        signer = hashlib.sha256(b"confide simulated enclave signer").digest()
        body = _empty_sgx_body(report_data)
        return dataclasses.replace(body, attributes=bytes(attributes), mr_enclave=self._measurement, mr_signer=signer)

    def _td_body(self, report_data: bytes) -> TdBody:
        attributes = TD_SEPT_VE_DISABLE | (1 if self._fault is Fault.DEBUG else 0)
        zeros = bytes(48)
        return TdBody(
            tee_tcb_svn=documents.TDX_TCB_SVN,
            mr_seam=hashlib.sha384(b"confide simulated TDX module").digest(),
            mr_signer_seam=zeros,
            seam_attributes=bytes(8),
            td_attributes=attributes.to_bytes(8, "little"),
            xfam=_XFAM,
            mr_td=self._measurement,
            mr_config_id=zeros,
            mr_owner=zeros,
            mr_owner_config=zeros,
            rtmr0=zeros,
            rtmr1=zeros,
            rtmr2=zeros,
            rtmr3=zeros,
            report_data=report_data,
        )


def _empty_sgx_body(report_data: bytes) -> SgxBody:
    cpu_svn = bytes([documents.CURRENT_SVN]) * 16
    return SgxBody(cpu_svn, 0, bytes(28), _SGX_ATTRIBUTES, bytes(32), bytes(32), bytes(32), bytes(96), 0, 0, bytes(60), report_data)

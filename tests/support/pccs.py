"""Simulated platforms whose quotes name their PCK certificate, and a local PCCS that has it."""

from __future__ import annotations

import dataclasses
import hashlib
import urllib.parse

from support.vendor_server import VendorServer

from confide.attest.endorsements import Endorsements
from confide.attest.evidence import Evidence
from confide.attest.insecure import InsecureAttester, Installation
from confide.attest.insecure.documents import Machine
from confide.attest.quote import parse_quote
from confide.attest.roots import TrustRoots
from confide.attest.vendor_http import Http
from confide.attest.vendor_services import IntelService
from confide.attest.verify import Verifier
from confide.ids import ReportData, Tee

PCK_PATH = "/sgx/certification/v4/pckcert"


class NamingAttester:
    """A simulated attester whose quotes have certification data of type 3 (or 2) in the place of their chain."""

    simulated = True

    def __init__(self, inner: InsecureAttester, *, cert_type: int = 3, pce_id: bytes = bytes(2)) -> None:
        self._inner = inner
        self.tee: Tee = inner.tee
        self.cert_type = cert_type
        ppid = hashlib.shake_128(b"an encrypted PPID").digest({2: 256, 3: 384}[cert_type])
        self.cert_data = ppid + bytes(16) + bytes(2) + pce_id
        self.shown: list[Evidence] = []

    def quote(self, report_data: ReportData) -> Evidence:
        """Simulated evidence without a chain."""
        whole = parse_quote(self._inner.quote(report_data).quote)
        signature = dataclasses.replace(whole.signature, cert_type=self.cert_type, cert_data=self.cert_data)
        self.shown.append(Evidence(whole.tee, dataclasses.replace(whole, signature=signature).to_bytes()))
        return self.shown[-1]


def serve_pck(server: VendorServer, chain: bytes) -> None:
    """Let ``server`` answer with this chain to whoever asks for a PCK certificate."""
    pem = [b"-----BEGIN CERTIFICATE-----" + block for block in chain.rstrip(b"\0").split(b"-----BEGIN CERTIFICATE-----")[1:]]
    header = {"SGX-PCK-Certificate-Issuer-Chain": urllib.parse.quote(b"".join(pem[1:]))}
    server.replies[PCK_PATH] = (200, header, pem[0])


def serve_machine(server: VendorServer, installation: Installation, machine: Machine = Machine.GOOD) -> None:
    """Let ``server`` have the certificate of this simulated machine."""
    serve_pck(server, installation.pck_chain(machine))


def asking(installation: Installation, url: str) -> Verifier:
    """A verifier of this installation's evidence that asks the PCCS at ``url`` for what a quote names."""
    chains = Endorsements(IntelService(Http(timeout_s=2, retries=0), url))
    return Verifier(TrustRoots(simulated=installation.root_der), installation.collateral_source(), chains)

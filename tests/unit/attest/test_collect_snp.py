"""An SEV-SNP report from the kernel, with the certificates that the guest's host hands over beside it."""

import errno
import struct
import uuid

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.amd import NOW as AMD_NOW
from support.amd import Vendor
from support.kernel import ConfigfsKernel

from confide.attest.collateral_sources import FixedCollateral
from confide.attest.configfs import ConfigfsAttester
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.errors import AttesterError
from confide.ids import ReportData, Tee

DATA = ReportData(bytes(range(64)))


@pytest.fixture
def configfs() -> ConfigfsKernel:
    return ConfigfsKernel(quoter=bytes)


def table(*entries: tuple[uuid.UUID, bytes], order: str = "bytes") -> bytes:
    """The certificates that a host hands to its guests."""
    at = 24 * (len(entries) + 1)
    head, body = b"", b""
    for guid, data in entries:
        head += struct.pack("<16sII", getattr(guid, order), at + len(body), len(data))
        body += data
    return head + bytes(24) + body


VCEK, VLEK, ASK = (
    uuid.UUID(text)
    for text in ("63da758d-e664-4564-adc5-f4b93be8accd", "a8074bc2-a25a-483e-aae6-39c045a0b8a1", "4ab7b379-bbac-4fe4-a02f-05aef327c782")
)


def snp(kernel: ConfigfsKernel, quoter, certificates: bytes | None) -> ConfigfsAttester:
    kernel.provider, kernel.quoter, kernel.table = "sev_guest", quoter, certificates
    return ConfigfsAttester(files=kernel)


@pytest.fixture(scope="module")
def chip() -> Vendor:
    return Vendor("Milan")


@pytest.mark.parametrize("order", ["bytes", "bytes_le"])
@pytest.mark.parametrize("kind", ["vcek", "vlek"])
def test_kernel_report_of_snp_comes_with_the_certificate_of_its_key(configfs, chip, kind, order) -> None:
    leaves = {guid: chip.leaf(name) for guid, name in ((VCEK, "vcek"), (VLEK, "vlek"))}
    certificates = table((ASK, b"x"), *leaves.items(), order=order)
    attester = snp(configfs, lambda data: chip.report(flags=4 * (kind == "vlek"), report_data=data), certificates)
    assert attester.tee is Tee.SNP
    evidence = attester.quote(DATA)
    assert evidence.chain == leaves[VLEK if kind == "vlek" else VCEK]
    verified = Verifier(TrustRoots(amd=chip.roots), FixedCollateral(chip.collateral(kind))).verify(evidence, AMD_NOW)
    assert verified.claims.report_data == DATA


def test_certificate_in_pem_is_taken_too(configfs, chip) -> None:
    pem = x509.load_der_x509_certificate(chip.leaf()).public_bytes(Encoding.PEM)
    attester = snp(configfs, lambda data: chip.report(), table((VCEK, pem)))
    assert x509.load_der_x509_certificate(attester.quote(DATA).chain).subject == chip_subject(chip)


def chip_subject(chip: Vendor) -> x509.Name:
    return x509.load_der_x509_certificate(chip.leaf()).subject


@pytest.mark.parametrize("certificates", [None, b"", bytes(24), table((ASK, b"x"))], ids=["no attribute", "empty", "nothing", "others"])
def test_host_that_gives_no_certificate_leaves_it_out(configfs, chip, certificates) -> None:
    assert snp(configfs, lambda data: chip.report(), certificates).quote(DATA).chain == b""


@pytest.mark.parametrize(
    "certificates", [struct.pack("<16sII", VCEK.bytes, 24, 1), table((VCEK, b"-----BEGIN nothing"))], ids=["outside", "no PEM"]
)
def test_host_that_gives_nonsense_is_refused(configfs, chip, certificates) -> None:
    with pytest.raises(AttesterError, match="not a report"):
        snp(configfs, lambda data: chip.report(), certificates).quote(DATA)


def test_certificates_that_cannot_be_read_are_not_taken_for_none(configfs, chip) -> None:
    configfs.errors["read auxblob"] = [errno.EIO]
    with pytest.raises(AttesterError, match="cannot read"):
        snp(configfs, lambda data: chip.report(), b"").quote(DATA)


def test_short_report_is_refused(configfs, chip) -> None:
    with pytest.raises(AttesterError, match="1184"):
        snp(configfs, lambda data: chip.report()[:-1], None).quote(DATA)

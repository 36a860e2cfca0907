import errno
import os
import shutil
import struct
import uuid
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.amd import NOW as AMD_NOW
from support.amd import Vendor

from confide.attest import collect
from confide.attest.collateral_sources import FixedCollateral
from confide.attest.collect import ConfigfsAttester, GramineAttester, find_attester
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.errors import AttesterError
from confide.ids import ReportData, Tee

DATA = ReportData(bytes(range(64)))


@pytest.fixture
def gramine(tmp_path, make_evidence) -> Path:
    root = tmp_path / "attestation"
    root.mkdir()
    (root / "attestation_type").write_text("dcap")
    (root / "user_report_data").write_bytes(b"")
    (root / "quote").write_bytes(make_evidence(Tee.SGX).quote)
    return root


@pytest.fixture
def configfs(tmp_path, make_evidence, monkeypatch) -> tuple[Path, dict[str, Any]]:
    """A folder that behaves as the kernel does: a new entry has its attributes, and each write counts the generation up."""
    root = tmp_path / "report"
    root.mkdir()
    settings = {"provider": "tdx_guest\n", "outblob": make_evidence(Tee.TDX).quote + bytes(70), "step": 1}
    make, write = Path.mkdir, collect._write

    def mkdir(path: Path, *args: object, **kwargs: object) -> None:
        make(path, *args, **kwargs)
        if path.parent == root:
            (path / "provider").write_text(settings["provider"])
            (path / "generation").write_text("0\n")
            (path / "outblob").write_bytes(settings["outblob"])
            if "auxblob" in settings:
                (path / "auxblob").write_bytes(settings["auxblob"])

    read = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "outblob" and settings.setdefault("busy", []):
            number = settings["busy"].pop()
            raise OSError(number, os.strerror(number))
        return read(path)

    def rmdir(path: Path) -> None:
        for attribute in path.iterdir():
            settings.setdefault("written", {})[attribute.name] = read(attribute)
        shutil.rmtree(path)

    def counted(path: Path, data: bytes) -> None:
        write(path, data)
        (path.parent / "generation").write_text(f"{settings['step']}\n")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(Path, "rmdir", rmdir)
    monkeypatch.setattr(collect, "_write", counted)
    monkeypatch.setattr(collect, "_TRY_EVERY_S", 0)
    return root, settings


def test_gramine_quote_is_taken_over_the_report_data(gramine) -> None:
    attester = GramineAttester(gramine)
    evidence = attester.quote(DATA)
    assert (gramine / "user_report_data").read_bytes() == DATA
    assert evidence.tee is Tee.SGX
    assert (attester.tee, attester.simulated) == (Tee.SGX, False)


def test_gramine_without_dcap_is_refused(gramine) -> None:
    (gramine / "attestation_type").write_text("none")
    with pytest.raises(AttesterError, match="DCAP"):
        GramineAttester(gramine)


def test_gramine_giving_something_else_is_refused(gramine) -> None:
    (gramine / "quote").write_bytes(b"nonsense")
    with pytest.raises(AttesterError, match="not a quote"):
        GramineAttester(gramine).quote(DATA)


def test_gramine_files_that_are_missing_are_reported(gramine) -> None:
    attester = GramineAttester(gramine)
    (gramine / "quote").unlink()
    with pytest.raises(AttesterError, match="cannot read"):
        attester.quote(DATA)
    (gramine / "user_report_data").unlink()
    (gramine / "user_report_data").mkdir()
    with pytest.raises(AttesterError, match="cannot write"):
        attester.quote(DATA)


@pytest.mark.parametrize("length", [0, 63, 65])
def test_report_data_of_another_length_is_refused_not_padded(gramine, configfs, length) -> None:
    for attester in (GramineAttester(gramine), ConfigfsAttester(configfs[0])):
        with pytest.raises(AttesterError, match="64 bytes"):
            attester.quote(ReportData(bytes(length)))


def test_kernel_report_is_taken_and_its_padding_cut(configfs, make_evidence) -> None:
    evidence = ConfigfsAttester(configfs[0]).quote(DATA)
    assert evidence.tee is Tee.TDX
    assert len(evidence.quote) == len(make_evidence(Tee.TDX).quote)
    assert configfs[1]["written"]["inblob"] == DATA
    assert list(configfs[0].iterdir()) == []


def test_report_entry_that_another_wrote_to_is_refused(configfs) -> None:
    configfs[1]["step"] = 2
    with pytest.raises(AttesterError, match="another process"):
        ConfigfsAttester(configfs[0]).quote(DATA)


def test_report_entry_without_a_generation_is_refused(configfs) -> None:
    configfs[1]["step"] = "?"
    with pytest.raises(AttesterError, match="generation"):
        ConfigfsAttester(configfs[0]).quote(DATA)


def test_reports_of_another_provider_are_refused(configfs) -> None:
    attester = ConfigfsAttester(configfs[0])
    configfs[1]["provider"] = "sev_guest"
    with pytest.raises(AttesterError, match="exchanged"):
        attester.quote(DATA)
    configfs[1]["provider"] = "arm_cca_guest"
    with pytest.raises(AttesterError, match="cannot be verified"):
        ConfigfsAttester(configfs[0])


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EAGAIN, errno.EINTR])
def test_firmware_that_is_busy_is_asked_again(configfs, number) -> None:
    configfs[1]["busy"] = [number] * 3
    assert ConfigfsAttester(configfs[0]).quote(DATA).tee is Tee.TDX
    configfs[1]["busy"] = [number] * 50
    with pytest.raises(AttesterError, match="busy"):
        ConfigfsAttester(configfs[0]).quote(DATA)


def test_firmware_that_fails_is_reported_at_once(configfs) -> None:
    configfs[1]["busy"] = [errno.EIO]
    with pytest.raises(AttesterError, match="Input/output"):
        ConfigfsAttester(configfs[0]).quote(DATA)


# --- SEV-SNP ---------------------------------------------------------------------------------------------------------


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


@pytest.fixture(scope="module")
def chip() -> Vendor:
    return Vendor("Milan")


@pytest.mark.parametrize("order", ["bytes", "bytes_le"])
@pytest.mark.parametrize("kind", ["vcek", "vlek"])
def test_kernel_report_of_snp_comes_with_the_certificate_of_its_key(configfs, chip, kind, order) -> None:
    leaves = {guid: chip.leaf(name) for guid, name in ((VCEK, "vcek"), (VLEK, "vlek"))}
    settings = {"provider": "sev_guest\n", "outblob": chip.report(flags=4 * (kind == "vlek"), report_data=DATA)}
    configfs[1].update(settings, auxblob=table((ASK, b"x"), *leaves.items(), order=order))
    attester = ConfigfsAttester(configfs[0])
    assert attester.tee is Tee.SNP
    evidence = attester.quote(DATA)
    assert evidence.chain == leaves[VLEK if kind == "vlek" else VCEK]
    verified = Verifier(TrustRoots(amd=chip.roots), FixedCollateral(chip.collateral(kind))).verify(evidence, AMD_NOW)
    assert verified.claims.report_data == DATA


def test_certificate_in_pem_is_taken_too(configfs, chip) -> None:
    pem = x509.load_der_x509_certificate(chip.leaf()).public_bytes(Encoding.PEM)
    configfs[1].update(provider="sev_guest", outblob=chip.report(), auxblob=table((VCEK, pem)))
    assert x509.load_der_x509_certificate(ConfigfsAttester(configfs[0]).quote(DATA).chain).subject == chip_subject(chip)


def chip_subject(chip: Vendor) -> x509.Name:
    return x509.load_der_x509_certificate(chip.leaf()).subject


@pytest.mark.parametrize("certificates", [None, b"", bytes(24), table((ASK, b"x"))], ids=["no attribute", "empty", "nothing", "others"])
def test_host_that_gives_no_certificate_leaves_it_out(configfs, chip, certificates) -> None:
    configfs[1].update({"provider": "sev_guest", "outblob": chip.report()} | ({} if certificates is None else {"auxblob": certificates}))
    assert ConfigfsAttester(configfs[0]).quote(DATA).chain == b""


@pytest.mark.parametrize(
    "certificates", [struct.pack("<16sII", VCEK.bytes, 24, 1), table((VCEK, b"-----BEGIN nothing"))], ids=["outside", "no PEM"]
)
def test_host_that_gives_nonsense_is_refused(configfs, chip, certificates) -> None:
    configfs[1].update(provider="sev_guest", outblob=chip.report(), auxblob=certificates)
    with pytest.raises(AttesterError, match="not a report"):
        ConfigfsAttester(configfs[0]).quote(DATA)


def test_short_report_is_refused(configfs, chip) -> None:
    configfs[1].update(provider="sev_guest", outblob=chip.report()[:-1])
    with pytest.raises(AttesterError, match="1184"):
        ConfigfsAttester(configfs[0]).quote(DATA)


def test_entry_that_cannot_be_made_is_reported(configfs, tmp_path) -> None:
    attester = ConfigfsAttester(configfs[0])
    configfs[0].rename(tmp_path / "gone")
    with pytest.raises(AttesterError, match="report entry"):
        attester.quote(DATA)


def test_no_tee_means_an_error_and_never_a_simulated_one(tmp_path) -> None:
    with pytest.raises(AttesterError, match="TEE"):
        find_attester(gramine=tmp_path / "a", configfs=tmp_path / "b")
    with pytest.raises(AttesterError, match="no TEE reports"):
        ConfigfsAttester(tmp_path / "b")


def test_the_tee_that_is_there_is_found(gramine, configfs, tmp_path) -> None:
    assert isinstance(find_attester(gramine=gramine, configfs=configfs[0]), GramineAttester)
    assert isinstance(find_attester(gramine=tmp_path / "none", configfs=configfs[0]), ConfigfsAttester)

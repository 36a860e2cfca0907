from pathlib import Path
from typing import Any

import pytest

from confide.attest import collect
from confide.attest.collect import ConfigfsAttester, GramineAttester, find_attester
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

    def counted(path: Path, data: bytes) -> None:
        write(path, data)
        (path.parent / "generation").write_text(f"{settings['step']}\n")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(collect, "_write", counted)
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
    (entry,) = configfs[0].iterdir()
    assert (entry / "inblob").read_bytes() == DATA


def test_report_entry_that_another_wrote_to_is_refused(configfs) -> None:
    configfs[1]["step"] = 2
    with pytest.raises(AttesterError, match="another process"):
        ConfigfsAttester(configfs[0]).quote(DATA)


def test_report_entry_without_a_generation_is_refused(configfs) -> None:
    configfs[1]["step"] = "?"
    with pytest.raises(AttesterError, match="generation"):
        ConfigfsAttester(configfs[0]).quote(DATA)


def test_reports_of_another_provider_are_refused(configfs) -> None:
    configfs[1]["provider"] = "sev_guest"
    with pytest.raises(AttesterError, match="cannot be verified"):
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

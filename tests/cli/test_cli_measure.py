"""``confide attest measure``: reference values from a build, in the form that a policy takes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from support.firmware import for_snp, for_tdx
from support.gramine import MANIFEST, libpal
from support.sigstruct import sign

from confide.attest.launch.gramine import from_files


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A folder with a build of each kind; the SIGSTRUCT is of the Gramine enclave."""
    (tmp_path / "tdx.fd").write_bytes(for_tdx().build())
    (tmp_path / "snp.fd").write_bytes(for_snp().build())
    (tmp_path / "app.manifest.sgx").write_text(MANIFEST)
    (tmp_path / "libpal.so").write_bytes(libpal())
    enclave = from_files(tmp_path / "app.manifest.sgx", tmp_path / "libpal.so").mr_enclave
    (tmp_path / "app.sig").write_bytes(sign(enclave, product=5, svn=9))
    (tmp_path / "other.sig").write_bytes(sign(enclave, product=5, svn=8))
    spec = struct.pack("<16sIBBBBIHHB", b"Spec ID Event03\0", 0, 0, 2, 0, 2, 1, 0xC, 48, 0)
    log = struct.pack("<II20sI", 0, 3, bytes(20), len(spec)) + spec + struct.pack("<IIIH48sI", 1, 4, 1, 0xC, b"d" * 48, 0)
    (tmp_path / "CCEL").write_bytes(log + b"\xff" * 64)
    return tmp_path


def test_sgx_values_come_from_the_signature_and_from_the_files(confide: Any, build: Path) -> None:
    files = ("--manifest", build / "app.manifest.sgx", "--libpal", build / "libpal.so")
    signed = confide("attest", "measure", "sgx", build / "app.sig", "--json").json
    computed = confide("attest", "measure", "sgx", *files, "--json").json
    assert sorted(signed) == ["isv_prod_id", "isv_svn", "mrenclave", "mrsigner", "tee"]
    assert computed == {name: value for name, value in signed.items() if name != "mrsigner"}
    both = confide("attest", "measure", "sgx", build / "app.sig", *files)
    assert "verified: the signature, and the measurement of the files" in both.err
    assert "debug:       forbidden" in both.out


def test_enclave_that_the_files_do_not_make_is_refused(confide: Any, build: Path) -> None:
    files = ("--manifest", build / "app.manifest.sgx", "--libpal", build / "libpal.so")
    said = confide("attest", "measure", "sgx", build / "other.sig", *files)
    assert said.status == 3
    assert "not what these files make: isv_svn" in said.err
    (build / "libpal.so").write_bytes(libpal(entry=0x1020))
    said = confide("attest", "measure", "sgx", build / "app.sig", *files)
    assert said.status == 3
    assert "not what these files make: mrenclave" in said.err


def test_trusted_files_are_compared_when_asked_for(confide: Any, build: Path) -> None:
    files = ("--manifest", build / "app.manifest.sgx", "--libpal", build / "libpal.so", "--files", build)
    (build / "usr" / "bin").mkdir(parents=True)
    (build / "usr" / "bin" / "python3").write_bytes(b"another python")
    said = confide("attest", "measure", "sgx", *files)
    assert said.status == 3
    assert "not the one of the manifest: /usr/bin/python3" in said.err


def test_signature_that_does_not_verify_gives_no_values(confide: Any, build: Path) -> None:
    raw = bytearray((build / "app.sig").read_bytes())
    raw[960] ^= 1
    (build / "app.sig").write_bytes(raw)
    said = confide("attest", "measure", "sgx", build / "app.sig")
    assert (said.out, said.status) == ("", 3)


def test_tdx_values_come_from_firmware_and_event_log(confide: Any, build: Path) -> None:
    firmware, log = ("--firmware", build / "tdx.fd"), ("--event-log", build / "CCEL")
    whole = confide("attest", "measure", "tdx", *firmware, *log, "--json").json
    assert sorted(whole) == ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "tee"]
    assert whole["rtmr1"] == "00" * 48 != whole["rtmr0"]
    assert confide("attest", "measure", "tdx", *firmware, "--json").json == {"tee": "tdx", "mrtd": whole["mrtd"]}
    assert "mrtd" not in confide("attest", "measure", "tdx", *log, "--json").json
    other = confide("attest", "measure", "tdx", *firmware, "--page-order", "section", "--json").json
    assert other["mrtd"] != whole["mrtd"]


def test_snp_value_is_the_launch_digest(confide: Any, build: Path) -> None:
    firmware = ("--firmware", build / "snp.fd", "--vcpu-type", "EPYC-Milan")
    answer = confide("attest", "measure", "snp", *firmware, "--vcpus", "2", "--features", "0x1", "--json").json
    assert answer["tee"] == "snp"
    assert len(answer["measurement"]) == 96
    said = confide("attest", "measure", "snp", *firmware, "--vcpus", "2")
    assert answer["measurement"] in said.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["measure"], "say what to measure"),
        (["measure", "--simulate", "tdx", "--event-log", "{CCEL}"], "for simulated nodes"),
        (["measure", "tdx"], "nothing to measure"),
        (["measure", "sgx"], "nothing to measure"),
        (["measure", "sgx", "--manifest", "{app.manifest.sgx}"], "given together"),
        (["measure", "sgx", "{app.sig}", "--files", "/tmp"], "what a manifest lists"),
        (["measure", "snp", "--firmware", "{snp.fd}", "--vcpus", "1", "--vcpu-type", "EPYC", "--features", "one"], "no number"),
    ],
)
def test_request_that_means_nothing_is_a_usage_error(confide: Any, build: Path, words: list[str], said: str) -> None:
    spoken = confide("attest", *(str(build / word[1:-1]) if word.startswith("{") else word for word in words))
    assert spoken.status == 2
    assert said in spoken.err


def test_file_that_is_too_large_is_not_read(confide: Any, build: Path) -> None:
    with (build / "tdx.fd").open("r+b") as file:
        file.truncate(1 << 30)
    assert "too large" in confide("attest", "measure", "tdx", "--firmware", build / "tdx.fd").err


def test_show_lists_the_events_of_a_log_and_what_they_make(confide: Any, build: Path) -> None:
    shown = confide("attest", "show", build / "CCEL", "--json").json
    assert shown["kind"] == "event log of a TDX guest"
    rows = [(field["name"], field["offset"], field["value"][:4]) for field in shown["fields"]]
    assert rows[0] == ("RTMR0 EV_SEPARATOR", 65, "6464")
    values = confide("attest", "measure", "tdx", "--event-log", build / "CCEL", "--json").json
    assert {field["name"].lower(): field["value"] for field in shown["fields"][1:]} == {k: v for k, v in values.items() if k != "tee"}


def test_show_names_every_field_of_a_sigstruct(confide: Any, build: Path) -> None:
    shown = confide("attest", "show", build / "app.sig", "--json").json
    assert shown["kind"] == "Intel SGX SIGSTRUCT"
    assert shown["verified"] is False
    fields = {field["name"]: field for field in shown["fields"]}
    values = confide("attest", "measure", "sgx", build / "app.sig", "--json").json
    expected = {"MODULUS": 128, "SIGNATURE": 516, "ATTRIBUTES": 928, "ENCLAVEHASH": 960, "ISVPRODID": 1024, "ISVSVN": 1026, "Q2": 1424}
    assert expected.items() <= {name: field["offset"] for name, field in fields.items()}.items()
    assert (fields["ENCLAVEHASH"]["value"], fields["MRSIGNER"]["value"]) == (values["mrenclave"], values["mrsigner"])
    assert fields["debug"]["value"] == "forbidden"

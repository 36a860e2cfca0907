from __future__ import annotations

import errno
from pathlib import Path

import pytest
from support.kernel import ConfigfsKernel, GramineKernel, Kernel, OcclumKernel

from confide.attest.collect import find_attester
from confide.attest.configfs import ConfigfsAttester
from confide.attest.detect import Machine, Source, detect, devices
from confide.attest.gramine import GramineAttester
from confide.attest.occlum import OcclumAttester
from confide.attest.tpm_device import configured
from confide.config import Settings
from confide.errors import AttesterError
from confide.ids import Tee

REPORTS = "sys/kernel/config/tsm/report"


def machine(root: Path, *there: str, flags: str = "", release: str = "6.8.0-test", kernel: Kernel | None = None) -> Machine:
    """A machine that has these folders (names that end in /) and files, and a processor with these flags."""
    for name in there:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    extra = {} if kernel is None else {"files": kernel}
    return Machine(root, release, **extra, **({"ioctl": kernel.ioctl} if isinstance(kernel, OcclumKernel) else {}))


def source(found: tuple[Source, ...], name: str) -> Source:
    return next(each for each in found if each.name == name)


def test_bare_machine_is_told_why_for_each_source(tmp_path) -> None:
    found = detect(machine(tmp_path))
    assert [each.name for each in found] == ["gramine", "occlum", "configfs-tdx", "configfs-snp"]
    assert not any(each.available for each in found)
    assert all(each.hint for each in found)
    assert "not under Gramine" in source(found, "gramine").found
    assert "not under Occlum" in source(found, "occlum").found
    assert "no flag tdx_guest" in source(found, "configfs-tdx").found
    assert "no flag sev_snp" in source(found, "configfs-snp").found


@pytest.mark.parametrize(
    ("there", "flags", "release", "found", "hint"),
    [
        ((), "tdx_guest", "6.6.30", "older than 6.7", "newer kernel"),
        ((), "tdx_guest", "5.15.0-generic", "older than 6.7", "newer kernel"),
        ((), "tdx_guest", "6.10.1", "module is not loaded", "modprobe tdx-guest"),
        (("dev/tdx_guest",), "tdx_guest", "6.8", "configfs is not mounted", "mount -t configfs none"),
        (("dev/tdx_guest", "sys/kernel/config/"), "tdx_guest", "6.8", "configfs is not mounted", "mount -t configfs none"),
        (("dev/tdx_guest", "sys/kernel/config/usb/"), "tdx_guest", "6.8", "module tsm is not loaded", "modprobe tdx-guest"),
    ],
)
def test_missing_reports_of_the_kernel_are_explained_from_the_outside_in(tmp_path, *, there, flags, release, found, hint) -> None:
    told = source(detect(machine(tmp_path, *there, flags=flags, release=release)), "configfs-tdx")
    assert not told.available
    assert found in told.found
    assert hint in told.hint


@pytest.mark.parametrize(
    ("number", "found", "hint"),
    [(errno.EACCES, "no permission", "as root"), (errno.ENXIO, "no driver", "modprobe sev-guest"), (errno.EIO, "report entry", "")],
)
def test_kernel_that_refuses_an_entry_is_told_with_its_reason(tmp_path, number, found, hint) -> None:
    kernel = ConfigfsKernel(root=tmp_path / REPORTS, errors={"mkdir report": [number] * 2})
    told = source(detect(machine(tmp_path, f"{REPORTS}/", kernel=kernel)), "configfs-snp")
    assert (told.available, found in told.found, hint in told.hint) == (False, True, True)


def test_guest_of_one_kind_is_none_of_the_other(tmp_path) -> None:
    kernel = ConfigfsKernel(root=tmp_path / REPORTS)
    found = detect(machine(tmp_path, f"{REPORTS}/", kernel=kernel))
    assert source(found, "configfs-tdx").available
    assert source(found, "configfs-snp").found == "this is a guest of tdx"
    assert kernel.entries == {}


def test_report_driver_of_an_unknown_tee_is_named(tmp_path) -> None:
    kernel = ConfigfsKernel(root=tmp_path / REPORTS, provider="arm_cca_guest")
    assert "arm_cca_guest" in source(detect(machine(tmp_path, f"{REPORTS}/", kernel=kernel)), "configfs-tdx").found


def test_gramine_without_dcap_is_told_with_the_line_of_the_manifest(tmp_path) -> None:
    kernel = GramineKernel(root=tmp_path / "dev/attestation", kind="none")
    told = source(detect(machine(tmp_path, "dev/attestation/", kernel=kernel)), "gramine")
    assert (told.available, "(none)" in told.found) == (False, True)
    assert "sgx.remote_attestation" in told.hint


def test_sgx_drivers_folder_is_not_taken_for_occlum(tmp_path) -> None:
    assert "not Occlum" in source(detect(machine(tmp_path, "dev/sgx/enclave")), "occlum").found
    assert "gramine-sgx" in source(detect(machine(tmp_path, "dev/sgx/enclave")), "gramine").hint


def test_old_sgx_drivers_device_is_not_taken_for_occlum(tmp_path) -> None:
    kernel = OcclumKernel(device=tmp_path / "dev/sgx", errors={"ioctl 7 sgx": [errno.ENOTTY]})
    told = source(detect(machine(tmp_path, "dev/sgx", kernel=kernel)), "occlum")
    assert (told.available, "DCAP" in told.hint) == (False, True)


@pytest.mark.parametrize(
    ("there", "flags", "available", "found"),
    [
        ((), "", False, "no flag sgx"),
        ((), "sgx", False, "module is not loaded"),
        (("dev/sgx_enclave",), "sgx", True, "with flag sgx"),
        (("dev/sgx/enclave",), "", True, "without flag sgx"),
    ],
)
def test_devices_are_told_beside_what_the_processor_can_do(tmp_path, there, flags, available, found) -> None:
    told = source(devices(machine(tmp_path, *there, flags=flags)), "device-sgx")
    assert (told.available, found in told.found) == (available, True)


def test_device_without_permission_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    told = source(devices(machine(tmp_path, "dev/sev-guest")), "device-snp")
    assert (told.available, "no permission" in told.found, "group" in told.hint) == (False, True, True)


def test_machine_that_tells_nothing_of_its_processor_has_no_flags(tmp_path) -> None:
    assert Machine(tmp_path).cpu_flags() == frozenset()


def test_no_tee_means_an_error_with_each_reason_and_never_a_simulated_one(tmp_path) -> None:
    with pytest.raises(AttesterError, match="does not run in a TEE") as caught:
        find_attester(machine(tmp_path))
    assert set(caught.value.facts) == {"gramine", "occlum", "configfs-tdx", "configfs-snp"}
    assert all(caught.value.facts.values())


def test_the_tee_that_is_there_is_found(tmp_path, make_evidence) -> None:
    quote = make_evidence(Tee.SGX).quote
    gramine = GramineKernel(root=tmp_path / "g/dev/attestation", quoter=lambda data: quote)
    occlum = OcclumKernel(device=tmp_path / "o/dev/sgx", quoter=lambda data: quote)
    configfs = ConfigfsKernel(root=tmp_path / "c" / REPORTS)
    for name in "goc":
        (tmp_path / name).mkdir()
    assert isinstance(find_attester(machine(tmp_path / "g", "dev/attestation/", kernel=gramine)), GramineAttester)
    assert isinstance(find_attester(machine(tmp_path / "o", "dev/sgx", kernel=occlum)), OcclumAttester)
    assert isinstance(find_attester(machine(tmp_path / "c", f"{REPORTS}/", kernel=configfs)), ConfigfsAttester)


def test_this_machine_is_looked_at_if_none_is_given(tmp_path, make_evidence, monkeypatch) -> None:
    kernel = GramineKernel(root=tmp_path / "dev/attestation", quoter=lambda data: make_evidence(Tee.SGX).quote)
    monkeypatch.setattr("confide.attest.collect.Machine", lambda: machine(tmp_path, "dev/attestation/", kernel=kernel))
    assert isinstance(find_attester(), GramineAttester)


def test_source_as_json_says_everything(tmp_path) -> None:
    told = detect(machine(tmp_path))[0]
    assert told.to_json() == {"name": "gramine", "tee": "sgx", "available": False, "found": told.found, "hint": told.hint}


def test_tpm_is_told_with_each_reason_and_never_taken_for_a_tee(tmp_path, monkeypatch) -> None:
    def told(*there: str) -> Source:
        return source(devices(machine(tmp_path, *there)), "tpm")

    assert "no " in told().found
    assert "1.2" in told("dev/tpm0").found
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert told("dev/tpmrm0").hint == "install tpm2-tools"
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert told().available
    assert "protects no memory" in told().found
    with pytest.raises(AttesterError):
        find_attester(machine(tmp_path))
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "no permission" in told().found


def test_configured_tpm_is_taken_only_where_there_is_no_tee(tmp_path, make_evidence) -> None:
    assert configured(Settings()) is None
    tpm = configured(Settings(tpm_key="0x81010002"))
    (tmp_path / "c").mkdir()
    kernel = ConfigfsKernel(root=tmp_path / "c" / REPORTS)
    assert isinstance(find_attester(machine(tmp_path / "c", f"{REPORTS}/", kernel=kernel), tpm), ConfigfsAttester)
    assert find_attester(machine(tmp_path), tpm) is tpm

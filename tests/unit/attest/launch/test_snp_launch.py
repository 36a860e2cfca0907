"""The launch digest, held against a second computation written from AMD's documents; and requests that mean nothing."""

from __future__ import annotations

import hashlib
import struct
import sys
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from support.firmware import HASH_TABLE, OVMF, PAGE, Image, for_snp
from support.machine import need_file

from confide.attest.launch.firmware import Firmware
from confide.attest.launch.snp import Host, Launch, launch_digest
from confide.errors import ExtraMissingError, ParseError, UsageError

MILAN, GENOA = 0x00A00F11, 0x00A10F10
"""CPUID Fn0000_0001_EAX of the two models."""


def page_info(digest: bytes, contents: bytes, kind: int, address: int) -> bytes:
    """SEV-SNP firmware ABI, "PAGE_INFO": the digest so far, the page's, length, kind, flags and permissions, address."""
    return hashlib.sha384(digest + contents + struct.pack("<HBB4xQ", 0x70, kind, 0, address)).digest()


def first_state(rip: int, signature: int, features: int = 1) -> bytes:
    """A processor's VMSA under QEMU and KVM (AMD64 manual, volume 2, table B-4): the reset state of x86, and what KVM forces."""
    page = bytearray(PAGE)
    segments = {0x00: (0, 0x93, 0), 0x10: (0xF000, 0x9B, rip & 0xFFFF0000), 0x20: (0, 0x93, 0), 0x30: (0, 0x93, 0), 0x40: (0, 0x93, 0)}
    segments |= {0x50: (0, 0x93, 0), 0x60: (0, 0, 0), 0x70: (0, 0x82, 0), 0x80: (0, 0, 0), 0x90: (0, 0x8B, 0)}
    for at, (selector, attributes, base) in segments.items():
        struct.pack_into("<HHIQ", page, at, selector, attributes, 0xFFFF, base)
    words = {
        0xD0: 0x1000, 0x148: 0x40, 0x158: 0x10, 0x160: 0x400, 0x168: 0xFFFF0FF0, 0x170: 2, 0x178: rip & 0xFFFF, 0x268: 0x0007040600070406,
        0x310: signature, 0x3B0: features, 0x3E8: 1,
    }  # fmt: skip
    for at, value in words.items():
        struct.pack_into("<Q", page, at, value)
    struct.pack_into("<I", page, 0x408, 0x1F80)
    struct.pack_into("<H", page, 0x410, 0x37F)
    return bytes(page)


def kernel_page(kernel: bytes, initrd: bytes, append: str, offset: int) -> bytes:
    """QEMU's table of hashes, at its place in the page that the firmware keeps for it."""

    def entry(guid: str, data: bytes) -> bytes:
        return UUID(guid).bytes_le + struct.pack("<H", 50) + hashlib.sha256(data).digest()

    rows = entry("97d02dd8-bd20-4c94-aa78-e7714d36ab2a", append.encode() + b"\0")
    rows += entry("44baf731-3a2f-4bd7-9af1-41e29169781d", initrd) + entry("4de79437-abd2-427f-b835-d5b172d2045b", kernel)
    table = UUID("9438d606-4f22-4cc9-b479-a793d411fd21").bytes_le + struct.pack("<H", 18 + len(rows)) + rows
    return (bytes(offset) + table).ljust(PAGE, b"\0")


def by_the_documents(raw: bytes, vcpus: int, signature: int, hashes: bytes | None = None, features: int = 1) -> bytes:
    digest, zeros = bytes(48), bytes(48)
    for at in range(0, len(raw), PAGE):
        digest = page_info(digest, hashlib.sha384(raw[at : at + PAGE]).digest(), 1, (1 << 32) - len(raw) + at)
    firmware = Firmware.parse(raw)
    for section in firmware.sev_sections():
        kind = {1: 3, 2: 5, 3: 6, 4: 3, 0x10: 3}[section.kind]
        for at in range(section.address, section.address + section.size, PAGE):
            if section.kind == 0x10 and hashes is not None:
                digest = page_info(digest, hashlib.sha384(hashes).digest(), 1, at)
            else:
                digest = page_info(digest, zeros, kind, at)
    further = struct.unpack("<I", firmware.table[UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")])[0]
    for number in range(vcpus):
        state = first_state(further if number else 0xFFFFFFF0, signature, features)
        digest = page_info(digest, hashlib.sha384(state).digest(), 2, 0xFFFFFFFFF000)
    return digest


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return Launch(written(tmp_path / "firmware.fd", for_snp().build()), vcpus=2, vcpu_type="EPYC-Milan")


@pytest.fixture
def direct(tmp_path: Path) -> Launch:
    """A direct boot: kernel, initrd and command line are measured."""
    image = written(tmp_path / "direct.fd", for_snp(kernel=True).build())
    kernel, initrd = written(tmp_path / "kernel", b"kernel" * 999), written(tmp_path / "initrd", b"initrd" * 999)
    return Launch(image, 1, "EPYC-Genoa", kernel, initrd, "console=ttyS0 root=/dev/vda")


def test_pages_and_processors_are_chained_as_the_documents_say(launch: Launch) -> None:
    assert launch_digest(launch).measurement == by_the_documents(for_snp().build(), 2, MILAN)


def test_features_are_measured(launch: Launch) -> None:
    assert launch_digest(replace(launch, features=0x21)).measurement == by_the_documents(for_snp().build(), 2, MILAN, features=0x21)


def test_kernel_initrd_and_command_line_are_measured(direct: Launch) -> None:
    hashes = kernel_page(b"kernel" * 999, b"initrd" * 999, "console=ttyS0 root=/dev/vda", 0xC00)
    assert launch_digest(direct).measurement == by_the_documents(for_snp(kernel=True).build(), 1, GENOA, hashes)
    alone = replace(direct, initrd=None, append=None)
    hashes = kernel_page(b"kernel" * 999, b"", "", 0xC00)
    assert launch_digest(alone).measurement == by_the_documents(for_snp(kernel=True).build(), 1, GENOA, hashes)


@pytest.mark.parametrize("offset", [0, PAGE - 176])
def test_hashes_may_be_at_either_end_of_their_page(direct: Launch, offset: int) -> None:
    image = replace(for_snp(kernel=True), hash_table=(0x810000 + offset, 0x4FF))
    direct.firmware.write_bytes(image.build())
    hashes = kernel_page(b"kernel" * 999, b"initrd" * 999, "console=ttyS0 root=/dev/vda", offset)
    assert launch_digest(direct).measurement == by_the_documents(image.build(), 1, GENOA, hashes)


def test_hashes_may_be_in_one_of_several_pages(direct: Launch) -> None:
    image = for_snp(kernel=True)
    assert image.sev is not None
    image.sev.append((0x900000, PAGE, 0x10))
    for place in (0x810C00, 0x900C00):
        direct.firmware.write_bytes(replace(image, hash_table=(place, 0x400)).build())
        hashes = kernel_page(b"kernel" * 999, b"initrd" * 999, "console=ttyS0 root=/dev/vda", 0xC00)
        assert launch_digest(direct).measurement == by_the_documents(direct.firmware.read_bytes(), 1, GENOA, hashes)


def test_guest_may_have_4096_processors_and_all_features(launch: Launch) -> None:
    many = replace(launch, vcpus=4096, features=(1 << 64) - 1)
    assert launch_digest(many).measurement == by_the_documents(for_snp().build(), 4096, MILAN, features=(1 << 64) - 1)


def test_image_that_debian_ships_is_measured(launch: Launch) -> None:
    path = need_file(OVMF, "scripts/install_ovmf.sh")
    assert launch_digest(replace(launch, firmware=path, vcpus=4)).measurement == by_the_documents(path.read_bytes(), 4, MILAN)


@pytest.mark.parametrize("change", [{"vcpus": 3}, {"vcpu_type": "EPYC-Genoa"}, {"host": Host.EC2}, {"host": Host.GCE}, {"features": 0x21}])
def test_whatever_is_measured_changes_it(launch: Launch, change: dict[str, object]) -> None:
    assert launch_digest(replace(launch, **change)) != launch_digest(launch)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vcpus": 0}, "1 to 4096"), ({"vcpus": 4097}, "1 to 4096"), ({"vcpu_type": "EPYC-Naples-9"}, "no processor model"),
        ({"features": 0}, "bit 0"),
        ({"features": 1 << 64 | 1}, "bit 0"), ({"initrd": Path("initrd")}, "with a kernel only"),
        ({"append": "quiet"}, "with a kernel only"),
        ({"firmware": Path("/nowhere")}, "cannot read"),
    ],
)  # fmt: skip
def test_request_that_means_nothing_is_refused(launch: Launch, change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        launch_digest(replace(launch, **change))


def test_command_line_with_a_zero_in_it_is_refused(direct: Launch) -> None:
    with pytest.raises(UsageError, match="zero byte"):
        launch_digest(replace(direct, append="quiet\0init=/bin/sh"))


def test_kernel_file_that_is_not_there_is_a_usage_error(direct: Launch) -> None:
    with pytest.raises(UsageError, match="cannot read /nowhere"):
        launch_digest(replace(direct, kernel=Path("/nowhere")))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image(), "no SEV metadata"), (replace(for_snp(), reset=None), "further processors"),
        (replace(for_snp(), reset=b"12"), "further processors"),
    ],
)  # fmt: skip
def test_firmware_that_is_not_made_for_it_is_refused(launch: Launch, image: Image, said: str) -> None:
    launch.firmware.write_bytes(image.build())
    with pytest.raises(ParseError, match=said):
        launch_digest(launch)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (replace(for_snp(), hash_table=(0x810C00, 0x400)), "does not measure a kernel"),
        (replace(for_snp(kernel=True), hash_table=None), "where in that page"),
        (replace(for_snp(kernel=True), hash_table=(0, 0x400)), "where in that page"),
        (replace(for_snp(kernel=True), hash_table=(0x800C00, 0x400)), "where in that page"),
        (replace(for_snp(kernel=True), hash_table=(0x810F51, 0x400)), "where in that page"),
        (replace(for_snp(kernel=True), hash_table=(0x80FFFF, 0x400)), "where in that page"),
        *(
            (replace(for_snp(kernel=True), hash_table=None, extra=[(HASH_TABLE, place)]), "where in that page")
            for place in (b"\0\x0c\x81\0", b"\0\x0c\x81\0\0\4\0", b"\0\x0c\x81\0\0\4\0\0\0")
        ),
    ],
    ids=["no page", "no place", "place is zero", "in another page", "over the page's end", "before it", "4 bytes", "7 bytes", "9 bytes"],
)  # fmt: skip
def test_kernel_for_firmware_that_does_not_measure_one_is_refused(direct: Launch, image: Image, said: str) -> None:
    direct.firmware.write_bytes(image.build())
    with pytest.raises(ParseError, match=said):
        launch_digest(direct)


def test_missing_extra_is_named(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sevsnpmeasure", None)
    with pytest.raises(ExtraMissingError) as missing:
        launch_digest(launch)
    assert missing.value.hint == "pip install 'confide[measure]'"

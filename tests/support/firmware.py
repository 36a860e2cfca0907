"""Firmware images as EDK II lays them out, small and made to order: a table of GUIDed entries, TDX metadata, SEV metadata."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from uuid import UUID

PAGE = 4096
FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
TDX = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
SEV = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
RESET_BLOCK = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
HASH_TABLE = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
OVMF = "/usr/share/ovmf/OVMF.fd"
"""Debian's and Ubuntu's image, which ``scripts/install_ovmf.sh`` installs."""


@dataclass
class Image:
    """What the image says.  TDX sections: data offset, data size, address, size, kind, attributes.  SEV sections: address, size, kind."""

    pages: int = 4
    tdx: list[tuple[int, int, int, int, int, int]] | None = None
    sev: list[tuple[int, int, int]] | None = None
    reset: bytes | None = struct.pack("<I", 0x80B004)
    hash_table: tuple[int, int] | None = None
    extra: list[tuple[UUID, bytes]] = field(default_factory=list)
    tdx_at: int = PAGE
    sev_at: int = PAGE + 1024

    def build(self) -> bytes:
        """The image.  Every page begins with its number, so that none is like another."""
        size = self.pages * PAGE
        image = bytearray(b"".join(struct.pack("<I", number) + bytes([number % 251]) * (PAGE - 4) for number in range(self.pages)))
        entries = list(self.extra)
        if self.tdx is not None:
            sections = b"".join(struct.pack("<IIQQII", *section) for section in self.tdx)
            put(image, self.tdx_at, struct.pack("<4sIII", b"TDVF", 16 + len(sections), 1, len(self.tdx)) + sections)
            entries.append((TDX, struct.pack("<I", size - self.tdx_at)))
        if self.sev is not None:
            sections = b"".join(struct.pack("<III", *section) for section in self.sev)
            put(image, self.sev_at, struct.pack("<4sIII", b"ASEV", 16 + len(sections), 1, len(self.sev)) + sections)
            entries.append((SEV, struct.pack("<I", size - self.sev_at)))
        if self.reset is not None:
            entries.append((RESET_BLOCK, self.reset))
        if self.hash_table is not None:
            entries.append((HASH_TABLE, struct.pack("<II", *self.hash_table)))
        table = b"".join(data + struct.pack("<H16s", len(data) + 18, guid.bytes_le) for guid, data in entries)
        table += struct.pack("<H16s", len(table) + 18, FOOTER.bytes_le)
        put(image, size - 32 - len(table), table)
        return bytes(image)


def put(image: bytearray, at: int, data: bytes) -> None:
    image[at : at + len(data)] = data


def for_tdx() -> Image:
    """A volume of two pages that is measured, one page of variables that is not, memory, and memory that is accepted later."""
    return Image(
        tdx=[
            (2 * PAGE, 2 * PAGE, 0xFFFFE000, 2 * PAGE, 0, 1),
            (0, PAGE, 0xFFFFC000, PAGE, 1, 0),
            (0, 0, 0x810000, 2 * PAGE, 3, 0),
            (0, 0, 0x809000, PAGE, 2, 0),
            (0, 0, 0x900000, PAGE, 4, 2),
        ]
    )


def for_snp(*, kernel: bool = False) -> Image:
    """Memory, secrets, CPUID and, for direct boot, the page with the hashes of the kernel."""
    sections = [(0x800000, 2 * PAGE, 1), (0x80D000, PAGE, 2), (0x80E000, PAGE, 3)]
    if kernel:
        sections.append((0x810000, PAGE, 0x10))
    return Image(sev=sections, hash_table=(0x810C00, 0x400) if kernel else (0, 0))

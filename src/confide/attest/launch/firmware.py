"""Guest firmware: the table at the end of an OVMF image, and what it says of the memory that TDX and SEV-SNP measure.

Layouts: the image's table of GUIDed entries and the SEV metadata as EDK II's ``OvmfPkg/ResetVector`` writes them; the TDX metadata as
Intel's TDX Virtual Firmware Design Guide has it ("TDVF Descriptor").  Integers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Self
from uuid import UUID

from confide.errors import ParseError

MAX_FIRMWARE_BYTES = 64 << 20
PAGE = 4096
_TABLE_FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
_TABLE_END_FROM_TOP = 32
"""The reset vector stands in the last 32 bytes, the table right before it."""
SEV_METADATA = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
SEV_ES_RESET_BLOCK = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
SEV_HASH_TABLE = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
TDX_METADATA = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")

_ENTRY_TAIL = struct.Struct("<H16s")
_METADATA_HEAD = struct.Struct("<4sIII")
_TDX_SECTION = struct.Struct("<IIQQII")
_SEV_SECTION = struct.Struct("<III")
_ADDRESS_SPACE = 1 << 52
"""Guest-physical addresses are of at most 52 bits on both vendors' processors."""

BFV, CFV, TD_HOB, TEMP_MEM, PERM_MEM = range(5)
_WITH_DATA = frozenset({BFV, CFV})
MR_EXTEND = 1
PAGE_AUG = 2
SEV_MEMORY, SEV_SECRETS, SEV_CPUID, SEV_CAA, SEV_KERNEL_HASHES = 1, 2, 3, 4, 0x10
_SEV_KINDS = frozenset({SEV_MEMORY, SEV_SECRETS, SEV_CPUID, SEV_CAA, SEV_KERNEL_HASHES})


@dataclass(frozen=True, slots=True)
class TdxSection:
    """A piece of a TD's first memory.  ``data`` is what is in it, empty for memory that starts as zeros or is filled by the host."""

    kind: int
    attributes: int
    address: int
    size: int
    data: bytes

    @property
    def measured(self) -> bool:
        """Whether the contents are part of MRTD; the pages are, in any case."""
        return bool(self.attributes & MR_EXTEND)

    @property
    def added(self) -> bool:
        """Whether pages are added before launch; else they are accepted by the running TD, and not measured."""
        return not self.attributes & PAGE_AUG


@dataclass(frozen=True, slots=True)
class SevSection:
    """A piece of an SEV-SNP guest's first memory beside the firmware itself."""

    kind: int
    address: int
    size: int


@dataclass(frozen=True, slots=True)
class Firmware:
    """One image and its table, by GUID."""

    image: bytes
    table: dict[UUID, bytes]

    @classmethod
    def parse(cls, image: bytes) -> Self:
        """Read an image's table.

        Raises:
            ParseError: it has none, or one that is not well formed; ``facts`` hold the offset.
        """
        if len(image) > MAX_FIRMWARE_BYTES:
            raise ParseError("the firmware image is too large to be one", length=len(image), limit=MAX_FIRMWARE_BYTES)
        if not image or len(image) % PAGE:
            raise ParseError("a firmware image is whole pages of 4096 bytes", length=len(image))
        end = len(image) - _TABLE_END_FROM_TOP
        size, guid = _ENTRY_TAIL.unpack_from(image, end - _ENTRY_TAIL.size)
        if guid != _TABLE_FOOTER.bytes_le:
            raise ParseError("the firmware image has no table of GUIDed entries at its end: not an OVMF image", offset=end - 16)
        start = end - size
        if size < _ENTRY_TAIL.size or start < 0:
            raise ParseError("the firmware's table is not inside the image", offset=end - _ENTRY_TAIL.size, got=size)
        table: dict[UUID, bytes] = {}
        at = end - _ENTRY_TAIL.size
        while at > start:
            if at - start < _ENTRY_TAIL.size:
                raise ParseError("there are bytes before the firmware's table", offset=start)
            length, guid = _ENTRY_TAIL.unpack_from(image, at - _ENTRY_TAIL.size)
            name = UUID(bytes_le=guid)
            if not _ENTRY_TAIL.size <= length <= at - start:
                raise ParseError("an entry of the firmware's table is not inside it", offset=at - _ENTRY_TAIL.size, got=length)
            if name in table:
                raise ParseError("the firmware's table has an entry twice", offset=at - _ENTRY_TAIL.size, guid=str(name))
            table[name] = image[at - length : at - _ENTRY_TAIL.size]
            at -= length
        return cls(image, table)

    def tdx_sections(self) -> tuple[TdxSection, ...]:
        """What a TD's first memory is made of, in the order in which it is added.

        Raises:
            ParseError: the image is not made for TDX, or says something that has no published meaning.
        """
        at, count = self._metadata(TDX_METADATA, b"TDVF", _TDX_SECTION.size, "TDX")
        sections = tuple(self._tdx_section(at + number * _TDX_SECTION.size) for number in range(count))
        _no_overlap([(section.address, section.size) for section in sections], at)
        if not any(section.kind == BFV and section.measured for section in sections):
            raise ParseError("the TDX metadata has no measured firmware volume", offset=at)
        return sections

    def sev_sections(self) -> tuple[SevSection, ...]:
        """What an SEV-SNP guest's first memory is made of beside the image.

        Raises:
            ParseError: the image is not made for SEV-SNP, or says something that has no published meaning.
        """
        at, count = self._metadata(SEV_METADATA, b"ASEV", _SEV_SECTION.size, "SEV")
        sections = []
        for offset in range(at, at + count * _SEV_SECTION.size, _SEV_SECTION.size):
            address, size, kind = _SEV_SECTION.unpack_from(self.image, offset)
            if kind not in _SEV_KINDS:
                raise ParseError("a section of the SEV metadata is of an unknown kind", offset=offset, got=kind)
            _pages(address, size, offset)
            if kind in {SEV_SECRETS, SEV_CPUID, SEV_KERNEL_HASHES} and size != PAGE:
                raise ParseError("a section of the SEV metadata that is one page has another size", offset=offset, got=size)
            sections.append(SevSection(kind, address, size))
        _no_overlap([(section.address, section.size) for section in sections], at)
        return tuple(sections)

    def _metadata(self, guid: UUID, signature: bytes, section: int, vendor: str) -> tuple[int, int]:
        """Where the sections begin, and how many there are."""
        entry = self.table.get(guid)
        if entry is None:
            raise ParseError(f"the firmware image has no {vendor} metadata", hint=f"it was not built for {vendor}, or is half of an image")
        if len(entry) != 4:
            raise ParseError(f"the entry that says where the {vendor} metadata is has 4 bytes", got=len(entry))
        at = len(self.image) - int.from_bytes(entry, "little")
        if not 0 <= at <= len(self.image) - _METADATA_HEAD.size:
            raise ParseError(f"the {vendor} metadata is not inside the image", offset=at)
        found, length, version, count = _METADATA_HEAD.unpack_from(self.image, at)
        if found != signature or version != 1:
            raise ParseError(f"not {vendor} metadata of version 1", offset=at, version=version)
        if not count or length != _METADATA_HEAD.size + count * section or at + length > len(self.image):
            raise ParseError(f"the {vendor} metadata's length is not that of its sections", offset=at + 4, got=length)
        return at + _METADATA_HEAD.size, count

    def _tdx_section(self, at: int) -> TdxSection:
        data_at, data_size, address, size, kind, attributes = _TDX_SECTION.unpack_from(self.image, at)
        if kind not in {BFV, CFV, TD_HOB, TEMP_MEM, PERM_MEM}:
            raise ParseError("a section of the TDX metadata is of an unknown kind", offset=at + 24, got=kind)
        if attributes & ~(MR_EXTEND | PAGE_AUG) or attributes == MR_EXTEND | PAGE_AUG:
            raise ParseError("a section of the TDX metadata has attributes that mean nothing", offset=at + 28, got=attributes)
        _pages(address, size, at)
        if kind in _WITH_DATA:
            # More memory than data would be filled by the host with what no document says.
            if data_size != size or data_at + data_size > len(self.image):
                raise ParseError("a section of the TDX metadata is not the piece of the image that it names", offset=at)
        elif data_at or data_size or attributes & MR_EXTEND:
            raise ParseError("a section of the TDX metadata that is memory names a piece of the image, or asks to be measured", offset=at)
        return TdxSection(kind, attributes, address, size, self.image[data_at : data_at + data_size])


def _pages(address: int, size: int, at: int) -> None:
    if not size or size % PAGE or address % PAGE or address + size > _ADDRESS_SPACE:
        raise ParseError("a section of the metadata is not whole pages of guest memory", offset=at, address=address, size=size)
    if size > MAX_FIRMWARE_BYTES:
        raise ParseError("a section of the metadata is larger than any firmware", offset=at, size=size)


def _no_overlap(places: list[tuple[int, int]], at: int) -> None:
    """No page is added twice: neither vendor's module would do it."""
    for (first, size), (second, _) in pairwise(sorted(places)):
        if first + size > second:
            raise ParseError("two sections of the metadata overlap", offset=at, address=second)

"""MRTD: what the TDX module measures of a TD's first memory, from the firmware image that it is made of.

Rules: Intel TDX Module Base Architecture Specification, "MRTD: Build-Time Measurement Register", and TDH.MEM.PAGE.ADD and TDH.MR.EXTEND
in the ABI specification.  SHA-384 over, for each page added, one record of 128 bytes with its address, and for each 256 bytes measured,
another, and the bytes.  In which order, the host decides.
"""

from __future__ import annotations

import hashlib
import struct
from enum import StrEnum

from confide.attest.launch.firmware import PAGE, Firmware, TdxSection

EXTEND_BYTES = 256
_RECORD = struct.Struct("<16sQ104x")


class PageOrder(StrEnum):
    """In which order the host adds and measures the pages of a section."""

    PAGE = "page"
    """Each page is added and measured before the next one: Linux' KVM (``KVM_TDX_INIT_MEM_REGION``), with upstream QEMU."""
    SECTION = "section"
    """All pages of a section are added, then all are measured: hosts before KVM's TDX support went upstream."""


def mrtd(firmware: Firmware, order: PageOrder = PageOrder.PAGE) -> bytes:
    """The measurement of a TD that is started from this image: 48 bytes.

    Raises:
        ParseError: the image is not made for TDX.
    """
    digest = hashlib.sha384()
    for section in firmware.tdx_sections():
        if not section.added:
            continue
        pages = range(0, section.size, PAGE)
        if order is PageOrder.PAGE:
            for at in pages:
                digest.update(_page_added(section, at))
                digest.update(_page_measured(section, at))
        else:
            for at in pages:
                digest.update(_page_added(section, at))
            for at in pages:
                digest.update(_page_measured(section, at))
    return digest.digest()


def _page_added(section: TdxSection, at: int) -> bytes:
    return _RECORD.pack(b"MEM.PAGE.ADD", section.address + at)


def _page_measured(section: TdxSection, at: int) -> bytes:
    if not section.measured:
        return b""
    chunks = range(at, at + PAGE, EXTEND_BYTES)
    return b"".join(_RECORD.pack(b"MR.EXTEND", section.address + chunk) + section.data[chunk : chunk + EXTEND_BYTES] for chunk in chunks)

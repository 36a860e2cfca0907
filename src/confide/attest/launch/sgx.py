"""MRENCLAVE: what a processor measures while an SGX enclave is built, instruction by instruction.

Rules: Intel SDM volume 3D, "ECREATE", "EADD" and "EEXTEND".  SHA-256 over records of 64 bytes: one for the enclave, one for each page with
its place and its rights, one for each 256 bytes that are measured, and those bytes.
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntFlag

from confide.errors import ParseError

PAGE = 4096
EXTEND_BYTES = 256
_ECREATE = struct.Struct("<8sIQ44x")
_EADD = struct.Struct("<8sQQ40x")
_EEXTEND = struct.Struct("<8sQ48x")
MAX_ENCLAVE_BYTES = 1 << 47
"""Enclaves are in user space, which ends there."""


class PageFlags(IntFlag):
    """SECINFO.FLAGS: rights in the low byte, the type in the next (SDM volume 3D, "SECINFO")."""

    R = 1
    W = 2
    X = 4
    TCS = 1 << 8
    REG = 2 << 8


class EnclaveMeasurement:
    """The measurement of one enclave, while it is built."""

    def __init__(self, size: int, ssa_frame_pages: int) -> None:
        """Create the enclave: ``size`` is a power of two of at least two pages, as ECREATE demands.

        Raises:
            ParseError: it is not.
        """
        if size < 2 * PAGE or size & (size - 1) or size > MAX_ENCLAVE_BYTES:
            raise ParseError("an enclave's size is a power of two, of at least two pages", got=size)
        self._size = size
        self._digest = hashlib.sha256(_ECREATE.pack(b"ECREATE", ssa_frame_pages, size))

    def add(self, offset: int, flags: PageFlags, content: bytes) -> None:
        """Add one page at ``offset`` from the enclave's base, and measure its contents (EADD, then EEXTEND for all of it)."""
        if len(content) != PAGE:
            raise ParseError("a page has 4096 bytes", got=len(content))
        self._add(offset, flags)
        for at in range(0, PAGE, EXTEND_BYTES):
            self._digest.update(_EEXTEND.pack(b"EEXTEND", offset + at))
            self._digest.update(content[at : at + EXTEND_BYTES])

    def add_unmeasured(self, offset: int, flags: PageFlags, pages: int = 1) -> None:
        """Add pages whose contents are not measured: only their places and rights are."""
        for number in range(pages):
            self._add(offset + number * PAGE, flags)

    def mr_enclave(self) -> bytes:
        """The measurement of all that was added so far: what EINIT makes final."""
        return self._digest.digest()

    def _add(self, offset: int, flags: PageFlags) -> None:
        if offset % PAGE or not 0 <= offset < self._size:
            raise ParseError("a page is outside of the enclave", offset=offset, size=self._size)
        self._digest.update(_EADD.pack(b"EADD", offset, flags))

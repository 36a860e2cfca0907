"""A small ``libpal.so`` and manifests to measure."""

from __future__ import annotations

import struct

PAGE = 4096
R, RX, RW = 4, 5, 6
SEGMENTS = [(0, 0, 0x300, 0x300, R), (0x1000, 0x1000, 0x1200, 0x1200, RX), (0x2E00, 0x3E00, 0x300, 0x900, RW)]
"""Offset, address, size in the file, size in memory, rights.  The last one begins in the middle of a page, and has memory behind it."""
MANIFEST = """
libos.entrypoint = "/usr/bin/python3"
loader.log_level = "error"
sgx.enclave_size = "2M"
sgx.max_threads = 2
sgx.isvprodid = 5
sgx.isvsvn = 9
sgx.trusted_files = [{ uri = "file:/usr/bin/python3", sha256 = "0000000000000000000000000000000000000000000000000000000000000000" }]
"""


_Segments = list[tuple[int, int, int, int, int]]


def libpal(segments: _Segments | None = None, *, entry: int = 0x1010, kind: int = 3, machine: int = 62) -> bytes:
    """An ELF file of these segments, every byte another than its neighbours'."""
    segments = SEGMENTS if segments is None else segments
    numbers = (2, 1, 1, 0, kind, machine, 1, entry, 64, 0, 0, 64, 56, len(segments) + 1, 0, 0, 0)
    head = struct.pack("<4sBBBB8xHHIQQQIHHHHHH", b"\x7fELF", *numbers)
    head += b"".join(
        struct.pack("<IIQQQQQQ", 1, rights, offset, address, address, size, memory, PAGE)
        for offset, address, size, memory, rights in segments
    )
    head += struct.pack("<IIQQQQQQ", 0x6474E551, RW, 0, 0, 0, 0, 0, 16)  # PT_GNU_STACK: nothing to load
    body = bytes((number * 7 + number // 256) % 256 for number in range(0x3200))
    return head + body[len(head) :]

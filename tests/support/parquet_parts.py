"""Where the encrypted parts of a Parquet file lie, as anybody can see it without a key.

Parquet Modular Encryption, section 5.1: each part (a page, a page header, an index, the footer) is ``length || nonce || ciphertext ||
tag`` with a little-endian length of 4 bytes.  The file is ``PARE || parts || file crypto metadata || footer part || length || PARE``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_LENGTH, _MAGIC = 4, b"PARE"


@dataclass(frozen=True)
class Part:
    """``[start, end)`` in the file, with its length field."""

    start: int
    end: int

    def of(self, data: bytes) -> bytes:
        return data[self.start : self.end]


def parts(data: bytes) -> list[Part]:
    """All parts before the footer."""
    assert data[:4] == data[-4:] == _MAGIC
    (footer,) = struct.unpack("<I", data[-8:-4])
    at, end, found = len(_MAGIC), len(data) - 8 - footer, []
    while at < end:
        (length,) = struct.unpack_from("<I", data, at)
        found.append(Part(at, at + _LENGTH + length))
        at += _LENGTH + length
    assert at == end, "the parts do not fill the file"
    return found


def parts_of(path: Path) -> list[Part]:
    return parts(path.read_bytes())

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


def rearranged(data: bytes, chunks: int) -> dict[str, bytes]:
    """A file of two columns and several row groups (``chunks`` column chunks in all), with its parts in another order.

    Chunks must consist of parts of the same lengths, so that every offset in the footer goes on to lead to a part.
    """
    cut = parts(data)
    found = [part.of(data) for part in cut]
    each = len(found) // chunks
    lengths = [[len(part) for part in found[at : at + each]] for at in range(0, len(found), each)]
    assert all(one == lengths[0] for one in lengths), lengths
    orders = _orders([found[at : at + each] for at in range(0, len(found), each)])
    return {name: data[: cut[0].start] + b"".join(order) + data[cut[-1].end :] for name, order in orders.items()}


def _orders(chunks: list[list[bytes]]) -> dict[str, list[bytes]]:
    orders = {
        "columns": [1, 0, *range(2, len(chunks))],
        "one column over another": [0, 0, *range(2, len(chunks))],
        "row groups": [2, 3, 0, 1, *range(4, len(chunks))],
        "a column between row groups": [2, 1, 0, *range(3, len(chunks))],
    }
    moved = {name: [part for at in order for part in chunks[at]] for name, order in orders.items()}
    for part in range(len(chunks[0])):
        changed = [list(chunk) for chunk in chunks]
        changed[0][part], changed[1][part] = changed[1][part], changed[0][part]
        moved[f"part {part} of a column"] = [one for chunk in changed for one in chunk]
    return moved


def parts_of(path: Path) -> list[Part]:
    return parts(path.read_bytes())


def said_to_have_no_tags(data: bytes) -> bytes:
    """The file with the other algorithm in its ``FileCryptoMetaData``, whose pages are in counter mode as well, and have no tags."""
    at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    if data[at : at + 2] != b"\x1c\x1c":
        raise ValueError("not a file under AES_GCM_V1")
    return data[: at + 1] + b"\x2c" + data[at + 2 :]

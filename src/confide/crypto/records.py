"""Where TLS records end in a stream of bytes.  Reads their headers only (RFC 8446, section 5.1), and decides nothing that TLS does."""

from __future__ import annotations

from typing import Final

_HEADER: Final = 5
_APPLICATION_DATA: Final = b"\x17"
"""What the header of every encrypted record says (section 5.2)."""


class RecordBounds:
    """Follows one direction of a connection from its first byte, in whatever pieces it comes."""

    def __init__(self) -> None:
        self._head = b""
        """What has come of a header that is not whole yet."""
        self._left = 0
        """How many bytes of the record under way are still to come."""

    def take(self, data: bytes) -> bool:
        """Go on by ``data``.  Whether that is exactly one encrypted record: if it holds data, one read of TLS gives out all of it."""
        between = not self._left and not self._head
        if between and data[:1] == _APPLICATION_DATA and len(data) == _HEADER + int.from_bytes(data[3:_HEADER]):
            return True
        at, stream = self._left, self._head + data  # where the next header begins in it, if it has come
        while at + _HEADER <= len(stream):
            at += _HEADER + int.from_bytes(stream[at + 3 : at + _HEADER])
        self._head, self._left = (stream[at:], 0) if at <= len(stream) else (b"", at - len(stream))
        return False

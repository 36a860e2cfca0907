"""HTTP/1.1 requests of the plainest form, read at once: what our own clients send, and most others.

A request is plain if its method is one of four, its fields are each on one line, known not to change how the message is read, without
doubles, and in printable ASCII, and its body has a length.  What is not is left for a reader of all of HTTP (h11, in ``crypto.http``), as
is every refusal: each plain request means the same to both, and a test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from confide.crypto.wire import Deadline
from confide.errors import ProtocolError

READ_BYTES: Final = 64 * 1024
MAX_HEAD_BYTES: Final = 32 * 1024
"""Cap on request or status line and headers together."""
MAX_BODY_BYTES: Final = 16 * 1024 * 1024
_LINE: Final = re.compile(rb"(GET|POST|PUT|DELETE) (/[!-~]*) HTTP/1\.1")
_FIELD: Final = re.compile(rb"([A-Za-z0-9-]+): ?([!-~](?:[ -~]*[!-~])?)")
_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_NAME: Final = re.compile(r"[a-z0-9-]+")
_LENGTH: Final = re.compile(r"[0-9]{1,8}")
_FRAMING: Final = frozenset({"connection", "expect", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"})
"""Fields that change how a message, or what comes after it, is read (RFC 9110, sections 7.6 and 10.1.1; RFC 9112, sections 6 and 9)."""


class Source(Protocol):
    """What is read from."""

    def recv(self, n: int, *, timeout: float | None = None) -> bytes:
        """The next bytes, at most ``n``; none when the peer has ended its side."""
        ...


@dataclass(frozen=True, slots=True)
class PlainRequest:
    """A request as it was sent; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


def read_plain(
    source: Source, buffer: bytearray, *, idle: float, whole: float, begun: Callable[[], None] = lambda: None
) -> PlainRequest | None:
    """The next request, taken out of ``buffer``; ``None`` if what is in there is no plain one, or the peer ended (it is empty then).

    The first byte may take ``idle`` seconds; from then on, when ``begun`` is called, the whole request has ``whole``.
    """
    if not buffer:
        buffer += source.recv(READ_BYTES, timeout=idle)
    begun()
    deadline = Deadline.after(whole)
    found = _head(buffer)
    if found is None:
        return None
    method, target, headers, start, end = found
    while len(buffer) < end:
        data = source.recv(READ_BYTES, timeout=deadline.remaining)
        if not data:
            return None
        buffer += data
    body = bytes(buffer[start:end])
    del buffer[:end]
    return PlainRequest(method, target, headers, body)


def plain_response(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    """A response with these fields and its length.

    Raises:
        ProtocolError: a field is not in printable ASCII: it could be read as two.
    """
    lines = [f"HTTP/1.1 {status} "]
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ProtocolError("this answer cannot be sent: a header is not plain")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode("ascii") + body


def _head(buffer: bytearray) -> tuple[str, str, dict[str, str], int, int] | None:
    """Method, target, headers, and where the body begins and ends; ``None`` if the head is not all there, or not plain."""
    end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    if end < 0:
        return None
    first, *lines = bytes(buffer[:end]).split(b"\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        return None
    headers: dict[str, str] = {}
    for text in lines:
        found = _FIELD.fullmatch(text)
        if found is None:
            return None
        headers[found[1].decode("ascii").lower()] = found[2].decode("ascii")
    length = headers.get("content-length", "0")
    if len(headers) != len(lines) or "host" not in headers or not _FRAMING.isdisjoint(headers) or not _LENGTH.fullmatch(length):
        return None
    if int(length) > MAX_BODY_BYTES:
        return None
    start = end + 4
    return line[1].decode("ascii"), line[2].decode("ascii"), headers, start, start + int(length)

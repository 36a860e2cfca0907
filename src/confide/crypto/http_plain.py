"""HTTP/1.1 requests and responses of the plainest form, read and written at once: what our own clients and servers send, and most others.

A message is plain if its method is one of four or its status one that has a body, its fields are each on one line, known not to change how
the message is read, without doubles, and in printable ASCII, and its body has a length.  What is not is left for a reader of all of HTTP
(h11, in ``crypto.http``), as is every refusal: each plain message means the same to both, and tests compare them.
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
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) [ -~]*")
_BODILESS: Final = frozenset({204, 205, 304})
"""Statuses whose response has no body whatever its fields say, or must have none (RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5)."""
_TARGET: Final = re.compile(r"/[!-~]*")
_METHODS: Final = frozenset({"GET", "POST", "PUT", "DELETE"})
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


@dataclass(frozen=True, slots=True)
class PlainResponse:
    """A response as it was sent; header names in lower case."""

    status: int
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


def read_plain_response(source: Source, buffer: bytearray, deadline: Deadline) -> PlainResponse | None:
    """The response that comes, by the deadline; ``None`` if what is in ``buffer`` then is no plain one, not all of it, or more than it."""
    while (end := buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)) < 0:
        if len(buffer) >= MAX_HEAD_BYTES or not _more(source, buffer, deadline):
            return None
    first, *lines = bytes(buffer[:end]).split(b"\r\n")
    line, headers = _STATUS.fullmatch(first), _fields(lines)
    if line is None or headers is None or "content-length" not in headers:
        return None
    status, whole = int(line[1]), end + 4 + int(headers["content-length"])
    if status in _BODILESS:
        return None
    while len(buffer) < whole:
        if not _more(source, buffer, deadline):
            return None
    return PlainResponse(status, headers, bytes(buffer[end + 4 :])) if len(buffer) == whole else None


def plain_request(method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes | None:
    """A request with these fields, its body's length among them; ``None`` if it would not be a plain one."""
    if method not in _METHODS or not _TARGET.fullmatch(target) or not _FRAMING.isdisjoint(headers) or "host" not in headers:
        return None
    lines = _lines(headers)
    return None if lines is None else "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("ascii") + body


def plain_response(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    """A response with these fields and its length.

    Raises:
        ProtocolError: a field is not in printable ASCII: it could be read as two.
    """
    lines = _lines(headers)
    if lines is None:
        raise ProtocolError("this answer cannot be sent: a header is not plain")
    return "\r\n".join([f"HTTP/1.1 {status} ", *lines, f"content-length: {len(body)}", "", ""]).encode("ascii") + body


def _lines(headers: Mapping[str, str]) -> list[str] | None:
    """Fields as they are sent; ``None`` if one is not in printable ASCII."""
    if not all(map(_NAME.fullmatch, headers)) or not all(map(_VALUE.fullmatch, headers.values())):
        return None
    return [f"{name}: {value}" for name, value in headers.items()]


def _more(source: Source, buffer: bytearray, deadline: Deadline) -> bool:
    data = source.recv(READ_BYTES, timeout=deadline.remaining)
    buffer += data
    return bool(data)


def _head(buffer: bytearray) -> tuple[str, str, dict[str, str], int, int] | None:
    """Method, target, headers, and where the body begins and ends; ``None`` if the head is not all there, or not plain."""
    end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    if end < 0:
        return None
    first, *lines = bytes(buffer[:end]).split(b"\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        return None
    headers = _fields(lines)
    if headers is None or "host" not in headers:
        return None
    start = end + 4
    return line[1].decode("ascii"), line[2].decode("ascii"), headers, start, start + int(headers.get("content-length", "0"))


def _fields(lines: list[bytes]) -> dict[str, str] | None:
    """Fields by their names in lower case; ``None`` if they are not plain, or announce a body that is too large."""
    headers: dict[str, str] = {}
    for text in lines:
        found = _FIELD.fullmatch(text)
        if found is None:
            return None
        headers[found[1].decode("ascii").lower()] = found[2].decode("ascii")
    length = headers.get("content-length", "0")
    if len(headers) != len(lines) or not _FRAMING.isdisjoint(headers) or not _LENGTH.fullmatch(length) or int(length) > MAX_BODY_BYTES:
        return None
    return headers

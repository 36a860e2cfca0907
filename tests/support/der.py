"""DER taken apart and put together again: revocation lists that no library writes."""

from __future__ import annotations

_TIMES = (0x17, 0x18)
"""UTCTime and GeneralizedTime."""


def der_of(tag: int, content: bytes) -> bytes:
    """One element."""
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([tag, 0x80 + len(size)]) + size + content


def der_parts(data: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each element."""
    found, at = [], 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length >= 0x80:
            size = length - 0x80
            length, at = int.from_bytes(data[at : at + size]), at + size
        found.append((tag, data[at : at + length]))
        at += length
    return found


def without_end(crl: bytes) -> bytes:
    """A revocation list without its next update, which RFC 5280 lets a list leave out.  Its signature is not made anew."""
    [(_, whole)] = der_parts(crl)
    (_, tbs), *rest = der_parts(whole)
    parts = der_parts(tbs)
    del parts[[tag in _TIMES for tag, _ in parts].index(True) + 1]
    listed = der_of(0x30, b"".join(der_of(*part) for part in parts))
    return der_of(0x30, listed + b"".join(der_of(*part) for part in rest))

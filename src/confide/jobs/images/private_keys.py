"""Looks for private keys in what is about to become everybody's: an image is read by whoever can pull it.

Found are keys in PEM anywhere in a file (PKCS #1, PKCS #8, SEC 1, OpenSSH; with a password or without), and files that are one in DER.
**Not** found: keys that are packed, encoded otherwise or raw bytes, and key stores whose contents only their password shows.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key

from confide.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_DER: Final = 16 * 1024
"""A private RSA key of 16384 bits takes about 9 KiB."""
_MARK: Final = b"PRIVATE KEY-----"
_PEM: Final = re.compile(rb"-----BEGIN ((?:[A-Z0-9]+ )*PRIVATE KEY)-----(.{32,65536}?)-----END \1-----", re.DOTALL)
_HEADERS: Final = re.compile(rb"^[A-Za-z0-9-]+:.*$", re.MULTILINE)
_OPENSSH: Final = b"openssh-key-v1\0"
_MIN_KEY: Final = 32
"""The shortest private keys, of Curve25519, have 48 bytes around them in PKCS #8."""


def refuse_private_keys(files: Iterable[Path]) -> None:
    """Return if none of these files holds a private key.

    Raises:
        ImageError: one does; the message names the file, never what is in it.
    """
    for path in files:
        if path.stat().st_size < _MIN_KEY:
            continue
        if holds_private_key(path.read_bytes()):
            hint = "keys are given when something is signed, and never lie in what is signed"
            raise ImageError(f"a private key would be in the image: {path}", hint=hint, path=str(path))


def holds_private_key(data: bytes) -> bool:
    """Whether a file's bytes are, or hold, a private key.  Words *about* keys (``BEGIN PRIVATE KEY`` in a program) are none."""
    if _MARK in data and any(_is_key(_decoded(block[2])) for block in _PEM.finditer(data)):
        return True
    return len(data) <= _MAX_DER and _is_whole_sequence(data) and _is_der_key(data)


def _decoded(block: bytes) -> bytes:
    """What stands between the lines, or nothing if that is no base64.  In source code, lines end in an escape or in quotes."""
    lines = block.replace(b"\\n", b"\n").replace(b"\\r", b"")
    text = re.sub(rb"[\"']\s*\+\s*b?[\"']|[ \t\"',()\\]|\bb(?=[\"'])", b"", lines)
    plain = re.sub(rb"\s", b"", _HEADERS.sub(b"", text))
    try:
        return base64.b64decode(plain, validate=True)
    except binascii.Error:
        return b""


def _is_key(der: bytes) -> bool:
    # A key with a password: PKCS #8 is a sequence as well, the old form (RFC 1421) is any bytes behind headers, which are gone here.
    return der.startswith(_OPENSSH) or (len(der) >= _MIN_KEY and (_is_whole_sequence(der) or len(der) % 8 == 0))


def _is_whole_sequence(data: bytes) -> bool:
    """X.690: one SEQUENCE, with as many bytes as it says and none behind it."""
    if len(data) < _MIN_KEY or data[0] != 0x30:
        return False
    first = data[1]
    if first < 0x80:
        return len(data) == 2 + first
    count = first & 0x7F
    return 0 < count <= 4 and len(data) == 2 + count + int.from_bytes(data[2 : 2 + count], "big")


def _is_der_key(data: bytes) -> bool:
    try:
        load_der_private_key(data, password=None)
    except TypeError:  # it has a password
        return True
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True

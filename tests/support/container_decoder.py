"""Decodes containers, written from ``docs/formats/container.md`` alone: nothing of confide is in it, and at most fifty lines."""

from __future__ import annotations

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HEADER, CHUNK, TAG = 80, 65536, 16
SEALED = CHUNK + TAG
FIXED = bytes.fromhex("434f4e4649444532 0002 10 00 00000000")


class RefusedError(Exception):
    """What the decoder raises, with the step that refused: ``size``, ``header``, ``commitment``, ``open`` or ``chunk``."""


def decode(file: bytes, dataset_key: bytes, dataset: str, path: str) -> bytes:
    """The plaintext of a whole file: sections 4, 3.1, 2.2, and 5."""
    body = len(file) - HEADER
    chunks = -(-body // SEALED)
    last_length = body - (chunks - 1) * SEALED
    if body < TAG or chunks > 2**32 or last_length < TAG + (chunks > 1):
        raise RefusedError("size")
    header = file[:HEADER]
    if header[:16] != FIXED:
        raise RefusedError("header")
    salt, commitment = header[16:48], header[48:]
    info = b"\0".join([b"confide-file-v2", b"container", dataset.encode(), path.encode()])
    extracted = hmac.digest(salt, dataset_key, "sha256")  # RFC 5869, section 2.2; then 2.3, of two blocks
    key = hmac.digest(extracted, info + b"\x01", "sha256")
    if not hmac.compare_digest(hmac.digest(extracted, key + info + b"\x02", "sha256"), commitment):
        raise RefusedError("commitment")
    cipher = AESGCM(key)

    def opened(index: int) -> bytes:
        last = index == chunks - 1
        start = HEADER + index * SEALED
        sealed = file[start : start + (last_length if last else SEALED)]
        return cipher.decrypt(bytes(7) + index.to_bytes(4, "big") + bytes([last]), sealed, header)

    step = "open"
    try:
        final = opened(chunks - 1)
        step = "chunk"
        return b"".join(map(opened, range(chunks - 1))) + final
    except InvalidTag:
        raise RefusedError(step) from None

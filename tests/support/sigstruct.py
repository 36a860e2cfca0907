"""Signs enclaves as a vendor's signing tool does, from the manual's table of offsets."""

from __future__ import annotations

import struct
from functools import cache

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

HEADER, HEADER2 = bytes.fromhex("06000000e10000000000010000000000"), bytes.fromhex("01010000600000006000000001000000")


@cache
def signing_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=3, key_size=3072)


def sign(
    measurement: bytes, *, product: int = 7, svn: int = 3, attributes: int = 4, mask: int = 0xFFFFFFFFFFFFFFFF,
    patch: dict[int, bytes] | None = None,
) -> bytes:  # fmt: skip
    """A SIGSTRUCT; ``patch`` writes bytes over it before it is signed."""
    raw = bytearray(1808)
    raw[0:16], raw[24:40] = HEADER, HEADER2
    raw[20:24] = bytes.fromhex("31122029")
    struct.pack_into("<I", raw, 512, 3)
    struct.pack_into("<II", raw, 900, 0, 0xFFFFFFFF)
    struct.pack_into("<QQQQ", raw, 928, attributes, 0xE7, mask, 0xFFFFFFFFFFF9FF1B)
    raw[960:992] = measurement
    struct.pack_into("<HH", raw, 1024, product, svn)
    for at, data in (patch or {}).items():
        raw[at : at + len(data)] = data
    return seal(raw)


def seal(raw: bytearray) -> bytes:
    """The same with key, signature, Q1 and Q2."""
    key = signing_key()
    modulus = key.public_key().public_numbers().n
    signature = int.from_bytes(key.sign(bytes(raw[:128] + raw[900:1028]), padding.PKCS1v15(), hashes.SHA256()), "big")
    square, rest = divmod(signature**2, modulus)
    for at, number in ((128, modulus), (516, signature), (1040, square), (1424, rest * signature // modulus)):
        raw[at : at + 384] = number.to_bytes(384, "little")
    return bytes(raw)

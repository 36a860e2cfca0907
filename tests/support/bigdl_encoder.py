"""Writes ``.cbc`` files as ``docs/formats/bigdl-cbc.md`` says BigDL did: nothing of confide in it, and nothing of BigDL's code."""

from __future__ import annotations

import base64
import hmac
import os
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, ECB

STRONG = base64.b64encode(bytes(range(32))).decode()
"""A data key as eHSM and Azure made them: 44 letters."""
SHORT = base64.b64encode(bytes(range(16))).decode()
"""A data key as BigDL made them itself: 24 letters, of which 8 are left for AES."""
PRIMARY = base64.b64encode(bytes(range(100, 132))).decode()
DIGITS = "4652271348897248"
"""A primary key of the simple key management service."""


def padded(data: bytes) -> bytes:
    """PKCS#5."""
    count = 16 - len(data) % 16
    return data + bytes([count]) * count


def halves(text: str) -> tuple[bytes, bytes]:
    """MAC key and AES key: letters 0 to 15, and 16 to 31 or zeros."""
    whole = text.encode().ljust(32, b"\0")
    return whole[:16], whole[16:32]


@dataclass
class Encoded:
    """A file, as the parts that a test may want to change."""

    plaintext: bytes
    key: str = STRONG
    wrapped: str = "wrapped"
    iv: bytes = field(default_factory=lambda: os.urandom(16))

    @property
    def header(self) -> bytes:
        """400 bytes."""
        wrapped = self.wrapped.encode()
        parts = len(wrapped).to_bytes(4, "big") + len(self.iv).to_bytes(4, "big") + wrapped + self.iv
        return parts + b"\x80" * (400 - len(parts))

    @property
    def ciphertext(self) -> bytes:
        """AES-128-CBC."""
        encryptor = Cipher(AES(halves(self.key)[1]), CBC(self.iv)).encryptor()
        return encryptor.update(padded(self.plaintext)) + encryptor.finalize()

    @property
    def mac(self) -> bytes:
        """Over the ciphertext alone."""
        return hmac.digest(halves(self.key)[0], self.ciphertext, "sha256")

    def __bytes__(self) -> bytes:
        return self.header + self.ciphertext + self.mac


def wrapped_by_aes(key: str, primary: str = PRIMARY) -> str:
    """A data key's text under a primary key that the job was given in the clear: AES-ECB, base64."""
    encryptor = Cipher(AES(base64.b64decode(primary)), ECB()).encryptor()
    return base64.b64encode(encryptor.update(padded(key.encode())) + encryptor.finalize()).decode()


def simple_pair(digits: str, primary: str = DIGITS) -> tuple[str, str]:
    """The simple service's wrapped form of 16 digits, and the data key that it then gives for that."""
    wrapped = "".join(str(48 + (int(p) + int(d)) % 10) for p, d in zip(primary, digits, strict=True))
    key = "".join(str(48 + (int(w) - int(p) + 10) % 10) for w, p in zip(wrapped[:16], primary, strict=True))
    return wrapped, key

"""Keys of BigDL PPML's ``.cbc`` files: as texts, wrapped under a primary key, and how much of them is secret.

The forms are those of ``docs/formats/bigdl-cbc.md``, sections 3 and 4.  Keys come from their owner; no service of BigDL's is asked.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.padding import PKCS7

from confide.crypto.secret import SecretBytes
from confide.errors import ParseError, UnwrapError

_HALF: Final = 16
_DATA_KEYS: Final[dict[int, str | None]] = {32: None, 16: "has 32 secret bits: BigDL cut it from 24 letters, and anybody can try them all"}
"""Length of a data key, decoded, to what is weak about what BigDL makes of its text (4)."""
_DIGITS: Final = "is of BigDL's simple key management service, made of 8 decimal digits: anybody can try them all"
_SIMPLE: Final = re.compile(rb"(?:4[89]|5[0-7]){16}")
_SIMPLE_PRIMARY: Final = re.compile(rb"[0-9]{16}")
_AES_KEYS: Final = frozenset({16, 24, 32})


class DataKey:
    """What a file is encrypted and authenticated under.  ``weakness`` says why it is no secret, if it is none."""

    __slots__ = ("cipher", "mac", "weakness")

    def __init__(self, text: bytes, weakness: str | None) -> None:
        """Halve a key's text as BigDL does: a MAC key and an AES key, filled up with zeros where the text is too short."""
        self.mac = SecretBytes(text[:_HALF])
        self.cipher = SecretBytes(text[_HALF : 2 * _HALF].ljust(_HALF, b"\0"))
        self.weakness = weakness

    @classmethod
    def parse(cls, text: bytes) -> DataKey:
        """Read a data key's text: base64 of 32 or 16 bytes, or what the simple key management service made.

        Raises:
            ParseError: it is neither.
        """
        return cls.of_text(_line(text))

    @classmethod
    def of_text(cls, text: bytes) -> DataKey:
        """As :meth:`parse`, of the text alone."""
        if _SIMPLE.fullmatch(text):
            return cls(text, _DIGITS)
        length = len(_decoded(text))
        if length not in _DATA_KEYS:
            raise ParseError("not a data key of BigDL", hint="one line: the base64 text of 32 or 16 bytes")
        return cls(text, _DATA_KEYS[length])

    def __repr__(self) -> str:
        return "DataKey()"


class PrimaryKey:
    """What data keys in files' headers are wrapped under: an AES key, or 16 digits of the simple key management service."""

    __slots__ = ("_simple", "_value")

    def __init__(self, value: bytes, *, simple: bool) -> None:
        self._value = SecretBytes(value)
        self._simple = simple

    @classmethod
    def parse(cls, text: bytes) -> PrimaryKey:
        """Read a primary key's text: base64 of an AES key, or 16 digits.

        Raises:
            ParseError: it is neither.
        """
        line = _line(text)
        if _SIMPLE_PRIMARY.fullmatch(line):
            return cls(line, simple=True)
        value = _decoded(line)
        if len(value) not in _AES_KEYS:
            raise ParseError("not a primary key of BigDL", hint="one line: the base64 text of 16, 24 or 32 bytes, or 16 digits")
        return cls(value, simple=False)

    def unwrap(self, wrapped: str) -> DataKey:
        """The data key that a header holds.  Nothing authenticates it: another one shows by the file's MAC.

        Raises:
            UnwrapError: it is no data key under this primary key.
        """
        try:
            text = self._of_digits(wrapped.encode()) if self._simple else self._of_aes(_decoded(wrapped.encode()))
            return DataKey.of_text(text)
        except (ParseError, ValueError):
            hint = "give the primary key that the file was written with; BigDL's other key services give the data key itself"
            raise UnwrapError("a file's data key does not open under this primary key", hint=hint) from None

    def _of_aes(self, wrapped: bytes) -> bytes:
        unpadder = PKCS7(128).unpadder()
        opened = Cipher(AES(self._value.reveal()), ECB()).decryptor()  # noqa: S305 - what BigDL wrapped with; nothing is written so
        return unpadder.update(opened.update(wrapped) + opened.finalize()) + unpadder.finalize()

    def _of_digits(self, wrapped: bytes) -> bytes:
        """The service takes digits from digits, and writes each one that comes out as the number of its ASCII letter."""
        if not _SIMPLE.fullmatch(wrapped):
            raise ParseError("not wrapped by the simple key management service")
        pairs = zip(wrapped, self._value.reveal(), strict=False)  # of 32 digits it looks at the first 16
        return b"".join(b"%d" % (ord("0") + (one - other) % 10) for one, other in pairs)

    def __repr__(self) -> str:
        return "PrimaryKey()"


def _line(text: bytes) -> bytes:
    """A key file holds one line."""
    return text.removesuffix(b"\n").removesuffix(b"\r")


def _decoded(line: bytes) -> bytes:
    try:
        value = base64.b64decode(line, validate=True)
    except binascii.Error:
        value = b""
    return value if base64.b64encode(value) == line else b""

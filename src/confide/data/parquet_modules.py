"""Opens and seals the modules of an encrypted Parquet file: its footer, and pages with their headers.

One key for the whole file, ``AES_GCM_V1``.  Each module is bound by its associated data to the file, to its kind and to its place among row
groups, columns and pages.  Follows the Apache Parquet format's "Parquet Modular Encryption", sections "AAD suffix" and "Encrypted module
serialization".  Knows nothing of storage.
"""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from confide.data import thrift_spans as thrift
from confide.errors import ParseError

if TYPE_CHECKING:
    from confide.crypto.secret import SecretBytes
    from confide.data.parquet_image import Room

_LENGTH, _NONCE, _TAG = 4, 12, 16
_FOOTER, _DATA_PAGE, _DICTIONARY_PAGE, _DATA_HEADER, _DICTIONARY_HEADER = (bytes((kind,)) for kind in (0, 2, 3, 4, 5))
_ALGORITHM: Final[thrift.Shape] = {1: {1: thrift.NOTHING_INSIDE}}
"""Of a ``FileCryptoMetaData``: its ``encryption_algorithm``, and of that ``AES_GCM_V1``."""
_MOST: Final = 0x7FFF
"""Ordinals are 16 bits with a sign."""
_COMPRESSED: Final = 3
"""Of a ``PageHeader``: ``compressed_page_size``."""
_I32_FIELD: Final = 1 << 4 | thrift.I32
"""The first byte of a number that is the next field."""
_MORE: Final = 0x80
_ENDS_OF_STRUCTS: Final = 3 * thrift.STOP
"""A header ends with the end of a struct and its own, both zero: after one more there may be bytes that are none of it."""
_HEADER_LENGTHS: Final = 4096
_length_at: Final = struct.Struct("<I").unpack_from


class Modules:
    """What opens the modules of one file, or seals them."""

    def __init__(self, key: SecretBytes, aad: bytes) -> None:
        """``aad``: of the file, its prefix and ``aad_file_unique``."""
        self._cipher = AESGCM(key.reveal())
        self._aad = aad

    def footer(self, module: bytes) -> bytes:
        """The footer.

        Raises:
            ParseError: it does not open, or something follows it.
        """
        nonce, sealed, end = _module(memoryview(module), 0)
        try:
            return self._cipher.decrypt(nonce, sealed, self._aad + _FOOTER) if end == len(module) else _refuse()
        except InvalidTag:
            _refuse()

    def pages(self, data: bytes | memoryview, place: tuple[int, int], room: Room, *, dictionary: bool) -> int:
        """Put the headers and pages of a column chunk into ``room`` as a plain file has them, from the chunk's whole ``data``.

        ``place``: the numbers of its row group and column.  ``dictionary``: whether it begins with a dictionary's page.  Returns where the
        first page of data is.

        Raises:
            ParseError: one does not open, or is not in its place.
        """
        try:
            ordinals = _ordinals(place)
        except OverflowError:
            _refuse()
        view = memoryview(data)
        at = page = 0
        if dictionary:
            at = self._page(view, 0, self._aad + _DICTIONARY_HEADER + ordinals, self._aad + _DICTIONARY_PAGE + ordinals, room)
        first = room.at
        header_aad, page_aad = (self._aad + kind + ordinals for kind in (_DATA_HEADER, _DATA_PAGE))
        while at < len(view):
            if page > _MOST:
                _refuse()
            number = _ordinal(page)
            at = self._page(view, at, header_aad + number, page_aad + number, room)
            page += 1
        return first

    def sealed_footer(self, footer: bytes) -> bytes:
        """The module of a footer."""
        return self._sealed(footer, self._aad + _FOOTER)

    def sealed_pages(self, data: bytes, place: tuple[int, int], *, dictionary: bool) -> tuple[list[bytes], int]:
        """A column chunk of a plain file as modules, and how long those of its dictionary are.  Arguments are those of :meth:`pages`.

        Raises:
            ParseError: it is no chunk.
            OverflowError: it has more pages than the format can number, 32,768, or its row group's or column's number is too high for that.
        """
        ordinals = _ordinals(place)
        header_aad, page_aad = (self._aad + kind + ordinals for kind in (_DATA_HEADER, _DATA_PAGE))
        modules: list[bytes] = []
        at = page = 0
        if dictionary:
            at = self._seal_page(data, 0, self._aad + _DICTIONARY_HEADER + ordinals, self._aad + _DICTIONARY_PAGE + ordinals, modules)
        before = sum(map(len, modules))
        while at < len(data):
            number = _ordinal(page)
            at = self._seal_page(data, at, header_aad + number, page_aad + number, modules)
            page += 1
        return modules, before

    def _seal_page(self, data: bytes, at: int, header_aad: bytes, page_aad: bytes, modules: list[bytes]) -> int:
        header = thrift.parsed_struct(data, thrift.NOTHING_INSIDE, at=at)
        if _COMPRESSED not in header.fields:
            _refuse()
        end = header.end + thrift.integer(data, header.fields[_COMPRESSED])
        if not header.end <= end <= len(data):
            _refuse()
        page = self._sealed(memoryview(data)[header.end : end], page_aad)  # it may be large, and is not copied
        modules += self._sealed(_with_length(data[at : header.end], len(page)), header_aad), page
        return end

    def _sealed(self, data: bytes | memoryview, aad: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        sealed = self._cipher.encrypt(nonce, data, aad)
        return (len(nonce) + len(sealed)).to_bytes(_LENGTH, "little") + nonce + sealed

    def _page(self, data: memoryview, at: int, header_aad: bytes, page_aad: bytes, room: Room) -> int:
        nonce, sealed, at = _module(data, at)
        try:
            header = self._cipher.decrypt(nonce, sealed, header_aad)
            nonce, sealed, at = _module(data, at)
            length = len(sealed) - _TAG
            room.put(_plain_header(header, length))
            with room.next(length) as page:
                self._cipher.decrypt_into(nonce, sealed, page_aad, page)
        except InvalidTag:
            _refuse()
        return at


def _ordinals(place: tuple[int, int]) -> bytes:
    return b"".join(map(_ordinal, place))


def _ordinal(number: int) -> bytes:
    return number.to_bytes(2, "little", signed=True)


def _module(data: memoryview, at: int) -> tuple[memoryview, memoryview, int]:
    """A module's nonce, its ciphertext with the tag, and where it ends."""
    sealed = at + _LENGTH + _NONCE
    if sealed + _TAG > len(data):
        _refuse()
    end = at + _LENGTH + _length_at(data, at)[0]
    if not sealed + _TAG <= end <= len(data):
        _refuse()
    return data[at + _LENGTH : sealed], data[sealed:end], end


def file_unique(metadata: bytes) -> tuple[bytes, int]:
    """``aad_file_unique`` of a ``FileCryptoMetaData`` that says ``AES_GCM_V1``, and where that ends.

    Raises:
        ParseError: it is none.
    """
    whole = thrift.parsed_struct(metadata, _ALGORITHM)
    given = whole
    for _ in range(2):  # see _ALGORITHM
        given = given.fields[1] if 1 in given.fields else _refuse()
    return thrift.binary(metadata, given.fields[2]) if 2 in given.fields else b"", whole.end


def _plain_header(header: bytes, length: int) -> bytes:
    """A ``PageHeader`` with the length of the page in a plain file: that of an encrypted page counts the whole module.

    Parquet's Java, and so Spark, encrypts its whole buffer of 100 bytes or more, zeros after the header with it.  In a plain file the page
    begins where its header ends, so they are left out.
    """
    if header.endswith(_ENDS_OF_STRUCTS):
        header = header[: thrift.parsed_struct(header, thrift.NOTHING_INSIDE).end]
    return _with_length(header, length)


def _with_length(header: bytes, length: int) -> bytes:
    """A ``PageHeader`` with another ``compressed_page_size``, which is the third of three ``i32``."""
    end = start = 0
    try:
        for _ in range(3):
            start = end
            if header[start] != _I32_FIELD:
                _refuse()
            end = start + 1
            while header[end] >= _MORE:  # a varint
                end += 1
            end += 1
    except IndexError:
        _refuse()
    return header[:start] + _length_field(length) + header[end:]


@lru_cache(_HEADER_LENGTHS)
def _length_field(length: int) -> bytes:
    return thrift.written_integer(thrift.I32, 1, length)


def crypto_metadata(unique: bytes) -> bytes:
    """A ``FileCryptoMetaData``: ``AES_GCM_V1``, with this ``aad_file_unique``, and an AAD prefix that is not in the file."""
    # Fields 2 and 3: aad_file_unique, supply_aad_prefix.
    algorithm = thrift.written(thrift.BINARY, 2, thrift.written_varint(len(unique)) + unique) + thrift.written(thrift.TRUE, 1, b"")
    one_of = thrift.written(thrift.STRUCT, 1, algorithm + thrift.STOP)
    return thrift.written(thrift.STRUCT, 1, one_of + thrift.STOP) + thrift.STOP


def _refuse() -> NoReturn:
    raise ParseError("a module of an encrypted Parquet file does not open")

"""Writes encrypted Parquet files, made of row groups that Arrow has encoded.

Arrow encodes and compresses a row group in one thread, and a file's row groups one after another.  Here each is a small plain file in
memory, made in any thread; one file takes the pages of many, and encrypts them as it does so.  Follows the Apache Parquet format's "Parquet
Modular Encryption": one key, ``AES_GCM_V1``, an encrypted footer.  Nothing is written that is not encrypted.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO, Final

from confide.data.folder import PARQUET_MAGIC, PARQUET_TAIL_BYTES
from confide.data.parquet_footer import Footer, Layout, PlacedChunk, sealed_footer
from confide.data.parquet_modules import Modules, crypto_metadata

if TYPE_CHECKING:
    from confide.crypto.secret import SecretBytes

_UNIQUE_BYTES: Final = 8
"""Of ``aad_file_unique``, as many as Arrow draws.  By it no page of another writing of the same path opens in this one."""


class SealedParquet:
    """A file that is being written.  Its caller opens, syncs and closes it, and takes it away if something was raised."""

    def __init__(self, file: BinaryIO, key: SecretBytes, aad_prefix: bytes) -> None:
        """``key`` and ``aad_prefix`` are this file's alone."""
        self._file = file
        self._unique = os.urandom(_UNIQUE_BYTES)
        self._modules = Modules(key, aad_prefix + self._unique)
        self._groups: list[tuple[int, list[PlacedChunk]]] = []
        self._plain = b""
        self._layout: Layout | None = None
        self.rows = self.size = 0
        self.chunks = 0
        """Columns of row groups, all of them."""
        self._write(PARQUET_MAGIC)

    def add(self, plain: bytes | memoryview) -> None:
        """Append the row groups of a plain file, whole.  All files must be of one schema and one writer.

        Raises:
            ParseError: it is no Parquet file.
            ValueError: it is of another schema than the one before.
            OverflowError: there are more row groups, columns or pages of a column than the format can number, 32,768 each.
        """
        plain = memoryview(plain)
        length = int.from_bytes(plain[-PARQUET_TAIL_BYTES : -len(PARQUET_MAGIC)], "little")
        metadata = bytes(plain[-PARQUET_TAIL_BYTES - length : -PARQUET_TAIL_BYTES])
        footer = Footer.parse(metadata, self._layout)
        if self._layout is None:
            self._plain, self._layout = metadata, footer.layout
        elif footer.layout != self._layout:
            raise ValueError("row groups of another schema")
        for group in footer.groups:
            if group.rows:  # of no rows, there may be no page
                placed = []
                for leaf, chunk in enumerate(group.chunks):
                    data = bytes(plain[chunk.start : chunk.start + chunk.length])
                    modules, before = self._modules.sealed_pages(data, (len(self._groups), leaf), dictionary=chunk.dictionary)
                    start = self.size
                    self._write(*modules)
                    placed.append(PlacedChunk(chunk, start if chunk.dictionary else None, start + before, self.size - start))
                self._groups.append((group.rows, placed))
                self.rows += group.rows
                self.chunks += len(placed)

    def finish(self) -> None:
        """Write the footer, of what was added.  There must have been something, if only a file of no rows, which has the schema."""
        footer = crypto_metadata(self._unique) + self._modules.sealed_footer(sealed_footer(self._plain, self._groups))
        self._write(footer + len(footer).to_bytes(4, "little") + PARQUET_MAGIC)

    def _write(self, *data: bytes) -> None:
        self._file.writelines(data)
        self.size += sum(map(len, data))

"""Parquet files of tables with column groups: each column of a group has a key that only the group's key opens.

``docs/formats/container.md``, section 2.4.  pyarrow takes no keys for single columns but those of Parquet's own key tools: random ones,
each wrapped by a client that it is given, and kept in the file.  Here that client wraps under keys that are derived from those of the
dataset and of its groups, and from the file's path; no service is asked.  Other tables: ``confide.data.files``.
"""

from __future__ import annotations

import base64
import contextlib
import io
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyarrow.parquet import encryption

from confide.crypto.derive import KEY_BYTES, column_wrapping_key
from confide.crypto.secret import SecretBytes
from confide.data.column_groups import ColumnGroup, group_of
from confide.data.schema import INT96_UNIT
from confide.durable import sync_file
from confide.errors import DataError, IntegrityError, KeyAccessError
from confide.ids import DatasetId

TABLE: Final = "table"
"""What the footer's key, and those of columns in no group, are wrapped under: as a file names it."""
COLUMN_BUFFER: Final = 64 << 10
"""A column's pages are read in pieces of this size, not as a whole."""
ROWS_PER_GROUP: Final = 65_536
WRITTEN: Final[Mapping[str, Any]] = MappingProxyType({"compression": "zstd", "version": "2.6", "max_rows_per_page": ROWS_PER_GROUP})
"""How tables are written, as arguments of ``pyarrow.parquet.ParquetWriter``.

Each page is a message of the cipher, with a header that is another.  So pages end by their size (1 MiB), not before it at 20,000 rows as
Arrow would have it; the index that small pages are good for is not written.
"""
_GROUP: Final = "columns/"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class TableKeys:
    """The keys that open a table with column groups, as far as its reader has them: the dataset's, and those of some ``groups`` by name."""

    dataset: DatasetId
    key: SecretBytes
    groups: Mapping[str, SecretBytes]

    def of_file(self, path: str) -> FileKeys:
        """What opens its file at ``path``."""
        found = {name: column_wrapping_key(key, dataset=self.dataset, path=path, group=name) for name, key in self.groups.items()}
        return file_keys(column_wrapping_key(self.key, dataset=self.dataset, path=path), found)


class FileKeys(encryption.KmsClient):  # type: ignore[misc]  # pyarrow has no types
    """The wrapping keys of one file, as pyarrow asks for them.  ``opened`` are those that opened something; ``asked`` is the last one."""

    def __init__(self, keys: Mapping[str, SecretBytes]) -> None:
        super().__init__()
        self._keys = keys
        self.opened: set[str] = set()
        self.asked = ""

    def forget(self) -> None:
        """Open nothing any more."""
        self._keys = {}

    def __repr__(self) -> str:
        return f"FileKeys({', '.join(self._keys)})"

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        """For pyarrow: a new key for the footer or a column, wrapped."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._cipher(master_key_identifier).encrypt(nonce, key_bytes, master_key_identifier.encode())
        return base64.b64encode(nonce + sealed).decode("ascii")

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        """For pyarrow: the inverse.

        Raises:
            KeyAccessError: the reader has no key of that group.
            IntegrityError: it was not wrapped for this file.
        """
        cipher = self._cipher(master_key_identifier)
        try:
            sealed = base64.b64decode(wrapped_key, validate=True)
            key = cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], master_key_identifier.encode())
        except (InvalidTag, ValueError):
            raise IntegrityError("a key in an encrypted file does not open", hint="the file was changed, swapped or renamed") from None
        if len(key) != KEY_BYTES:
            raise IntegrityError("a key in an encrypted file is of another length", got=len(key))
        self.opened.add(master_key_identifier)
        return key

    def _cipher(self, name: str) -> AESGCM:
        self.asked = name
        key = self._keys.get(name)
        if key is None:
            raise no_key(name.removeprefix(_GROUP))
        return AESGCM(key.reveal())


def file_keys(table: SecretBytes, groups: Mapping[str, SecretBytes]) -> FileKeys:
    """What opens one file: its wrapping keys, of the table and of groups by name, as an agent gives them."""
    return FileKeys({TABLE: table, **{_GROUP + name: key for name, key in groups.items()}})


def no_key(group: str, column: str | None = None) -> KeyAccessError:
    """The refusal of a reader that does not have the key of a column group."""
    what = "a column" if column is None else f"column {column!r}"
    hint = "ask for the group (`columns` of the job's input), or read other columns"
    return KeyAccessError(f"{what} is in the column group {group[:64]!r}, whose key is not here", hint=hint, group=group[:64])


@contextlib.contextmanager
def grouped_writer(place: Path, schema: pa.Schema, keys: TableKeys, groups: Sequence[ColumnGroup], path: str) -> Iterator[pq.ParquetWriter]:
    """A new encrypted file of a table with these groups, of all of which ``keys`` has the key.  Durable when the block ends.

    Raises:
        DataError: pyarrow has left a column readable without the key that it must be under.
    """
    leaves: dict[str, list[str]] = {}
    for leaf, column in _leaves(schema):
        if set(leaf) & set(",:;"):  # Arrow takes keys and columns as one text with these separators
            raise DataError(f"a table with column groups cannot have a field {leaf!r}", hint="rename it: no , : ;")
        leaves.setdefault(_key_for(groups, column), []).append(leaf)
    configuration = encryption.EncryptionConfiguration(
        footer_key=TABLE,
        column_keys=leaves,  # of all columns: one that is not named would be written in the clear
        encryption_algorithm="AES_GCM_V1",
        plaintext_footer=False,
        double_wrapping=False,
        internal_key_material=True,
        data_key_length_bits=8 * KEY_BYTES,
    )
    properties = _factory(keys.of_file(path)).file_encryption_properties(encryption.KmsConnectionConfig(), configuration)
    with place.open("xb") as file:
        with pq.ParquetWriter(file, schema, encryption_properties=properties, **WRITTEN) as writer:
            yield writer
        sync_file(file)
    _require_protected(place, keys, groups, path)


def open_grouped(place: Path | BinaryIO, keys: TableKeys, path: str, *, buffered: int = COLUMN_BUFFER) -> pq.ParquetFile:
    """An encrypted file of a table with column groups, its footer opened and authenticated.  Columns are opened as they are read.

    ``buffered``: bytes of a column that are read at one time; 0 for whole chunks of it.

    Raises:
        IntegrityError: it does not open under the dataset's key and its path, or is not encrypted.
    """
    return open_under(place, keys.of_file(path), path, buffered=buffered)


def open_under(
    place: Path | BinaryIO | pa.BufferReader, client: FileKeys, path: str, *, buffered: int = COLUMN_BUFFER
) -> pq.ParquetFile:
    """As :func:`open_grouped`, under a file's wrapping keys; ``place`` is the file, or what it holds."""
    properties: Any = _factory(client).file_decryption_properties(encryption.KmsConnectionConfig(), encryption.DecryptionConfiguration())
    file = pq.ParquetFile(
        place, decryption_properties=properties, buffer_size=buffered, pre_buffer=False, coerce_int96_timestamp_unit=INT96_UNIT
    )
    if TABLE not in client.opened:  # pyarrow's key tools open plaintext as well, and nobody can tell them not to
        raise IntegrityError("a file that must be encrypted is not", path=path)
    return file


def readable(schema: pa.Schema, groups: Sequence[ColumnGroup], keys: TableKeys, columns: Sequence[str] | None) -> list[str]:
    """``columns`` (all of a file's, if none are named), if the reader has the keys of all of them.

    Raises:
        DataError: the table has no such column.
        KeyAccessError: a column is in a group whose key is not here.
    """
    wanted = list(schema.names if columns is None else columns)
    for name in wanted:
        group = group_of(groups, name)
        if name not in schema.names:
            raise DataError(f"the table has no column {name!r}", columns=", ".join(schema.names)[:400])
        if group is not None and group.name not in keys.groups:
            raise no_key(group.name, name)
    return wanted


def _factory(client: FileKeys) -> encryption.CryptoFactory:
    return encryption.CryptoFactory(lambda _config: client)


def _leaves(schema: pa.Schema) -> list[tuple[str, str]]:
    """Parquet's path of each leaf of a table, and the column that it is in.  Names have no dot (``column_groups.require_columns``)."""
    empty = io.BytesIO()
    with pq.ParquetWriter(empty, schema, version="2.6"):
        pass
    found = pq.ParquetFile(empty).schema
    return [(found.column(at).path, found.column(at).path.split(".")[0]) for at in range(len(found))]


def _key_for(groups: Sequence[ColumnGroup], column: str) -> str:
    """What a column's keys are wrapped under, as a file names it."""
    group = group_of(groups, column)
    return TABLE if group is None else _GROUP + group.name


def _require_protected(place: Path, keys: TableKeys, groups: Sequence[ColumnGroup], path: str) -> None:
    """Look at a written file as one who has got no further than its footer: each leaf must ask for the key that it was to be under."""
    client = keys.of_file(path)
    file = open_under(place, client, path)
    client.forget()
    for leaf, column in _leaves(file.schema_arrow) if file.num_row_groups else ():
        client.asked = ""
        with contextlib.suppress(KeyAccessError):
            file.read_row_group(0, columns=[leaf])
        if client.asked != _key_for(groups, column):
            raise DataError(f"column {column!r} was not encrypted under its own key", column=column)

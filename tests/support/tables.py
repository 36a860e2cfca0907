"""Owners' encrypted tables, some with column groups, made in memory's time: keys without a broker."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from confide.canonical import Json
from confide.crypto.envelope import WrappedKey, wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data import commit, parquet_keys
from confide.data.column_groups import ColumnGroup, NewGroup
from confide.data.manifest import Manifest
from confide.data.snapshots import SignedManifest
from confide.ids import new_dataset_id

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def new_key(name: str) -> tuple[SecretBytes, WrappedKey]:
    """A key as a broker mints it, with an id of its own, under the key ``owner/name``."""
    secret = SecretBytes.random()
    return secret, wrap(SecretBytes.random(), secret, key=name, version=1, dataset=new_dataset_id())


@dataclass
class OwnedTable:
    """A table of one owner with its keys, encrypted to ``place``.  ``grouped``: the columns of each group."""

    place: Path
    rows: pa.Table | Path
    key_name: str = "clinic/visits"
    grouped: dict[str, tuple[str, ...]] = field(default_factory=dict)
    signer: SigningKey = field(default_factory=SigningKey.generate)

    def __post_init__(self) -> None:
        self.key, self.wrapped = new_key(self.key_name)
        owner = self.key_name.partition("/")[0]
        self.protected = []
        for name, columns in self.grouped.items():
            secret, wrapped = new_key(f"{owner}/{name}")
            self.protected.append(NewGroup(ColumnGroup(name, columns, wrapped), secret))
        self.signed: SignedManifest = commit.create_dataset(
            self.rows,
            self.place,
            name=self.place.name,
            owner=owner,
            dataset=self.wrapped.dataset,  # type: ignore[arg-type]
            dataset_key=self.key,
            wrapped=self.wrapped,
            signer=self.signer,
            now=NOW,
            protected=self.protected,
        )

    @property
    def manifest(self) -> Manifest:
        return self.signed.unverified

    @property
    def path(self) -> str:
        """Its first data file's path."""
        return self.manifest.files[0].path

    @property
    def file(self) -> Path:
        return self.place / self.path

    def keys(self, *names: str) -> dict[str, SecretBytes]:
        """Keys of these groups."""
        return {one.group.name: one.key for one in self.protected if one.group.name in names}

    def table_keys(self) -> parquet_keys.TableKeys:
        """All of its keys."""
        return parquet_keys.TableKeys(self.manifest.dataset, self.key, self.keys(*self.grouped))

    def info(self) -> Json:
        """What a program is told of it."""
        m = self.manifest
        return {"kind": m.kind, "schema": m.schema, "path": str(self.place), "files": [entry.path for entry in m.files]}

    def chunk(self, column: int, row_group: int = 0) -> slice:
        """Where a column's encrypted bytes lie in the first file."""
        found = parquet_keys.open_grouped(self.file, self.table_keys(), self.path).metadata.row_group(row_group).column(column)
        first = found.dictionary_page_offset if found.has_dictionary_page else found.data_page_offset
        return slice(first, first + found.total_compressed_size)

    def exchange(self, one: slice, other: slice) -> None:
        """Put each of two parts of the file into the other's place."""
        data = bytearray(self.file.read_bytes())
        assert one.stop - one.start == other.stop - other.start
        data[one], data[other] = data[other], data[one]
        self.file.write_bytes(data)

"""Encrypted tables as Polars' lazy frames, as ``confide.session().read(name)`` gives them, without an agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confide.crypto.derive import file_key, parquet_aad_prefix
from confide.data.opened_table import OpenedMemory
from confide.data.parquet_scan import TableScan
from confide.data.pinned_parquet import FileAccess, TableFile

if TYPE_CHECKING:
    import polars as pl

    from benchmarks.data.owned import Owned


def encrypted_frame(table: Owned, memory: OpenedMemory | None = None) -> pl.LazyFrame:
    """A table that is read from its encrypted files when a query comes to them.  ``memory``: of columns that stay open."""
    found, manifest = table.input, table.input.manifest

    def access(path: str) -> FileAccess:
        key = file_key(table.key, kind="parquet", dataset=manifest.dataset, path=path)
        return FileAccess(key, parquet_aad_prefix(manifest.dataset, path))

    files = [TableFile(entry.path, entry.size, entry.rows or 0) for entry in manifest.files]
    return TableScan(found.folder, files, access, manifest.schema or {}, memory=memory).frame(manifest.name)

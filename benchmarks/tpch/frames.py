"""Encrypted tables as Polars' lazy frames: each file is read natively, under a key of its own."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import polars as pl

from confide.crypto.derive import file_key, parquet_aad_prefix

if TYPE_CHECKING:
    from benchmarks.data.owned import Owned


def encrypted_frame(table: Owned) -> pl.LazyFrame:
    """A table that is read from its encrypted files when a query comes to them."""
    found = table.input
    frames = []
    for entry in found.manifest.files:
        key = file_key(table.key, kind="parquet", dataset=found.manifest.dataset, path=entry.path)
        prefix = parquet_aad_prefix(found.manifest.dataset, entry.path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parameter may change: the comparison of answers would say so
            properties = pl.ParquetDecryptionProperties(footer_key=key.reveal(), aad_prefix=prefix)
            frames.append(pl.scan_parquet(found.folder / entry.path, decryption=properties))
    return pl.concat(frames)

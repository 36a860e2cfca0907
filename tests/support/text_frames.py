"""Lazy frames over text files that are given as bytes."""

from __future__ import annotations

import io
from typing import Any

import polars as pl

from confide.data.read_counts import Totals
from confide.data.text_scan import TextScan


def scan(files: dict[str, bytes], kind: Any = "csv", totals: Totals | None = None, **options: Any) -> pl.LazyFrame:
    return TextScan(list(files), lambda path: io.BytesIO(files[path]), kind, options, totals or Totals()).frame("rows")

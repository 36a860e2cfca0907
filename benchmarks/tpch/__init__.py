"""TPC-H: tables, the 22 queries, and the answers that they must give.

The queries are those of the TPC-H specification (revision 3, section 2.4) with its validation values for their parameters.
``python -m benchmarks.tpch`` runs them over encrypted tables and compares; ``python -m benchmarks data --only tpch`` times them.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Final

TABLES: Final = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")
NUMBERS: Final = tuple(range(1, 23))
_QUERIES: Final = Path(__file__).parent / "queries"


def sql(number: int, scale: Decimal) -> str:
    """A query's text: Spark's SQL, and DuckDB's."""
    text = (_QUERIES / f"q{number:02}.sql").read_text(encoding="utf-8")
    return text.replace(":fraction", f"{Decimal('0.0001') / scale:f}")  # query 11: 0.0001 over the scale factor

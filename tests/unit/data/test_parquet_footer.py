"""A footer says the same whether its chunks match the pattern of usual ones or are looked into, and writers that we know write those."""

from __future__ import annotations

import io
import random
from datetime import date
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from confide.data import parquet_footer
from confide.data.parquet_footer import Footer
from confide.data.parquet_keys import WRITTEN
from confide.data.thrift_spans import Usual, parsed_struct
from confide.errors import ParseError

TABLE = pa.table(
    {
        "whole": pa.array(range(100), pa.int64()),
        "text": [f"number {at}" for at in range(100)],
        "price": pa.array([Decimal("1.23")] * 100, pa.decimal128(15, 2)),
        "day": [date(2020, 1, 1)] * 100,
        "several": [[1, 2]] * 100,
        "none": pa.nulls(100, pa.int32()),
        "yes": [True, False] * 50,
        "real": [1.5] * 100,
        "kept apart": [{"a": 1, "b": "x"}] * 100,
    }
)


def footer_of(file: bytes) -> bytes:
    length = int.from_bytes(file[-8:-4], "little")
    return file[-8 - length : -8]


def by_arrow(**options: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(TABLE, out, row_group_size=40, **options)
    return footer_of(out.getvalue())


def by_polars() -> bytes:
    out = io.BytesIO()
    pl.DataFrame(pl.from_arrow(TABLE)).write_parquet(out)
    return footer_of(out.getvalue())


WRITERS = {
    "ours": lambda: by_arrow(**WRITTEN),
    "arrow": by_arrow,
    "arrow, indexed": lambda: by_arrow(write_page_index=True),
    "polars": by_polars,
}


def usual() -> Usual:
    shape = parquet_footer._SHAPE[4]
    assert not isinstance(shape, Usual)
    found = shape[1]
    assert isinstance(found, Usual)
    return found


def looked_into(monkeypatch: pytest.MonkeyPatch, data: bytes) -> Footer | str:
    """What is found without the pattern."""
    with monkeypatch.context() as patch:
        patch.setitem(parquet_footer._SHAPE, 4, {1: usual().otherwise})
        return parsed(data)


def parsed(data: bytes) -> Footer | str:
    try:
        return Footer.parse(data)
    except ParseError as refused:
        return str(refused)


@pytest.mark.parametrize("writer", WRITERS)
def test_the_writers_that_we_know_write_usual_chunks(monkeypatch: pytest.MonkeyPatch, writer: str) -> None:
    data = WRITERS[writer]()
    groups = parsed_struct(data, parquet_footer._SHAPE).fields[4].elements
    assert all(chunk.matched for group in groups for chunk in group.fields[1].elements)
    assert parsed(data) == looked_into(monkeypatch, data)


@pytest.mark.parametrize("options", [{"write_statistics": False}, {"compression": "none", "use_dictionary": False}])
def test_other_chunks_are_looked_into(monkeypatch: pytest.MonkeyPatch, options: dict[str, object]) -> None:
    data = by_arrow(**options)
    found = parsed(data)
    assert isinstance(found, Footer)
    assert found == looked_into(monkeypatch, data)


def test_a_number_without_an_end_is_refused_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    data = by_arrow(**WRITTEN)
    first = parsed_struct(data, parquet_footer._SHAPE).fields[4].elements[0].fields[1].elements[0].matched
    assert first is not None
    start, end = first.span(3)
    longer = data[:start] + b"\x80" * 11 + data[start:end] + data[end:]
    assert parsed(longer) == looked_into(monkeypatch, longer) == "Parquet metadata are not in Thrift's compact protocol"


def test_a_footer_that_was_changed_says_the_same_or_is_refused_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(5)
    found = 0
    for data in [by_arrow(**WRITTEN), by_polars()]:
        for _ in range(700):
            changed = bytearray(data)
            for _ in range(chance.choice((1, 1, 2, 3))):
                at, length = chance.randrange(len(changed)), chance.choice((0, 1, 2, 5))
                changed[at : at + length] = chance.randbytes(chance.choice((0, 1, length)))
            one = parsed(bytes(changed))
            assert one == looked_into(monkeypatch, bytes(changed))
            found += isinstance(one, Footer)
    assert found > 100

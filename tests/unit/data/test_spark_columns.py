"""Spark over tables with column groups and over two owners' tables: what a job was not granted it cannot read, and nothing else stops."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from support.tables import OwnedTable

from confide.errors import GrantError
from confide.node.keyring import Keyring, Lease

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(300)]

COUNT = 2000
PROGRAM = """
import json
import confide
ctx = confide.session()

def tried(work):
    try:
        return work()
    except Exception as refusal:
        return "refused: " + str(refusal)

visits, swapped, labs, denied = (ctx.read(name) for name in ("visits", "swapped", "labs", "denied"))
print("RESULT", json.dumps({
    "count": visits.count(),
    "age": tried(lambda: visits.selectExpr("sum(age)").collect()[0][0]),
    "diagnosis": tried(lambda: visits.where("diagnosis = 'd7'").selectExpr("max(code)").collect()[0][0]),
    "parts": tried(lambda: visits.selectExpr("sum(parts.low)", "sum(size(codes))").collect()[0][:]),
    "name": tried(lambda: visits.select("name").limit(1).collect()[0][0]),
    "filter": tried(lambda: visits.where("name = 'n5'").select("age").collect()),
    "all": tried(lambda: visits.limit(1).collect()),
    "two owners": tried(lambda: visits.join(labs, visits.id == labs.id).selectExpr("count(1)", "sum(age + value)").collect()[0][:]),
    "denied owner": tried(lambda: visits.join(denied, visits.id == denied.id).count()),
    "swapped": tried(lambda: swapped.selectExpr("sum(code)").collect()),
    "beside swapped": tried(lambda: swapped.selectExpr("sum(age)").collect()[0][0]),
}))
"""


def rows() -> pa.Table:
    numbers = list(range(COUNT))
    return pa.table({
        "name": [f"n{i}" for i in numbers],  # first: readers look at the first column to find a row group
        "id": numbers,
        "age": numbers,
        "diagnosis": [f"d{i}" for i in numbers],
        "code": numbers,
        "code2": numbers,
        "parts": [{"low": i % 2, "high": i} for i in numbers],
        "codes": [[i, i] for i in numbers],
    })  # fmt: skip


GROUPS = {"diagnoses": ("diagnosis", "code", "code2", "parts", "codes"), "names": ("name",)}


@pytest.fixture(scope="module")
def result(spark_group_class: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    root = tmp_path_factory.mktemp("columns")
    ring = Keyring(lease_s=3600.0)
    tables = {
        "visits": OwnedTable(root / "visits", rows(), grouped=GROUPS),
        "swapped": OwnedTable(root / "swapped", rows(), grouped=GROUPS),
        "labs": OwnedTable(root / "labs", pa.table({"id": list(range(COUNT)), "value": [1] * COUNT}), key_name="lab/results"),
        "denied": OwnedTable(root / "denied", pa.table({"id": [1], "value": [1]}), key_name="bank/accounts"),
    }
    leaf = [name for name in rows().column_names if name not in {"parts", "codes"}]
    tables["swapped"].exchange(*(tables["swapped"].chunk(leaf.index(name)) for name in ("code", "code2")))
    for name, table in tables.items():
        open_input(ring, table, granted=name != "denied")
    quiet = {"file-renamed": lambda _: {}, "file-deleted": lambda _: {}, "input-length": lambda _: {"length": -1}}
    group = spark_group_class(root, {**ring.operations(), **quiet})
    group.info = {"inputs": {name: table.info() for name, table in tables.items()}, "outputs": {}, "code": str(root), "modules": []}
    try:
        group.start_driver()
        assert group.driver.ready.wait(120.0)
        group.start_executor("executor-1")
        group.start_executor("executor-2")
        status, output = group.run_program(PROGRAM, timeout=200.0)
        assert status == 0, output + group.log("driver")
        line = next(line for line in output.splitlines() if line.startswith("RESULT "))
        yield json.loads(line.removeprefix("RESULT "))
    finally:
        group.close()


def open_input(ring: Keyring, table: OwnedTable, *, granted: bool) -> None:
    """Hold the table's key, and of its groups only that of ``diagnoses``; of a table that is not granted, not even that."""
    lease = Lease(table.key, math.inf, table.keys("diagnoses") if table.grouped else None)

    def again() -> Lease:
        if not granted:
            raise GrantError("no grant of this key covers this job", key=table.key_name)
        return lease

    listed = frozenset(entry.path for entry in table.manifest.files)
    ring.open_input(str(table.place), table.manifest.dataset, lease, files=listed, refresh=again)
    if not granted:
        ring._held[next(folder for folder in ring._held if str(folder) == str(table.place))].expires = 0.0


TOTAL = COUNT * (COUNT - 1) // 2


def test_columns_of_the_granted_group_and_of_none_are_read_and_filtered(result: dict[str, Any]) -> None:
    assert (result["count"], result["age"], result["diagnosis"]) == (COUNT, TOTAL, 7)
    assert result["parts"] == [COUNT // 2, 2 * COUNT]


@pytest.mark.parametrize("asked", ["name", "filter", "all"])
def test_a_column_of_a_group_that_was_not_granted_is_refused_by_name(result: dict[str, Any], asked: str) -> None:
    assert result[asked].startswith("refused: ")
    assert "[key-refused]" in result[asked]
    assert '"names"' in result[asked]
    assert "n5" not in result[asked].replace("n5'", "")


def test_two_owners_keys_serve_one_query(result: dict[str, Any]) -> None:
    assert result["two owners"] == [COUNT, TOTAL + COUNT]


def test_an_owners_refusal_stops_the_query_over_that_input_and_says_whose(result: dict[str, Any]) -> None:
    assert "[grant-missing] no grant of this key covers this job" in result["denied owner"]
    assert result["two owners"] == [COUNT, TOTAL + COUNT]


def test_a_column_in_the_place_of_another_of_its_group_is_refused(result: dict[str, Any]) -> None:
    assert result["swapped"].startswith("refused: ")
    assert result["beside swapped"] == TOTAL

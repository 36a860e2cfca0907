"""What a program with Polars is given: frames of its inputs, and outputs that are encrypted file by file."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal
from pyarrow import orc
from support.polars_agent import PolarsAgent

from confide.data import polars as module
from confide.data import scan_steps, table_files
from confide.data.folder import PARQUET_MAGIC
from confide.data.opened_table import OpenedMemory
from confide.data.polars import session
from confide.errors import DataError, IntegrityError, ManifestError, ParseError, PlaintextError, SecretLeakError, UsageError
from confide.jobs import inputs

PEOPLE = pa.table({"name": [f"person {n}" for n in range(100)], "city": [n % 5 for n in range(100)]})
CITIES = pa.table({"city": [0, 1, 2, 3, 4], "country": ["a", "a", "b", "b", "b"]})


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[PolarsAgent]:
    made = PolarsAgent(tmp_path)
    yield made
    made.close()


@pytest.fixture
def world(agent: PolarsAgent) -> PolarsAgent:
    agent.add("people", PEOPLE)
    agent.add("cities", CITIES)
    return agent


def test_two_inputs_under_two_keys_meet_in_one_query(world: PolarsAgent) -> None:
    ctx = world.context("--year", "2013")
    assert (ctx.inputs, ctx.outputs, ctx.arguments) == (("cities", "people"), ("other", "result"), ("--year", "2013"))
    joined = ctx.read("people").join(ctx.read("cities"), on="city")
    assert joined.group_by("country").len().sort("country").collect().rows() == [("a", 40), ("b", 60)]
    keys = {request["path"] for name, request in world.asked if name == "read-key"}
    assert {Path(path).parent.name for path in keys} == {"in-people", "in-cities"}
    assert "key" not in repr(ctx)
    with pytest.raises(SecretLeakError):
        pickle.dumps(ctx)


def test_what_a_query_that_is_left_has_read_is_told_with_the_next_or_at_last(agent: PolarsAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "ROWS_PER_FILE", 10)
    monkeypatch.setattr(scan_steps, "_FIRST_ROWS", 1)
    agent.add("people", PEOPLE)
    agent.add("cities", CITIES)
    ctx = agent.context(memory=OpenedMemory(0))
    people = ctx.read("people").filter(pl.col("city") >= 0)
    assert people.head(1).collect().height == 1
    assert agent.counts == {}
    ctx.read("cities").collect()
    assert agent.counts["tasks"] == 2
    told = agent.counts["rows_read"]
    assert 5 + 10 <= told < 5 + 100
    assert people.head(1).collect().height == 1
    assert agent.counts["tasks"] == 2
    ctx.stop()
    assert agent.counts["tasks"] == 3
    assert agent.counts["rows_read"] > told


def test_columns_are_open_for_whoever_reads_the_input_again_until_the_end(world: PolarsAgent) -> None:
    ctx = world.context()
    ctx.read("people").select("city").collect()
    once = world.counts["bytes_read"]
    assert once > 0
    ctx.read("people").select("city").collect()
    ctx.sql("SELECT max(city) FROM people").collect()
    assert (world.counts["tasks"], world.counts["bytes_read"]) == (3, once)
    ctx.stop()
    ctx.read("people").select("city").collect()
    assert (world.counts["tasks"], world.counts["bytes_read"]) == (4, 2 * once)


def test_sql_knows_the_inputs_by_name_and_the_tables_that_it_is_given(world: PolarsAgent) -> None:
    ctx = world.context()
    query = "SELECT country, count(*) AS n FROM people JOIN cities USING (city) GROUP BY country ORDER BY country"
    assert ctx.sql(query).collect().rows() == [("a", 40), ("b", 60)]
    mine = pl.DataFrame({"city": [1], "mayor": ["M"]})
    assert ctx.sql("SELECT mayor, count(*) FROM people JOIN mine USING (city) GROUP BY mayor", mine=mine).collect().rows() == [("M", 20)]
    assert ctx.sql("SELECT count(*) FROM people", people=CITIES).collect().item() == 5
    before = len(world.asked)
    assert ctx.sql("SELECT count(*) FROM cities").collect().item() == 5
    assert not any("in-people" in str(request) for _, request in world.asked[before:])


def test_duckdb_has_the_same_inputs_and_nothing_else(world: PolarsAgent, tmp_path: Path) -> None:
    pytest.importorskip("duckdb", reason="an extra")
    import duckdb

    connection = world.context().duckdb()
    query = "SELECT country, count(*) FROM people JOIN cities USING (city) WHERE name <> 'person 1' GROUP BY country ORDER BY country"
    assert connection.execute(query).fetchall() == [("a", 39), ("b", 60)]
    assert connection.execute("SELECT count(*) FROM people").fetchall() == [(100,)]
    refused = (
        f"COPY people TO '{tmp_path / 'leak.csv'}'",
        f"ATTACH '{tmp_path / 'leak.db'}'",
        f"SELECT * FROM read_csv('{tmp_path}/**')",
        "INSTALL httpfs",
    )
    for statement in refused:
        with pytest.raises(duckdb.PermissionException):
            connection.execute(statement)
    assert not list(tmp_path.glob("leak*"))


def test_duckdb_puts_nothing_aside_and_stays_as_it_was_set(world: PolarsAgent) -> None:
    pytest.importorskip("duckdb", reason="an extra")
    import duckdb

    connection = world.context().duckdb()
    settings = "SELECT current_setting('temp_directory'), current_setting('enable_external_access')"
    assert connection.execute(settings).fetchone() == ("", False)
    for setting in ("temp_directory='/tmp/leak'", "enable_external_access=true", "log_query_path='/tmp/leak'"):
        with pytest.raises(duckdb.InvalidInputException, match="locked"):
            connection.execute(f"SET {setting}")


def test_an_input_with_many_files_is_asked_for_in_pages(agent: PolarsAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confide.data.table_files.ROWS_PER_FILE", 10)
    monkeypatch.setattr(inputs, "PAGE", 3)
    agent.add("people", PEOPLE)
    assert agent.context().read("people").collect().equals(pl.DataFrame(PEOPLE))
    assert len([name for name, _ in agent.asked if name == "input-files"]) == 5


def test_a_result_is_a_table_of_arrow_and_a_frame_of_pandas(world: PolarsAgent) -> None:
    found = world.context().read("people").sort("name").collect()
    expected = sorted(zip(PEOPLE["name"].to_pylist(), PEOPLE["city"].to_pylist(), strict=True))
    assert [tuple(row.values()) for row in found.to_arrow().to_pylist()] == expected
    assert [*found.to_pandas().itertuples(index=False, name=None)] == expected


@pytest.mark.parametrize("form", ["lazy", "frame", "arrow"])
def test_what_is_written_is_encrypted_and_reads_back(world: PolarsAgent, form: str) -> None:
    ctx = world.context()
    lazy = ctx.read("people").filter(pl.col("city") == 1).sort("name")
    given = {"lazy": lazy, "frame": lazy.collect(), "arrow": lazy.collect().to_arrow()}[form]
    committed = ctx.write(given, "result")
    assert (committed.name, committed.files, committed.rows) == ("result", 1, 20)
    assert pl.DataFrame(world.written("result")).equals(lazy.collect())
    (file,) = world.root.glob(".result*/*.parquet")
    assert file.read_bytes()[:4] == PARQUET_MAGIC
    assert b"person" not in file.read_bytes()
    with pytest.raises(UsageError):
        ctx.write(given, "result")


def test_a_large_result_becomes_several_files_each_under_its_own_key(world: PolarsAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART_ROWS", 16)
    committed = world.context().write(world.context().read("people").sort("name"), "result")
    assert committed.rows == 100
    assert committed.files >= 5
    assert pl.DataFrame(world.written("result")).equals(pl.DataFrame(PEOPLE).sort("name"))
    keys = {request["path"] for name, request in world.asked if name == "write-key"}
    assert len(keys) == committed.files


def test_an_empty_result_keeps_its_columns(world: PolarsAgent) -> None:
    world.context().write(world.context().read("people").filter(pl.col("city") == 99), "result")
    assert world.written("result").schema.names == ["name", "city"]
    assert world.written("result").num_rows == 0


def test_types_that_spark_cannot_read_are_stored_as_others_or_refused(world: PolarsAgent) -> None:
    moment = datetime(2024, 2, 29, 12, tzinfo=UTC)
    frame = pl.DataFrame({
        "kind": pl.Series(["x", "y"], dtype=pl.Categorical),
        "nanos": pl.Series([moment, moment], dtype=pl.Datetime("ns", "UTC")),
        "zone": pl.Series([moment, moment]).dt.convert_time_zone("Europe/Berlin"),
        "nothing": pl.Series([None, None], dtype=pl.Null),
        "price": pl.Series([Decimal("1.25"), None], dtype=pl.Decimal(10, 2)),
        "pair": pl.Series([{"a": [1], "b": None}, None], dtype=pl.Struct({"a": pl.List(pl.Int64), "b": pl.String})),
    })  # fmt: skip
    world.context().write(frame, "result")
    table = world.written("result")
    assert table["kind"].to_pylist() == ["x", "y"]
    assert [str(table.schema.field(name).type) for name in ("nanos", "zone")] == ["timestamp[us, tz=UTC]"] * 2
    assert table["zone"].to_pylist()[0] == moment
    assert table["price"].to_pylist() == [Decimal("1.25"), None]
    assert table["pair"].to_pylist() == [{"a": [1], "b": None}, None]
    for wrong in (pl.Series([timedelta(1)]), pl.Series([1], dtype=pl.UInt64), pl.Series([1], dtype=pl.Int128)):
        with pytest.raises(DataError):
            world.context().write(pl.DataFrame({"wrong": wrong}), "other")
    with pytest.raises(UsageError, match="not a frame"):
        world.context().write([1, 2], "other")  # type: ignore[arg-type]


def test_csv_and_json_lines_are_read_from_containers(agent: PolarsAgent, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "a.csv").write_text("n,s\n" + "".join(f"{n},row {n}\n" for n in range(200_000)))
    (folder / "b.csv").write_text("n,s\n7,seven\n")
    lines = tmp_path / "lines"
    lines.mkdir()
    (lines / "a.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(10)))
    agent.add("rows", folder)
    agent.add("lines", lines)
    ctx = agent.context()
    rows = ctx.read("rows", format="csv")
    assert rows.select(pl.len(), pl.col("n").sum()).collect().row(0) == (200_001, sum(range(200_000)) + 7)
    assert rows.filter(pl.col("s") == "seven").collect().rows() == [(7, "seven")]
    assert rows.head(2).collect().height == 2
    assert ctx.read("lines", format="ndjson").select(pl.col("n").sum()).collect().item() == 45
    path = next(path for path in ctx.files("rows") if path.endswith("a.csv"))
    with ctx.open("rows", path) as file:
        file.seek(100_000)
        there = file.read(10)
    assert there == (folder / "a.csv").read_bytes()[100_000:100_010]
    for wrong in (lambda: ctx.read("rows"), lambda: ctx.read("nothing"), lambda: ctx.read("rows", format="xml")):  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            wrong()
    with pytest.raises(ManifestError):
        ctx.open("rows", "not-listed.csv").read()


def test_other_formats_are_read_by_their_readers_from_open_files(agent: PolarsAgent, tmp_path: Path) -> None:
    folder, rows = tmp_path / "plain", pl.DataFrame({"n": range(50_000), "s": [f"row {n}" for n in range(50_000)]})
    folder.mkdir()
    rows.write_avro(folder / "a.avro")
    rows.write_ipc(folder / "a.arrow")
    orc.write_table(rows.to_arrow(), folder / "a.orc")
    (folder / "a.log").write_text("one\ntwo\n")
    agent.add("rows", folder)
    ctx = agent.context()
    paths = {path.rpartition(".")[2]: path for path in ctx.files("rows")}
    assert_frame_equal(pl.read_avro(ctx.open("rows", paths["avro"])), rows)
    assert_frame_equal(pl.read_ipc(ctx.open("rows", paths["arrow"])), rows)
    assert_frame_equal(pl.DataFrame(orc.ORCFile(ctx.open("rows", paths["orc"])).read()), rows)
    assert pl.read_lines(ctx.open("rows", paths["log"])).to_series().to_list() == ["one", "two"]


def test_files_are_written_as_containers(world: PolarsAgent) -> None:
    committed = world.context().write_files({"a/report.txt": b"canary text", "model.bin": io.BytesIO(b"x" * 200_000)}, "other")
    assert (committed.files, committed.rows) == (2, None)
    assert world.written_file("other", "a/report.txt") == b"canary text"
    assert world.written_file("other", "model.bin") == b"x" * 200_000
    assert not any(b"canary" in path.read_bytes() for path in world.root.glob(".other*/**/*") if path.is_file())
    with pytest.raises(ParseError):
        world.context().write_files({"../out": b""}, "result")


def test_tables_are_not_opened_as_files_and_unknown_outputs_are_not_written(world: PolarsAgent) -> None:
    ctx = world.context()
    for wrong in (lambda: ctx.files("people"), lambda: ctx.open("people", "x"), lambda: ctx.read("people", format="csv")):
        with pytest.raises(UsageError):
            wrong()
    with pytest.raises(UsageError):
        ctx.write(PEOPLE, "somewhere")


def test_a_changed_container_is_refused(agent: PolarsAgent, tmp_path: Path) -> None:
    plain = tmp_path / "rows.csv.txt"
    plain.write_text("n\n1\n")
    folder = agent.add("rows", plain)
    ctx = agent.context()
    (path,) = ctx.files("rows")
    good = (folder / path).read_bytes()
    (folder / path).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(IntegrityError):
        ctx.open("rows", path)
    (folder / path).unlink()
    with pytest.raises(IntegrityError, match="missing"):
        ctx.open("rows", path)


def test_a_plaintext_file_in_an_output_is_found_by_the_commit(world: PolarsAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    write = pl.DataFrame.write_parquet

    def without_encryption(frame: pl.DataFrame, file: object, **_options: object) -> None:
        write(frame, file)  # type: ignore[arg-type]

    monkeypatch.setattr(pl.DataFrame, "write_parquet", without_encryption)
    with pytest.raises(PlaintextError):
        world.context().write(PEOPLE, "result")


def test_a_file_that_storage_lost_before_the_commit_is_missed(world: PolarsAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART_ROWS", 16)
    ctx = world.context()
    commit = ctx._commit

    def after_a_loss(name: str, kind: str) -> object:
        next(iter(world.root.glob(".result*/*.parquet"))).unlink()
        return commit(name, kind)  # type: ignore[arg-type]

    monkeypatch.setattr(ctx, "_commit", after_a_loss)
    with pytest.raises(IntegrityError, match="gone"):
        ctx.write(PEOPLE, "result")


def test_there_is_no_session_outside_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONFIDE_AGENT_SOCKET", raising=False)
    session.cache_clear()
    with pytest.raises(UsageError, match="not inside a Confide run"):
        session()

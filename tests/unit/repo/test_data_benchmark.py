"""The data benchmark: sections can be asked for, nothing is timed that gives other rows, and means are of what was measured."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def told(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks", "data", *words], cwd=ROOT, capture_output=True, text=True, check=False)


def test_section_of_manifests_prints_a_row_for_each_operation() -> None:
    done = told("--quick", "--only", "manifest", "--repeat", "1")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.strip("|").split("|")[0].strip() for line in done.stdout.splitlines() if line.startswith("| manifest")]
    operations = ("sign", "write and sync", "load the newest", "verify", "append one", "log")
    assert rows == [f"manifest of 1,000 files: {what}" for what in operations]


def test_unknown_section_is_refused() -> None:
    done = told("--only", "everything")
    assert done.returncode == 1
    assert "sections are aead, encrypt, formats, start, tpch, polars, join, manifest, opening" in done.stderr


def test_each_section_has_its_place_in_the_page() -> None:
    from benchmarks.__main__ import _require_places
    from benchmarks.data import places

    assert places(("polars", "aead")) == ["data-aead", "data-polars"]
    assert places(("tpch",), Decimal(3)) == ["data-tpch-sf3"]
    _require_places(places() + places(("tpch",), Decimal(3)))


def test_what_has_no_place_in_the_page_is_not_measured() -> None:
    done = told("--only", "tpch", "--scale", "7", "--write")
    assert done.returncode == 1
    assert done.stderr == "docs/benchmarks.md has no place for data-tpch-sf7\n"


def test_rows_take_turns_and_the_plain_variant_comes_again_at_the_end() -> None:
    from benchmarks.data.rows import Row, in_turn
    from benchmarks.data.sessions import Answer

    asked: list[str] = []

    def asking(what: str) -> Answer:
        asked.append(what)
        return Answer(None, 1.0, float(len(asked)))

    first, second = Row("first"), Row("second")
    bare = Row("first, bare", ours=first.ours)
    turns = [
        (first, lambda: asking("1"), lambda: asking("1 plain")),
        (bare, None, lambda: asking("1 bare")),
        (second, lambda: asking("2"), lambda: asking("2 plain")),
    ]
    in_turn(turns, 2)
    assert asked == ["1 plain", "1", "1 bare", "2 plain", "2"] * 2 + ["1 plain", "2 plain"] * 2
    assert [len(row.ours) for row in (first, bare, second)] == [2, 2, 2]
    assert [len(row.again) for row in (first, bare, second)] == [2, 0, 2]


def test_what_is_short_is_asked_several_times_in_a_round() -> None:
    from benchmarks.data.rows import MOST_TIMES, Row, in_turn
    from benchmarks.data.sessions import Answer

    def taking(cpu: float) -> Answer:
        return Answer(None, 0.0, cpu)

    rows = {cpu: Row(str(cpu)) for cpu in (0.5, 2.0, 5.0)}
    in_turn([(row, lambda: taking(1.0), partial(taking, cpu)) for cpu, row in rows.items()], 2, least_s=5)
    for row, times in zip(rows.values(), (MOST_TIMES, 3, 1), strict=True):
        assert len(row.ours) == len(row.plain) == len(row.again) == 2 * times


def test_variants_that_give_other_rows_end_the_run() -> None:
    from benchmarks.data.rows import require_equal

    require_equal("scan", ["1", "2"], ["1", "2"])
    with pytest.raises(SystemExit, match="scan"):
        require_equal("scan", ["1", "2"], ["1", "3"])


def test_ratios_are_of_medians_and_the_mean_is_geometric() -> None:
    from benchmarks.data.rows import Row, geometric_mean
    from benchmarks.data.sessions import Answer

    def taken(*cpu: float) -> list[Answer]:
        return [Answer(None, 2 * value, value) for value in cpu]

    double = Row("a", taken(2, 9, 2), taken(1, 1, 5), taken(1))
    half = Row("b", taken(0.5), taken(1), taken(1))
    tiny = Row("c", taken(9), taken(0.001), taken(1))
    assert double.cells() == ("a", "2.00 s / 4.00 s", "1.00 s / 2.00 s", "2.00x", "2.00x", "1.00x", "")
    mean = geometric_mean("all", [double, half, tiny])
    assert mean.ratios == pytest.approx((1, 1, 1))
    assert mean.note == "of 2; CPU at most 2.00x"
    assert geometric_mean("all", [tiny]).note == "too little to measure"
    once = Row("once", taken(2), taken(1))
    assert geometric_mean("all", [once]).cells()[3:6] == ("2.00x", "2.00x", "")  # what was not measured again has no noise to tell


def test_cpu_time_counts_a_process_and_its_children() -> None:
    from benchmarks.data.sessions import _of_trees

    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    program = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\nprint('done', flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert _of_trees([process.pid]) >= 0.3
        assert _of_trees([]) == 0
        process.communicate()


def test_protections_that_are_off_leave_the_others_on() -> None:
    from benchmarks.data.sessions import Protections

    given = {
        "spark.ssl.rpc.enabled": "true",
        "spark.io.encryption.enabled": "true",
        "spark.hadoop.fs.file.impl": "x",
        "spark.authenticate": "true",
    }
    assert Protections().applied(given) == given
    assert Protections(rpc=False).applied(given) == {**given, "spark.ssl.rpc.enabled": "false"}
    assert Protections(disks=False).applied(given) == {**given, "spark.io.encryption.enabled": "false"}
    assert Protections(data=False).applied(given) == {name: value for name, value in given.items() if "hadoop" not in name}

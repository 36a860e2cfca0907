"""The demo's program on plain files with plain Spark: what runs are held against.  ``python -m benchmarks.plain PROGRAM FOLDER [MASTER]``.

The program is the same file; only ``confide.session()`` is replaced by a session of ordinary Spark on the same number of cores.  Without
``MASTER`` it is that of ``spark-submit``.
"""

from __future__ import annotations

import runpy
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class PlainContext:
    """Reads and writes plain Parquet under one folder."""

    def __init__(self, folder: Path, spark: SparkSession) -> None:
        self.folder = folder
        self.spark = spark

    def read(self, name: str) -> DataFrame:
        """The plain table."""
        return self.spark.read.parquet(str(self.folder / f"{name}.parquet"))

    def write(self, frame: DataFrame, name: str) -> None:
        """The plain result."""
        frame.write.mode("overwrite").parquet(str(self.folder / "out" / name))

    def stop(self) -> None:
        """End the session."""
        self.spark.stop()


def main() -> None:
    """Run the program."""
    from pyspark.sql import SparkSession

    program, folder = sys.argv[1], Path(sys.argv[2])
    builder = SparkSession.builder.config("spark.ui.enabled", "false")
    if len(sys.argv) > 3:
        builder = builder.master(sys.argv[3])
    spark = builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
    stand_in = types.ModuleType("confide")
    stand_in.session = lambda: PlainContext(folder, spark)  # type: ignore[attr-defined]
    sys.modules["confide"] = stand_in
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()

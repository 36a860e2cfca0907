"""Commands over volumes have Arrow give memory back: all of Arrow, which settles when it is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

POOL = "ARROW_DEFAULT_MEMORY_POOL"
PROGRAM = f"""
import os, sys

class Watched:
    def find_spec(self, name, *_):
        if name == "pyarrow":
            print(os.environ.get("{POOL}"))

sys.meta_path.insert(0, Watched())
from confide.data.memory import spare_memory
spare_memory()
import pyarrow
print(pyarrow.default_memory_pool().backend_name, os.environ.get("{POOL}"))
"""


@pytest.mark.parametrize("before", [None, "mimalloc"])
def test_arrow_is_loaded_with_the_systems_pool_and_the_environment_stays_as_it_was(before: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != POOL} | ({} if before is None else {POOL: before})
    found = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["system", "system", str(before)]


@pytest.mark.parametrize("words", [("encrypt", "no.csv", "out"), ("decrypt", ".", "out.csv")])
def test_the_commands_load_arrow_after_that(words: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-c", "from confide.cli.main import main; main()", "data", *words]
    environment = {**os.environ, "CONFIDE_HOME": str(tmp_path)}
    said = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False).stderr
    loaded = [line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")]
    assert loaded.index("confide.data.memory") < loaded.index("pyarrow")

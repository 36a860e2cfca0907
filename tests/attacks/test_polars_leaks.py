"""While a Polars run spills, and after it, no row and no key is anywhere in plaintext outside the node's memory."""

from __future__ import annotations

import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.stage import Stage

from confide.crypto.derive import file_key
from confide.data.snapshots import load_manifest

pytestmark = [pytest.mark.run, pytest.mark.timeout(300)]

# The budget makes Polars spill; whoever set POLARS_TEMP_DIR alone would find its spill files on disk.
PROGRAM = b"""
import os, threading, time
from pathlib import Path

os.environ["POLARS_OOC_MEMORY_BUDGET_MB"] = "1"
place = Path(os.environ["POLARS_OOC_SPILL_DIR"])
spilled = set()

def watch():
    while True:
        spilled.update(place.rglob("spill-*"))
        time.sleep(0.002)

threading.Thread(target=watch, daemon=True).start()
import polars as pl
from confide.data.polars import session

ctx = session()
people, cities = ctx.read("people"), ctx.read("cities")
ctx.write(people.join(cities, on="city").sort("order").select("name", "country"), "names")
ctx.write(people.group_by("name").len(), "summary")
assert spilled, "nothing was spilled: this test shows nothing"
assert str(place).startswith("/dev/shm/"), place
print(f"spilled {len(spilled)} files")
raise SystemExit(0 if ctx.inputs else 1)
"""


def test_no_row_and_no_key_is_anywhere_in_plaintext_while_polars_spills(tmp_path: Path, leak_watch: Any) -> None:
    row, country = f"row-{secrets.token_hex(12)}", f"land-{secrets.token_hex(12)}"
    count = 300_000
    stage = Stage(tmp_path / "stage")
    people = {"name": [f"{row}-{n}" for n in range(count)], "city": [n % 2 for n in range(count)]}
    people["order"] = [n * 7919 % count for n in range(count)]
    stage.open(people=pa.table(people), cities=pa.table({"city": [0, 1], "country": [country, "elsewhere"]}))
    try:
        job = stage.job(PROGRAM, engine="polars", resources={})
        stage.grant(job)
        canaries = {"people row": row.encode(), "cities row": country.encode()}
        for dataset, key in stage.dataset_keys.items():
            manifest = load_manifest(stage.root / dataset).unverified
            canaries[f"dataset key {dataset}"] = key.reveal()
            for file in manifest.files:
                canaries[f"file key {file.path}"] = file_key(key, kind="parquet", dataset=manifest.dataset, path=file.path).reveal()
        before, began = set(Path(tempfile.gettempdir()).iterdir()), time.time()
        with leak_watch(canaries, [stage.root, stage.settings.runs_dir], skip=lambda path: path.stat().st_mtime < began) as watch:
            result, _ = stage.run(job)
            watch.also(path for path in Path(tempfile.gettempdir()).iterdir() if path not in before)
        assert "spilled" in (result.folder / "logs" / "driver.program.log").read_text()
        assert watch.findings == set()
        assert watch.too_large == set()
        assert watch.files_scanned > 5
    finally:
        stage.close()

"""How fast a dataset is encrypted and decrypted on one machine, and how much memory that takes: a process of its own for each figure.

The work is that of ``confide data encrypt`` and ``decrypt`` without a broker: types from a first pass, encryption, digests, one signed
manifest; digests again, decryption.  ``python -m benchmarks.encrypting FORM MEGABYTES [FOLDER]`` prints what :func:`measure` returns.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

Form = Literal["csv", "jsonl", "parquet", "bin"]
FORMS: Final[tuple[Form, ...]] = ("csv", "jsonl", "parquet", "bin")
_ROWS: Final = 100_000
_KEY: Final = bytes(range(32))
"""Of a dataset that holds nothing: the processes that are measured need the same one."""


def measure(forms: Sequence[Form] = FORMS, *, megabytes: int = 1000, folder: Path | None = None) -> list[dict[str, object]]:
    """One row a form: MB/s of plaintext (10^6 bytes), CPU seconds and peak resident memory (MB) of encrypting and of decrypting it again.

    ``parquet`` and ``bin`` are a plain table and random bytes; ``folder`` is where all of it lies meanwhile.
    """
    rows = []
    for form in forms:
        with tempfile.TemporaryDirectory(prefix="confide-encrypting-", dir=folder) as name:
            place = Path(name)
            size = generate(form, place / f"in.{form}", megabytes)
            row: dict[str, object] = {"form": form, "bytes": size}
            for step in ("encrypt", "decrypt"):
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.encrypting", f"--{step}", form, name], capture_output=True, text=True, check=True
                )
                figures = json.loads(done.stdout)
                row |= {
                    f"{step}_mb_s": round(size / figures["wall"] / 1e6, 1),
                    f"{step}_cpu_s": round(figures["cpu"], 2),
                    f"{step}_peak_mb": round(figures["peak"] / 1e6, 1),
                }
            rows.append(row)
    return rows


def generate(form: Form, path: Path, megabytes: int) -> int:
    """Write about so many MB of one form, one block of rows again and again; how many bytes it has become."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(1)
    if form == "bin":
        block = random.bytes(1 << 20)
        with path.open("wb") as file:
            while file.tell() < megabytes * 10**6:
                file.write(block)
        return path.stat().st_size
    table = pa.table({
        "id": np.arange(_ROWS),
        "price": random.random(_ROWS).round(4) * 1000,
        "quantity": random.integers(0, 50, _ROWS),
        "flag": random.choice(["A", "N", "R"], _ROWS),
        "day": pa.array(random.integers(8000, 12000, _ROWS).astype("int32")).cast(pa.date32()),
        "comment": [f"comment {i * 2654435761 % 1000003} carefully final deposits" for i in range(_ROWS)],
    })
    if form == "parquet":
        with pq.ParquetWriter(path, table.schema) as writer:
            while path.stat().st_size < megabytes * 10**6:
                writer.write_table(table)
        return path.stat().st_size
    text = _text(table, form)
    with path.open("wb") as file:
        if form == "csv":
            file.write(",".join(table.column_names).encode() + b"\n")
        while file.tell() < megabytes * 10**6:
            file.write(text)
    return path.stat().st_size


def _text(table: object, form: Form) -> bytes:
    import io

    from pyarrow import csv

    if form == "csv":
        sink = io.BytesIO()
        csv.write_csv(table, sink, csv.WriteOptions(include_header=False))
        return sink.getvalue()
    return "".join(json.dumps(row, default=str) + "\n" for row in table.to_pylist()).encode()  # type: ignore[attr-defined]


def _encrypt(form: Form, place: Path) -> None:
    from confide.crypto.envelope import wrap
    from confide.crypto.secret import SecretBytes
    from confide.crypto.sign import SigningKey
    from confide.data.commit import create_dataset
    from confide.ids import new_dataset_id

    key, dataset = SecretBytes(_KEY), new_dataset_id()
    wrapped = wrap(SecretBytes.random(), key, key="bench/k", version=1, dataset=dataset)
    create_dataset(
        place / f"in.{form}", place / "d", name="d", owner="bench", dataset=dataset, dataset_key=key, wrapped=wrapped,
        signer=SigningKey.generate(), now=datetime.now(UTC),
    )  # fmt: skip


def _decrypt(form: Form, place: Path) -> None:
    from confide.crypto.secret import SecretBytes
    from confide.data.decrypting import decrypt
    from confide.data.folder import verify_files
    from confide.data.manifest import verify_manifest
    from confide.data.snapshots import load_manifest

    found = load_manifest(place / "d")
    manifest = verify_manifest(found.envelope, found.signer)
    verify_files(place / "d", manifest)
    decrypt(place / "d", manifest, SecretBytes(_KEY), place / f"out.{form}")


def peak_bytes() -> int:
    """The most resident memory that this process has had (proc(5), VmHWM): unlike ``ru_maxrss``, nothing of the process that started it."""
    line = next(line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _main() -> None:
    from confide.data.memory import spare_memory

    match sys.argv[1:]:
        case ["--encrypt" | "--decrypt" as step, "csv" | "jsonl" | "parquet" | "bin" as form, place]:
            spare_memory()
            began = time.perf_counter()
            (_encrypt if step == "--encrypt" else _decrypt)(form, Path(place))
            used = resource.getrusage(resource.RUSAGE_SELF)
            figures = {"wall": time.perf_counter() - began, "cpu": used.ru_utime + used.ru_stime, "peak": peak_bytes()}
            print(json.dumps(figures))
        case ["csv" | "jsonl" | "parquet" | "bin" as form, megabytes, *folder]:
            print(json.dumps(measure([form], megabytes=int(megabytes), folder=Path(folder[0]) if folder else None), indent=2))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    _main()

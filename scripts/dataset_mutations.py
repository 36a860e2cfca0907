"""Changes a dataset's files, one change at a time, and shows which layer refuses it.  ``python -m scripts.dataset_mutations``.

``--count`` is 100,000 if it is not given.

Two small datasets (a table in two snapshots, and containers) lie in a folder of their own.  Each change is put to

* **digests**: what ``confide data verify`` checks, without a key: manifests' signatures, and files' sizes and digests;
* **AEAD**: what readers check when nobody compares digests: the changed data file is opened and read under its key.

A data file's change must be refused by both, a manifest's by the first (no key is for manifests).  Changes are: one byte to any other,
each single bit of the first and last bytes, bytes cut off, added, put in and taken out.

Two exceptions are known, of AEAD alone and of Parquet files: before the footer stands how the file is encrypted, in the clear; each of its
three Thrift structures ends with a byte of which readers look at the lower four bits, so a change of the upper four is passed over.  And
nobody looks at bytes that are put in right before it.  What is read is the same, which is checked.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pyarrow as pa

from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.data.commit import add_snapshot, create_dataset
from confide.data.files import iter_tables, open_file
from confide.data.folder import listed_files, refuse_foreign, verify_files
from confide.data.manifest import Manifest
from confide.data.snapshots import load_manifest, manifest_path, verify_manifests
from confide.errors import ConfideError, ManifestError
from confide.ids import new_dataset_id

EDGE: Final = 64
"""So many bytes at either end of a file have each of their bits changed: magics, headers, lengths, the last tag."""
_ROWS: Final = 40
_STOPS: Final = range(13, 16)
"""Where the three structures end in the file's crypto metadata: behind two headers and the file's own part of the AAD."""


@dataclass(frozen=True)
class Change:
    """A file's other bytes, and in words what was done."""

    words: str
    data: bytes


@dataclass
class Tally:
    """What became of the changes.  ``passed``: those that a layer should have refused and did not."""

    tried: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    passed: list[str] = field(default_factory=list)
    harmless: int = 0


class Bench:
    """A dataset, the files of it that are changed, and the two layers."""

    def __init__(self, folder: Path, source: pa.Table | Path, more: pa.Table | Path) -> None:
        self.signer, self.key, dataset = SigningKey.generate(), SecretBytes.random(), new_dataset_id()
        wrapped, now = wrap(SecretBytes.random(), self.key, key="a/k", version=1, dataset=dataset), datetime.now(UTC)
        first = create_dataset(
            source, folder, name="d", owner="a", dataset=dataset, dataset_key=self.key, wrapped=wrapped, signer=self.signer, now=now
        )
        made = add_snapshot(more, first, "append", dataset_key=self.key, signer=self.signer, now=now)
        self.folder, self.manifest = folder, made.unverified
        self.paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        self.original = {path: (folder / path).read_bytes() for path in self.paths}
        self.contents = {entry.path: self.aead(entry.path) for entry in self.manifest.files}

    def digests(self, path: str) -> None:
        """What ``confide data verify --signer`` does.  ``path`` is the changed file, which is not treated apart."""
        newest = load_manifest(self.folder)
        if newest.signer != self.signer.public:
            raise ManifestError("signed by another key", path=path)
        chain = [one.unverified for one in verify_manifests(newest)]
        refuse_foreign(self.folder, {*listed_files(*chain), *map(manifest_path, chain)})
        verify_files(self.folder, *chain)

    def aead(self, path: str) -> pa.Table | bytes:
        """Read the file to its end as the manifest lists it, and compare no digest."""
        (entry,) = (one for one in self.manifest.files if one.path == path)
        if self.manifest.kind == "files":
            with open_file(self.folder, self.manifest, path, self.key) as file:
                return file.read()
        alone = Manifest(**{**{name: getattr(self.manifest, name) for name in self.manifest.__slots__}, "files": (entry,)})
        return pa.concat_tables(iter_tables(self.folder, alone, self.key))

    def harmless(self, path: str, data: bytes) -> bool:
        """Whether a change is a known exception, and what is read is as it was."""
        was = self.original[path]
        if not path.endswith(".parquet"):
            return False
        metadata = len(was) - 8 - struct.unpack("<I", was[-8:-4])[0]
        put_in = len(data) > len(was) and data.startswith(was[:metadata]) and data.endswith(was[metadata:])
        changed = [at for at, (old, new) in enumerate(zip(was, data, strict=False)) if old != new]
        ignored = len(data) == len(was) and all(at - metadata in _STOPS and was[at] == data[at] & 0x0F == 0 for at in changed)
        return (put_in or ignored) and bool(self.aead(path) == self.contents[path])

    def layers(self, path: str) -> dict[str, Callable[[str], object]]:
        """The layers that must each refuse a change of ``path``."""
        return {"digests": self.digests} if path.endswith(".json") else {"digests": self.digests, "AEAD": self.aead}

    def try_change(self, path: str, change: Change, tally: Tally) -> None:
        """Put one change in the file's place, ask the layers, and put the file back."""
        place = self.folder / path
        place.write_bytes(change.data)
        tally.tried += 1
        tally.by_kind["manifest" if path.endswith(".json") else self.manifest.kind] += 1
        try:
            for name, layer in self.layers(path).items():
                try:
                    layer(path)
                except ConfideError as error:
                    tally.refused[f"{name}: {error.code}"] += 1
                else:
                    if name == "AEAD" and self.harmless(path, change.data):
                        tally.harmless += 1
                        continue
                    tally.passed.append(f"{name}: {path}: {change.words}")
        finally:
            place.write_bytes(self.original[path])


def benches(root: Path) -> list[Bench]:
    """A table with several row groups' worth of pages and strings, and containers: empty, short, and of two chunks."""
    rows = {"n": list(range(_ROWS)), "x": [None, 0.5] * (_ROWS // 2), "name": [f"row {number}" for number in range(_ROWS)]}
    (root / "plain").mkdir()
    for name, size in (("empty", 0), ("short.csv", 200)):
        (root / "plain" / name).write_bytes(b"x" * size)
    (root / "long.bin").write_bytes(b"y" * 65_600)
    table = pa.table(rows)
    return [Bench(root / "table", table, table.slice(0, 3)), Bench(root / "files", root / "plain", root / "long.bin")]


def edges(data: bytes) -> Iterator[Change]:
    """Each bit of the first and last bytes, and cuts and additions there: the same for every run."""
    ends = sorted({*range(min(EDGE, len(data))), *range(max(0, len(data) - EDGE), len(data))})
    for at in ends:
        for bit in range(8):
            yield _byte(data, at, data[at] ^ (1 << bit))
    for length in {0, 1, len(data) // 2, len(data) - 1} - {len(data)}:
        yield Change(f"cut to {length}", data[:length])
    for more in (b"\0", b"\n", b" ", data[-1:], data):
        yield Change(f"{len(more)} bytes added", data + more)


def anywhere(data: bytes, chosen: random.Random) -> Change:
    """A random change: mostly one byte."""
    at = chosen.randrange(len(data))
    kind = chosen.randrange(20)
    if kind == 0:
        return Change(f"cut to {at}", data[:at])
    if kind == 1:
        more = chosen.randbytes(chosen.randrange(1, 40))
        return Change(f"{more.hex()} put in at {at}", data[:at] + more + data[at:])
    if kind == 2:
        end = min(len(data), at + chosen.randrange(1, 40))
        return Change(f"{at} to {end} taken out", data[:at] + data[end:])
    return _byte(data, at, data[at] ^ chosen.randrange(1, 256))


def _byte(data: bytes, at: int, value: int) -> Change:
    return Change(f"byte {at} is {value:02x}", data[:at] + bytes([value]) + data[at + 1 :])


def run(root: Path, *, count: int, seed: int, seconds: float | None = None, tell: Callable[[Tally], None] = lambda _: None) -> Tally:
    """Try the changes of :func:`edges`, mixed up, and then random ones: ``count`` in all, or as many as there is time for."""
    chosen, tally, until = random.Random(seed), Tally(), None if seconds is None else time.monotonic() + seconds
    made = benches(root)
    fixed = [(bench, path, change) for bench in made for path in bench.paths for change in edges(bench.original[path])]
    chosen.shuffle(fixed)
    for bench, path, change in fixed[:count]:
        if until is not None and time.monotonic() > until:
            return tally
        bench.try_change(path, change, tally)
        tell(tally)
    while tally.tried < count and (until is None or time.monotonic() < until):
        bench = chosen.choice(made)
        path = chosen.choice(bench.paths)
        data = bench.original[path]
        change = anywhere(data, chosen) if data else Change("no longer empty", b"\0")
        if change.data != data:
            bench.try_change(path, change, tally)
            tell(tally)
    return tally


def main() -> int:
    """Say what was tried and what refused it; status 1 if anything passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, help="end after so long, whatever the count")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    began = time.monotonic()

    def tell(tally: Tally) -> None:
        if tally.tried % 1000 == 0:
            print(f"{tally.tried:,} tried, passed: {tally.passed}, {time.monotonic() - began:.0f} s", flush=True)

    with tempfile.TemporaryDirectory(prefix="confide-mutations-") as root:
        tally = run(Path(root), count=options.count, seed=options.seed, seconds=options.seconds, tell=tell)
    print(f"{tally.tried:,} changes (seed {options.seed}) in {time.monotonic() - began:.0f} s: {dict(tally.by_kind)}")
    for name, count in sorted(tally.refused.items()):
        print(f"  refused by {name}: {count:,}")
    print(f"  passed over by AEAD, and read as before: {tally.harmless:,}")
    for passed in tally.passed[:50]:
        print(f"  PASSED {passed}")
    print(f"{len(tally.passed)} passed a layer that should have refused them")
    return 1 if tally.passed or not tally.tried else 0


if __name__ == "__main__":
    sys.exit(main())

"""Any change of any file of a dataset is refused, by digests and by authenticated encryption, each for itself.

Here for a few seconds; ``python -m scripts.dataset_mutations --count 100000`` (``make dataset-mutations``) is the whole.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from scripts.dataset_mutations import Bench, Change, Tally, benches, edges, run

from confide.data.folder import verify_files
from confide.errors import ConfideError

SECONDS, LEAST = 6.0, 50


def test_changes_anywhere_are_refused_by_both_layers(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    tally = run(tmp_path, count=100_000, seed=seed, seconds=SECONDS)
    assert tally.passed == [], f"seed {seed}"
    assert tally.tried > LEAST


@pytest.fixture
def made(tmp_path: Path) -> list[Bench]:
    return benches(tmp_path)


def test_every_file_of_every_kind_is_among_the_changed(made: list[Bench]) -> None:
    for bench in made:
        assert {Path(path).suffix for path in bench.paths} >= {".json"}
        assert {"_confide.json", "_snapshots/1.json", "_snapshots/2.json"} < set(bench.paths)
        assert {entry.path for entry in bench.manifest.files} < set(bench.paths)
        assert all(len(list(edges(bench.original[path]))) > 300 for path in bench.paths)


def test_a_layer_that_refuses_nothing_is_noticed(made: list[Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without digests, and without a tag that is looked at, changes pass."""
    table, tally = made[0], Tally()
    path = table.manifest.files[0].path
    monkeypatch.setattr("scripts.dataset_mutations.verify_files", lambda *_: None)
    change = Change("last tag", table.original[path][:-9] + b"\0" + table.original[path][-8:])
    table.try_change(path, change, tally)
    assert [one.partition(":")[0] for one in tally.passed] == ["digests"]
    monkeypatch.setattr(table, "aead", lambda _: b"")
    table.try_change(path, change, tally)
    assert [one.partition(":")[0] for one in tally.passed] == ["digests", "digests", "AEAD"]
    assert table.original[path] == (table.folder / path).read_bytes()


def test_the_known_exceptions_are_as_they_are_written_down(made: list[Bench]) -> None:
    """Ends of the structures that say how a Parquet file is encrypted, and what is put in before them: no effect, and digests see it."""
    table, tally = made[0], Tally()
    entry = table.manifest.files[0]
    data = table.original[entry.path]
    at = len(data) - 8 - struct.unpack("<I", data[-8:-4])[0] + 13
    assert data[at : at + 3] == bytes(3)
    for place in range(at, at + 3):
        table.try_change(entry.path, Change("upper", data[:place] + b"\x80" + data[place + 1 :]), tally)
        table.try_change(entry.path, Change("lower", data[:place] + b"\x08" + data[place + 1 :]), tally)
    table.try_change(entry.path, Change("put in", data[: at - 13] + b"more" + data[at - 13 :]), tally)
    for elsewhere in (4, at - 14, at - 12, len(data) - 8, len(data)):
        table.try_change(entry.path, Change("put in elsewhere", data[:elsewhere] + b"more" + data[elsewhere:]), tally)
    assert (tally.passed, tally.harmless, tally.tried) == ([], 4, 12)
    (table.folder / entry.path).write_bytes(data[:at] + b"\x80" + data[at + 1 :])
    with pytest.raises(ConfideError):
        verify_files(table.folder, table.manifest)


@pytest.mark.parametrize("more", [b" ", b"\n", b"\0", b"{}"], ids=repr)
def test_nothing_is_added_to_a_manifest(made: list[Bench], more: bytes) -> None:
    table, tally = made[0], Tally()
    manifests = [path for path in table.paths if path.endswith(".json")]
    for path in manifests:
        table.try_change(path, Change("more", table.original[path] + more), tally)
    assert (tally.passed, tally.refused) == ([], {"digests: manifest-invalid": 3})


def test_signatures_of_manifests_that_no_reader_needs_are_checked_too(made: list[Bench]) -> None:
    table, tally = made[0], Tally()
    for path in ("_snapshots/1.json", "_snapshots/2.json", "_confide.json"):
        data = table.original[path]
        at = data.index(b'"sig":"') + len(b'"sig":"') + 40
        table.try_change(path, Change("signature", data[:at] + (b"A" if data[at] != ord("A") else b"B") + data[at + 1 :]), tally)
        other = "_snapshots/1.json" if path != "_snapshots/1.json" else "_confide.json"
        table.try_change(path, Change("another's copy", table.original[other]), tally)
    # _confide.json may be older than the newest: readers go on from it.
    assert (tally.passed, tally.tried) == (["digests: _confide.json: another's copy"], 6)

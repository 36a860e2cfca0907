"""The folder that collateral is kept in: which names may become files of it, its lock, its mark, and writes that end halfway."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

import pytest
from support.amd import Vendor

from confide.attest.collateral import Collateral
from confide.attest.collateral_sources import CollateralStore, FixedCollateral, load_collateral, write_atomic
from confide.errors import CollateralError
from confide.ids import Tee

FOLDER = Path(__file__).parents[2] / "vectors" / "intel" / "collateral"
OLD, NEW = (load_collateral(FOLDER / f"tdx-B0C0-{when}.json") for when in ("2025-06", "2026-08"))
assert isinstance(NEW, Collateral)


@pytest.mark.parametrize(
    "name",
    [
        ("../b0c06f000000", "platform", Tee.TDX),
        ("b0c06f000000/", "platform", Tee.TDX),
        ("b0c06f00000", "platform", Tee.TDX),
        ("b0c06f0000000", "platform", Tee.TDX),
        ("b0c06f00000g", "platform", Tee.SGX),
        ("b0c06f000000\n", "platform", Tee.SGX),
        ("b0c06f000000", "../platform", Tee.SGX),
        ("b0c06f000000", "vcek", Tee.SGX),
        ("b0c06f000000", "", Tee.TDX),
        ("Rome", "vcek", Tee.SNP),
        ("../Milan", "vcek", Tee.SNP),
        ("milan", "vcek", Tee.SNP),
        ("Milan", "platform", Tee.SNP),
        ("Milan", "../vcek", Tee.SNP),
        ("b0c06f000000", "platform", Tee.SNP),
    ],
    ids=str,
)
def test_only_names_of_known_forms_become_files(tmp_path: Path, name: tuple[str, str, Tee]) -> None:
    """The name comes out of foreign evidence: neither a set nor a lock is looked for, or made, under any other."""
    store = CollateralStore(tmp_path / "kept")
    with pytest.raises(CollateralError, match="not a platform that collateral exists for"):
        store.get(*name)
    with pytest.raises(CollateralError, match="not a platform that collateral exists for"), store.locked(*name):
        pass
    assert list(tmp_path.iterdir()) == []


def test_names_of_known_forms_are_looked_for(tmp_path: Path) -> None:
    store = CollateralStore(tmp_path)
    names = [("B0C06F000000", kind, tee) for kind in ("platform", "processor") for tee in (Tee.SGX, Tee.TDX)]
    names += [(product, kind, Tee.SNP) for product in ("Milan", "Genoa", "Turin") for kind in ("vcek", "vlek")]
    for name in names:
        with pytest.raises(CollateralError, match="there is no collateral"):
            store.get(*name)


def test_name_of_a_platform_is_not_repeated_at_any_length() -> None:
    for length in (40, 41, 1000):
        with pytest.raises(CollateralError) as caught:
            FixedCollateral().get("x" * length, "vcek", Tee.SNP)
        assert caught.value.facts["platform"] == "x" * 40


def test_folder_is_made_with_what_is_above_it(tmp_path: Path) -> None:
    store = CollateralStore(tmp_path / "some" / "where")
    store.put(NEW)
    store.put(NEW)
    assert store.get("b0c06f000000", "platform", Tee.TDX) == NEW


def test_lock_is_one_that_other_processes_see(tmp_path: Path) -> None:
    def is_free() -> bool:
        with (tmp_path / "tdx-b0c06f000000-platform.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    with CollateralStore(tmp_path).locked("b0c06f000000", "platform", Tee.TDX):
        assert not is_free()
    assert is_free()


def test_set_without_its_mark_is_held_against_itself(tmp_path: Path) -> None:
    """A power cut between the two writes, or a folder that an older version filled."""
    store = CollateralStore(tmp_path)
    store.put(NEW)
    (mark,) = tmp_path.glob("*.mark")
    mark.unlink()
    with pytest.raises(CollateralError, match="older"):
        store.put(OLD)
    assert store.get("b0c06f000000", "platform", Tee.TDX) == NEW


def test_mark_has_a_size(tmp_path: Path) -> None:
    store = CollateralStore(tmp_path)
    store.put(NEW)
    (mark,) = tmp_path.glob("*.mark")
    text = mark.read_text()
    mark.write_text(text.ljust(4096))
    store.put(NEW)
    mark.write_text(text.ljust(4097))
    with pytest.raises(CollateralError, match="not known any more"):
        store.put(NEW)


def test_first_set_is_kept_without_a_word_and_a_damaged_one_is_replaced_with_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CollateralStore(tmp_path)
    with caplog.at_level(logging.WARNING):
        store.put(NEW)
        store.put(NEW)
        assert caplog.messages == []
        (kept,) = tmp_path.glob("*.json")
        kept.write_bytes(b"{")
        store.put(NEW)
    (said,) = caplog.messages
    assert "damaged" in said
    assert str(kept) in said
    assert load_collateral(kept) == NEW


def test_what_is_kept_of_each_vendor_is_read_once(tmp_path: Path) -> None:
    store, amd = CollateralStore(tmp_path), Vendor("Genoa").collateral()
    store.put(NEW)
    store.put(amd)
    for name in (("b0c06f000000", "platform", Tee.TDX), ("Genoa", "vcek", Tee.SNP)):
        assert store.get(*name) is store.get(*name)


def test_write_that_is_ended_when_the_file_is_there_ends_as_it_was_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name that it is cleaned up by is gone then: that is no error of its own."""

    def moved(self: Path, target: Path) -> None:
        os.rename(self, target)  # noqa: PTH104 - Path's own is what is replaced here
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", moved)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"new")
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("file", b"new")]

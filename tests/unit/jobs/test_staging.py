"""Outputs appear by one rename, all or none."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from confide.crypto.sign import SigningKey
from confide.errors import DataError, OutputExistsError
from confide.ids import RunId
from confide.jobs import outputs as outputs_module
from confide.jobs.outputs import Outputs
from confide.jobs.staging import (
    ABANDONED_AFTER_S,
    Presence,
    check_free,
    discard,
    discard_abandoned,
    discard_untouched,
    publish,
    staging_path,
    withdraw,
)

RUN = RunId("demo-1")


def staged(tmp_path: Path, *names: str) -> dict[str, Path]:
    places = {name: tmp_path / "out" / name for name in names}
    for path in places.values():
        folder = staging_path(path, RUN)
        folder.mkdir(parents=True)
        (folder / "part").write_text("x")
    return places


def moves(places: dict[str, Path]) -> dict[Path, Path]:
    return {staging_path(path, RUN): path for path in places.values()}


def visible(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith("."))


def test_all_outputs_appear_together(tmp_path: Path) -> None:
    places = staged(tmp_path, "a", "b")
    assert visible(tmp_path) == []
    publish(moves(places))
    assert visible(tmp_path) == ["a", "b"]
    assert (places["a"] / "part").read_text() == "x"


@pytest.mark.parametrize("kind", ["file", "full", "empty"])
def test_nothing_appears_if_one_place_is_taken(tmp_path: Path, kind: str) -> None:
    places = staged(tmp_path, "a", "b")
    if kind == "file":
        places["b"].write_text("mine")
    else:
        places["b"].mkdir()
    if kind == "full":
        (places["b"] / "mine").write_text("mine")
    with pytest.raises(OutputExistsError):
        publish(moves(places))
    assert visible(tmp_path) == ["b"]
    assert (staging_path(places["a"], RUN) / "part").exists()


def test_nothing_appears_if_one_folder_cannot_be_moved(tmp_path: Path) -> None:
    places = staged(tmp_path, "a", "b")
    discard({"b": places["b"]}, RUN)
    with pytest.raises(DataError):
        publish(moves(places))
    assert visible(tmp_path) == []


def test_an_output_folder_that_exists_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError) as caught:
        check_free({"a": tmp_path / "out"})
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(("a", "b"), [("x", "x"), ("x", "x/y")])
def test_outputs_in_each_other_are_refused(tmp_path: Path, a: str, b: str) -> None:
    with pytest.raises(OutputExistsError):
        check_free({"a": tmp_path / a, "b": tmp_path / b})


def test_an_output_in_an_inputs_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    for place in (tmp_path / "data" / "out", tmp_path / "link" / "deep" / "out", tmp_path / "other" / ".." / "data" / "out"):
        with pytest.raises(OutputExistsError, match="in an input's folder"):
            check_free({"a": place}, [tmp_path / "data"])
    check_free({"a": tmp_path / "data-out"}, [tmp_path / "data"])


def test_discard_removes_only_this_runs_folders(tmp_path: Path) -> None:
    places = staged(tmp_path, "a")
    other = staging_path(places["a"], RunId("demo-2"))
    other.mkdir()
    discard(places, RUN)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [other.name]


def test_only_folders_of_ended_runs_are_cleared_away(tmp_path: Path) -> None:
    places = staged(tmp_path, "a")
    living = staging_path(places["a"], RunId("demo-2"))
    living.mkdir()
    discard_abandoned(places, lambda run: run == RUN)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [living.name]


def test_withdraw_takes_back_this_runs_outputs_and_no_others(tmp_path: Path) -> None:
    places = staged(tmp_path, "a", "b")
    publish(moves(places))
    withdraw(places, RUN, lambda folder: RUN if folder.name == "a" else "another-run")
    assert visible(tmp_path) == ["b"]


def left(output: Path, run: str, *, age_s: float) -> Path:
    """What a killed driver has left, that long ago."""
    folder = staging_path(output, RunId(run))
    folder.mkdir(parents=True)
    (folder / "part-0").write_bytes(b"x")
    then = time.time() - age_s
    os.utime(folder, (then, then))
    return folder


def test_the_next_driver_removes_what_nobody_has_touched_for_long(tmp_path: Path) -> None:
    """Of the same output: what lies beside it is not this run's to judge."""
    output = tmp_path / "sum[1]"
    old, young = left(output, "killed", age_s=ABANDONED_AFTER_S + 60), left(output, "alive", age_s=ABANDONED_AFTER_S - 60)
    other = left(tmp_path / "sum1", "killed", age_s=2 * ABANDONED_AFTER_S)
    outputs = Outputs({"summary": output}, RunId("next"), SigningKey.generate())
    outputs.stage("summary")
    assert [path.exists() for path in (old, young, other)] == [False, True, True]
    outputs.close()
    assert young.exists()


def test_the_storages_clock_decides(tmp_path: Path) -> None:
    """The driver's machine may be of another time than the storage."""
    output, ahead = tmp_path / "summary", time.time() + 10 * ABANDONED_AFTER_S
    own, live = left(output, "own", age_s=0), left(output, "alive", age_s=0)
    for folder in (own, live):
        os.utime(folder, (ahead, ahead))
    discard_untouched(output, own)
    assert live.exists()
    os.utime(live, (ahead - ABANDONED_AFTER_S - 60,) * 2)
    discard_untouched(output, own)
    assert not live.exists()


def test_a_link_in_the_place_of_a_folder_leads_to_no_removal(tmp_path: Path) -> None:
    output, precious = tmp_path / "summary", left(tmp_path / "precious", "x", age_s=2 * ABANDONED_AFTER_S)
    own = left(output, "own", age_s=0)
    staging_path(output, RunId("killed")).symlink_to(precious)
    discard_untouched(output, own)
    assert (precious / "part-0").exists()


def test_a_driver_touches_its_folders_while_it_lives(tmp_path: Path) -> None:
    folders = [left(tmp_path / name, "run", age_s=2 * ABANDONED_AFTER_S) for name in ("a", "b")]
    presence = Presence(every_s=0.02)
    for folder in folders:
        presence.add(folder)
    limit = time.monotonic() + 5
    while any(time.time() - folder.stat().st_mtime > 60 for folder in folders):
        assert time.monotonic() < limit
        time.sleep(0.01)
    presence.close()
    time.sleep(0.1)
    os.utime(folders[0], (1, 1))
    time.sleep(0.1)
    assert folders[0].stat().st_mtime == 1


def test_outputs_that_are_being_written_are_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs_module, "Presence", lambda: Presence(every_s=0.02))
    outputs = Outputs({"summary": tmp_path / "summary"}, RunId("run"), SigningKey.generate())
    folder = Path(str(outputs.stage("summary")["path"]))
    os.utime(folder, (1, 1))
    limit = time.monotonic() + 5
    while folder.stat().st_mtime == 1:
        assert time.monotonic() < limit
        time.sleep(0.01)
    outputs.close()

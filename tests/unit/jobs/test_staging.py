"""Outputs appear by one rename, all or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from confide.errors import DataError, OutputExistsError
from confide.ids import RunId
from confide.jobs.staging import check_free, discard, discard_abandoned, publish, staging_path, withdraw

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

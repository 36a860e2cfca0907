"""Packages of an image: by their hashes, unpacked as they are, and nothing outside of their folder."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from support.wheels import lock_of, make_wheel

from confide.errors import ImageError
from confide.jobs.images import wheels
from confide.jobs.images.lock import parse
from confide.jobs.images.tree import Tree
from confide.jobs.images.wheels import Wheel, fetch


def test_wheel_is_unpacked_without_scripts_and_with_its_data(tmp_path: Path) -> None:
    files = {"app-1.0.data/purelib/more.py": b"1", "app-1.0.data/scripts/app": b"#!python", "app-1.0.data/headers/app.h": b""}
    wheel, tree = Wheel.of(make_wheel(tmp_path, "app", files=files)), Tree(tmp_path / "root")
    written = wheel.unpack(tree, "/site")
    found = {path.relative_to(tree.root).as_posix() for path in tree.files()}
    assert found == {path.relative_to(tree.root).as_posix() for path in written}
    info = {f"site/app-1.0.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD")}
    assert found == {"site/app/__init__.py", "site/more.py", *info}


@pytest.mark.parametrize("name", ["../evil.py", "/etc/passwd", "app/../../evil.py", "app-1.0.data/purelib/../../../evil.py", "app\\..\\x"])
def test_wheel_with_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    wheel = Wheel.of(make_wheel(tmp_path, "app", files={name: b"evil"}))
    with pytest.raises(ImageError, match="leads out"):
        wheel.unpack(Tree(tmp_path / "root"), "/site")
    assert not (tmp_path / "evil.py").exists()


@pytest.mark.parametrize("name", ["app.whl", "app-1.0.zip", "app-1.0-py3-none.whl"])
def test_file_that_is_no_wheel_by_its_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError):
        Wheel.of(tmp_path / name)


def test_wheel_without_metadata_or_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "app-1.0-py3-none-any.whl"
    with pytest.raises(ImageError, match="cannot read"):
        Wheel.of(path)
    path.write_bytes(b"no zip")
    with pytest.raises(ImageError, match="no wheel"):
        Wheel.of(path).metadata()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("app.py", "")
    with pytest.raises(ImageError, match="no metadata"):
        Wheel.of(path).metadata()


@pytest.fixture
def shelves(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of packages, and one to fetch into."""
    packages, scratch = tmp_path / "packages", tmp_path / "scratch"
    packages.mkdir()
    scratch.mkdir()
    make_wheel(packages, "app")
    return packages, scratch


def test_packages_are_fetched_by_their_hashes(shelves: tuple[Path, Path]) -> None:
    packages, scratch = shelves
    locked = parse(lock_of(*packages.iterdir()))
    (found,) = fetch(locked, scratch, found_in=packages)
    assert (found.name, found.version, found.sha256) == ("app", "1.0", locked["app"].hashes[0])


def test_package_with_another_hash_is_refused(shelves: tuple[Path, Path]) -> None:
    packages, scratch = shelves
    locked = parse(lock_of(*packages.iterdir()))
    make_wheel(packages, "app", files={"app/evil.py": b"evil"})
    with pytest.raises(ImageError, match="pip could not") as refused:
        fetch(locked, scratch, found_in=packages)
    assert "hash" in str(refused.value.facts["said"]).lower()


def test_package_that_is_nowhere_is_refused(shelves: tuple[Path, Path]) -> None:
    packages, scratch = shelves
    with pytest.raises(ImageError, match="pip could not"):
        fetch(parse(lock_of(*packages.iterdir()).replace("app", "nowhere")), scratch, found_in=packages)


def test_pip_gets_nothing_of_the_environment_that_it_does_not_need(shelves: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    packages, scratch = shelves
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("CONFIDE_SECRET", "secret")
    seen = {}
    real = wheels.subprocess.run
    monkeypatch.setattr(wheels.subprocess, "run", lambda *words, **given: seen.update(given["env"]) or real(*words, **given))
    fetch(parse(lock_of(*packages.iterdir())), scratch, found_in=packages)
    assert "PATH" in seen
    assert not {"PYTHONPATH", "CONFIDE_SECRET"} & set(seen)


def test_confide_that_runs_from_no_source_tree_is_given_as_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels.confide, "__file__", str(tmp_path / "site" / "confide" / "__init__.py"))
    for function, hint in ((lambda: wheels.own_wheel(tmp_path), "--wheel"), (wheels.default_lock, "--lock")):
        with pytest.raises(ImageError, match="source tree") as refused:
            function()
        assert hint in str(refused.value.hint)

"""The Java of a machine: how new it is, and what it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from confide.errors import ExtraMissingError
from confide.jobs.engines.java import HINT, OLDEST, java_version, module_options, release_of

_UNSAFE = "--sun-misc-unsafe-memory-access=allow"


@pytest.fixture
def java(tmp_path: Path) -> Path:
    """A program that says that it is Java 25 when it is asked."""
    made = tmp_path / "bin" / "java"
    made.parent.mkdir()
    made.write_text("#!/bin/sh\necho 'openjdk version \"25.0.2\" 2026-01-20' >&2\n")
    made.chmod(0o700)
    return made


def test_version_is_read_and_not_asked_for(java: Path) -> None:
    (java.parents[1] / "release").write_text('IMPLEMENTOR="Debian"\nJAVA_RUNTIME_VERSION="21.0.8+9"\nJAVA_VERSION="21.0.8"\n')
    assert java_version(java) == "21.0.8"


@pytest.mark.parametrize("release", [None, "", 'IMPLEMENTOR="who"\n', 'JAVA_VERSION="unknown"\n'])
def test_runtime_whose_folder_does_not_tell_is_asked(java: Path, release: str | None) -> None:
    if release is not None:
        (java.parents[1] / "release").write_text(release)
    assert java_version(java) == "25.0.2"


@pytest.mark.parametrize("program", ["#!/bin/sh\necho what?\n", "no program", None])
def test_runtime_that_does_not_answer_is_refused(java: Path, program: str | None) -> None:
    if program is None:
        java.unlink()
    else:
        java.write_text(program)
    with pytest.raises(ExtraMissingError, match="does not tell its version") as told:
        java_version(java)
    assert told.value.hint == HINT


@pytest.mark.parametrize("version", ["1.8.0_352", "11.0.2", "16.0.1"])
def test_old_runtime_is_refused(java: Path, version: str) -> None:
    (java.parents[1] / "release").write_text(f'JAVA_VERSION="{version}"\n')
    with pytest.raises(ExtraMissingError, match=f"is Java {version}, which is too old"):
        java_version(java)


@pytest.mark.parametrize(("version", "release"), [("17", 17), ("17.0.15", 17), ("25-ea", 25), ("25+36", 25), ("1.8.0_352", 1)])
def test_feature_release(version: str, release: int) -> None:
    assert release_of(version) == release
    assert OLDEST == 17


def test_each_java_gets_the_options_that_it_knows() -> None:
    old, middle, new = (module_options(release) for release in (17, 23, 24))
    manager = "--add-opens=java.base/sun.security.action=ALL-UNNAMED"
    assert _UNSAFE not in module_options(22)
    assert (_UNSAFE in middle, _UNSAFE in new) == (True, True)
    assert (manager in old, manager in middle, manager in new) == (True, True, False)
    allowed = ("--enable-native-access=ALL-UNNAMED", _UNSAFE)
    assert new == (*(option for option in old if option != manager), *allowed)

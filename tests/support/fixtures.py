"""Fixtures that tests of several layers use: a stage for whole jobs, the check that runs leave nothing behind, a PostgreSQL server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.databases import PostgresServer, postgres
from support.measured import share_hashes
from support.stage import Stage, processes_of


@pytest.fixture(scope="session", autouse=True)
def _files_are_hashed_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        share_hashes(tmp_path_factory.mktemp("hashes") / "measured.json", patch)
        yield


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("stage"))
    made.open()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def nothing_left_behind(stage: Stage) -> Iterator[None]:
    """After every run, however it ended: no process of it, no private folder, no staged output."""
    before = set(_private_folders())  # of a test run that was killed together with its runs, or of the demo beside this one
    yield
    until = time.monotonic() + 30  # a JVM that is told to end while it starts does not do so at once on a busy machine
    while (left := [*processes_of(stage), *(set(_private_folders()) - before)]) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []
    assert list(stage.root.glob("out-*/.*")) == []
    assert list(stage.settings.runs_dir.glob("*/nodes/*/scratch")) == []


def _private_folders() -> list[Path]:
    return list(Path("/dev/shm").glob("confide-main-job-*"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with postgres("-c fsync=off") as server:
        yield server

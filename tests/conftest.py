"""Fixtures that several layers' tests share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["support.fixtures", "support.measuring", "support.parallel", "support.remote_runs", "support.s3"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-snapshots", action="store_true", help="write snapshots anew instead of comparing")
    parser.addoption("--kbs-url", help="conformance tests: https://HOST:PORT of a key broker service [default: our own]")
    parser.addoption("--kbs-ca", help="conformance tests: file with the certificates (PEM) that the service's goes back to")
    parser.addoption("--kbs-resource", help="conformance tests: a resource that guests of kind `sample` may have")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are not in a test's name: keys and signatures are others each time, and processes of pytest must agree on names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New folders.  They are numbered here: for each number of its own, pytest reads the names of all folders of all tests before."""
    root = tmp_path_factory.mktemp("homes")

    def made() -> Iterator[Path]:
        for number in itertools.count():
            folder = root / str(number)
            folder.mkdir(mode=0o700)
            yield folder

    return made()


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, _homes: Iterator[Path]) -> None:
    """No test reads or writes the user's home folder or depends on the terminal."""
    monkeypatch.setenv("CONFIDE_HOME", str(next(_homes)))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "120")

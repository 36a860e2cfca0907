"""Fixtures that several layers' tests share."""

from __future__ import annotations

import pytest

pytest_plugins = ["support.fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-snapshots", action="store_true", help="write tests/cli/snapshots anew instead of comparing")
    parser.addoption("--kbs-url", help="conformance tests: https://HOST:PORT of a key broker service [default: our own]")
    parser.addoption("--kbs-ca", help="conformance tests: file with the certificates (PEM) that the service's goes back to")
    parser.addoption("--kbs-resource", help="conformance tests: a resource that guests of kind `sample` may have")


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the user's home folder or depends on the terminal."""
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "120")

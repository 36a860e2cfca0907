"""Runs command lines in this process and compares what they say with snapshots."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.cli_data import CSV, encrypted, enrol

from confide.cli.broker import spawn
from confide.cli.main import main
from confide.cli.owners import BrokerAddress

SNAPSHOTS = Path(__file__).parent / "snapshots"


@dataclass(frozen=True)
class Spoken:
    out: str
    err: str
    status: int

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def whole(self) -> str:
        return f"-- stdout --\n{self.out}-- stderr --\n{self.err}-- status {self.status} --\n"


Cli = Callable[..., Spoken]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("broker-home")


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[BrokerAddress]:
    with spawn(home, home / "master.key") as found:
        yield found


@pytest.fixture
def confide(capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*arguments: str | Path) -> Spoken:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Spoken(said.out, said.err, int(ended.value.code or 0))

    return run


@pytest.fixture
def owners(confide: Cli, address: BrokerAddress, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of a running broker with two owners, Ann and Bob."""
    monkeypatch.setenv("CONFIDE_HOME", str(home))
    enrol(confide, home, "ann", "bob")
    return home


@pytest.fixture
def at_home(confide: Cli, owners: Path) -> Path:
    """The same, each owner with a key ``k``."""
    for name in ("ann", "bob"):
        confide("keys", "create", f"{name}/k")  # which is there already after the first test
    return owners


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small table in plaintext."""
    made = tmp_path / "people.csv"
    made.write_text(CSV, encoding="utf-8")
    return made


@pytest.fixture
def table(confide: Cli, at_home: Path, source: Path) -> Path:
    """The same as a dataset of Ann's."""
    return encrypted(confide, source, "ann/k")


@pytest.fixture
def snapshot(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Compare with ``snapshots/<name>.txt``; ``replace`` maps patterns to what stands for them."""

    def check(name: str, text: str, replace: dict[str, str] | None = None) -> None:
        for pattern, stand_in in (replace or {}).items():
            text = re.sub(pattern, stand_in, text)
        path = SNAPSHOTS / f"{name}.txt"
        if request.config.getoption("--update-snapshots"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{path.name} differs; if this is meant, run pytest with --update-snapshots"

    return check

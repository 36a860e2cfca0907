"""The driver's own files in outputs: keys when they are asked for first, and every file that is written known to the ledger."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from confide.canonical import Json
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey
from confide.errors import ManifestError, UnavailableError
from confide.ids import DatasetId, RunId
from confide.jobs.broker_keys import BrokerKeys
from confide.jobs.driver_files import DriverFiles
from confide.jobs.outputs import Outputs
from confide.jobs.staging import staging_path
from confide.node.keyring import Keyring, Lease

RUN, KEY = RunId("driver-1"), SecretBytes(bytes(range(32)))
SALT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


class Driver:
    """A run's outputs on its driver, whose keys come when they are asked for; ``away``: how often the broker does not answer first."""

    def __init__(self, root: Path, *names: str, away: int = 0) -> None:
        self.places = {name: root / name for name in names}
        self.outputs, self.ring = Outputs(self.places, RUN, SigningKey.generate()), Keyring()
        self.opened: list[str] = []
        self.away = away
        self.ask: Mapping[str, Callable[[Json], Json]] = DriverFiles(cast("BrokerKeys", self), self.outputs, list(names)).operations()

    def open_output(self, name: str) -> None:
        """As ``BrokerKeys.open_output``."""
        if self.away:
            self.away -= 1
            raise UnavailableError("no broker")
        time.sleep(0.02)  # as long as a broker takes at least: others come meanwhile
        self.opened.append(name)
        again = partial(Lease, KEY, math.inf)
        self.ring.open_output(str(self.staged(name)), DatasetId("ab" * 16), again(), run=RUN, refresh=again)

    def operations(self) -> Mapping[str, Any]:
        """As ``BrokerKeys.operations``."""
        return self.ring.operations()

    def staged(self, name: str) -> Path:
        return staging_path(self.places[name], RUN)

    def write(self, path: Path) -> Json:
        return self.ask["write-key"]({"path": str(path), "kind": "container", "salt": SALT})


def test_a_program_that_does_not_stream_leaves_the_drivers_jvm_without_a_key(tmp_path: Path) -> None:
    driver = Driver(tmp_path, "a", "b")
    folder = driver.staged("a")
    assert driver.ask["file-renamed"]({"from": f"{folder}/x", "to": f"{folder}/y"}) == {}
    assert driver.ask["file-deleted"]({"path": f"{folder}/y"}) == {}
    assert driver.ask["output-listing"]({"path": str(folder)}) == {"names": []}
    assert driver.opened == []


def test_what_the_drivers_jvm_writes_is_in_the_ledger(tmp_path: Path) -> None:
    """Else storage could hide a file of a query's log, and nobody would miss it."""
    driver = Driver(tmp_path, "a")
    log = driver.staged("a") / "rows" / "_spark_metadata"
    assert driver.write(log / ".0.tmp")["key"]
    assert driver.ask["output-listing"]({"path": str(log)}) == {"names": [".0.tmp"]}
    driver.ask["file-renamed"]({"from": str(log / ".0.tmp"), "to": str(log / "0")})
    assert driver.ask["output-listing"]({"path": str(log)}) == {"names": ["0"]}
    driver.ask["file-deleted"]({"path": str(log / "0")})
    assert driver.ask["output-listing"]({"path": str(log)}) == {"names": []}


def test_a_file_that_gets_no_key_is_in_no_ledger(tmp_path: Path) -> None:
    driver = Driver(tmp_path, "a")
    for place in (tmp_path / "elsewhere", tmp_path / "a"):
        with pytest.raises(ManifestError):
            driver.write(place / "part-0")
        assert driver.ask["output-listing"]({"path": str(place)}) == {"names": []}
        with pytest.raises(ManifestError):
            driver.ask["read-key"]({"path": str(place / "part-0"), "kind": "container", "salt": SALT})


def test_keys_are_asked_for_once_however_many_files_are_opened_at_once(tmp_path: Path) -> None:
    driver = Driver(tmp_path, "a", "b")
    threads = [threading.Thread(target=driver.write, args=(driver.staged("a") / f"part-{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert driver.opened == ["a", "b"]


def test_a_broker_that_was_away_is_asked_again(tmp_path: Path) -> None:
    driver = Driver(tmp_path, "a", away=1)
    path = driver.staged("a") / "offsets" / "0"
    with pytest.raises(UnavailableError):
        driver.write(path)
    assert driver.ask["output-listing"]({"path": str(path.parent)}) == {"names": []}
    assert driver.write(path)["key"]
    assert driver.opened == ["a"]

"""A client whose channel broke, or that comes back later, takes word from the driver that it has attested, and from no other node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from confide.errors import BindingError, ParseError, ReceiptError
from confide.ids import NodeId, RunId, SpkiDigest
from confide.jobs import follow, known_driver
from confide.jobs.known_driver import KnownDriver
from confide.jobs.store import RunDir, RunStore

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    return RunStore(tmp_path).create(RunId("demo-1"), {})


def attest(folder: RunDir, found: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to a node with the key ``found`` whose evidence is accepted as the driver's."""
    done: list[str] = []
    node = SimpleNamespace(peer=SimpleNamespace(spki=found), close=lambda: done.append("closed"))
    monkeypatch.setattr(known_driver, "DriverClient", SimpleNamespace(attest=lambda *_args, **_named: node))
    plan = SimpleNamespace(run=folder.run, driver=SimpleNamespace(node_id=NodeId("driver"), timing=None))
    known = KnownDriver(cast(Any, None), cast(Any, plan), folder, cast(Any, None), None, None, lambda _record: None)
    try:
        known.attest("127.0.0.1", 1)
    except BindingError:
        assert done == ["closed"]
        raise
    return done


def test_the_very_same_driver_is_found_again(folder: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    assert attest(folder, "a", monkeypatch) == []
    assert attest(RunDir(folder.path), "a", monkeypatch) == []
    assert folder.driver_key == "a"


def test_another_attested_node_in_the_drivers_place_is_refused_and_gets_no_job(folder: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    attest(folder, "a", monkeypatch)
    with pytest.raises(BindingError, match="another node"):
        attest(RunDir(folder.path), "b", monkeypatch)
    assert folder.driver_key == "a"


def test_what_is_no_key_in_the_runs_folder_is_not_taken_for_no_key(folder: RunDir) -> None:
    folder.keep_driver_key(SpkiDigest("a"))
    folder.write("driver.json", {"key": None})
    with pytest.raises(ParseError, match="not the key of a driver"):
        assert folder.driver_key


def check_receipt(folder: RunDir, monkeypatch: pytest.MonkeyPatch, *, run: str = "demo-1", signer: str = "a") -> list[str]:
    """What a client does that has attested a driver with the key ``a``, and takes a receipt that is in order, by ``signer`` of ``run``."""
    kinds = ("evidence", "latest", "refused", "collateral", "manifests")
    bundle = SimpleNamespace(receipt={}, **{kind: {} for kind in kinds})
    statement = SimpleNamespace(run=run, driver=SimpleNamespace(spki=signer))
    monkeypatch.setattr(follow, "ReceiptBundle", SimpleNamespace(from_json=lambda _: bundle))
    monkeypatch.setattr(follow, "examine", lambda *_, **__: SimpleNamespace(require=lambda: statement, checks=()))
    folder.keep_driver_key(SpkiDigest("a"))
    done: list[str] = []
    known, plan, job = SimpleNamespace(key=folder.driver_key), SimpleNamespace(run=folder.run), SimpleNamespace(digest="")
    client = SimpleNamespace(_folder=folder, _roots=None, _job=job, _plan=plan, _known=known)
    client._on_event = lambda event: done.append(event.type)
    client._happen = lambda _: done.append("goes on")
    follow.Follower._check_receipt(cast(Any, client), {})
    return done


def test_a_receipt_by_the_driver_that_was_attested_is_taken(folder: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_receipt(folder, monkeypatch) == ["receipt-verified", "goes on"]


@pytest.mark.parametrize("changes", [{"signer": "b"}, {"run": "demo-2"}], ids=["another driver", "another run"])
def test_a_receipt_that_verifies_and_is_another_drivers_or_runs_is_refused(
    folder: RunDir, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    with pytest.raises(ReceiptError, match="not by the driver"):
        check_receipt(folder, monkeypatch, **changes)

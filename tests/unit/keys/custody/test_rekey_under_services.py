"""A store moves under a key of a real device or service, from one of its keys to another, and away again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.custody.backends import Service
from support.kept_keys import Bench

from confide.errors import CustodyError, CustodyOfflineError, StoreError, UnwrapError
from confide.keys.custody.local import KeyFile
from confide.keys.custody.protocol import Unlock
from confide.keys.custody.root import Custody
from confide.keys.master_key import rekey
from confide.keys.store import Store


def moved(bench: Bench, unlock: Unlock) -> None:
    """The store comes under ``unlock``; what opened it before opens it no more, and everything is there."""
    bench.reopen()
    rekey(bench.store, unlock, datetime.now(UTC), shares=[])
    bench.store.close()
    before, bench.unlock = bench.unlock, unlock  # type: ignore[assignment]
    with pytest.raises((StoreError, UnwrapError, CustodyError)) as refused:
        Store.open(bench.place, before)
    assert not isinstance(refused.value, CustodyOfflineError)
    bench.reopen()
    bench.require_whole()
    bench.store.close()


def test_store_moves_to_a_service_between_its_keys_and_back(service: Service, tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3)
    bench.store.close()
    moved(bench, Custody(service.kms, "service"))
    Store.open(bench.place, Custody(service.again, "service")).close()
    moved(bench, Custody(service.other_key, "service"))
    moved(bench, KeyFile.create(tmp_path / "home.key"))
    with service.offline():
        bench.reopen()
        bench.require_whole()
        bench.store.close()


def test_service_that_is_away_leaves_the_store_under_the_old_key(service: Service, tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3)
    with service.offline(), pytest.raises(CustodyOfflineError):
        rekey(bench.store, Custody(service.kms, "service"), datetime.now(UTC), shares=[])
    bench.store.close()
    bench.reopen()
    bench.require_whole()
    bench.store.close()

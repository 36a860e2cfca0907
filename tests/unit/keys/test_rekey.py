"""A store comes under another root key: all of it or nothing, for good, and the old way opens nothing any more."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

import pytest
from support.broker_attacks import Granted, change_row
from support.broker_world import World, manifest
from support.databases import Place
from support.escrow_world import Trust
from support.kbs_world import Kbs
from support.kept_keys import Bench
from support.killed import Say, killed_at, random_calls

import confide.keys
from confide.attest.insecure import Installation
from confide.crypto.secret import SecretBytes
from confide.errors import BrokerError, StoreError, UnwrapError
from confide.keys.approvals import GrantRun
from confide.keys.audit import AuditHead
from confide.keys.custody.local import KeyFile, MasterKey, Passphrase
from confide.keys.custody.protocol import Unlock
from confide.keys.custody.root import Custody
from confide.keys.custody.shares import SharedRoot, combine
from confide.keys.kbs.resources import Resource
from confide.keys.key_records import Key
from confide.keys.master_key import HOLDERS, rekey
from confide.keys.records import Owner
from confide.keys.storage.locations import SqliteFile
from confide.keys.store import Store

POINTS = 25


def now() -> datetime:
    return datetime.now(UTC)


def moved(world: World, unlock: Unlock) -> None:
    """The broker ends, its store is put under the new root key, and the broker comes back."""
    world.server.stop()
    rekey(world.store, unlock, now(), shares=[])
    world.store.close()
    with pytest.raises((StoreError, UnwrapError)):
        Store.open(world.place, world.unlock)
    world.unlock = unlock
    store = Store.open(world.place, unlock)
    store.check()
    world.serve(store)


def test_everything_under_the_root_key_opens_as_before(tmp_path: Path, installation: Installation) -> None:
    trust = Trust(tmp_path, installation, same_credential=True)
    world = trust.b
    minted, first = world.dataset(trust.here, "airline", "own")
    trust.here.rotate_key("own")
    newer = trust.here.mint_dataset("own")
    second = manifest(newer, world.credential("airline").key)
    trust.here.register_manifest(second)
    trust.a.dataset(trust.airline, "airline", "flights")
    wrapping = trust.here.wrapping_key()
    lines = trust.made()
    asked = trust.here.ask_recovery(lines)
    before = AuditHead.verify(trust.here.audit_head(), trust.here.broker_key())

    moved(world, KeyFile.create(tmp_path / "new.key"))
    here = world.stranger(world.credential("airline"))
    for envelope, dataset in ((first, minted), (second, newer)):
        assert here.open(envelope).secret.reveal() == dataset.secret.reveal()
    assert here.wrapping_key()["wrapping_key"]["payload"] == wrapping["wrapping_key"]["payload"]
    assert str(here.recover(lines, trust.contributions(("ada", "bob"), lines, asked))[0]) == "airline/flights@1"
    assert here.audit_since(before).size > before.size
    (event,) = world.events("rekey")
    assert "new.key" in event["custody"]
    trust.close()


def test_guests_resources_and_deleted_ones_are_moved(tmp_path: Path, installation: Installation) -> None:
    world = World(tmp_path, installation)
    kbs = Kbs(world)
    kbs.post("airline", "resource/airline/key/gone", b"x")
    kbs.post("airline", "resource/airline/key/gone", None, "DELETE")  # type: ignore[arg-type]
    moved(world, KeyFile.create(tmp_path / "new.key"))
    answer = kbs.guest().ready()
    assert answer.get("airline/key/flights").status == 200
    assert world.store.get(Resource, "airline/key/flights") is not None
    world.close()


def _custody(_: Path) -> Unlock:
    return Custody(MasterKey(SecretBytes.random()), "elsewhere")


def _shares(_: Path) -> Unlock:
    root, made = SharedRoot.create(threshold=2, count=3)
    return SharedRoot(combine(made[1:]), root.shares)


WAYS: dict[str, Callable[[Path], Unlock]] = {
    "key file": lambda folder: KeyFile.create(folder / "another.key"),
    "passphrase": lambda _: Passphrase(SecretBytes(b"correct horse")),
    "shares": _shares,
    "custody": _custody,
}


def test_from_every_custody_to_every_other(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3)
    bench.store.close()
    for number, way in enumerate([*WAYS, *reversed(WAYS)]):
        (tmp_path / str(number)).mkdir()
        unlock = WAYS[way](tmp_path / str(number))
        bench.reopen()
        assert rekey(bench.store, unlock, now(), shares=[]) >= 4
        bench.store.close()
        old, bench.unlock = bench.unlock, unlock  # type: ignore[assignment]
        with pytest.raises((StoreError, UnwrapError)):
            Store.open(bench.place, old)
        bench.reopen()
        bench.require_whole()
        bench.store.close()


def test_refs_and_numbers_are_as_before_in_either_database(place: Place, tmp_path: Path) -> None:
    bench = Bench(tmp_path, 40, place.location)
    with bench.store.transaction():
        for number in range(30):
            bench.store.put(GrantRun(f"grant-{number % 3}", "11" * 48, f"run-{number:02}"))  # type: ignore[arg-type]
    bench.store.delete(GrantRun, f"grant-0/{'11' * 48}/run-00")
    found = [bench.store.find(GrantRun, f"grant-{number}") for number in range(3)]
    unlock = KeyFile.create(tmp_path / "new.key")
    rekey(bench.store, unlock, now(), shares=["1", "3"])
    bench.store.close()
    bench.unlock = unlock
    bench.reopen()
    assert [bench.store.find(GrantRun, f"grant-{number}") for number in range(3)] == found
    assert [bench.store.count(GrantRun, f"grant-{number}") for number in range(3)] == [9, 10, 10]
    bench.require_whole()
    bench.store.put(Owner("weather", b"w", now()))
    bench.store.close()
    bench.reopen()
    bench.require_whole()
    bench.store.close()


def test_killed_anywhere_the_old_key_opens_all_or_the_new_one_does(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 5)
    bench.store.close()
    ways: set[str] = set()
    _, most = killed_at(None, _rekeying(bench, bench.unlock))
    # At random, and then on and on from where the commit is near: how many system calls there are differs a little each time.
    for number, call in enumerate(chain(random_calls(POINTS, most), count(most))):
        new = KeyFile.create(tmp_path / f"{number}.key")
        said, _ = killed_at(call, _rekeying(bench, new))
        opened = [one for one in (bench.unlock, new) if _opens(bench, one)]
        assert len(opened) == 1, "both keys open the store, or neither does"
        assert not said or opened == [new], "told as done, and it is not"
        ways.add("new" if opened == [new] else "old")
        bench.unlock = opened[0]
        bench.reopen()
        bench.require_whole()
        bench.store.close()
        if number >= POINTS and ways == {"old", "new"}:
            return


def test_what_a_killed_rekey_left_of_old_rows_is_gone_once_the_store_was_opened(tmp_path: Path) -> None:
    bench, left = Bench(tmp_path, 5), tmp_path / "left"
    left.mkdir()
    key = bench.store.get(Key, "airline/flights")
    assert key is not None
    old = str(key.versions[-1].wrapped and key.versions[-1].wrapped.hex()).encode()
    new = KeyFile.create(tmp_path / "new.key")
    rekey(bench.store, new, now(), shares=[])
    for name in ("broker.db", "broker.db-wal"):  # as a kill leaves them that comes before the store is scrubbed
        shutil.copyfile(tmp_path / name, left / name)
    bench.store.close()
    files = lambda: b"".join(path.read_bytes() for path in left.iterdir())  # noqa: E731
    assert old in files()
    bench.place, bench.unlock = SqliteFile(left / "broker.db"), new
    bench.reopen()
    assert old not in files()
    bench.require_whole()
    bench.store.close()


def _rekeying(bench: Bench, new: KeyFile) -> Callable[[], Callable[[Say], None]]:
    def prepare() -> Callable[[Say], None]:
        bench.reopen()

        def work(say: Say) -> None:
            rekey(bench.store, new, now(), shares=[])
            say(b"done")

        return work

    return prepare


def _opens(bench: Bench, unlock: Unlock) -> bool:
    try:
        Store.open(bench.place, unlock).close()
    except StoreError:
        return False
    return True


def test_broker_that_has_the_store_open_gives_and_writes_nothing_any_more(tmp_path: Path, installation: Installation) -> None:
    """Otherwise what it wrapped under the old root key would be lost."""
    world = World(tmp_path, installation)
    granted = Granted(world)
    node = world.client(world.node())
    node.release(granted.manifest)
    other = Store.open(world.place, world.unlock)
    unlock = KeyFile.create(tmp_path / "new.key")
    rekey(other, unlock, now(), shares=[])
    other.close()
    for attempt in (lambda: node.release(granted.manifest), lambda: granted.airline.create_key("more")):
        with pytest.raises(BrokerError):
            attempt()
    world.server.stop()
    store = Store.open(world.place, unlock)
    assert store.get(Key, "airline/more") is None
    store.check()
    store.close()
    world.close()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE records SET body = replace(body, 'airline', 'weather') WHERE kind = 'owner'",
        "DELETE FROM records WHERE kind = 'owner'",
        "INSERT INTO records SELECT kind, id || 'x', ref, body, mac, 7, expires FROM records WHERE kind = 'owner'",
    ],
)
def test_store_that_was_changed_is_not_put_under_a_new_key(tmp_path: Path, installation: Installation, sql: str) -> None:
    world = World(tmp_path, installation)
    world.owner("airline")
    world.server.stop()
    change_row(world, sql)
    with pytest.raises(StoreError):
        rekey(world.store, KeyFile.create(tmp_path / "new.key"), now(), shares=[])
    world.store.close()
    Store.open(world.place, world.unlock).close()  # under the old one still, whatever was done to it


def test_custody_that_refuses_half_way_leaves_the_old_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, 3)
    monkeypatch.setitem(HOLDERS, Key.kind, lambda *_: (_ for _ in ()).throw(UnwrapError("no")))  # type: ignore[arg-type]
    new = KeyFile.create(tmp_path / "new.key")
    with pytest.raises(UnwrapError):
        rekey(bench.store, new, now(), shares=[])
    bench.require_whole()
    bench.store.close()
    assert not _opens(bench, new)
    bench.reopen()
    bench.require_whole()
    bench.store.close()


def test_nothing_wraps_under_the_root_key_that_a_rekey_does_not_move() -> None:
    """A new place that wraps needs a row in ``HOLDERS``, or what it wrapped is lost with the old root key."""
    folder = Path(next(iter(confide.keys.__path__)))
    found = {
        str(path.relative_to(folder)): len(re.findall(r"\bkms\.wrap\(", path.read_text()))
        for path in folder.rglob("*.py")
        if "custody" not in path.parts and re.search(r"\bkms\.wrap\(", path.read_text())
    }
    # One and one for keys' versions (made, taken over), resources, the broker's wrapping key, recoveries, and the store's own two keys.
    known = {"hierarchy.py": 2, "kbs/admin.py": 1, "transfer_commands.py": 1, "escrow_commands.py": 1, "storage/parameters.py": 2}
    assert found == known
    assert set(HOLDERS) == {"key", "kbs-resource", "wrapping-key", "recovery"}

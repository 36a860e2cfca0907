"""Datasets at URLs under another form of their key: only manifests are written, also by a command that is killed."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from support.remote_world import KEK, KEY, SIGNER, RemoteWorld, table
from support.s3_gate import S3Gate
from tests.support.killed import killed_at, random_calls

from confide.canonical import Json
from confide.crypto.envelope import WrappedKey, wrap
from confide.data.places import remote_folder
from confide.data.rewrap import find_datasets, rewrap_dataset
from confide.data.snapshots import SignedManifest
from confide.errors import SnapshotConflictError, UnavailableError

WRITES = frozenset({"PUT", "POST", "DELETE"})


@pytest.fixture
def world(remote_url: str) -> RemoteWorld:
    return RemoteWorld(remote_url)


def form(world: RemoteWorld, version: int) -> WrappedKey:
    return wrap(KEK, KEY, key="airline/flights", version=version, dataset=world.dataset)


def rewrap(world: RemoteWorld, wrapped: WrappedKey, parent: SignedManifest | None = None) -> SignedManifest:
    return rewrap_dataset(parent or world.newest, wrapped, signer=SIGNER, now=datetime.now(UTC))


def test_only_manifests_are_written_and_no_data_object_is_touched(gate: S3Gate) -> None:
    world, asked = RemoteWorld("s3://bkt/d"), list[tuple[str, str]]()
    newer = form(world, 2)
    gate.after = lambda method, path: asked.append((method, path.removeprefix("/bkt/d/")))
    made = rewrap(world, newer)
    assert {path for method, path in asked if method in WRITES} == {"_confide.json", "_snapshots/1.json", "_snapshots/2.json"}
    assert not any(path.startswith("part-") for _, path in asked)
    assert (made.unverified.wrapped, made.unverified.files) == (newer, world.newest.unverified.files)
    assert (world.values(), world.check()) == ([1], [2, 1])
    asked.clear()
    assert rewrap(world, newer).digest == made.digest
    assert not any(method in WRITES for method, _ in asked)


def test_what_comes_after_goes_on_with_the_new_form(world: RemoteWorld) -> None:
    newer, told = form(world, 2), list[Json]()
    made = rewrap_dataset(world.newest, newer, signer=SIGNER, now=datetime.now(UTC), register=told.append)
    assert told == [made.envelope]
    assert world.add(table(2)).unverified.wrapped == newer
    assert (world.values(), world.check()) == ([1, 2], [3, 2, 1])


def test_of_a_writer_and_a_rewrap_one_wins(world: RemoteWorld) -> None:
    parent = world.newest
    world.add(table(2))
    with pytest.raises(SnapshotConflictError):
        rewrap(world, form(world, 2), parent)
    parent = world.newest
    rewrap(world, form(world, 2))
    with pytest.raises(SnapshotConflictError):
        world.add(table(3), parent=parent)
    assert (world.values(), world.check()) == ([1, 2], [3, 2, 1])


@pytest.mark.parametrize("at", ["1.json", "2.json", "_confide.json"])
def test_a_storage_that_refuses_leaves_a_dataset_that_opens_and_a_second_call_ends_it(gate: S3Gate, at: str) -> None:
    world = RemoteWorld("s3://bkt/d")
    newer = form(world, 2)
    gate.before = lambda method, path: (503, "SlowDown") if method == "PUT" and path.endswith(at) else None
    with pytest.raises(UnavailableError, match="SlowDown") as told:
        rewrap(world, newer)
    hints = {"1.json": "asks for fewer", "2.json": "whether snapshot 2 is there", "_confide.json": "no second try"}
    assert hints[at] in str(told.value.hint)
    gate.before = lambda *_: None
    assert (world.values(), world.check()) == ([1], [2, 1] if at == "_confide.json" else [1])
    assert rewrap(world, newer).unverified.snapshot == 2
    assert (world.values(), world.check()) == ([1], [2, 1])


@pytest.mark.slow
@pytest.mark.usefixtures("scratch_here")
def test_killed_anywhere_the_dataset_opens_and_a_second_call_ends_it(s3: Any) -> None:
    numbers = iter(range(1000))

    def work(world: RemoteWorld, wrapped: WrappedKey) -> Callable[[], Callable[[Callable[[bytes], None]], None]]:
        def prepare() -> Callable[[Callable[[bytes], None]], None]:
            parent = world.newest
            return lambda say: say(str(rewrap(world, wrapped, parent).unverified.snapshot).encode())

        return prepare

    world = RemoteWorld(f"s3://bkt/d{next(numbers)}")
    said, most = killed_at(None, work(world, form(world, 2)))
    assert said == [b"2"]
    for call in random_calls(15, most):
        world = RemoteWorld(f"s3://bkt/d{next(numbers)}")
        newer = form(world, 2)
        said, _ = killed_at(call, work(world, newer))
        assert world.check() in ([[2, 1]] if said else [[1], [2, 1]])
        assert world.values() == [1]
        assert rewrap(world, newer).unverified.wrapped == newer
        assert (world.values(), world.check()) == ([1], [2, 1])


def test_datasets_are_found_by_their_manifests(remote_url: str) -> None:
    place = remote_folder(remote_url)
    paths = ("z/deep", "a", "a/inner", ".hidden/x", "b/.hidden", "a b")
    for path in paths:
        place.write(f"{path}/_confide.json", io.BytesIO(b"{}"))
    place.write("c/_confide.json.not", io.BytesIO(b"{}"))
    assert [str(found) for found in find_datasets(place)] == [f"{remote_url}/{path}" for path in ("a", "a b", "z/deep")]
    assert [str(found) for found in find_datasets(remote_folder(f"{remote_url}/a"))] == [f"{remote_url}/a"]
    (deep,) = find_datasets(remote_folder(f"{remote_url}/z"))
    assert (deep / "_confide.json").open().read() == b"{}"

"""The keyring and tables with column groups: wrapping keys of the groups that a job was given, and nothing of others."""

from __future__ import annotations

import base64
import math

import pytest
from support.keyrings import Clock, ask

from confide.crypto.derive import column_wrapping_key, file_key
from confide.crypto.secret import SecretBytes
from confide.errors import ConfideError, KeyAccessError, KeyRevokedError, ManifestError, SecretLeakError
from confide.ids import DatasetId
from confide.node.keyring import Keyring, Lease

INPUT, OUTPUT = DatasetId("1" * 32), DatasetId("2" * 32)
KEY = b"k" * 32


@pytest.fixture
def clock() -> Clock:
    return Clock()


def grouped(clock: Clock, *leases: Lease) -> Keyring:
    ring = Keyring(lease_s=100, clock=clock, aside=lambda work: work())
    coming = iter(leases[1:])
    ring.open_input("/data/visits", INPUT, leases[0], files=frozenset({"a.parquet"}), refresh=lambda: next(coming))
    return ring


def test_of_a_grouped_table_wrapping_keys_are_given_and_only_of_groups_that_are_held(clock: Clock) -> None:
    groups = {"diagnoses": SecretBytes(b"d" * 32)}
    ring = grouped(clock, Lease(SecretBytes(KEY), math.inf, groups))
    answer = ask(ring, "read-key", "/data/visits/a.parquet")
    expected = column_wrapping_key(SecretBytes(KEY), dataset=INPUT, path="a.parquet").reveal()
    of_group = column_wrapping_key(SecretBytes(b"d" * 32), dataset=INPUT, path="a.parquet", group="diagnoses").reveal()
    assert base64.b64decode(answer["key"]) == expected
    assert {name: base64.b64decode(key) for name, key in answer["groups"].items()} == {"diagnoses": of_group}
    assert "aad_prefix" not in answer


def test_a_table_with_groups_of_which_none_is_read_is_no_table_without(clock: Clock) -> None:
    answer = ask(grouped(clock, Lease(SecretBytes(KEY), math.inf, {})), "read-key", "/data/visits/a.parquet")
    assert answer["groups"] == {}
    assert "groups" not in ask(grouped(clock, Lease(SecretBytes(KEY), math.inf)), "read-key", "/data/visits/a.parquet")


def test_a_request_cannot_ask_for_a_group(clock: Clock) -> None:
    """What a worker's processes say of groups is not looked at: the answer has those that the job was given."""
    ring = grouped(clock, Lease(SecretBytes(KEY), math.inf, {}))
    assert ask(ring, "read-key", "/data/visits/a.parquet", groups=["names"], group="names")["groups"] == {}
    with pytest.raises(ManifestError, match="an input"):
        ask(ring, "write-key", "/data/visits/a.parquet")


def test_groups_end_with_their_lease_and_are_wiped(clock: Clock) -> None:
    first, second = SecretBytes(b"1" * 32), SecretBytes(b"2" * 32)
    ring = grouped(clock, Lease(SecretBytes(KEY), 10, {"names": first}), Lease(SecretBytes(KEY), 10, {"names": second}))
    clock.now = 11
    ask(ring, "read-key", "/data/visits/a.parquet")
    with pytest.raises(SecretLeakError):
        first.reveal()
    ring.end(KeyRevokedError("withdrawn"))
    with pytest.raises(SecretLeakError):
        second.reveal()


def test_wrapping_keys_differ_by_group_path_dataset_and_kind() -> None:
    key = SecretBytes(KEY)
    made = [
        column_wrapping_key(key, dataset=INPUT, path="a"),
        column_wrapping_key(key, dataset=INPUT, path="b"),
        column_wrapping_key(key, dataset=OUTPUT, path="a"),
        column_wrapping_key(key, dataset=INPUT, path="a", group="a"),
        column_wrapping_key(key, dataset=INPUT, path="a", group="b"),
        file_key(key, kind="parquet", dataset=INPUT, path="a"),
    ]
    assert len({one.reveal() for one in made}) == len(made)
    with pytest.raises(KeyAccessError):
        column_wrapping_key(SecretBytes(b"short"), dataset=INPUT, path="a")
    with pytest.raises(ConfideError):
        column_wrapping_key(key, dataset=INPUT, path="a", group="a/b")

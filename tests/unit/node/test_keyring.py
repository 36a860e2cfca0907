from __future__ import annotations

import base64
import math
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.keyrings import Clock, ask

from confide.canonical import Json
from confide.crypto.derive import container_keys, file_key, parquet_aad_prefix
from confide.crypto.secret import SecretBytes
from confide.errors import (
    BrokerError,
    ConfideError,
    GrantError,
    KeyAccessError,
    KeyRevokedError,
    ManifestError,
    ParseError,
    ProtocolError,
    SecretLeakError,
    UnavailableError,
)
from confide.ids import DatasetId, RunId
from confide.node.keyring import Keyring, Lease, committed_path

INPUT, OUTPUT = DatasetId("1" * 32), DatasetId("2" * 32)
RUN = RunId("spine-1")
KEY = b"k" * 32


def lease(key: bytes = KEY, seconds: float = math.inf) -> Lease:
    return Lease(SecretBytes(key), seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keyring(clock: Clock) -> Keyring:
    ring = Keyring(lease_s=100, clock=clock, aside=lambda work: work())
    ring.open_input("/data/flights", INPUT, lease(), files=frozenset({"a.parquet", "x/b.bin"}), refresh=lease)
    ring.open_output("/data/result", OUTPUT, lease(), run=RUN, refresh=lease)
    return ring


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_listed_file_gets_its_own_key(keyring: Keyring) -> None:
    assert ask(keyring, "read-key", "/data/flights/a.parquet") == {
        "dataset": INPUT,
        "path": "a.parquet",
        "key": b64(file_key(SecretBytes(KEY), kind="parquet", dataset=INPUT, path="a.parquet").reveal()),
        "aad_prefix": b64(parquet_aad_prefix(INPUT, "a.parquet")),
    }


def test_container_key_depends_on_the_salt(keyring: Keyring) -> None:
    salt = bytes(range(32))
    answer = ask(keyring, "read-key", "/data/flights/x/b.bin", kind="container", salt=b64(salt))
    expected = container_keys(SecretBytes(KEY), dataset=INPUT, path="x/b.bin", salt=salt)
    shown = {"key": b64(expected.key.reveal()), "commitment": b64(expected.commitment)}
    assert answer == {"dataset": INPUT, "path": "x/b.bin", **shown}


@pytest.mark.parametrize(
    "path",
    [
        "/data/flights/unlisted.parquet",
        "/data/flights",
        "/data/flights/x/../a.parquet",
        "/data/flights//a.parquet",
        "//data/flights/a.parquet",
        "/data/flights/./a.parquet",
        "data/flights/a.parquet",
        "file:/data/flights/a.parquet",
        "/data/other/a.parquet",
        "/data/flights/_temporary/0/task_1/a.parquet",
        "",
    ],
)
def test_file_that_no_manifest_lists_gets_no_key(path: str, keyring: Keyring) -> None:
    with pytest.raises(ManifestError):
        ask(keyring, "read-key", path)


@pytest.mark.parametrize("path", ["/a", "./a", "../result/a", "a/", "a\0b"])
def test_an_outputs_file_has_one_spelling(path: str, keyring: Keyring) -> None:
    with pytest.raises(ManifestError, match="not a plain absolute path"):
        ask(keyring, "write-key", f"/data/result/{path}")


def test_input_is_never_written(keyring: Keyring) -> None:
    with pytest.raises(ManifestError, match="not an output"):
        ask(keyring, "write-key", "/data/flights/a.parquet")


@pytest.mark.parametrize(
    "staged",
    [
        "part-0.parquet",
        ".staging-spine-1/part-0.parquet",
        "_temporary/0/_temporary/attempt_202601_0001_m_000000_1/part-0.parquet",
        ".staging-spine-1/_temporary/0/_temporary/attempt_1/part-0.parquet",
        ".staging-spine-1/_temporary/0/task_202601_m_0/part-0.parquet",
        ".spark-staging-77/_temporary/0/task_1/part-0.parquet",
    ],
)
def test_staged_file_has_the_key_of_its_final_place(staged: str, keyring: Keyring) -> None:
    final = ask(keyring, "write-key", "/data/result/part-0.parquet")
    assert ask(keyring, "write-key", f"/data/result/{staged}") == final
    assert ask(keyring, "read-key", f"/data/result/{staged}") == final


@pytest.mark.parametrize(
    "staged",
    [
        *("_temporary/0", "_temporary/0/part-0", "_temporary/x/task_1/b", "_temporary/0/task_1", ".staging-spine-1"),
        *("a/_temporary/0/b", "a/_temporary/0/task_1"),
    ],
)
def test_path_that_is_no_data_file_has_no_key(staged: str) -> None:
    with pytest.raises(ManifestError):
        committed_path(staged, RUN)


def test_committer_of_a_folder_inside_the_output_is_stripped_too() -> None:
    assert committed_path(".staging-spine-1/model/_temporary/0/_temporary/attempt_1/part-0", RUN) == "model/part-0"
    uuid = "6e596c08-e7b9-4399-a5bf-4f2a710701bb"
    assert committed_path(f"_checkpoints/offsets/.7.{uuid}.tmp", RUN) == "_checkpoints/offsets/7"
    assert committed_path(f"state/0/1/.7.delta.{uuid}.TID12.tmp", RUN) == "state/0/1/7.delta"
    assert committed_path(".7.other.tmp", RUN) == ".7.other.tmp"
    assert committed_path("a/.spark-staging-7/_temporary/0/_temporary/attempt_1/city=1/part-0", RUN) == "a/city=1/part-0"
    with pytest.raises(ManifestError):
        committed_path("a/_temporary/0/task_1/_temporary/0/task_1/b", RUN)


def test_staging_folder_of_another_run_is_kept_apart() -> None:
    assert committed_path(".staging-other/part-0", RUN) == ".staging-other/part-0"


@given(st.text(st.characters(codec="ascii", exclude_characters="/"), min_size=1).filter(lambda s: s not in {".", "..", "_temporary"}))
def test_committing_twice_changes_nothing(name: str) -> None:
    try:
        once = committed_path(f"_temporary/0/task_1/{name}", RUN)
        assert once == name
        assert committed_path(once, RUN) == once or name.startswith(".")
    except ManifestError:
        assert name.startswith(".")


@pytest.mark.parametrize("root", ["/data", "/data/flights", "/data/flights/sub"])
def test_datasets_do_not_overlap(root: str, keyring: Keyring) -> None:
    with pytest.raises(ManifestError, match="in one folder"):
        keyring.open_output(root, OUTPUT, lease(), run=RUN, refresh=lease)


def test_only_another_snapshot_of_the_same_dataset_may_lie_in_its_folder(keyring: Keyring) -> None:
    with pytest.raises(ManifestError, match="in one folder"):
        keyring.open_input("/data/flights", DatasetId("3" * 32), lease(), files=frozenset({"c.parquet"}), refresh=lease)
    keyring.open_input("/data/flights", INPUT, lease(), files=frozenset({"c.parquet"}), refresh=lease)
    for name in ("a.parquet", "c.parquet"):
        assert ask(keyring, "read-key", f"/data/flights/{name}")["dataset"] == INPUT
    with pytest.raises(ManifestError, match="does not list"):
        ask(keyring, "read-key", "/data/flights/d.parquet")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"kind": "plain"}, ProtocolError),
        ({"kind": "container"}, ProtocolError),
        ({"kind": "container", "salt": "!"}, ProtocolError),
        ({"kind": "container", "salt": b64(b"short")}, ParseError),
        ({"kind": "parquet", "salt": b64(bytes(32))}, ProtocolError),
    ],
)
def test_request_of_another_form_is_refused(fields: Json, kind: type[ConfideError], keyring: Keyring) -> None:
    with pytest.raises(kind):
        ask(keyring, "read-key", "/data/flights/a.parquet", **fields)


def test_request_without_a_path_is_refused(keyring: Keyring) -> None:
    with pytest.raises(ProtocolError):
        keyring.operations()["read-key"]({"op": "read-key"})


def with_refresh(clock: Clock, refresh: Callable[[], Lease], key: SecretBytes, seconds: float = math.inf) -> Keyring:
    ring = Keyring(lease_s=100, clock=clock, aside=lambda work: work())
    ring.open_input("/in", INPUT, Lease(key, seconds), files=frozenset({"a"}), refresh=refresh)
    return ring


def gone(key: SecretBytes) -> bool:
    try:
        key.reveal()
    except SecretLeakError:
        return True
    return False


def test_key_is_fetched_again_before_its_lease_ends(clock: Clock) -> None:
    first = SecretBytes(KEY)
    ring = with_refresh(clock, lambda: lease(b"n" * 32), first)
    before = ask(ring, "read-key", "/in/a")
    clock.now = 79.9
    assert ask(ring, "read-key", "/in/a") == before
    clock.now = 80.0
    renewed = ask(ring, "read-key", "/in/a")
    assert renewed != before
    assert gone(first)
    clock.now = 159.9
    assert ask(ring, "read-key", "/in/a") == renewed


def test_lease_is_as_long_as_the_broker_says_but_not_longer_than_ours(clock: Clock) -> None:
    asked: list[float] = []

    def refresh() -> Lease:
        asked.append(clock.now)
        return lease(seconds=7200)

    ring = with_refresh(clock, refresh, SecretBytes(KEY), seconds=10)
    for clock.now in (7.9, 8.0, 87.9, 88.0):
        ask(ring, "read-key", "/in/a")
    assert asked == [8.0, 88.0]


def test_expired_key_is_not_used_while_the_broker_is_away(clock: Clock) -> None:
    """It has until the lease's end to come back; then there is no key, and then again one when it is back."""
    first, away = SecretBytes(KEY), True
    tries: list[float] = []

    def refresh() -> Lease:
        tries.append(clock.now)
        if away:
            raise BrokerError("down")
        return lease()

    ring = with_refresh(clock, refresh, first)
    before = ask(ring, "read-key", "/in/a")
    for clock.now in (80.0, 82.0, 85.0, 99.9):
        assert ask(ring, "read-key", "/in/a") == before
    assert tries == [80.0, 85.0, 99.9]
    clock.now = 100.0
    for _ in range(2):
        with pytest.raises(BrokerError):
            ask(ring, "read-key", "/in/a")
    assert gone(first)
    away = False
    assert ask(ring, "read-key", "/in/a") == before


@pytest.mark.parametrize("at", [80.0, 100.0], ids=["before its end", "at its end"])
def test_revoked_key_is_gone_when_its_lease_is_renewed(clock: Clock, at: float) -> None:
    def refuse() -> Lease:
        raise GrantError("revoked")

    first = SecretBytes(KEY)
    ring = with_refresh(clock, refuse, first)
    clock.now = at
    for _ in range(2):
        with pytest.raises(GrantError):
            ask(ring, "read-key", "/in/a")
    assert gone(first)


def test_lease_that_was_over_when_it_came_is_none(clock: Clock) -> None:
    late = SecretBytes(KEY)
    with pytest.raises(KeyAccessError, match="lease was over"):
        with_refresh(clock, lease, late, seconds=0)
    assert gone(late)


def test_time_that_the_broker_takes_counts_against_the_lease(clock: Clock) -> None:
    def slow() -> Lease:
        clock.now += 30
        return lease()

    ring = with_refresh(clock, slow, SecretBytes(KEY))
    clock.now = 100.0
    ask(ring, "read-key", "/in/a")
    (held,) = ring._held.values()
    assert held.expires == 200.0


def test_key_that_nobody_asks_for_is_dropped_at_its_end(clock: Clock) -> None:
    first = SecretBytes(KEY)
    ring = with_refresh(clock, lease, first)
    clock.now = 99.9
    ring.drop_expired()
    assert not gone(first)
    clock.now = 100.0
    ring.drop_expired()
    assert gone(first)
    assert ask(ring, "read-key", "/in/a")


def test_withdrawn_keys_are_gone_at_once_and_not_fetched_again(clock: Clock) -> None:
    first = SecretBytes(KEY)
    ring = with_refresh(clock, lease, first)
    ring.end(KeyRevokedError("withdrawn", key="airline/flights"))
    assert gone(first)
    for attempt in (
        lambda: ask(ring, "read-key", "/in/a"),
        lambda: ring.open_output("/out", OUTPUT, lease(), run=RUN, refresh=lease),
    ):
        with pytest.raises(KeyRevokedError) as caught:
            attempt()
        assert caught.value.facts == {"key": "airline/flights"}


def test_nobody_waits_for_a_renewal_and_one_that_comes_too_late_is_wiped(clock: Clock) -> None:
    under_way: list[Callable[[], None]] = []
    ring = Keyring(lease_s=100, clock=clock, aside=under_way.append)
    late = [SecretBytes(b"1" * 32), SecretBytes(b"2" * 32)]
    coming = iter(late)
    ring.open_input("/in", INPUT, lease(), files=frozenset({"a"}), refresh=lambda: Lease(next(coming), math.inf))
    before = ask(ring, "read-key", "/in/a")
    clock.now = 80.0
    for _ in range(3):
        assert ask(ring, "read-key", "/in/a") == before
    (first,) = under_way
    first()
    assert ask(ring, "read-key", "/in/a") != before
    clock.now = 170.0
    ask(ring, "read-key", "/in/a")
    ring.wipe()
    under_way[1]()
    assert all(map(gone, late))


def test_renewal_that_comes_after_a_withdrawal_is_wiped(clock: Clock) -> None:
    under_way: list[Callable[[], None]] = []
    ring = Keyring(lease_s=100, clock=clock, aside=under_way.append)
    late = SecretBytes(KEY)
    ring.open_input("/in", INPUT, lease(), files=frozenset({"a"}), refresh=lambda: Lease(late, math.inf))
    clock.now = 80.0
    ask(ring, "read-key", "/in/a")
    ring.end(KeyRevokedError("withdrawn"))
    under_way[0]()
    assert gone(late)
    with pytest.raises(KeyRevokedError):
        ask(ring, "read-key", "/in/a")


def test_snapshot_that_comes_with_a_lease_that_is_over_leaves_no_key_of_the_one_before(clock: Clock) -> None:
    key = SecretBytes(KEY)
    ring = with_refresh(clock, lease, key)
    with pytest.raises(KeyAccessError, match="over when it came"):
        ring.open_input("/in", INPUT, lease(seconds=0.0), files=frozenset({"b"}), refresh=lease)
    assert gone(key)


def test_wiped_keyring_knows_nothing(clock: Clock) -> None:
    key = SecretBytes(KEY)
    ring = with_refresh(clock, lease, key)
    ring.wipe()
    with pytest.raises(ManifestError):
        ask(ring, "read-key", "/in/a")
    assert gone(key)


SOON_S = 30.0
"""Much longer than anything here takes."""


class Away:
    """A broker that does not answer before it is told to; then with ``error``, or else with a key."""

    def __init__(self, error: ConfideError | None = None) -> None:
        self.error = error
        self.asked = 0
        self.given: list[Lease] = []
        self.reached, self.answers = threading.Event(), threading.Event()

    def refresh(self) -> Lease:
        self.asked += 1
        self.reached.set()
        assert self.answers.wait(SOON_S)
        if self.error is not None:
            raise self.error
        self.given.append(lease())
        return self.given[-1]

    def asked_in_threads(self, keyring: Keyring, count: int) -> list[threading.Thread]:
        """So many ask for a key; all of them have begun when this returns."""
        self.outcomes: list[ConfideError | Json] = []

        def ask_once() -> None:
            try:
                self.outcomes.append(ask(keyring, "read-key", "/data/slow/a"))
            except ConfideError as error:
                self.outcomes.append(error)

        threads = [threading.Thread(target=ask_once, daemon=True) for _ in range(count)]
        before = keyring.counts()[0]
        for thread in threads:
            thread.start()
        assert self.reached.wait(SOON_S)
        while keyring.counts()[0] < before + count:
            pass
        return threads

    def answer(self, threads: list[threading.Thread]) -> list[ConfideError | Json]:
        self.answers.set()
        for thread in threads:
            thread.join(SOON_S)
            assert not thread.is_alive()
        return self.outcomes


def slow(keyring: Keyring, clock: Clock, broker: Away) -> None:
    """A dataset whose key has to be asked for again."""
    keyring.open_input("/data/slow", DatasetId("3" * 32), lease(seconds=1), files=frozenset({"a"}), refresh=broker.refresh)
    clock.now += 2


@pytest.mark.timeout(120)
def test_a_broker_that_does_not_answer_keeps_nobody_else_waiting(keyring: Keyring, clock: Clock) -> None:
    broker = Away()
    slow(keyring, clock, broker)
    threads = broker.asked_in_threads(keyring, 3)
    assert ask(keyring, "read-key", "/data/flights/a.parquet")["dataset"] == INPUT
    keyring.drop_expired()
    assert len({answer["key"] for answer in broker.answer(threads) if isinstance(answer, dict)}) == 1
    assert (len(broker.outcomes), broker.asked) == (3, 1)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("error", [UnavailableError("away"), GrantError("withdrawn", hint="ask")])
def test_who_waits_for_a_key_hears_the_refusal_that_another_one_got(keyring: Keyring, clock: Clock, error: ConfideError) -> None:
    broker = Away(error)
    slow(keyring, clock, broker)
    outcomes = broker.answer(broker.asked_in_threads(keyring, 3))
    assert [type(outcome) for outcome in outcomes] == [type(error)] * 3
    assert broker.asked == 1
    broker.error = None  # who asks later, asks
    assert ask(keyring, "read-key", "/data/slow/a")["path"] == "a"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("ends", [Keyring.wipe, lambda ring: ring.end(KeyRevokedError("withdrawn"))])
def test_a_key_that_comes_after_the_end_is_wiped(keyring: Keyring, clock: Clock, ends: Callable[[Keyring], None]) -> None:
    broker = Away()
    slow(keyring, clock, broker)
    threads = broker.asked_in_threads(keyring, 2)
    ends(keyring)
    for outcome in broker.answer(threads):
        assert isinstance(outcome, UnavailableError | KeyRevokedError)
    (came,) = broker.given
    late = lease()
    with pytest.raises((UnavailableError, KeyRevokedError)):
        keyring.open_input("/data/late", DatasetId("4" * 32), late, files=frozenset({"a"}), refresh=lease)
    for one in (came, late):
        with pytest.raises(SecretLeakError):
            one.key.reveal()


def test_a_lease_that_is_refused_is_wiped(keyring: Keyring) -> None:
    refused = lease()
    with pytest.raises(ManifestError):
        keyring.open_input("/data/flights/within", DatasetId("4" * 32), refused, files=frozenset({"a"}), refresh=lease)
    with pytest.raises(SecretLeakError):
        refused.key.reveal()

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.canonical import Json
from confide.crypto.derive import file_key, parquet_aad_prefix
from confide.crypto.secret import SecretBytes
from confide.errors import ConfideError, GrantError, ManifestError, ParseError, ProtocolError, SecretLeakError
from confide.ids import DatasetId, RunId
from confide.node.keyring import Keyring, committed_path

INPUT, OUTPUT = DatasetId("1" * 32), DatasetId("2" * 32)
RUN = RunId("spine-1")
KEY = b"k" * 32


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keyring(clock: Clock) -> Keyring:
    ring = Keyring(lease_s=100, clock=clock)
    ring.open_input("/data/flights", INPUT, SecretBytes(KEY), files=frozenset({"a.parquet", "x/b.bin"}), refresh=lambda: SecretBytes(KEY))
    ring.open_output("/data/result", OUTPUT, SecretBytes(KEY), run=RUN, refresh=lambda: SecretBytes(KEY))
    return ring


def ask(ring: Keyring, op: str, path: str, **fields: object) -> Json:
    return ring.operations()[op]({"op": op, "path": path, **fields})


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
    expected = file_key(SecretBytes(KEY), kind="container", dataset=INPUT, path="x/b.bin", salt=salt)
    assert answer == {"dataset": INPUT, "path": "x/b.bin", "key": b64(expected.reveal())}


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
        keyring.open_output(root, OUTPUT, SecretBytes(KEY), run=RUN, refresh=lambda: SecretBytes(KEY))


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


def with_refresh(clock: Clock, refresh: Callable[[], SecretBytes], key: SecretBytes) -> Keyring:
    ring = Keyring(lease_s=100, clock=clock)
    ring.open_input("/in", INPUT, key, files=frozenset({"a"}), refresh=refresh)
    return ring


def test_key_is_fetched_again_after_its_lease(clock: Clock) -> None:
    first = SecretBytes(KEY)
    ring = with_refresh(clock, lambda: SecretBytes(b"n" * 32), first)
    before = ask(ring, "read-key", "/in/a")
    clock.now = 99.9
    assert ask(ring, "read-key", "/in/a") == before
    clock.now = 100.0
    assert ask(ring, "read-key", "/in/a") != before
    with pytest.raises(SecretLeakError):
        first.reveal()


def test_revoked_key_is_gone_when_its_lease_ends(clock: Clock) -> None:
    def refuse() -> SecretBytes:
        raise GrantError("revoked")

    first = SecretBytes(KEY)
    ring = with_refresh(clock, refuse, first)
    clock.now = 100.0
    for _ in range(2):
        with pytest.raises(GrantError):
            ask(ring, "read-key", "/in/a")
    with pytest.raises(SecretLeakError):
        first.reveal()


def test_wiped_keyring_knows_nothing(clock: Clock) -> None:
    key = SecretBytes(KEY)
    ring = with_refresh(clock, lambda: SecretBytes(KEY), key)
    ring.wipe()
    with pytest.raises(ManifestError):
        ask(ring, "read-key", "/in/a")
    with pytest.raises(SecretLeakError):
        key.reveal()

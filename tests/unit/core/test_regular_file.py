"""What a user or a peer names is read if it is a regular file of its size: a FIFO or a device in its place holds nobody up."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from confide.attest.collateral_sources import load_collateral
from confide.attest.evidence_files import read_file
from confide.attest.launch.files import read_capped
from confide.attest.policy import Policy
from confide.config import Settings
from confide.crypto.secret import SecretBytes
from confide.data.files import encrypt_files
from confide.data.folder import check_encrypted, digest_of_file
from confide.data.manifest import MANIFEST_NAME
from confide.data.snapshots import load_manifest
from confide.data.sources import Source
from confide.data.staging import Attempt
from confide.errors import CollateralError, ConfigError, DataError, JobError, ManifestError, PolicyError, ReceiptError, UsageError
from confide.ids import DatasetId
from confide.job import Job
from confide.jobs.receipt import load_bundle
from confide.regular_file import open_regular, read_regular


def outcome(work: Callable[[], Any]) -> object:
    """What ``work`` returned or raised; it must not wait for anybody."""
    found: list[object] = []

    def body() -> None:
        try:
            found.append(work())
        except Exception as error:  # noqa: BLE001
            found.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(10)
    assert found, "the reader waits"
    return found[0]


def in_folder(name: str, reader: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def read(special: Path) -> Any:
        folder = special.parent / "folder"
        folder.mkdir()
        (folder / name).symlink_to(special)
        return reader(folder)

    return read


def program(special: Path) -> Any:
    job = special.parent / "job.toml"
    job.write_text('name = "j"\nprogram = "main.py"\n[broker]\nurl = "https://127.0.0.1:1"\nspki = "ab"\n')
    (special.parent / "main.py").symlink_to(special)
    return Job.load(job)


def encrypted(special: Path) -> Any:
    source = Source("a", partial(open_regular, special))
    return encrypt_files([source], Attempt(special.parent / "out"), SecretBytes.random(), dataset=DatasetId("11" * 16))


READERS: list[tuple[Callable[[Path], Any], type[Exception]]] = [
    (Policy.load, PolicyError),
    (load_collateral, CollateralError),
    (read_file, UsageError),
    (lambda path: read_capped(path, 100), UsageError),
    (in_folder(MANIFEST_NAME, load_manifest), ManifestError),
    (in_folder("receipt.json", load_bundle), ReceiptError),
    (in_folder("config.toml", lambda home: Settings.load(environ={}, home=home)), ConfigError),
    (Job.load, JobError),
    (program, JobError),
    (check_encrypted, DataError),
    (digest_of_file, OSError),
    (encrypted, OSError),
]
NAMES = ["policy", "collateral", "evidence", "built", "manifest", "receipt", "settings", "job", "program", "data", "digest", "plain"]


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
@pytest.mark.parametrize(("reader", "error"), READERS, ids=NAMES)
def test_special_file_is_refused_at_once(tmp_path: Path, reader: Callable[[Path], Any], error: type[Exception], kind: str) -> None:
    special = tmp_path / "special"
    if kind == "fifo":
        os.mkfifo(special)
    elif kind == "device":
        special.symlink_to("/dev/zero")
    else:
        special.mkdir()
    found = outcome(lambda: reader(special))
    assert isinstance(found, error), found


def test_file_that_is_larger_than_it_may_be_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100)
    assert read_regular(file, 100) == b"x" * 100
    with pytest.raises(OSError, match="larger than 99 bytes"):
        read_regular(file, 99)
    link = tmp_path / "link"
    link.symlink_to(file)
    assert read_regular(link, 100) == b"x" * 100


def test_file_that_becomes_a_fifo_after_it_was_looked_at_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fifo = tmp_path / "plain", tmp_path / "fifo"
    plain.write_bytes(b"")
    os.mkfifo(fifo)
    before = plain.stat()
    monkeypatch.setattr(Path, "stat", lambda _path, **_: before)
    found = outcome(lambda: open_regular(fifo))
    assert isinstance(found, OSError)
    assert "regular" in str(found)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("deep.json", '{"a":' * 100_000 + "1" + "}" * 100_000),
        ("arrays.json", '{"name":"p","measurements":' + "[" * 100_000 + "]" * 100_000 + "}"),
        ("policies.json", '{"name":"p","all_of":[' * 5_000 + '{"name":"q"}' + "]}" * 5_000),
        ("few.json", json.dumps({"name": "p", "measurements": {"sgx": ["5a" * 32]}, "registers": json.loads("[" * 400 + "]" * 400)})),
        ("deep.toml", "a = " + "[" * 100_000 + "]" * 100_000),
        ("keys.toml", ".".join(["a"] * 5_000) + " = 1"),
        ("latin.toml", "name = 'p\udcff'"),
        ("empty.json", ""),
    ],
    ids=lambda value: value if len(value) < 20 else "",
)
def test_policy_that_is_nested_without_end_is_refused_in_words(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PolicyError):
        Policy.load(path)


def test_policy_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confide.attest.policy_tree.MAX_POLICY_FILE_BYTES", 10)
    (tmp_path / "p.toml").write_text("name = 'somewhat long'")
    with pytest.raises(PolicyError, match="larger than 10 bytes"):
        Policy.load(tmp_path / "p.toml")


def test_device_is_not_even_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening alone does something to some devices: a tape winds, a watchdog starts to count."""
    opened: list[object] = []
    monkeypatch.setattr(os, "open", lambda *given: opened.append(given))
    with pytest.raises(OSError, match="regular"):
        open_regular(Path("/dev/null"))
    assert opened == []

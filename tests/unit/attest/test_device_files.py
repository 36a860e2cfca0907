"""Pseudo-files are read and written as their interfaces ask for, up to their limits, and failures say their number."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from confide.attest import device_files
from confide.attest.device_files import read_file, read_when_free, write_file
from confide.errors import AttesterError

BUSY = frozenset({errno.EBUSY})
CAP = 256 * 1024


class Calls:
    """The system's own calls on real files, which fail first with each of ``errors`` when a file is opened."""

    def __init__(self, *errors: OSError) -> None:
        self.errors = list(errors)
        self.opened: list[int] = []
        self.descriptors: set[int] = set()

    def open(self, path: Path, flags: int, /) -> int:
        self.opened.append(flags)
        if self.errors:
            raise self.errors.pop(0)
        fd = os.open(path, flags)
        self.descriptors.add(fd)
        return fd

    def read(self, fd: int, length: int, /) -> bytes:
        return os.read(fd, length)

    def write(self, fd: int, data: bytes, /) -> int:
        return os.write(fd, data)

    def close(self, fd: int, /) -> None:
        self.descriptors.discard(fd)
        os.close(fd)

    def mkdir(self, path: Path, /) -> None:
        path.mkdir()

    def rmdir(self, path: Path, /) -> None:
        path.rmdir()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"content")
    return tmp_path / "file"


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long each time."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def test_files_are_opened_for_one_thing_and_for_this_process_only(path: Path) -> None:
    calls = Calls()
    assert read_file(path, calls) == b"content"
    assert read_when_free(path, calls, busy=BUSY) == b"content"
    write_file(path, b"other", calls)
    assert calls.opened == [os.O_RDONLY | os.O_CLOEXEC, os.O_RDONLY | os.O_CLOEXEC, os.O_WRONLY | os.O_CLOEXEC]
    assert path.read_bytes() == b"othernt"
    assert calls.descriptors == set()


def test_blob_may_be_as_long_as_the_cap(path: Path) -> None:
    path.write_bytes(bytes(CAP))
    assert read_file(path) == bytes(CAP)
    path.write_bytes(bytes(CAP + 1))
    for read in (lambda calls: read_file(path, calls), lambda calls: read_when_free(path, calls, busy=BUSY)):
        calls = Calls()
        with pytest.raises(AttesterError, match="no end"):
            read(calls)
        assert calls.descriptors == set()


@pytest.mark.parametrize(("error", "number"), [(OSError(errno.EACCES, "no"), errno.EACCES), (OSError("a driver's own"), 0)])
def test_failure_says_its_number(path: Path, error: OSError, number: int) -> None:
    for work in (
        lambda calls: read_file(path, calls),
        lambda calls: read_when_free(path, calls, busy=BUSY),
        lambda calls: write_file(path, b"x", calls),
    ):
        with pytest.raises(AttesterError, match=r"cannot (read|write)") as failed:
            work(Calls(error))
        assert failed.value.facts == {"path": str(path), "errno": number}


def test_busy_firmware_is_asked_20_times_with_a_pause_after_each(path: Path, waited: list[float]) -> None:
    assert read_when_free(path, Calls(*[OSError(errno.EBUSY, "busy")] * 19), busy=BUSY) == b"content"
    assert waited == [device_files.TRY_EVERY_S] * 19
    calls = Calls(*[OSError(errno.EBUSY, "busy")] * 20)
    with pytest.raises(AttesterError, match="stayed busy") as failed:
        read_when_free(path, calls, busy=BUSY)
    assert (len(calls.opened), failed.value.facts["tries"]) == (20, 20)


def test_other_failure_while_waiting_is_told_at_once(path: Path, waited: list[float]) -> None:
    calls = Calls(OSError(errno.EBUSY, "busy"), OSError(errno.EIO, "broken"))
    with pytest.raises(AttesterError, match="broken"):
        read_when_free(path, calls, busy=BUSY)
    assert (len(calls.opened), len(waited)) == (2, 1)

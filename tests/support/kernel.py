"""A kernel made up in memory: the file semantics of configfs-tsm, of Gramine's pseudo-files, and of Occlum's device.

It has the system calls that attesters make (``confide.attest.device_files.Files``), and behaves as the originals are documented to:

* configfs-tsm (Linux, ABI/testing/configfs-tsm-report and drivers/virt/coco): ``mkdir`` makes an entry with its attributes, ``rmdir``
  removes both.  ``inblob`` is for writing only, at most 64 bytes; the kernel takes a binary attribute at ``close``, and what it thinks of
  it goes nowhere.  Each write of an attribute counts the generation up.  Reading ``outblob`` makes the report if none of this generation
  is there.
* Gramine: what is written to ``user_report_data`` is saved at ``close``, filled up with zeros or cut to 64 bytes; ``quote`` is made at
  ``open``.
* Any read may give less than was asked for (``piece``).
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from confide.attest.occlum import GenQuoteArgument

GET_DCAP_QUOTE_SIZE, GEN_DCAP_QUOTE = 0x8004_7307, 0xC018_7308
"""Requests 7 and 8 of type ``s``: one reads 4 bytes, the other reads and writes 24."""
Quoter = Callable[[bytes], bytes]


def fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@dataclass
class Open:
    """An open file: what there is to read, or what was written so far."""

    path: Path
    flags: int
    at: int = 0
    content: bytes | None = None
    written: bytearray | None = None


@dataclass
class Kernel:
    """System calls over one pseudo-file system, which subclasses describe.  ``piece``: the most that one read gives.

    ``errors`` holds errnos for the next calls by name ("read outblob"); ``hooks`` are run before a call of that name.
    """

    piece: int = 4096
    errors: dict[str, list[int]] = field(default_factory=dict)
    hooks: dict[str, Callable[[], object]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    short_writes: bool = False

    def __post_init__(self) -> None:
        self._open: dict[int, Open] = {}
        self._next = 100
        self._lock = threading.RLock()

    @property
    def descriptors(self) -> int:
        return len(self._open)

    def open(self, path: Path, flags: int, /) -> int:
        with self._lock:
            self._event("open", path)
            self.opening(path, flags)
            self._next += 1
            self._open[self._next] = Open(path, flags)
            return self._next

    def read(self, fd: int, length: int, /) -> bytes:
        with self._lock:
            file = self._open[fd]
            self._event("read", file.path)
            if file.flags & os.O_ACCMODE == os.O_WRONLY:
                raise fail(errno.EBADF)
            if file.content is None:
                file.content = self.content(file.path)
            got = file.content[file.at : file.at + min(length, self.piece)]
            file.at += len(got)
            return got

    def write(self, fd: int, data: bytes, /) -> int:
        with self._lock:
            file = self._open[fd]
            self._event("write", file.path)
            data = data[: len(data) // 2] if self.short_writes else data
            self.writing(file.path, len(file.written or b"") + len(data))
            file.written = (file.written or bytearray()) + data
            return len(data)

    def close(self, fd: int, /) -> None:
        with self._lock:
            file = self._open.pop(fd)
            self._event("close", file.path)
            if file.written is not None:
                self.written(file.path, bytes(file.written))

    def mkdir(self, path: Path, /) -> None:
        raise fail(errno.EPERM)

    def rmdir(self, path: Path, /) -> None:
        raise fail(errno.EPERM)

    def opening(self, path: Path, flags: int) -> None:
        raise NotImplementedError

    def content(self, path: Path) -> bytes:
        raise NotImplementedError

    def writing(self, path: Path, length: int) -> None:
        """Whether so many bytes may be written in all."""

    def written(self, path: Path, data: bytes) -> None:
        raise NotImplementedError

    def _event(self, call: str, path: Path) -> None:
        name = f"{call} {path.name}"
        self.calls.append(name)
        if hook := self.hooks.pop(name, None):
            hook()
        if waiting := self.errors.get(name):
            raise fail(waiting.pop(0))


@dataclass
class Entry:
    """A report entry of configfs."""

    inblob: bytes = b""
    write_generation: int = 0
    read_generation: int = -1
    outblob: bytes = b""


@dataclass
class ConfigfsKernel(Kernel):
    """configfs-tsm under ``root``; ``provider`` None: no driver is registered.  ``table`` None: the attribute auxblob is hidden."""

    root: Path = Path("/sys/kernel/config/tsm/report")
    provider: str | None = "tdx_guest"
    quoter: Quoter = bytes
    table: bytes | None = None
    visible: tuple[str, ...] = ("provider", "generation", "inblob", "outblob", "privlevel", "privlevel_floor")
    generation_text: str | None = None
    made: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.entries: dict[str, Entry] = {}

    def mkdir(self, path: Path, /) -> None:
        with self._lock:
            self._event("mkdir", path.parent)
            if path.parent != self.root:
                raise fail(errno.ENOENT)
            if self.provider is None:
                raise fail(errno.ENXIO)
            if path.name in self.entries:
                raise fail(errno.EEXIST)
            self.entries[path.name] = Entry()

    def rmdir(self, path: Path, /) -> None:
        with self._lock:
            self._event("rmdir", path.parent)
            if self.entries.pop(path.name, None) is None:
                raise fail(errno.ENOENT)

    def opening(self, path: Path, flags: int) -> None:
        if path.parent.parent != self.root or path.parent.name not in self.entries:
            raise fail(errno.ENOENT)
        if path.name not in self.visible and not (path.name == "auxblob" and self.table is not None):
            raise fail(errno.ENOENT)
        writable = path.name in {"inblob", "privlevel"}
        if writable != (flags & os.O_ACCMODE == os.O_WRONLY):
            raise fail(errno.EACCES)

    def content(self, path: Path) -> bytes:
        entry = self.entries[path.parent.name]
        if path.name == "provider":
            if self.provider is None:
                raise fail(errno.ENXIO)
            return f"{self.provider}\n".encode()
        if path.name == "generation":
            return (self.generation_text or f"{entry.write_generation}\n").encode()
        if path.name == "privlevel_floor":
            return b"0\n"
        return self._report(entry) if path.name == "outblob" else self._aux(entry)

    def writing(self, path: Path, length: int) -> None:
        if path.name == "inblob" and length > 64:
            raise fail(errno.EFBIG)

    def written(self, path: Path, data: bytes) -> None:
        entry = self.entries.get(path.parent.name)
        if entry is None or (path.name == "inblob" and not 0 < len(data) <= 64):
            return
        entry.write_generation += 1
        if path.name == "inblob":
            entry.inblob = data

    def other_process_writes(self, data: bytes) -> None:
        """What any process with the permission can do to an entry that it sees: there is no lock on it."""
        for name in self.entries:
            self.written(self.root / name / "inblob", data)

    def _report(self, entry: Entry) -> bytes:
        if not entry.inblob:
            raise fail(errno.EINVAL)
        if entry.read_generation != entry.write_generation:
            entry.outblob = self.quoter(entry.inblob)
            entry.read_generation = entry.write_generation
            self.made += 1
        return entry.outblob

    def _aux(self, entry: Entry) -> bytes:
        self._report(entry)
        return self.table or b""


@dataclass
class GramineKernel(Kernel):
    """Gramine's files under ``root``."""

    root: Path = Path("/dev/attestation")
    kind: str = "dcap"
    quoter: Quoter = bytes
    user_report_data: bytes = bytes(64)

    def opening(self, path: Path, flags: int) -> None:
        if path.parent != self.root or path.name not in {"attestation_type", "user_report_data", "target_info", "report", "quote"}:
            raise fail(errno.ENOENT)
        if flags & os.O_ACCMODE != os.O_RDONLY and path.name not in {"user_report_data", "target_info"}:
            raise fail(errno.EACCES)

    def open(self, path: Path, flags: int, /) -> int:
        with self._lock:
            fd = super().open(path, flags)
            # A pseudo-file's content is made when it is opened: what is written afterwards does not change it.
            if path.name == "quote":
                self._open[fd].content = self.content(path)
            return fd

    def content(self, path: Path) -> bytes:
        if path.name == "attestation_type":
            return self.kind.encode()
        return self.quoter(self.user_report_data) if path.name == "quote" else self.user_report_data

    def written(self, path: Path, data: bytes) -> None:
        if path.name == "user_report_data":
            self.user_report_data = data[:64].ljust(64, b"\0")


@dataclass
class OcclumKernel(Kernel):
    """Occlum's device.  It writes where the caller's pointers point to, as the original does."""

    device: Path = Path("/dev/sgx")
    quoter: Quoter = bytes
    size: int | None = None
    told: int | None = None

    def opening(self, path: Path, flags: int) -> None:
        if path != self.device:
            raise fail(errno.ENOENT)

    def ioctl(self, fd: int, request: int, argument: bytearray) -> int:
        with self._lock:
            if fd not in self._open:
                raise fail(errno.EBADF)
            self._event(f"ioctl {request & 0xFF}", self.device)
            if request == GET_DCAP_QUOTE_SIZE:
                size = len(self.quoter(bytes(64))) if self.size is None else self.size
                argument[:] = size.to_bytes(4, "little")
                return 0
            if request != GEN_DCAP_QUOTE:
                raise fail(errno.ENOTTY)
            return self._generate(GenQuoteArgument.from_buffer(argument))

    def _generate(self, argument: GenQuoteArgument) -> int:
        length = ctypes.c_uint32.from_address(argument.quote_len)
        quote = self.quoter(ctypes.string_at(argument.report_data, 64))
        if len(quote) > length.value:
            raise fail(errno.EINVAL)
        ctypes.memmove(argument.quote_buf, quote, len(quote))
        length.value = len(quote) if self.told is None else self.told
        return 0

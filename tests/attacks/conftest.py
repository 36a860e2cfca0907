"""A watcher that looks for canaries wherever a secret could leave a run in the clear."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest
from support.canaries import forms_of
from support.machine import require_root

_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_SCAN_EVERY_S = 0.25
_MAX_FILE = 256 * 1024 * 1024


class LeakWatch:
    """Scans files, process environments, command lines and loopback traffic for canaries until stopped.

    ``findings`` holds (canary name, place).  Loopback needs CAP_NET_RAW; without it starting fails, it is never silently left out.
    """

    def __init__(self, canaries: dict[str, bytes], folders: Iterable[Path], *, skip: Callable[[Path], bool] = lambda _: False) -> None:
        self._forms: dict[str, set[bytes]] = {}
        self._longest = 0
        for name, secret in canaries.items():
            self._note(name, secret)
        self._folders = list(folders)
        self._skip = skip
        self._seen: dict[Path, tuple[int, int]] = {}
        self._tails: dict[bytes, bytes] = {}
        self._stop = threading.Event()
        self.findings: set[tuple[str, str]] = set()
        self.too_large: set[Path] = set()
        self.bytes_captured = 0
        self.files_scanned = 0
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 256 * 1024 * 1024)  # SO_RCVBUFFORCE: no packet is dropped
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.2)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._capture, self._scan_loop)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def add(self, name: str, secret: bytes) -> None:
        """Look for this as well: in all files again, in traffic from now on."""
        self._note(name, secret)
        self._seen = {}

    def _note(self, name: str, secret: bytes) -> None:
        forms = forms_of(secret)
        self._forms = {**self._forms, name: forms}
        self._longest = max(self._longest, *map(len, forms))

    @property
    def names(self) -> set[str]:
        """What is looked for."""
        return set(self._forms)

    def also(self, folders: Iterable[Path]) -> None:
        """Scan these as well, from now on."""
        self._folders += folders

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()
        self._scan()

    def _look(self, data: bytes, place: str) -> None:
        for name, forms in self._forms.items():
            if any(form in data for form in forms):
                self.findings.add((name, place))

    def _capture(self) -> None:
        while not self._stop.is_set():
            try:
                packet, address = self._socket.recvfrom(1 << 17)
            except TimeoutError:
                continue
            if address[2] == _PACKET_OUTGOING or len(packet) < 34:
                continue
            self.bytes_captured += len(packet)
            header = 14 + (packet[14] & 15) * 4 if packet[12:14] == b"\x08\x00" else 54
            flow = packet[26:34] + packet[header : header + 4]
            offset = header + (packet[header + 12] >> 4) * 4 if len(packet) > header + 12 else header
            data = self._tails.get(flow, b"") + packet[offset:]
            ports = struct.unpack("!HH", flow[-4:]) if len(flow) == 12 else (0, 0)
            self._look(data, f"loopback {ports[0]}->{ports[1]}")
            self._tails[flow] = data[-self._longest :]

    def _scan_loop(self) -> None:
        while not self._stop.wait(_SCAN_EVERY_S):
            self._scan()

    def _scan(self) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            if process.name == str(os.getpid()):
                continue
            for part in ("environ", "cmdline"):
                with suppress(OSError):
                    self._look((process / part).read_bytes(), f"/proc/*/{part} of {_name(process)}")
        for folder in self._folders:
            for path in _files(folder):
                self._scan_file(path)

    def _scan_file(self, path: Path) -> None:
        with suppress(OSError):
            stat = path.stat()
            mark = (stat.st_size, stat.st_mtime_ns)
            if self._seen.get(path) == mark or self._skip(path):
                return
            if stat.st_size > _MAX_FILE:
                self.too_large.add(path)
                return
            self._look(path.read_bytes(), str(path))
            self._look(os.fsencode(path.name), f"name of {path}")
            self._seen[path] = mark
            self.files_scanned += 1


def _name(process: Path) -> str:
    with suppress(OSError):
        return (process / "comm").read_text().strip()
    return "?"


def _files(folder: Path) -> Iterator[Path]:
    for base, _, names in os.walk(folder, onerror=lambda _: None):
        for name in names:
            path = Path(base) / name
            with suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    yield path


@pytest.fixture(scope="session")
def leak_watch() -> type[LeakWatch]:
    """The class: tests start a watch with their own canaries and folders."""
    require_root("capturing loopback traffic")
    return LeakWatch

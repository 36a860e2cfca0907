"""One cluster for all processes of a test session: it is there from the first who comes until the last has gone, however they end.

``python -m cluster.keeper PLACE [image]`` keeps it, and has the image of :mod:`cluster.built` made beside it; its standard input is the
first visitor's connection.  Others come by a socket in PLACE.  A visitor asks in lines, and has gone when its connection is closed.
"""

from __future__ import annotations

import compileall
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cluster.built import building
from cluster.kubernetes import TestCluster, enter, in_own_network
from cluster.kubernetes import cluster as running

_TESTS = Path(__file__).parents[1]
_DOOR, _LOCK, _LOG = "door", "lock", "log"


class Keeper:
    """See the module."""

    def __init__(self, cluster: TestCluster, image: subprocess.Popen[bytes] | None, door: socket.socket) -> None:
        self._cluster, self._image, self._door = cluster, image, door
        self._lock = threading.Lock()
        self._visitors: set[socket.socket] = set()
        self._last: list[socket.socket] = []

    def serve(self, first: socket.socket) -> None:
        """Answer everybody, until the last has gone."""
        self._come(first)
        while True:
            try:
                self._come(self._door.accept()[0])
            except OSError:
                return  # the last has closed the door

    def _come(self, visitor: socket.socket) -> None:
        self._visitors.add(visitor)
        visitor.sendall(json.dumps({"folder": str(self._cluster.folder), "process": os.getpid()}).encode() + b"\n")
        threading.Thread(target=self._hear, args=(visitor,), daemon=True).start()

    def _hear(self, visitor: socket.socket) -> None:
        try:
            for line in visitor.makefile():
                visitor.sendall(b"done\n" if self._done(line.strip()) else b"failed\n")
        finally:
            self._go(visitor)

    def _go(self, visitor: socket.socket) -> None:
        self._visitors.remove(visitor)
        if self._visitors:
            visitor.close()
        else:  # the last one hears of the cluster's end by the end of this process
            self._last.append(visitor)
            self._door.shutdown(socket.SHUT_RDWR)

    def _done(self, command: str) -> bool:
        if command == "image":
            return self._image is None or self._image.wait() == 0
        with self._lock:
            self._cluster.tell(command)
        return True


@contextmanager
def kept_cluster(session: str, *, image: bool) -> Iterator[TestCluster]:
    """The cluster of a test session; this process is in its network meanwhile.  ``image``: whoever brings it up has the image made."""
    place = Path(tempfile.gettempdir(), f"confide-tests-{session}")
    place.mkdir(mode=0o700, exist_ok=True)
    with (place / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        there = _visit(place) or _begin(place, image=image)
        said = there.makefile()
        line = said.readline()
    if not line:
        raise RuntimeError(f"the cluster did not start\n{(place / _LOG).read_text()}")
    about = json.loads(line)

    def tell(command: str) -> None:
        there.sendall(f"{command}\n".encode())
        assert said.readline() == "done\n", f"{command}: see {about['folder']}/logs"

    with there, in_own_network():
        enter(os.open(f"/proc/{about['process']}/ns/net", os.O_RDONLY))
        yield TestCluster(Path(about["folder"]), tell)
        there.shutdown(socket.SHUT_WR)
        said.read()  # until the last visitor's cluster is gone; for others at once


def _visit(place: Path) -> socket.socket | None:
    there = socket.socket(socket.AF_UNIX)
    try:
        there.connect(str(place / _DOOR))
    except OSError:
        there.close()
        return None
    return there


def _begin(place: Path, *, image: bool) -> socket.socket:
    own, theirs = socket.socketpair()
    words = [sys.executable, "-m", "cluster.keeper", str(place), *(["image"] if image else [])]
    with theirs, (place / _LOG).open("w") as log:
        subprocess.Popen(words, cwd=_TESTS, stdin=theirs, stdout=log, stderr=log, start_new_session=True)
    return own


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that it takes the cluster down
    place, first = Path(sys.argv[1]), socket.socket(fileno=os.dup(0))
    # Interpreters in pods cannot write what they compiled.
    compileall.compile_dir(_TESTS.parent / "src", quiet=1)
    with ExitStack() as stack:
        image = stack.enter_context(building()) if "image" in sys.argv[2:] else None
        cluster = stack.enter_context(running())
        door = stack.enter_context(socket.socket(socket.AF_UNIX))
        door.bind(str(place / _DOOR))
        door.listen()
        Keeper(cluster, image, door).serve(first)
    shutil.rmtree(place)
    os._exit(0)


if __name__ == "__main__":
    main()

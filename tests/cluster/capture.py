"""Everything that crosses the networks of a test cluster's nodes: of each connection the bytes in order, as each interface saw them.

A node's interfaces are also the other ends of its pods', so that what two pods of one node say to each other is seen.  Follows packet(7).
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.kubernetes import TestCluster
from cluster.plan import NODES

_CLONE_NEWNET = 0x40000000
_EVERYTHING = socket.htons(0x0003)  # ETH_P_ALL
_IPV4 = b"\x08\x00"
_TCP = 6
_FORCED_BUFFER = 33  # SO_RCVBUFFORCE, socket(7)
_BUFFER = 256 * 1024 * 1024
_PACKETS, _STATISTICS = 263, 6  # SOL_PACKET, PACKET_STATISTICS
_LARGEST = 256 * 1024
_LAST_S = 0.3


class Capture:
    """What one node's network carries until :meth:`end`.  ``packets``: how many; ``dropped``: how many more were not kept."""

    def __init__(self, network: Path) -> None:
        self.packets = self.dropped = 0
        self._streams: dict[tuple[object, ...], bytearray] = defaultdict(bytearray)
        self._begun, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(network,), daemon=True)
        self._thread.start()
        assert self._begun.wait(10)

    def end(self) -> None:
        """Stop, once what is under way has come."""
        time.sleep(_LAST_S)
        self._over.set()
        self._thread.join()

    def holds(self, words: bytes) -> bool:
        """Whether one side of a connection said this, in one packet or several; or a packet of another kind held it."""
        return any(words in stream for stream in self._streams.values())

    def _run(self, network: Path) -> None:
        """In a thread of its own, which alone enters the network."""
        namespace = os.open(network, os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(namespace)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, _EVERYTHING) as heard:
            heard.setsockopt(socket.SOL_SOCKET, _FORCED_BUFFER, _BUFFER)
            heard.settimeout(0.1)
            self._begun.set()
            while not self._over.is_set():
                try:
                    packet, about = heard.recvfrom(_LARGEST)
                except TimeoutError:
                    continue
                self.packets += 1
                key, said = connection_of(packet)
                self._streams[about[0], about[2], *key] += said  # interface and direction
            self.dropped = struct.unpack("II", heard.getsockopt(_PACKETS, _STATISTICS, 8))[1]


def connection_of(packet: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """From whom to whom an Ethernet frame with TCP over IPv4 goes, and what it says; any other frame is one whole saying."""
    if packet[12:14] != _IPV4 or packet[23] != _TCP:
        return (), packet
    at = 14 + (packet[14] & 0x0F) * 4
    says = at + (packet[at + 12] >> 4) * 4
    return (packet[26:34], packet[at : at + 4]), packet[says : 14 + int.from_bytes(packet[16:18], "big")]


@contextmanager
def captured(cluster: TestCluster) -> Iterator[list[Capture]]:
    """While the block runs: all nodes' networks, each a capture that is complete after the block."""
    captures = [Capture(network) for network in networks_of(cluster)]
    try:
        yield captures
    finally:
        for each in captures:
            each.end()


def networks_of(cluster: TestCluster) -> list[Path]:
    """The networks of the nodes: those of the processes that are process 1 of a node."""
    own, found = Path("/proc/thread-self/ns/net").readlink(), {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words, network = path.read_bytes().split(b"\0"), (path.parent / "ns" / "net").readlink()
        except OSError:
            continue  # it has ended
        if b"cluster.node" in words and str(cluster.folder).encode() in words and network != own:
            found[network] = path.parent / "ns" / "net"
    assert len(found) == len(NODES)
    return list(found.values())

"""The connection under a channel: deadlines hold even while bytes keep coming, and closing never frees a descriptor in use."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from confide.crypto.wire import Deadline, Wire
from confide.errors import ChannelError, ChannelTimeoutError


@pytest.fixture
def pair() -> Iterator[tuple[Wire, socket.socket]]:
    near, far = socket.socketpair()
    wire = Wire(near)
    yield wire, far
    wire.close()
    far.close()


def test_deadline_that_has_passed_ends_a_read_even_if_bytes_are_there(pair) -> None:
    wire, far = pair
    far.sendall(b"x")
    with pytest.raises(ChannelTimeoutError):
        wire.read(Deadline.after(0))
    assert wire.read(Deadline.after(1)) == b"x"


def test_deadline_that_has_passed_ends_a_write_even_if_there_is_room(pair) -> None:
    with pytest.raises(ChannelTimeoutError):
        pair[0].write(b"x", Deadline.after(0))


def test_write_now_sends_what_fits_and_never_waits(pair) -> None:
    wire, _ = pair
    assert 0 < wire.write_now(bytes(8 << 20)) < 8 << 20
    assert wire.write_now(b"x") == 0
    wire.shut()
    assert wire.write_now(b"x") == 0


def test_write_now_leaves_the_connection_to_a_writer_that_waits(pair) -> None:
    wire, _ = pair
    with wire._writing:
        assert wire.write_now(b"x") == 0


def test_descriptor_is_freed_only_after_the_waiting_call_has_left(pair) -> None:
    wire, _ = pair
    left = []

    def read() -> None:
        with pytest.raises(ChannelError, match="closed"):
            wire.read(Deadline.after(10))
        left.append(wire._sock.fileno())

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.05)
    wire.close()
    thread.join(5)
    assert wire._sock.fileno() == -1
    assert left


def test_closing_from_a_call_in_progress_leaves_the_descriptor_and_does_not_hang(pair, monkeypatch) -> None:
    wire, _ = pair
    monkeypatch.setattr("confide.crypto.wire._LEAVE_S", 0.05)
    with wire._reading:
        wire.close()
        assert wire._sock.fileno() != -1
    with wire._writing:
        wire.close()
        assert wire._sock.fileno() != -1
    wire.close()
    assert wire._sock.fileno() == -1


def test_broken_connection_is_an_error_both_ways(pair) -> None:
    wire, far = pair
    far.close()
    assert wire.read(Deadline.after(1)) == b""
    with pytest.raises(ChannelError, match="broke"):
        wire.write(b"x", Deadline.after(1))

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from confide.canonical import Json
from confide.errors import ChannelError, ConfideError, GrantError, ProtocolError
from confide.node.control import Kind, Link, field, read


class Heard:
    def __init__(self) -> None:
        self.frames: list[Json] = []
        self.lost: list[ConfideError] = []
        self.something = threading.Event()

    def frame(self, frame: Json) -> None:
        self.frames.append(frame)
        self.something.set()

    def gone(self, error: ConfideError) -> None:
        self.lost.append(error)
        self.something.set()

    def wait(self) -> None:
        assert self.something.wait(5)
        self.something.clear()


def link(channel: Any, heard: Heard, *, heartbeat_s: float = 0.05, lost_after_s: float = 0.5) -> Link:
    found = Link(channel, heartbeat_s=heartbeat_s, lost_after_s=lost_after_s, on_frame=heard.frame, on_lost=heard.gone)
    found.start()
    return found


def test_frames_arrive_and_heartbeats_do_not(channels: Callable[..., Any]) -> None:
    (near, far), heard = channels(), Heard()
    sender, receiver = link(near, Heard()), link(far, heard)
    time.sleep(0.2)
    sender.send(Kind.EVENT, type="x")
    heard.wait()
    assert heard.frames == [{"kind": "event", "type": "x"}]
    sender.close()
    heard.wait()
    assert len(heard.lost) == 1
    receiver.close()


def test_quiet_link_lives_on_heartbeats(channels: Callable[..., Any]) -> None:
    (near, far), heard = channels(), Heard()
    sender, receiver = link(near, Heard()), link(far, heard, lost_after_s=0.3)
    time.sleep(0.8)
    assert heard.lost == []
    sender.close()
    receiver.close()


def test_silent_peer_is_lost(channels: Callable[..., Any]) -> None:
    (near, far), heard = channels(), Heard()
    link(far, heard, lost_after_s=0.2)
    heard.wait()
    assert isinstance(heard.lost[0], ChannelError)
    near.close()


def test_peer_that_talks_nonsense_is_lost_once(channels: Callable[..., Any]) -> None:
    (near, far), heard = channels(), Heard()
    link(far, heard)
    near.send(b"\0\0\0\x02[]")
    heard.wait()
    time.sleep(0.2)
    assert [type(error) for error in heard.lost] == [ProtocolError]


def test_handler_that_fails_ends_the_link(channels: Callable[..., Any]) -> None:
    (near, far), heard = channels(), Heard()

    def fail(_: Json) -> None:
        raise ValueError

    Link(far, heartbeat_s=1, lost_after_s=5, on_frame=fail, on_lost=heard.gone).start()
    near.send_frame({"kind": "event"})
    heard.wait()
    assert isinstance(heard.lost[0], ProtocolError)


def test_own_end_is_no_loss(channels: Callable[..., Any]) -> None:
    (near, far), heard = channels(), Heard()
    found = link(far, heard)
    found.close()
    time.sleep(0.2)
    assert heard.lost == []
    with pytest.raises(ChannelError):
        found.send(Kind.EVENT)
    near.close()


def test_reading_another_kind_is_a_violation() -> None:
    assert read({"kind": "job"}, Kind.JOB, Kind.ERROR) == {"kind": "job"}
    with pytest.raises(ProtocolError):
        read({"kind": "job"}, Kind.BUNDLE)
    with pytest.raises(ProtocolError):
        read({}, Kind.BUNDLE)
    with pytest.raises(GrantError, match="none"):
        read({"kind": "error", "error": {"code": "grant-missing", "message": "none"}}, Kind.BUNDLE)
    with pytest.raises(ProtocolError):
        read({"kind": "error"}, Kind.BUNDLE)


@pytest.mark.parametrize(("value", "kind"), [(None, str), (1, str), (True, int), ("1", int), ([], dict)])
def test_field_of_another_type_is_a_violation(value: object, kind: type) -> None:
    with pytest.raises(ProtocolError):
        field({"kind": "event", "x": value}, "x", kind)

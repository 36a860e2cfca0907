"""A CCEL is read to its end or refused, and its events make the RTMRs that a TD would have."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.attest.launch.cc_event_log import EventLog
from confide.errors import ParseError

SHA384 = hashlib.sha384
EVENTS = [
    (1, 0x80000001, b"variables"), (2, 4, b"\0\0\0\0"), (3, 0xD, b"initrd=initrd console=ttyS0"),
    (2, 0x80000007, b"Exit Boot Services Invocation"),
]  # fmt: skip


def head(algorithms: tuple[tuple[int, int], ...] = ((0xC, 48),), vendor: bytes = b"") -> bytes:
    spec = struct.pack("<16sIBBBBI", b"Spec ID Event03\0", 0, 0, 2, 0, 2, len(algorithms))
    spec += b"".join(struct.pack("<HH", *row) for row in algorithms) + bytes([len(vendor)]) + vendor
    return struct.pack("<II20sI", 0, 3, bytes(20), len(spec)) + spec


def event(register: int, kind: int, data: bytes, algorithms: tuple[int, ...] = (0xC,)) -> bytes:
    sizes = {0xC: hashlib.sha384(data).digest(), 0xB: hashlib.sha256(data).digest()}
    digests = b"".join(struct.pack("<H", algorithm) + sizes[algorithm] for algorithm in algorithms)
    return struct.pack("<III", register, kind, len(algorithms)) + digests + struct.pack("<I", len(data)) + data


def log() -> bytes:
    return head() + b"".join(event(*row) for row in EVENTS)


def test_each_event_extends_its_own_register() -> None:
    zeros = bytes(48)
    first = SHA384(zeros + SHA384(b"variables").digest()).digest()
    second = SHA384(SHA384(zeros + SHA384(b"\0\0\0\0").digest()).digest() + SHA384(b"Exit Boot Services Invocation").digest()).digest()
    third = SHA384(zeros + SHA384(b"initrd=initrd console=ttyS0").digest()).digest()
    assert EventLog.parse(log()).rtmrs() == (first, second, third, zeros)


def test_events_without_action_and_copies_of_mrtd_extend_nothing() -> None:
    more = event(1, 3, b"StartupLocality") + event(0, 0x80000008, b"firmware blob")
    assert EventLog.parse(log() + more).rtmrs() == EventLog.parse(log()).rtmrs()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"Calling EFI Application\0", "Calling EFI Application"),
        ("console=ttyS0\0".encode("utf-16-le"), "console=ttyS0"), (b"\xff\xfe\x00", "3 bytes"),
        (b"\x1b[2J", "4 bytes"), (b"", ""),
    ],
)  # fmt: skip
def test_text_of_an_event_is_shown_if_it_is_text(data: bytes, text: str) -> None:
    found = EventLog.parse(head() + event(0, 6, data) + event(4, 0x99, data)).events
    assert [(one.name, one.text) for one in found] == [("MRTD EV_EVENT_TAG", text), ("RTMR3 0x99", text)]


@pytest.mark.parametrize("padding", [b"\xff" * 4096, b"\0" * 4096, b"\xff", b""])
def test_padding_of_the_tables_memory_is_no_event(padding: bytes) -> None:
    assert len(EventLog.parse(log() + padding).events) == len(EVENTS)


def test_other_digests_beside_sha384_are_read_over() -> None:
    raw = head(((0xB, 32), (0xC, 48)), b"vendor") + event(1, 4, b"data", (0xC, 0xB))
    assert EventLog.parse(raw).events[0].digest == SHA384(b"data").digest()


@pytest.mark.parametrize(
    "raw",
    [
        b"", head()[:-1], log()[:-1], log() + b"\xff\0", log() + b"\1", head(((0xB, 32),)), head(((0xC, 48), (0xC, 48))),
        head(((0xC, 32),)),
        head(((0x99, 48),)), head() + event(5, 4, b""), head() + event(1, 4, b"", ()),
        head(((0xB, 32), (0xC, 48))) + event(1, 4, b"", (0xC, 0xC)),
        head() + event(1, 4, b"", (0xB,)), head()[:4] + b"\4" + head()[5:], head().replace(b"Event03", b"Event02"),
        head()[:28] + b"\x99" + head()[29:],
        bytes((4 << 20) + 1),
    ],
    ids=[
        "empty", "cut head", "cut event", "mixed padding", "one byte more", "no SHA-384", "algorithm twice", "wrong size",
        "unknown algorithm",
        "no such register", "no digest", "digest twice", "digest not announced", "no specification", "old format", "wrong length",
        "too large",
    ],
)  # fmt: skip
def test_what_is_no_log_is_refused(raw: bytes) -> None:
    with pytest.raises(ParseError):
        EventLog.parse(raw)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(log()) - 1), value=st.integers(0, 255))
def test_any_change_is_read_or_refused_and_nothing_else(at: int, value: int) -> None:
    raw = log()[:at] + bytes([value]) + log()[at + 1 :]
    try:
        assert len(EventLog.parse(raw).rtmrs()) == 4
    except ParseError:
        return

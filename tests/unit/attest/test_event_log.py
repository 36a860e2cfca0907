"""A log is read to its end or refused, and its events make the RTMRs that a TD would have, or the PCRs that a TPM would."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.attest import event_log
from confide.attest.event_log import OF_TD, OF_TPM, EventLog, Registers
from confide.attest.tpm_format import Reader
from confide.errors import ParseError

SHA384 = hashlib.sha384
MAX_LOG_BYTES, MAX_EVENTS = 4 * 1024 * 1024, 4096
EVENTS = [
    (1, 0x80000001, b"variables"), (2, 4, b"\0\0\0\0"), (3, 0xD, b"initrd=initrd console=ttyS0"),
    (2, 0x80000007, b"Exit Boot Services Invocation"),
]  # fmt: skip


def head(algorithms: tuple[tuple[int, int], ...] = ((0xC, 48),), vendor: bytes = b"", after: bytes = b"") -> bytes:
    spec = struct.pack("<16sIBBBBI", b"Spec ID Event03\0", 0, 0, 2, 0, 2, len(algorithms))
    spec += b"".join(struct.pack("<HH", *row) for row in algorithms) + bytes([len(vendor)]) + vendor + after
    return struct.pack("<II20sI", 0, 3, bytes(20), len(spec)) + spec


def event(register: int, kind: int, data: bytes, algorithms: tuple[int, ...] = (0xC,)) -> bytes:
    sizes = {0xC: hashlib.sha384(data).digest(), 0xB: hashlib.sha256(data).digest()}
    digests = b"".join(struct.pack("<H", algorithm) + sizes[algorithm] for algorithm in algorithms)
    return struct.pack("<III", register, kind, len(algorithms)) + digests + struct.pack("<I", len(data)) + data


def log() -> bytes:
    return head() + b"".join(event(*row) for row in EVENTS)


def rtmrs(raw: bytes) -> tuple[bytes, ...]:
    return EventLog.parse(raw, OF_TD).rtmrs()


def test_each_event_extends_its_own_register() -> None:
    zeros = bytes(48)
    first = SHA384(zeros + SHA384(b"variables").digest()).digest()
    second = SHA384(SHA384(zeros + SHA384(b"\0\0\0\0").digest()).digest() + SHA384(b"Exit Boot Services Invocation").digest()).digest()
    third = SHA384(zeros + SHA384(b"initrd=initrd console=ttyS0").digest()).digest()
    assert rtmrs(log()) == (first, second, third, zeros)


def test_events_without_action_and_copies_of_mrtd_extend_nothing() -> None:
    more = event(1, 3, b"StartupLocality") + event(0, 0x80000008, b"firmware blob")
    assert rtmrs(log() + more) == rtmrs(log())


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"Calling EFI Application\0", "Calling EFI Application"),
        ("console=ttyS0\0".encode("utf-16-le"), "console=ttyS0"), (b"\xff\xfe\x00", "3 bytes"),
        (b"\x1b[2J", "4 bytes"), (b"", ""),
    ],
)  # fmt: skip
def test_text_of_an_event_is_shown_if_it_is_text(data: bytes, text: str) -> None:
    found = EventLog.parse(head() + event(0, 6, data) + event(4, 0x99, data), OF_TD)
    assert [(found.name_of(one), one.text) for one in found.events] == [("MRTD EV_EVENT_TAG", text), ("RTMR3 0x99", text)]


@pytest.mark.parametrize("padding", [b"\xff" * 4096, b"\0" * 4096, b"\xff", b""])
def test_padding_of_the_tables_memory_is_no_event(padding: bytes) -> None:
    assert len(EventLog.parse(log() + padding, OF_TD).events) == len(EVENTS)


@pytest.mark.parametrize("byte", [b"\xff", b"\0"])
def test_padding_that_something_follows_is_none(byte: bytes) -> None:
    """The head of an event that is all ones or zeros does not end the log: bytes behind it would be read by nobody."""
    for rest in (byte * 12 + b"\1", byte * 4096 + b"\1", byte * 4096 + log()):
        with pytest.raises(ParseError):
            EventLog.parse(log() + rest, OF_TD)


def test_work_grows_with_the_log_and_not_with_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a log of many small events and much padding would keep its reader busy for minutes."""
    looked_at = 0

    class Counting(Reader):
        def ahead(self, length: int | None = None) -> bytes:
            nonlocal looked_at
            found = super().ahead(length)
            looked_at += len(found)
            return found

    monkeypatch.setattr(event_log, "Reader", Counting)
    raw = head() + event(1, 4, b"") * 1000 + b"\0" * 100_000
    assert len(EventLog.parse(raw, OF_TD).events) == 1000
    assert looked_at < 4 * len(raw)


def test_other_digests_beside_sha384_are_read_over() -> None:
    raw = head(((0xB, 32), (0xC, 48)), b"vendor") + event(1, 4, b"data", (0xC, 0xB))
    assert EventLog.parse(raw, OF_TD).events[0].digest == SHA384(b"data").digest()


@pytest.mark.parametrize(
    "raw",
    [
        b"", head()[:-1], log()[:-1], log() + b"\xff\0", log() + b"\1", head(((0xB, 32),)), head(((0xC, 48), (0xC, 48))),
        head(((0xC, 32),)),
        head(((0x99, 48),)), head() + event(5, 4, b""), head() + event(1, 4, b"", ()),
        head(((0xB, 32), (0xC, 48))) + event(1, 4, b"", (0xC, 0xC)),
        head() + event(1, 4, b"", (0xB,)), head()[:4] + b"\4" + head()[5:], head().replace(b"Event03", b"Event02"),
        head()[:28] + b"\x99" + head()[29:],
        bytes(MAX_LOG_BYTES + 1),
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
        EventLog.parse(raw, OF_TD)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(log()) - 1), value=st.integers(0, 255))
def test_any_change_is_read_or_refused_and_nothing_else(at: int, value: int) -> None:
    raw = log()[:at] + bytes([value]) + log()[at + 1 :]
    try:
        assert len(rtmrs(raw)) == 4
    except ParseError:
        return


SHA256 = ((0xB, 32),)


def tpm_log(*events: bytes) -> bytes:
    return head(SHA256) + b"".join(events)


def sha256_event(pcr: int, kind: int, data: bytes) -> bytes:
    return event(pcr, kind, data, (0xB,))


def test_pcrs_begin_with_the_startup_locality_and_resettable_ones_with_ones() -> None:
    digest = hashlib.sha256(b"x").digest()
    locality = sha256_event(0, 3, b"StartupLocality\0\3")
    found = EventLog.parse(tpm_log(locality, sha256_event(0, 4, b"x"), sha256_event(17, 4, b"x"), sha256_event(4, 4, b"x")), OF_TPM).pcrs()
    assert found == {
        0: hashlib.sha256(bytes(31) + b"\3" + digest).digest(),
        4: hashlib.sha256(bytes(32) + digest).digest(),
        17: hashlib.sha256(b"\xff" * 32 + digest).digest(),
    }


def test_locality_that_is_told_after_the_first_extension_counts_no_more() -> None:
    measured = sha256_event(0, 4, b"x")
    late = EventLog.parse(tpm_log(measured, sha256_event(0, 3, b"StartupLocality\0\3")), OF_TPM).pcrs()
    assert late == EventLog.parse(tpm_log(measured), OF_TPM).pcrs()


@pytest.mark.parametrize("pcr", range(24))
def test_pcr_begins_with_zeros_or_if_it_is_of_the_dynamic_root_with_ones(pcr: int) -> None:
    """PC Client Platform Firmware Profile, section 2.3.4: PCRs 17 to 22."""
    first = b"\xff" * 32 if pcr in {17, 18, 19, 20, 21, 22} else bytes(32)
    value = hashlib.sha256(first + hashlib.sha256(b"x").digest()).digest()
    assert EventLog.parse(tpm_log(sha256_event(pcr, 4, b"x")), OF_TPM).pcrs() == {pcr: value}


def pcr0(*before: bytes) -> bytes:
    """PCR 0's first value: what it is after a known event tells."""
    value = EventLog.parse(tpm_log(*before, sha256_event(0, 4, b"x")), OF_TPM).pcrs()[0]
    digest = hashlib.sha256(b"x").digest()
    return next(first for number in range(256) if hashlib.sha256((first := bytes(31) + bytes([number])) + digest).digest() == value)


@pytest.mark.parametrize(
    ("before", "locality"),
    [
        ([sha256_event(0, 3, b"StartupLocality\0\3")], 3), ([sha256_event(0, 3, b"StartupLocality\0\4")], 4),
        ([sha256_event(7, 4, b"key"), sha256_event(0, 3, b"StartupLocality\0\3")], 3),
        ([sha256_event(1, 3, b"StartupLocality\0\3")], 0), ([sha256_event(0, 3, b"StartupLocality\0")], 0),
        ([sha256_event(0, 3, b"StartupLocality\0\3\3")], 0), ([sha256_event(0, 3, b"startupLocality\0\3")], 0),
        ([sha256_event(0, 3, b"StartupLocality\0\3"), sha256_event(0, 3, b"other")], 3),
        ([sha256_event(0, 3, b"StartupLocality\0\3"), sha256_event(0, 3, b"StartupLocality\0\4")], 4), ([], 0),
    ],
    ids=["3", "4", "after another register", "of another", "not said", "longer", "another word", "something else", "twice", "none"],
)  # fmt: skip
def test_pcr_0_begins_with_the_locality_that_its_own_event_tells(before: list[bytes], locality: int) -> None:
    """PC Client Platform Firmware Profile, section 10.4.5.3."""
    assert pcr0(*before) == bytes(31) + bytes([locality])


def test_log_of_a_tpm_has_no_padding() -> None:
    for padding in (b"\xff" * 64, bytes(64)):
        with pytest.raises(ParseError):
            EventLog.parse(tpm_log(sha256_event(0, 4, b"x")) + padding, OF_TPM)


@pytest.mark.parametrize(("registers", "raw"), [(OF_TPM, log()), (OF_TD, tpm_log(sha256_event(0, 4, b"x")))], ids=["TPM", "TD"])
def test_log_of_one_kind_of_machine_is_none_of_the_other(registers: Registers, raw: bytes) -> None:
    with pytest.raises(ParseError, match="no digests"):
        EventLog.parse(raw, registers)
    assert EventLog.parse_any(raw).registers is not registers


@pytest.mark.parametrize(("minor", "major"), [(1, 2), (0, 1), (0, 3)])
def test_log_of_another_version_is_refused(minor: int, major: int) -> None:
    raw = bytearray(log())
    raw[52:54] = bytes([minor, major])
    with pytest.raises(ParseError, match=r"another version than 2\.0"):
        EventLog.parse(bytes(raw), OF_TD)


def test_number_of_events_and_of_registers_is_bounded() -> None:
    one = sha256_event(0, 4, b"")
    assert len(EventLog.parse(tpm_log(one * MAX_EVENTS), OF_TPM).events) == MAX_EVENTS
    with pytest.raises(ParseError, match="too many events"):
        EventLog.parse(tpm_log(one * (MAX_EVENTS + 1)), OF_TPM)
    with pytest.raises(ParseError, match="register that there is not"):
        EventLog.parse(tpm_log(sha256_event(24, 4, b"")), OF_TPM)


def test_length_of_a_log_is_bounded() -> None:
    room = MAX_LOG_BYTES - len(log())
    assert len(EventLog.parse(log() + b"\xff" * room, OF_TD).events) == len(EVENTS)
    with pytest.raises(ParseError, match="too large to be one") as caught:
        EventLog.parse(log() + b"\xff" * (room + 1), OF_TD)
    assert caught.value.facts == {"length": MAX_LOG_BYTES + 1, "limit": MAX_LOG_BYTES}


ALL = ((0x4, 20), (0xB, 32), (0xC, 48), (0xD, 64), (0x12, 32))


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (head(()), "lists no banks"), (head((*ALL, (0xB, 32))), "or too many"), (head(((0xB, 32), (0xB, 32))), "or one twice"),
        (head(((0x27, 32),)), "an unknown bank"), (head(((0xB, 20),)), "an unknown bank"),
        (head(after=b"\0"), "header has bytes after its end"), (head(vendor=b"x")[:-1] + b"", "ends early"),
        (b"\0\0\0\0\4" + head()[5:], "does not begin with its specification"),
        (b"\1" + head()[1:], "does not begin with its specification"), (head()[:8] + b"\1" + head()[9:], "a digest in its header"),
        (head()[:27] + b"\1" + head()[28:], "a digest in its header"), (head().replace(b"Event03", b"Event02"), "crypto-agile"),
    ],
    ids=[
        "no bank", "six banks", "one twice", "unknown", "wrong length", "a byte more", "a byte less", "another kind", "another register",
        "first byte of the digest", "last byte of the digest", "old format",
    ],
)  # fmt: skip
def test_header_of_another_form_is_refused(header: bytes, says: str) -> None:
    for registers in (OF_TPM, OF_TD):
        with pytest.raises(ParseError, match=says):
            EventLog.parse(header, registers)


def test_header_may_list_every_bank_that_is_known() -> None:
    sizes = b"".join(struct.pack("<H", number) + bytes([number]) * size for number, size in ALL)
    raw = head(ALL, b"vendor") + struct.pack("<III", 1, 4, len(ALL)) + sizes + struct.pack("<I", 0)
    assert EventLog.parse(raw, OF_TPM).events[0].digest == b"\x0b" * 32
    assert EventLog.parse(raw, OF_TD).events[0].digest == b"\x0c" * 48
    assert EventLog.parse_any(raw).registers is OF_TPM


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (event(1, 4, b"", ()), "without a digest for each bank"), (event(1, 4, b"", (0xC,)), "without a digest for each bank"),
        (event(1, 4, b"", (0xB, 0xC, 0xB)), "without a digest for each bank"), (event(1, 4, b"", (0xC, 0xC)), "or two of one"),
        (event(5, 4, b"", (0xB, 0xC)), "register that there is not"),
        (event(1, 4, b"", (0xB, 0xC))[:12] + struct.pack("<H", 0xD) + bytes(98), "of an unlisted bank"),
    ],
    ids=["none", "one", "three", "one twice", "no such register", "of another bank"],
)  # fmt: skip
def test_event_has_one_digest_of_each_bank(raw: bytes, says: str) -> None:
    with pytest.raises(ParseError, match=says):
        EventLog.parse(head(((0xB, 32), (0xC, 48))) + raw, OF_TD)


def test_event_says_where_it_stands_and_what_it_is() -> None:
    found = EventLog.parse(log(), OF_TD)
    assert [one.offset for one in found.events[:2]] == [len(head()), len(head()) + len(event(*EVENTS[0]))]
    assert [(one.register, one.kind, one.data) for one in found.events] == EVENTS
    assert [found.name_of(one) for one in found.events[:3]] == ["RTMR0 EV_EFI_VARIABLE_DRIVER_CONFIG", "RTMR1 EV_SEPARATOR", "RTMR2 EV_IPL"]
    assert EventLog.begins(log())
    assert EventLog.begins(log()[:48])
    assert not EventLog.begins(log()[:47])
    assert not EventLog.begins(b"\0" + log())
    last = EventLog.parse(tpm_log(sha256_event(23, 4, b"")), OF_TPM)
    assert last.name_of(last.events[0]) == "PCR23 EV_SEPARATOR"


LEGACY = [
    "EV_PREBOOT_CERT",
    "EV_POST_CODE",
    "0x2",
    "EV_NO_ACTION",
    "EV_SEPARATOR",
    "EV_ACTION",
    "EV_EVENT_TAG",
    "EV_S_CRTM_CONTENTS",
    "EV_S_CRTM_VERSION",
    "EV_CPU_MICROCODE",
    "EV_PLATFORM_CONFIG_FLAGS",
    "EV_TABLE_OF_DEVICES",
    "EV_COMPACT_HASH",
    "EV_IPL",
    "EV_IPL_PARTITION_DATA",
    "EV_NONHOST_CODE",
    "EV_NONHOST_CONFIG",
    "EV_NONHOST_INFO",
    "EV_OMIT_BOOT_DEVICE_EVENTS",
    "0x13",
]
EFI = [
    "0x80000000",
    "EV_EFI_VARIABLE_DRIVER_CONFIG",
    "EV_EFI_VARIABLE_BOOT",
    "EV_EFI_BOOT_SERVICES_APPLICATION",
    "EV_EFI_BOOT_SERVICES_DRIVER",
    "EV_EFI_RUNTIME_SERVICES_DRIVER",
    "EV_EFI_GPT_EVENT",
    "EV_EFI_ACTION",
    "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    "EV_EFI_HANDOFF_TABLES",
    "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    "EV_EFI_HANDOFF_TABLES2",
    "EV_EFI_VARIABLE_BOOT2",
    "0x8000000d",
]


def test_kinds_of_events_are_named_as_the_profile_numbers_them() -> None:
    """PC Client Platform Firmware Profile, "Event Types": one series from 0 on, the other from 0x80000000 on."""
    kinds = [*range(len(LEGACY)), *(0x8000_0000 + number for number in range(len(EFI))), 0x8000_00DF, 0x8000_00E0, 0x8000_00E1]
    found = EventLog.parse(head() + b"".join(event(1, kind, b"") for kind in kinds), OF_TD)
    assert [one.kind_name for one in found.events] == [*LEGACY, *EFI, "0x800000df", "EV_EFI_VARIABLE_AUTHORITY", "0x800000e1"]


def test_data_of_an_event_is_not_shown_with_it() -> None:
    assert "variables" not in repr(EventLog.parse(log(), OF_TD).events[0])

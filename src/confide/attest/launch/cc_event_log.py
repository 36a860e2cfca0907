"""The event log of a TDX guest (ACPI table CCEL): bytes to frozen records, and what its events make of the RTMRs.

Layout: TCG PC Client Platform Firmware Profile, "Event Logging" (TCG_EfiSpecIdEvent, then TCG_PCR_EVENT2 records); UEFI specification,
"Confidential Computing", for the numbers of the registers.  Integers are little-endian.

Nobody signs a log.  It says how values came about; that they are the values of a genuine node, only a quote says.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import Self

from confide.errors import ParseError

MAX_LOG_BYTES = 4 << 20
RTMRS = 4
SHA384 = 0x000C
"""TPM_ALG_SHA384, the one algorithm of RTMRs."""
EV_NO_ACTION = 3
_DIGEST_BYTES = {0x0004: 20, 0x000B: 32, SHA384: 48, 0x000D: 64, 0x0012: 32}
"""By TPM algorithm: SHA-1, SHA-256, SHA-384, SHA-512, SM3 (TCG Algorithm Registry)."""
EVENT_KINDS = {
    0x0: "EV_PREBOOT_CERT", 0x1: "EV_POST_CODE", 0x3: "EV_NO_ACTION", 0x4: "EV_SEPARATOR", 0x5: "EV_ACTION", 0x6: "EV_EVENT_TAG",
    0x7: "EV_S_CRTM_CONTENTS", 0x8: "EV_S_CRTM_VERSION", 0x9: "EV_CPU_MICROCODE", 0xA: "EV_PLATFORM_CONFIG_FLAGS",
    0xB: "EV_TABLE_OF_DEVICES",
    0xC: "EV_COMPACT_HASH", 0xD: "EV_IPL", 0xE: "EV_IPL_PARTITION_DATA", 0xF: "EV_NONHOST_CODE", 0x10: "EV_NONHOST_CONFIG",
    0x11: "EV_NONHOST_INFO", 0x12: "EV_OMIT_BOOT_DEVICE_EVENTS", 0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x80000002: "EV_EFI_VARIABLE_BOOT", 0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION", 0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER", 0x80000006: "EV_EFI_GPT_EVENT", 0x80000007: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB", 0x80000009: "EV_EFI_HANDOFF_TABLES", 0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000000B: "EV_EFI_HANDOFF_TABLES2", 0x8000000C: "EV_EFI_VARIABLE_BOOT2", 0x800000E0: "EV_EFI_VARIABLE_AUTHORITY",
}  # fmt: skip
"""TCG PC Client Platform Firmware Profile, "Event Types"."""
_FIRST = struct.Struct("<II20sI")
_SPEC_ID = struct.Struct("<16sIBBBBI")
_SIGNATURE = b"Spec ID Event03\0"
_PADDING = (b"\xff", b"\0")
"""What the table's memory holds behind the last event: OVMF fills it with ones, others leave zeros."""


@dataclass(frozen=True, slots=True)
class Event:
    """One measured event.  ``register`` is 0 for MRTD and 1 to 4 for RTMR0 to RTMR3; ``offset`` is where it stands in the log."""

    register: int
    kind: int
    digest: bytes
    data: bytes = field(repr=False)
    offset: int

    @property
    def name(self) -> str:
        """The register and the kind of event."""
        register = f"RTMR{self.register - 1}" if self.register else "MRTD"
        return f"{register} {EVENT_KINDS.get(self.kind, hex(self.kind))}"

    @property
    def text(self) -> str:
        """What the event says of itself, if that is text.  The digest need not be of it."""
        for encoding in ("ascii", "utf-16-le"):
            try:
                found = self.data.decode(encoding).rstrip("\0")
            except UnicodeDecodeError:
                continue
            if found.isascii() and found.isprintable():
                return found
        return f"{len(self.data)} bytes"


@dataclass(frozen=True, slots=True)
class EventLog:
    """All events of a boot, in order."""

    events: tuple[Event, ...]

    @staticmethod
    def begins(raw: bytes) -> bool:
        """Whether these bytes claim to be a log."""
        return raw[_FIRST.size :].startswith(_SIGNATURE)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read a whole log, with or without the padding of the table's memory behind it.

        Raises:
            ParseError: it is none, or has no SHA-384 digests; ``facts`` hold the offset.
        """
        if len(raw) > MAX_LOG_BYTES:
            raise ParseError("the event log is too large to be one", length=len(raw), limit=MAX_LOG_BYTES)
        reader = _Reader(raw)
        sizes = _algorithms(reader)
        events = []
        while not reader.only_padding():
            events.append(_event(reader, sizes))
        return cls(tuple(events))

    def rtmrs(self) -> tuple[bytes, ...]:
        """RTMR0 to RTMR3 after all events: each extends its register (SHA-384 over the value so far and the digest)."""
        values = [bytes(48)] * RTMRS
        for event in self.events:
            if event.kind == EV_NO_ACTION or event.register == 0:
                continue  # MRTD is complete before the first instruction; what the log says of it is a copy
            number = event.register - 1
            values[number] = hashlib.sha384(values[number] + event.digest).digest()
        return tuple(values)


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > len(self._raw) - self.at:
            raise ParseError("the event log ends in the middle of an event", offset=self.at, wanted=count)
        self.at += count
        return self._raw[self.at - count : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def only_padding(self) -> bool:
        rest = self._raw[self.at :]
        return any(rest == byte * len(rest) for byte in _PADDING)


def _algorithms(reader: _Reader) -> dict[int, int]:
    """The digest sizes by algorithm that the log's first event announces."""
    _, kind, digest, size = _FIRST.unpack(reader.take(_FIRST.size))
    if kind != EV_NO_ACTION or any(digest):
        raise ParseError("the event log does not begin with a specification event", offset=0)
    at, end = reader.at, reader.at + size
    signature, _, minor, major, _, _, count = _SPEC_ID.unpack(reader.take(_SPEC_ID.size))
    if signature != _SIGNATURE or (major, minor) != (2, 0):
        raise ParseError("the event log is not in the crypto-agile format, version 2.0", offset=at)
    sizes: dict[int, int] = {}
    for _ in range(count):
        at = reader.at
        algorithm, length = reader.number(2), reader.number(2)
        if algorithm in sizes or _DIGEST_BYTES.get(algorithm) != length:
            raise ParseError("the event log announces an algorithm twice, or one that is not known", offset=at, algorithm=algorithm)
        sizes[algorithm] = length
    reader.take(reader.number(1))
    if reader.at != end:
        raise ParseError("the event log's first event has another length than it says", offset=reader.at)
    if SHA384 not in sizes:
        raise ParseError("the event log has no SHA-384 digests: it is not of a TDX guest", offset=end)
    return sizes


def _event(reader: _Reader, sizes: dict[int, int]) -> Event:
    offset = reader.at
    register, kind, count = reader.number(4), reader.number(4), reader.number(4)
    if register > RTMRS:
        raise ParseError("an event is of a register that a TDX guest does not have", offset=offset, got=register)
    if count != len(sizes):
        raise ParseError("an event does not have one digest for each algorithm", offset=offset + 8, got=count)
    digests: dict[int, bytes] = {}
    for _ in range(count):
        at = reader.at
        algorithm = reader.number(2)
        if algorithm not in sizes or algorithm in digests:
            raise ParseError("an event has two digests of one algorithm, or one that was not announced", offset=at, algorithm=algorithm)
        digests[algorithm] = reader.take(sizes[algorithm])
    return Event(register, kind, digests[SHA384], reader.take(reader.number(4)), offset)

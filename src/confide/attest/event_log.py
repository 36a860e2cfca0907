"""Firmware's log of what it measured, in the crypto-agile format that TPMs and TDs share: bytes to frozen records, and what events make.

Layout: TCG "PC Client Platform Firmware Profile", revision 1.05, section 10 (TCG_EfiSpecIdEvent, then TCG_PCR_EVENT2 records); for a TD
(ACPI table CCEL) UEFI specification, "Confidential Computing", for the numbers of the registers.  Integers are little-endian.

Nobody signs a log.  It says how values came about; that they are the values of a genuine machine, only a quote says.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Self

from confide.attest.tpm_format import PCR_COUNT, SHA256, Reader
from confide.errors import ParseError

MAX_LOG_BYTES: Final = 4 << 20
MAX_EVENTS: Final = 4096
RTMRS: Final = 4
SHA384: Final = 0x000C
"""TPM_ALG_SHA384, the one algorithm of RTMRs."""
EV_NO_ACTION: Final = 3
_DIGEST_BYTES: Final = {0x0004: 20, SHA256: 32, SHA384: 48, 0x000D: 64, 0x0012: 32}
"""By TPM algorithm: SHA-1, SHA-256, SHA-384, SHA-512, SM3 (TCG Algorithm Registry)."""
EVENT_KINDS: Final = {
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
_SIGNATURE: Final = b"Spec ID Event03\0"
_SIGNATURE_AT: Final = 32
"""Behind the first event's register, kind, SHA-1 digest and size (TCG_PCClientPCREvent)."""
_STARTUP_LOCALITY: Final = b"StartupLocality\0"
_EVENT_HEAD_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class Registers:
    """What a log's events are measured into: the bank that is read, how many numbers there are, and how a number is called.

    ``padded``: the log is the memory of a table, with ones (OVMF) or zeros (others) behind the last event.
    """

    bank: int
    hash: str
    count: int
    name: Callable[[int], str]
    padded: bool


OF_TPM: Final = Registers(SHA256, "sha256", PCR_COUNT, lambda number: f"PCR{number}", padded=False)
OF_TD: Final = Registers(SHA384, "sha384", RTMRS + 1, lambda number: f"RTMR{number - 1}" if number else "MRTD", padded=True)
"""Number 0 is MRTD, 1 to 4 are RTMR0 to RTMR3."""


@dataclass(frozen=True, slots=True)
class Event:
    """One measured event, with the digest of the bank that is read.  ``data`` is covered by nothing unless its digest is over it.

    ``offset`` is where it stands in the log.
    """

    register: int
    kind: int
    digest: bytes
    data: bytes = field(repr=False)
    offset: int

    @property
    def kind_name(self) -> str:
        """The kind of event, as the profile calls it."""
        return EVENT_KINDS.get(self.kind, hex(self.kind))

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

    registers: Registers
    events: tuple[Event, ...]

    @staticmethod
    def begins(raw: bytes) -> bool:
        """Whether these bytes claim to be a log."""
        return raw[_SIGNATURE_AT:].startswith(_SIGNATURE)

    @classmethod
    def parse_any(cls, raw: bytes) -> Self:
        """Read a log of either: a TD's has digests of SHA-384 only.

        Raises:
            ParseError: it is none; ``facts`` hold the offset.
        """
        return cls.parse(raw, OF_TD if set(_banks(Reader(raw, "event log", "little"))) == {SHA384} else OF_TPM)

    @classmethod
    def parse(cls, raw: bytes, registers: Registers) -> Self:
        """Read a whole log.  Its header must list the bank, and each event have exactly one digest of each bank that the header lists.

        Raises:
            ParseError: it is none, or one of another kind of machine; ``facts`` hold the offset.
        """
        if len(raw) > MAX_LOG_BYTES:
            raise ParseError("the event log is too large to be one", length=len(raw), limit=MAX_LOG_BYTES)
        reader = Reader(raw, "event log", "little")
        banks = _banks(reader)
        reader.must(registers.bank in banks, f"has no digests of {registers.hash}")
        events: list[Event] = []
        while reader.more and not (registers.padded and _only_padding(reader)):
            events.append(_event(reader, banks, registers))
            reader.must(len(events) <= MAX_EVENTS, "has too many events")
        return cls(registers, tuple(events))

    def name_of(self, event: Event) -> str:
        """The register and the kind of an event."""
        return f"{self.registers.name(event.register)} {event.kind_name}"

    def pcrs(self) -> dict[int, bytes]:
        """The value of each PCR that the log extends."""
        start = self._locality()
        # PCRs 17 to 22 are set to ones at start (section 2.3.4, table 1).
        return self._replayed(self.events, lambda pcr: start if pcr == 0 else b"\xff" * 32 if 17 <= pcr <= 22 else bytes(32))

    def rtmrs(self) -> tuple[bytes, ...]:
        """RTMR0 to RTMR3 after all events.  MRTD is complete before the first instruction: what the log says of it is a copy."""
        values = self._replayed((event for event in self.events if event.register), lambda _: bytes(48))
        return tuple(values.get(number, bytes(48)) for number in range(1, RTMRS + 1))

    def _locality(self) -> bytes:
        """PCR 0's first value: its last byte is the locality that TPM2_Startup came from (section 10.4.5.3)."""
        before = itertools.takewhile(lambda event: event.register != 0 or event.kind == EV_NO_ACTION, self.events)
        said = [event.data[-1:] for event in before if event.register == 0 and event.data[:-1] == _STARTUP_LOCALITY]
        return bytes(31) + said[-1] if said else bytes(32)

    def _replayed(self, events: Iterable[Event], first: Callable[[int], bytes]) -> dict[int, bytes]:
        """Each register that is extended: ``new = hash(old ‖ digest)``."""
        values: dict[int, bytes] = {}
        for event in events:
            if event.kind != EV_NO_ACTION:
                old = values.get(event.register) or first(event.register)
                values[event.register] = hashlib.new(self.registers.hash, old + event.digest).digest()
        return values


def _banks(reader: Reader) -> dict[int, int]:
    """The log's algorithms and their digests' lengths, from its first event, which has the form of TPM 1.2."""
    reader.must((reader.number(4), reader.number(4)) == (0, EV_NO_ACTION), "does not begin with its specification")
    reader.must(reader.take(20) == bytes(20), "has a digest in its header")
    header = Reader(reader.sized(4), "event log's header", "little")
    header.must(header.take(16) == _SIGNATURE, "is not of a crypto-agile log")
    header.take(4)  # platform class
    header.must((header.number(1), header.number(1)) == (0, 2), "is of another version than 2.0")
    header.take(2)  # errata, size of a pointer: nothing below depends on them
    count = header.number(4)
    header.must(0 < count <= len(_DIGEST_BYTES), "lists no banks, or too many")
    banks: dict[int, int] = {}
    for _ in range(count):
        bank, length = header.number(2), header.number(2)
        header.must(_DIGEST_BYTES.get(bank) == length and bank not in banks, "lists an unknown bank, or one twice")
        banks[bank] = length
    header.sized(1)
    header.end()
    return banks


def _event(reader: Reader, banks: dict[int, int], registers: Registers) -> Event:
    offset = reader.at
    register, kind, count = reader.number(4), reader.number(4), reader.number(4)
    reader.must(register < registers.count, "names a register that there is not")
    reader.must(count == len(banks), "has an event without a digest for each bank")
    digests: dict[int, bytes] = {}
    for _ in banks:
        bank = reader.number(2)
        reader.must(bank in banks and bank not in digests, "has a digest of an unlisted bank, or two of one")
        digests[bank] = reader.take(banks[bank])
    return Event(register, kind, digests[registers.bank], reader.sized(4), offset)


def _only_padding(reader: Reader) -> bool:
    """No event begins with so many ones, nor, as it has a digest, with so many zeros: the rest is looked at once at most."""
    head = reader.ahead(_EVENT_HEAD_BYTES)
    return any(head == byte * len(head) and reader.ahead() == byte * len(reader.ahead()) for byte in (b"\xff", b"\0"))

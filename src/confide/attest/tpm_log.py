"""The firmware's log of what it measured into PCRs.  Reads and replays; that the result is what a TPM quoted is checked in ``tpm``.

Layout: TCG "PC Client Platform Firmware Profile", revision 1.05, section 10 (crypto-agile log); all numbers are little-endian.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from confide.attest.tpm_format import PCR_COUNT, SHA256, Reader

EV_NO_ACTION: Final = 3
_SPEC_ID: Final = b"Spec ID Event03\0"
_STARTUP_LOCALITY: Final = b"StartupLocality\0"
_DIGEST_BYTES: Final = {0x0004: 20, SHA256: 32, 0x000C: 48, 0x000D: 64, 0x0012: 32}
"""SHA-1, SHA-256, SHA-384, SHA-512, SM3."""
MAX_EVENTS: Final = 4096


@dataclass(frozen=True, slots=True)
class Event:
    """TCG_PCR_EVENT2, of whose digests the one of the SHA-256 bank is kept.  ``data`` is covered by nothing unless its digest says so."""

    pcr: int
    kind: int
    digest: bytes
    data: bytes


def parse_log(data: bytes) -> tuple[Event, ...]:
    """Read a log.  Its header must list SHA-256, and each event must have exactly one digest of each bank that the header lists.

    Raises:
        ParseError: it is of another format, or a byte of it is off.
    """
    reader = Reader(data, "event log", "little")
    banks = _header(reader)
    events: list[Event] = []
    while reader.more:
        pcr, kind = reader.number(4), reader.number(4)
        reader.must(pcr < PCR_COUNT, "names a PCR that there is not")
        reader.must(reader.number(4) == len(banks), "has an event without a digest for each bank")
        digests: dict[int, bytes] = {}
        for _ in banks:
            bank = reader.number(2)
            reader.must(bank in banks and bank not in digests, "has a digest of an unlisted bank, or two of one")
            digests[bank] = reader.take(banks[bank])
        events.append(Event(pcr, kind, digests[SHA256], reader.sized(4)))
        reader.must(len(events) <= MAX_EVENTS, "has too many events")
    return tuple(events)


def replay(events: tuple[Event, ...]) -> dict[int, bytes]:
    """The value of each PCR that the log extends, in the SHA-256 bank: ``new = SHA-256(old ‖ digest)``."""
    values: dict[int, bytes] = {}
    start = bytes(32)
    for event in events:
        if event.kind == EV_NO_ACTION:
            # The locality that TPM2_Startup came from is the last byte of PCR 0's first value (section 10.4.5.3).
            if event.pcr == 0 and event.data[:-1] == _STARTUP_LOCALITY and 0 not in values:
                start = bytes(31) + event.data[-1:]
            continue
        # PCRs 17 to 22 are set to ones at start (section 2.3.4, table 1).
        first = start if event.pcr == 0 else b"\xff" * 32 if 17 <= event.pcr <= 22 else bytes(32)
        values[event.pcr] = hashlib.sha256(values.get(event.pcr, first) + event.digest).digest()
    return values


def _header(reader: Reader) -> dict[int, int]:
    """The banks of the log by number, with their digests' lengths, from its first event, which has the form of TPM 1.2."""
    reader.must((reader.number(4), reader.number(4)) == (0, EV_NO_ACTION), "does not begin with its header")
    reader.must(reader.take(20) == bytes(20), "has a digest in its header")
    header = Reader(reader.sized(4), "event log's header", "little")
    header.must(header.take(16) == _SPEC_ID, "is not of a crypto-agile log")
    header.take(8)  # platform class, minor, major, errata, size of a pointer: nothing below depends on them
    count = header.number(4)
    header.must(0 < count <= len(_DIGEST_BYTES), "lists no banks, or too many")
    banks: dict[int, int] = {}
    for _ in range(count):
        bank, length = header.number(2), header.number(2)
        header.must(_DIGEST_BYTES.get(bank) == length and bank not in banks, "lists an unknown bank, or one twice")
        banks[bank] = length
    header.sized(1)
    header.end()
    header.must(SHA256 in banks, "does not list SHA-256")
    return banks

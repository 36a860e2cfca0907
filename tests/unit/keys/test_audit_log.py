"""The audit log: one changed, missing or moved entry shows, and a view gives away nothing of others."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.canonical import canonical
from confide.crypto.sign import SigningKey, dsse_sign
from confide.errors import AuditError
from confide.keys.audit import GENESIS, HEAD_TYPE, AuditEntry, AuditHead, AuditLog, digest_of_event, link, new_event, verify_chain, view

NOW = datetime(2026, 1, 2, tzinfo=UTC)
KEY = SigningKey.generate()


def _chain(count: int) -> tuple[AuditEntry, ...]:
    entries, last = [], GENESIS
    for seq in range(1, count + 1):
        event = new_event("test", ["airline" if seq % 2 else "weather"], NOW, number=seq)
        digest = digest_of_event(event)
        last = link(last, digest)
        entries.append(AuditEntry(seq, digest, last, event))
    return tuple(entries)


def _log(entries: tuple[AuditEntry, ...]) -> AuditLog:
    return AuditLog(entries, AuditHead(len(entries), verify_chain(entries), NOW.isoformat()).sign(KEY))


def test_whole_log_verifies_and_is_the_same_after_export() -> None:
    log = _log(_chain(5))
    again = AuditLog.load(list(log.export()))
    assert again == log
    assert again.verify(KEY.public).size == 5


def test_view_hides_others_events_and_still_verifies() -> None:
    log = _log(_chain(5))
    mine = AuditLog(view(log.entries, "airline"), log.head)
    assert [entry.event is not None for entry in mine.entries] == [True, False, True, False, True]
    mine.verify(KEY.public)


def test_same_event_twice_has_two_digests() -> None:
    """A hidden event cannot be found out by guessing it."""
    assert digest_of_event(new_event("release", [], NOW)) != digest_of_event(new_event("release", [], NOW))


@given(st.integers(0, 4), st.sampled_from(["event", "digest", "hash", "seq", "drop", "swap", "twice"]))
def test_log_with_any_one_change_is_refused(place: int, change: str) -> None:
    log = _log(_chain(5))
    entries = list(log.entries)
    entry = entries[place]
    match change:
        case "event":
            entries[place] = replace(entry, event={**(entry.event or {}), "number": 99})
        case "digest":
            entries[place] = replace(entry, digest="00" * 32)
        case "hash":
            entries[place] = replace(entry, hash="00" * 32)
        case "seq":
            entries[place] = replace(entry, seq=entry.seq + 1)
        case "drop":
            del entries[place]
        case "swap":
            entries[place], entries[place - 1] = entries[place - 1], entry
        case _:
            entries.insert(place, entry)
    with pytest.raises(AuditError):
        AuditLog(tuple(entries), log.head).verify(KEY.public)


def test_log_that_was_rewritten_from_the_start_does_not_fit_its_old_head() -> None:
    with pytest.raises(AuditError):
        AuditLog(_chain(5), _log(_chain(5)).head).verify(KEY.public)


def test_log_under_another_keys_head_is_refused() -> None:
    with pytest.raises(AuditError):
        _log(_chain(3)).verify(SigningKey.generate().public)


def test_log_must_continue_the_head_that_was_seen() -> None:
    entries = _chain(6)
    early, log = AuditHead(4, entries[3].hash, NOW.isoformat()), _log(entries)
    assert log.verify(KEY.public, seen=early).size == 6
    assert log.verify(KEY.public, seen=AuditHead(0, GENESIS, NOW.isoformat())).size == 6
    for other in (replace(early, hash=entries[2].hash), replace(early, size=7), replace(early, size=0)):
        with pytest.raises(AuditError, match="continue"):
            log.verify(KEY.public, seen=other)


@pytest.mark.parametrize("body", [{}, {"format": "confide-audit-head-v2", "size": 0, "hash": GENESIS, "time": ""}, {"size": 1}])
def test_signed_head_of_another_form_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(AuditError):
        AuditHead.verify(dsse_sign(KEY, HEAD_TYPE, canonical(body)), KEY.public)
    with pytest.raises(AuditError):
        AuditHead.verify(body, KEY.public)


@pytest.mark.parametrize("lines", [[], ["{"], ['{"seq": 1}'], ['{"seq": 1}', '{"head": {}}'], ['{"head": 3}']])
def test_export_that_is_none_is_refused(lines: list[str]) -> None:
    with pytest.raises(AuditError):
        AuditLog.load(lines)

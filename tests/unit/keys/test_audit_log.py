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
from confide.keys.audit import (
    HEAD_TYPE,
    AuditEntry,
    AuditHead,
    AuditLog,
    AuditProof,
    hashes,
    leaf_of_event,
    new_event,
    verify_entries,
    view,
)
from confide.keys.merkle import Subtree, consistency_proof, inclusion_proof, root_of

NOW = datetime(2026, 1, 2, tzinfo=UTC)
KEY = SigningKey.generate()


def _entries(count: int) -> tuple[AuditEntry, ...]:
    events = (new_event("test", ["airline" if seq % 2 else "weather"], NOW, number=seq) for seq in range(1, count + 1))
    return tuple(AuditEntry.of(seq, event) for seq, event in enumerate(events, start=1))


def _head(entries: tuple[AuditEntry, ...], epoch: int = 7) -> AuditHead:
    return AuditHead(len(entries), root_of(verify_entries(entries)).hex(), epoch, NOW.isoformat())


def _log(entries: tuple[AuditEntry, ...]) -> AuditLog:
    return AuditLog(entries, _head(entries).sign(KEY))


def _subtree(entries: tuple[AuditEntry, ...]) -> Subtree:
    leaves = verify_entries(entries)
    return lambda level, place: root_of(leaves[place << level : (place + 1) << level])


def test_whole_log_verifies_and_is_the_same_after_export() -> None:
    log = _log(_entries(5))
    again = AuditLog.load(list(log.export()))
    assert again == log
    assert again.verify(KEY.public).size == 5


def test_view_hides_others_events_and_still_verifies() -> None:
    log = _log(_entries(5))
    mine = AuditLog(view(log.entries, lambda event: "airline" in event["owners"]), log.head)
    assert [entry.event is not None for entry in mine.entries] == [True, False, True, False, True]
    mine.verify(KEY.public)


def test_same_event_twice_has_two_leaves() -> None:
    """A hidden event cannot be found out by guessing it."""
    assert leaf_of_event(new_event("release", [], NOW)) != leaf_of_event(new_event("release", [], NOW))


@given(st.integers(0, 4), st.sampled_from(["event", "leaf", "seq", "drop", "swap", "twice"]))
def test_log_with_any_one_change_is_refused(place: int, change: str) -> None:
    log = _log(_entries(5))
    entries = list(log.entries)
    entry = entries[place]
    match change:
        case "event":
            entries[place] = replace(entry, event={**(entry.event or {}), "number": 99})
        case "leaf":
            entries[place] = replace(entry, leaf="00" * 32)
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
        AuditLog(_entries(5), _log(_entries(5)).head).verify(KEY.public)


def test_log_under_another_keys_head_is_refused() -> None:
    with pytest.raises(AuditError):
        _log(_entries(3)).verify(SigningKey.generate().public)


def test_log_must_continue_the_head_that_was_seen() -> None:
    entries = _entries(6)
    early, log = _head(entries[:4], epoch=5), _log(entries)
    assert log.verify(KEY.public, seen=early).size == 6
    assert log.verify(KEY.public, seen=_head((), epoch=0)).size == 6
    for other in (replace(early, root=_head(entries[:3]).root), replace(early, size=7), replace(early, size=0), replace(early, epoch=8)):
        with pytest.raises(AuditError, match="continue"):
            log.verify(KEY.public, seen=other)


def test_head_continues_an_earlier_one_by_proof_alone() -> None:
    entries = _entries(6)
    early, late = _head(entries[:4], epoch=5), _head(entries)
    proof = consistency_proof(4, 6, _subtree(entries))
    late.continues(early, proof)
    for seen in (replace(early, root="00" * 32), replace(early, size=3), replace(early, epoch=8)):
        with pytest.raises(AuditError):
            late.continues(seen, proof)


@pytest.mark.parametrize("shown", [True, False], ids=["own entry", "another's entry"])
def test_proof_of_one_entry_needs_no_other(*, shown: bool) -> None:
    entries = _entries(6)
    entry = entries[2] if shown else entries[2].hidden()
    proof = AuditProof(entry, tuple(inclusion_proof(2, 6, _subtree(entries))), _log(entries).head)
    assert AuditProof.from_json(proof.to_json()) == proof
    assert proof.verify(KEY.public).size == 6


@pytest.mark.parametrize("change", ["event", "leaf", "seq", "path", "head", "key"])
def test_proof_with_any_one_change_is_refused(change: str) -> None:
    entries = _entries(6)
    entry, key = entries[2], KEY.public
    proof = AuditProof(entry, tuple(inclusion_proof(2, 6, _subtree(entries))), _log(entries).head)
    match change:
        case "event":
            proof = replace(proof, entry=replace(entry, event={**(entry.event or {}), "number": 99}))
        case "leaf":
            proof = replace(proof, entry=replace(entry.hidden(), leaf="00" * 32))
        case "seq":
            proof = replace(proof, entry=replace(entry, seq=4))
        case "path":
            proof = replace(proof, path=proof.path[:-1])
        case "head":
            proof = replace(proof, head=_log(entries[:5]).head)
        case _:
            key = SigningKey.generate().public
    with pytest.raises(AuditError):
        proof.verify(key)


@pytest.mark.parametrize("data", [{}, {"format": "confide-audit-proof-v1", "entry": {}, "path": [], "head": {}}, {"format": "x"}])
def test_proof_of_another_form_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(AuditError):
        AuditProof.from_json(data)


@pytest.mark.parametrize("values", [None, "00", [1], ["00"], ["00" * 32] * 65])
def test_list_of_hashes_that_is_none_is_refused(values: object) -> None:
    with pytest.raises(AuditError):
        hashes(values)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"format": "confide-audit-head-v1", "size": 0, "root": "00" * 32, "epoch": 0, "time": ""},
        {"format": "confide-audit-head-v2", "size": -1, "root": "00" * 32, "epoch": 0, "time": ""},
        {"format": "confide-audit-head-v2", "size": 0, "root": "00", "epoch": 0, "time": ""},
        {"size": 1},
    ],
)
def test_signed_head_of_another_form_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(AuditError):
        AuditHead.verify(dsse_sign(KEY, HEAD_TYPE, canonical(body)), KEY.public)
    with pytest.raises(AuditError):
        AuditHead.verify(body, KEY.public)


@pytest.mark.parametrize("lines", [[], ["{"], ['{"seq": 1}'], ['{"seq": 1}', '{"head": {}}'], ['{"head": 3}']])
def test_export_that_is_none_is_refused(lines: list[str]) -> None:
    with pytest.raises(AuditError):
        AuditLog.load(lines)

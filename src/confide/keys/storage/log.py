"""The audit log in the database: its entries, and the perfect subtrees of its Merkle tree, from which proofs are made.

Nothing here is authenticated by itself: whatever is read is hashed up to a root that the caller trusts (the store's head).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from sqlalchemy import bindparam, insert, select

from confide.canonical import Json, canonical, parse_object
from confide.errors import AuditError, ParseError
from confide.keys.audit import AuditEntry, verify_entries
from confide.keys.merkle import (
    Subtree,
    append,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    peaks_of,
    root,
    verify_consistency,
    verify_inclusion,
)
from confide.keys.storage.database import Database
from confide.keys.storage.schema import AUDIT, AUDIT_NODES
from confide.keys.storage.statements import Lookup, Statement, Values

_PAGE: Final = 1000
_ADD: Final = Statement(insert(AUDIT))
_ENTRIES: Final = Statement(
    select(AUDIT.c.seq, AUDIT.c.event).where(AUDIT.c.seq.between(bindparam("first"), bindparam("last"))).order_by(AUDIT.c.seq)
)
_ADD_NODE: Final = Statement(insert(AUDIT_NODES))
_LEAVES: Final = Lookup(AUDIT, ("seq",), ("seq", "leaf"))
_NODES: Final = Lookup(AUDIT_NODES, ("level", "place"), ("level", "place", "hash"))
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a log has come: its length and the peaks of its tree."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    @property
    def root(self) -> bytes:
        """The tree's root."""
        return root(self.peaks)


class Log:
    """The log's tables.  Callers hold the transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._entries: list[Values] = []
        self._inner: list[Values] = []

    # --- writing -----------------------------------------------------------------------------------------------------

    def append(self, extent: Extent, event: Json) -> tuple[AuditEntry, Extent]:
        """Put ``event`` behind a log of that extent.  It is in the database after the next :meth:`write`."""
        text = canonical(event)
        leaf = leaf_hash(text)
        peaks, completed = append(extent.size, extent.peaks, leaf)
        entry = AuditEntry(extent.size + 1, leaf.hex(), event)
        self._entries.append({"seq": entry.seq, "event": text.decode(), "leaf": leaf})
        self._inner += [{"level": level, "place": place, "hash": node} for level, place, node in completed]
        return entry, Extent(entry.seq, peaks)

    def write(self) -> None:
        """Write all that was appended since the last time, in two statements: steps that are committed together share them."""
        entries, inner = self._entries, self._inner
        self.restore((0, 0))
        self._database.run(_ADD, *entries)
        self._database.run(_ADD_NODE, *inner)

    def mark(self) -> tuple[int, int]:
        """A moment to which :meth:`restore` can go back."""
        return len(self._entries), len(self._inner)

    def restore(self, mark: tuple[int, int]) -> None:
        """Forget what was appended since ``mark`` and has not been written."""
        self._entries, self._inner = self._entries[: mark[0]], self._inner[: mark[1]]

    # --- reading -----------------------------------------------------------------------------------------------------

    def is_empty(self) -> bool:
        """Whether there is no entry at all."""
        return not self._database.rows(select(AUDIT.c.seq).limit(1))

    def walk(self, extent: Extent) -> Iterator[AuditEntry]:
        """The whole log, what is not written yet included, checked: nothing may be used before the last entry has come.

        Raises:
            AuditError: it is not the log of that extent.
        """
        found = Extent()
        while found.size < extent.size:
            entries = self._read(found.size + 1, min(extent.size, found.size + _PAGE))
            yield from entries
            found = _after(found, entries)
        if found != extent or self._database.rows(select(AUDIT.c.seq).where(AUDIT.c.seq > extent.size).limit(1)):
            raise AuditError("the audit log was cut", expected=extent.size, got=found.size)

    def page(self, extent: Extent, first: int, last: int) -> tuple[AuditEntry, ...]:
        """Entries ``first`` to ``last`` of the log of that extent, checked against its root.

        Raises:
            AuditError: the log was changed or cut.
        """
        last = min(last, extent.size)
        if first > last:
            return ()
        before = Extent(first - 1, self._with_nodes(lambda subtree: peaks_of(first - 1, subtree)))
        entries = self._read(first, last)
        self.check_continues(_after(before, entries), extent)
        return entries

    def check_continues(self, before: Extent, extent: Extent) -> None:
        """Check that the log of ``extent`` has grown from the one of ``before``.

        Raises:
            AuditError: it has not: it was cut, rewritten or forked.
        """
        if before.size > extent.size:
            raise AuditError("the audit log was cut", expected=before.size, got=extent.size)
        verify_consistency(before.size, before.root, extent.size, extent.root, self.consistency(before.size, extent.size))

    def holds(self, before: Extent, extent: Extent) -> bool:
        """Whether the log of ``extent``, which is at least as long, begins with the one of ``before``.

        Raises:
            AuditError: its tree has lost a part.
        """
        proof = self.consistency(before.size, extent.size)
        try:
            verify_consistency(before.size, before.root, extent.size, extent.root, proof)
        except AuditError:
            return False
        return True

    def consistency(self, old: int, new: int) -> list[bytes]:
        """See :func:`~confide.keys.merkle.consistency_proof`."""
        return self._with_nodes(lambda subtree: consistency_proof(old, new, subtree))

    def inclusion(self, seq: int, extent: Extent) -> tuple[AuditEntry, tuple[bytes, ...]]:
        """Entry ``seq``, which counts from 1, with its proof (:func:`~confide.keys.merkle.inclusion_proof`), which holds.

        Raises:
            AuditError: the log was changed or cut.
        """
        (entry,) = self._read(seq, seq)
        path = tuple(self._with_nodes(lambda subtree: inclusion_proof(seq - 1, extent.size, subtree)))
        verify_inclusion(entry.check(), seq - 1, extent.size, path, extent.root)
        return entry, path

    # --- inside ------------------------------------------------------------------------------------------------------

    def _read(self, first: int, last: int) -> tuple[AuditEntry, ...]:
        rows = [*self._database.rows(_ENTRIES, {"first": first, "last": last})]
        rows += [(entry["seq"], entry["event"]) for entry in self._entries if first <= entry["seq"] <= last]
        try:
            entries = tuple(AuditEntry.of(seq, parse_object(event)) for seq, event in rows)
        except ParseError as cause:
            raise AuditError("the audit log is damaged") from cause
        if len(entries) != last - first + 1:
            raise AuditError("the audit log was cut", expected=last, got=first - 1 + len(entries))
        return entries

    def _with_nodes(self, make: Callable[[Subtree], T]) -> T:
        """What ``make`` makes of subtrees: it is run twice, first to learn which ones it wants, so that one query brings them."""
        wanted: set[tuple[int, int]] = set()

        def note(level: int, place: int) -> bytes:
            wanted.add((level, place))
            return b""

        make(note)
        nodes = self._nodes(wanted)
        try:
            return make(lambda level, place: nodes[level, place])
        except KeyError:
            raise AuditError("the audit log's tree has lost a part") from None

    def _nodes(self, wanted: set[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        places = sorted(wanted)
        leaves, inner = [place for level, place in places if level == 0], [place for place in places if place[0]]
        nodes: dict[tuple[int, int], bytes] = {}
        if leaves:
            rows = self._database.rows_at(_LEAVES, [(place + 1,) for place in leaves])
            nodes |= {(0, seq - 1): bytes(leaf) for seq, leaf in rows}
        if inner:
            nodes |= {(level, place): bytes(node) for level, place, node in self._database.rows_at(_NODES, inner)}
        return nodes


def _after(extent: Extent, entries: tuple[AuditEntry, ...]) -> Extent:
    size, peaks = extent.size, extent.peaks
    for leaf in verify_entries(entries, first=size + 1):
        peaks, _ = append(size, peaks, leaf)
        size += 1
    return Extent(size, peaks)

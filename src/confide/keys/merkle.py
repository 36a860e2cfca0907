"""Merkle trees over a list that only grows: roots, inclusion and consistency proofs (RFC 9162, sections 2.1.1 to 2.1.4; RFC 6962).

Pure.  Leaves and roots are 32 bytes.  A tree's *peaks* are the roots of its largest perfect subtrees, from the left: all that is
needed to append to it.  A subtree is named ``(level, index)``: it covers the leaves from ``index * 2**level`` to before
``(index + 1) * 2**level``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from confide.errors import AuditError

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
MAX_PROOF: Final = 64
"""Longest proof: a tree has fewer than 2**63 leaves."""

Subtree = Callable[[int, int], bytes]
"""The root of the perfect subtree ``(level, index)``; level 0 are leaves."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of one entry."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash over two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def append(size: int, peaks: Sequence[bytes], leaf: bytes) -> tuple[tuple[bytes, ...], list[tuple[int, int, bytes]]]:
    """The peaks after ``leaf`` has been put behind ``size`` others, and the perfect subtrees above it that it completes."""
    left, level, index, node = list(peaks), 0, size, leaf
    completed = []
    while index & 1:
        node = node_hash(left.pop(), node)
        level, index = level + 1, index >> 1
        completed.append((level, index, node))
    return (*left, node), completed


def root(peaks: Sequence[bytes]) -> bytes:
    """The root of the tree with these peaks."""
    if not peaks:
        return EMPTY_ROOT
    found = peaks[-1]
    for peak in reversed(peaks[:-1]):
        found = node_hash(peak, found)
    return found


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root of the tree over ``leaves``."""
    peaks: tuple[bytes, ...] = ()
    for size, leaf in enumerate(leaves):
        peaks, _ = append(size, peaks, leaf)
    return root(peaks)


def peaks_of(size: int, subtree: Subtree) -> tuple[bytes, ...]:
    """The peaks of the tree over the first ``size`` leaves."""
    return tuple(subtree(level, start >> level) for level, start in _perfect(0, size))


def inclusion_proof(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """The audit path from leaf ``index`` (from 0) to the root of the first ``size`` leaves.

    Raises:
        AuditError: there is no such leaf in a tree of that size.
    """
    if not 0 <= index < size:
        raise AuditError("no such entry in an audit log of that size", expected=size, got=index)
    return _path(index, 0, size, subtree)


def consistency_proof(old: int, new: int, subtree: Subtree) -> list[bytes]:
    """The proof that the first ``old`` leaves of the tree over ``new`` are the tree of that size.

    Raises:
        AuditError: the older size is not one of a tree that could have grown into the newer.
    """
    if not 0 <= old <= new:
        raise AuditError("an audit log does not shrink", expected=old, got=new)
    return [] if old in {0, new} else _subproof(old, 0, new, subtree, complete=True)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root_hash: bytes) -> None:
    """Check that ``leaf`` is entry ``index`` of the tree of ``size`` with that root (RFC 9162, 2.1.3.2).

    Raises:
        AuditError: the proof does not show it.
    """
    refusal = AuditError("the proof of an audit entry does not hold", size=size, seq=index + 1)
    if not 0 <= index < size or len(proof) > MAX_PROOF:
        raise refusal
    found = leaf
    for node, on_the_left in _climb(index, size - 1, proof, refusal):
        found = node_hash(node, found) if on_the_left else node_hash(found, node)
    if found != root_hash:
        raise refusal


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of ``new`` leaves continues the one of ``old`` (RFC 9162, 2.1.4.2).

    Raises:
        AuditError: the proof does not show it.
    """
    refusal = AuditError("the audit log does not continue the one that was seen before", seen=old, got=new)
    if not 0 <= old <= new or len(proof) > MAX_PROOF:
        raise refusal
    if old in {0, new}:
        if proof or old_root != (EMPTY_ROOT if old == 0 else new_root):
            raise refusal
        return
    nodes = list(proof)
    if old & (old - 1) == 0:
        nodes.insert(0, old_root)
    if not nodes:
        raise refusal
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    was = now = nodes[0]
    for node, on_the_left in _climb(fn, sn, nodes[1:], refusal):
        was, now = (node_hash(node, was), node_hash(node, now)) if on_the_left else (was, node_hash(now, node))
    if was != old_root or now != new_root:
        raise refusal


# --- inside ------------------------------------------------------------------------------------------------------------


def _climb(index: int, last: int, proof: Sequence[bytes], refusal: AuditError) -> Iterator[tuple[bytes, bool]]:
    """The nodes of a proof on the way from a leaf up, each with whether it is on the left; ``last`` is the tree's last leaf."""
    for node in proof:
        if last == 0:
            raise refusal
        on_the_left = bool(index & 1) or index == last
        yield node, on_the_left
        while on_the_left and index and not index & 1:
            index, last = index >> 1, last >> 1
        index, last = index >> 1, last >> 1
    if last:
        raise refusal


def _perfect(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The perfect subtrees of the leaves from ``start`` to before ``end`` as (level, first leaf); ``start`` is aligned to them."""
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start
        start += 1 << level


def _range_root(start: int, end: int, subtree: Subtree) -> bytes:
    return root([subtree(level, first >> level) for level, first in _perfect(start, end)])


def _split(start: int, end: int) -> int:
    """Where RFC 9162 splits: after the largest power of two smaller than the number of leaves."""
    return start + (1 << ((end - start - 1).bit_length() - 1))


def _path(index: int, start: int, end: int, subtree: Subtree) -> list[bytes]:
    found: list[bytes] = []
    while end - start > 1:
        middle = _split(start, end)
        if index < middle:
            found.append(_range_root(middle, end, subtree))
            end = middle
        else:
            found.append(_range_root(start, middle, subtree))
            start = middle
    return found[::-1]


def _subproof(old: int, start: int, end: int, subtree: Subtree, *, complete: bool) -> list[bytes]:
    if old == end:
        return [] if complete else [_range_root(start, end, subtree)]
    middle = _split(start, end)
    if old <= middle:
        return [*_subproof(old, start, middle, subtree, complete=complete), _range_root(middle, end, subtree)]
    return [*_subproof(old, middle, end, subtree, complete=False), _range_root(start, middle, subtree)]

"""Merkle trees: the published example, and every proof of every small tree."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.errors import AuditError
from confide.keys.merkle import (
    EMPTY_ROOT,
    Subtree,
    append,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    peaks_of,
    root,
    root_of,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [hashlib.sha256(bytes([number])).digest() for number in range(70)]
# Certificate Transparency's reference tree: https://github.com/google/certificate-transparency, merkle_tree_test.cc.
REFERENCE = [b"", b"\x00", b"\x10", b"\x20\x21", b"\x30\x31", b"\x40\x41\x42\x43", bytes(range(0x50, 0x58)), bytes(range(0x60, 0x70))]


def subtree(leaves: list[bytes]) -> Subtree:
    return lambda level, place: root_of(leaves[place << level : (place + 1) << level])


def test_roots_are_those_of_the_reference() -> None:
    leaves = list(map(leaf_hash, REFERENCE))
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert root_of(leaves[:1]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert root_of(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 64, 69])
def test_every_entry_and_every_earlier_tree_is_proved(size: int) -> None:
    leaves = LEAVES[:size]
    whole, peaks = subtree(leaves), peaks_of(size, subtree(leaves))
    assert root(peaks) == root_of(leaves)
    for place, leaf in enumerate(leaves):
        verify_inclusion(leaf, place, size, inclusion_proof(place, size, whole), root_of(leaves))
    for old in range(size + 1):
        verify_consistency(old, root_of(leaves[:old]), size, root_of(leaves), consistency_proof(old, size, whole))


def test_appending_completes_the_subtrees_that_proofs_need() -> None:
    nodes: dict[tuple[int, int], bytes] = {(0, place): leaf for place, leaf in enumerate(LEAVES)}
    peaks: tuple[bytes, ...] = ()
    for size, leaf in enumerate(LEAVES):
        peaks, completed = append(size, peaks, leaf)
        nodes |= {(level, place): node for level, place, node in completed}
    assert all(node == subtree(LEAVES)(level, place) for (level, place), node in nodes.items())
    verify_inclusion(LEAVES[5], 5, 70, inclusion_proof(5, 70, lambda level, place: nodes[level, place]), root(peaks))


@given(st.integers(1, 69), st.data())
def test_inclusion_proof_with_any_one_change_is_refused(size: int, data: st.DataObject) -> None:
    leaves = LEAVES[:size]
    place = data.draw(st.integers(0, size - 1))
    proof, top = inclusion_proof(place, size, subtree(leaves)), root_of(leaves)
    wrong: list[tuple[bytes, int, int, list[bytes], bytes]] = [
        (LEAVES[-1], place, size, proof, top),
        (leaves[place], place, size, [*proof, LEAVES[-1]], top),
        (leaves[place], place, size, proof, LEAVES[-1]),
        (leaves[place], size, size, proof, top),
        (leaves[place], -1, size, proof, top),
    ]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        wrong += [
            (leaves[place], place, size, proof[:-1], top),
            (leaves[place], place, size, [*proof[:at], LEAVES[-1], *proof[at + 1 :]], top),
            (leaves[place], place ^ 1, size, proof, top),
        ]
    for changed in wrong:
        with pytest.raises(AuditError):
            verify_inclusion(*changed)


@given(st.integers(2, 69), st.data())
def test_consistency_proof_with_any_one_change_is_refused(new: int, data: st.DataObject) -> None:
    leaves = LEAVES[:new]
    old = data.draw(st.integers(1, new - 1))
    proof, was, now = consistency_proof(old, new, subtree(leaves)), root_of(leaves[:old]), root_of(leaves)
    at = data.draw(st.integers(0, len(proof) - 1))
    for changed in (
        (old, LEAVES[-1], new, now, proof),
        (old, was, new, LEAVES[-1], proof),
        (old, was, new, now, proof[:-1]),
        (old, was, new, now, [*proof, LEAVES[-1]]),
        (old, was, new, now, [*proof[:at], LEAVES[-1], *proof[at + 1 :]]),
        (old, was, old - 1, now, proof),
        (0, was, new, now, []),
        (new, was, new, now, []),
        (0, EMPTY_ROOT, new, now, proof),
    ):
        with pytest.raises(AuditError):
            verify_consistency(*changed)


@pytest.mark.parametrize(("place", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_no_proof_of_an_entry_that_is_not_there(place: int, size: int) -> None:
    with pytest.raises(AuditError):
        inclusion_proof(place, size, subtree(LEAVES))


@pytest.mark.parametrize(("old", "new"), [(4, 3), (-1, 3)])
def test_no_proof_that_a_log_has_shrunk(old: int, new: int) -> None:
    with pytest.raises(AuditError):
        consistency_proof(old, new, subtree(LEAVES))

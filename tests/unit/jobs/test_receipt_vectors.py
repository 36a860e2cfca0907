"""The shared receipt vectors: this verifier, and one that shares no code with it, come to the expected verdict at the same step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import receipt_checker

from confide.attest.roots import TrustRoots
from confide.canonical import Json
from confide.jobs.receipt import examine
from confide.jobs.statement import ReceiptBundle

FOLDER = Path(__file__).parents[2] / "vectors" / "receipt"
VECTORS = sorted(path for path in FOLDER.glob("*.json") if path.stem != "common")
COMMON: Json = json.loads((FOLDER / "common.json").read_text(encoding="utf-8"))
STEPS = {
    "receipt": 1,
    "signature": 1,
    "job": 2,
    "policy": 2,
    "node": 3,
    "again": 3,
    "refused": 4,
    "input": 5,
    "inputs": 5,
    "output": 6,
    "outputs": 6,
    "keys": 7,
    "data": 8,
    "audit": 9,
}
"""The step of the format's section 4 that a check belongs to, by the first word of its name."""


def load(path: Path) -> Json:
    """A vector, with all that lies beside its receipt; ``null`` in it takes away what is common."""
    found: Json = json.loads(path.read_text(encoding="utf-8"))
    tables = {name: {**table, **found.get("beside", {}).get(name, {})} for name, table in COMMON["beside"].items()}
    found["beside"] = {name: {key: value for key, value in table.items() if value is not None} for name, table in tables.items()}
    return found


def test_all_receipt_vectors_are_here() -> None:
    expected = [load(path)["expect"] for path in VECTORS]
    assert (expected.count("accepted"), expected.count("refused"), len(expected)) == (3, 49, 52)
    assert {load(path)["step"] for path in VECTORS} == {None, *range(1, 10)}


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_receipt_vector_gets_its_verdict(path: Path) -> None:
    vector = load(path)
    bundle = ReceiptBundle.from_json({"receipt": vector["receipt"], **vector["beside"]})
    found = examine(bundle, roots=TrustRoots(simulated=bytes.fromhex(COMMON["root"])), job=vector.get("job"))
    assert found.accepted == (vector["expect"] == "accepted"), [check for check in found.checks if not check.ok]
    refused = [STEPS[check.name.split()[0]] for check in found.checks if not check.ok]
    assert (refused[0] if refused else None) == vector["step"]


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_a_verifier_of_the_page_alone_comes_to_the_same_verdict(path: Path) -> None:
    vector = load(path)
    step = None
    try:
        receipt_checker.check(vector["receipt"], vector["beside"], vector.get("job"))
    except receipt_checker.RefusedError as refused:
        step = refused.step
    assert step == (None if vector.get("by_evidence") else vector["step"])

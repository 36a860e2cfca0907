"""Mutation testing of the modules that decide about evidence: leaves out one check at a time and asks whether a test notices.

``python scripts/mutate.py [--seconds N] [--seed N] [MODULE ...]``.  Each mutant is tested in a fork in which only the mutated module's
text is another; no file is changed.  Messages are not mutated (they decide nothing).  Mutants are taken in a shuffled order (by the
seed), so that a run that is cut short is still a fair sample.  Results: ``docs/security/mutation-testing.md``.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

import dcap_qvl  # noqa: F401 - imported once here, so that no fork has to
import hypothesis  # noqa: F401
import jwcrypto.jwe  # noqa: F401
import OpenSSL.SSL  # noqa: F401
import pydantic  # noqa: F401
import pytest
from cryptography import x509  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
_UNIT, _ATTACKS = "tests/unit/attest", "tests/attacks"
_INTEL = (f"{_UNIT}/test_verify_rules.py", f"{_ATTACKS}/attestation", f"{_UNIT}/test_verify_vectors.py", f"{_UNIT}/test_dcap.py")
_AMD = (f"{_ATTACKS}/attestation", f"{_UNIT}/test_amd_collateral.py", f"{_UNIT}/test_snp_vectors.py")
TESTS = {
    "binding": (f"{_UNIT}/test_binding.py", f"{_ATTACKS}/attestation"),
    "certs": (f"{_UNIT}/test_certs.py", *_INTEL),
    "collateral": (f"{_UNIT}/test_collateral.py", *_INTEL),
    "collateral_check": _INTEL,
    "intel": _INTEL,
    "intel_tcb": _INTEL,
    "quote": (f"{_UNIT}/test_quote.py", *_INTEL),
    "snp": _AMD,
    "snp_report": _AMD,
    "amd_certs": _AMD,
    "amd_collateral": _AMD,
}
"""The narrow tests of each module, quick ones first."""
_TIMEOUT_S = 120
_OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


@dataclass(frozen=True)
class Mutant:
    """A module with one thing changed."""

    module: str
    line: int
    change: str
    code: CodeType

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.change}"


def mutants(module: str) -> Iterator[Mutant]:
    """Every mutant of one module."""
    path = ROOT / "src" / "confide" / "attest" / f"{module}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for index, node in enumerate(ast.walk(tree)):
        for change, edit in _edits(node):
            changed = copy.deepcopy(tree)
            target = next(found for at, found in enumerate(ast.walk(changed)) if at == index)
            _replace(changed, target, edit)
            line = getattr(node, "lineno", 0)
            yield Mutant(module, line, change, compile(ast.fix_missing_locations(changed), str(path), "exec"))


def _edits(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What one node is replaced with: (in words, the new node)."""
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield f"without: {ast.unparse(node)[:90]}", ast.Pass()
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        other = ast.Compare(node.left, [_OPPOSITE[type(node.ops[0])]()], node.comparators)
        yield f"{ast.unparse(node)[:60]} -> {ast.unparse(other)[:60]}", other
    elif isinstance(node, ast.BoolOp):
        swapped = ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
        yield f"and <-> or: {ast.unparse(node)[:80]}", swapped
        for at, left_out in enumerate(node.values):
            rest = [value for place, value in enumerate(node.values) if place != at]
            yield f"without operand: {ast.unparse(left_out)[:80]}", rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"without not: {ast.unparse(node)[:80]}", node.operand
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield f"{node.value} -> {node.value + 1}", ast.Constant(node.value + 1)


def _replace(tree: ast.AST, target: ast.AST, edit: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, name, edit)
                return
            if isinstance(value, list) and any(item is target for item in value):
                value[next(at for at, item in enumerate(value) if item is target)] = edit
                return


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Serves the mutated text for one module's name."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        name = f"confide.attest.{self._mutant.module}"
        return importlib.util.spec_from_loader(name, self) if fullname == name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(self._mutant.code, module.__dict__)  # noqa: S102 - running the changed module is the point


def outcome(mutant: Mutant) -> str:
    """``killed``, ``survived`` or ``timeout``."""
    child = os.fork()
    if not child:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.meta_path.insert(0, _Mutated(mutant))
        signal.alarm(_TIMEOUT_S)
        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *TESTS[mutant.module]]) != 0))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "timeout"
    return "survived" if os.WEXITSTATUS(status) == 0 else "killed"


def main() -> int:
    """Run mutants until none is left or the time is over; print survivors and totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", default=list(TESTS), help=", ".join(TESTS))
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    os.chdir(ROOT)
    everything = [mutant for module in options.modules for mutant in mutants(module)]
    random.Random(options.seed).shuffle(everything)
    end = time.monotonic() + options.seconds
    counts: Counter[tuple[str, str]] = Counter()
    for mutant in everything:
        if time.monotonic() > end:
            break
        result = outcome(mutant)
        counts[mutant.module, result] += 1
        if result != "killed":
            print(f"{result}: {mutant}", flush=True)
    for module in options.modules:
        totals = {result: counts[module, result] for result in ("killed", "survived", "timeout")}
        print(f"{module}: {totals} of {sum(mutant.module == module for mutant in everything)} mutants")
    print(f"run: {counts.total()} of {len(everything)} mutants in the time given")
    return 0 if counts.total() else 1


if __name__ == "__main__":
    sys.exit(main())

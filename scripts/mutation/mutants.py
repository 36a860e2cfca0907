"""Mutants: a module's source with one decision changed.  Messages are not mutated, and nothing below a ``raise``: they decide nothing."""

from __future__ import annotations
import __future__

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).resolve().parents[2]
ATTEST = ROOT / "src" / "confide" / "attest"
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
_OTHER_OPERATION: dict[type[ast.operator], type[ast.operator]] = {
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_OTHER_FUNCTION = {"all": "any", "any": "all", "min": "max", "max": "min"}
_NAMED_BY = 90
"""Characters of a statement in a mutant's name; what is changed is named whole."""
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change.  ``name`` says it by source text, so that it outlives changes elsewhere in the file; ``lines`` are the statement's own.

    ``function`` is the outermost function around it, and the line where that begins; None for what runs when the module is imported.
    """

    name: str
    module: str
    lines: range
    function: tuple[str, int] | None
    at: int
    edit: int

    def code(self) -> CodeType:
        """The changed module."""
        tree = copy.deepcopy(_tree(self.module))
        target = next(found for at, found in enumerate(ast.walk(tree)) if at == self.at)
        _replace(tree, target, _edits(target)[self.edit][1])
        return compile(ast.fix_missing_locations(tree), str(path_of(self.module)), "exec")

    def function_code(self) -> CodeType | None:
        """The changed function, or None if the change is in none.  Only what stands around it is compiled."""
        if self.function is None:
            return None
        tree = _tree(self.module)
        target = next(found for at, found in enumerate(ast.walk(tree)) if at == self.at)
        around = next(one for one in tree.body if any(found is target for found in ast.walk(one)))
        copies: dict[int, ast.AST] = {}
        copied = ast.Module([copy.deepcopy(around, copies)], [])
        _replace(copied, copies[id(target)], _edits(copies[id(target)])[self.edit][1])
        flags = __future__.annotations.compiler_flag
        return _find(compile(ast.fix_missing_locations(copied), str(path_of(self.module)), "exec", flags), *self.function)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the walk is: classes and function around, the smallest statement, and whether annotations decide something (in models)."""

    qualname: str
    function: tuple[str, int] | None
    statement: ast.stmt | None
    in_model: bool = False


def path_of(module: str) -> Path:
    """The file of a module of ``confide.attest``, as ``launch.elf``."""
    return ATTEST.joinpath(*module.split(".")).with_suffix(".py")


def mutants(module: str) -> list[Mutant]:
    """Every mutant of one module, in the order of its source."""
    tree = _tree(module)
    number = {id(node): at for at, node in enumerate(ast.walk(tree))}
    found: list[Mutant] = []
    for node, place in _decisions(tree, _Place("", None, None)):
        statement = place.statement
        if statement is None:
            continue
        where = f"{module}.{place.qualname}".removesuffix(".")
        for edit, (change, _) in enumerate(_edits(node)):
            name = f"{where} | {_text(statement)} | {change}"
            found.append(Mutant(name, module, _own_lines(statement), place.function, number[id(node)], edit))
    seen: Counter[str] = Counter()
    for index, mutant in enumerate(found):
        seen[mutant.name] += 1
        if seen[mutant.name] > 1:
            found[index] = replace(mutant, name=f"{mutant.name} ({seen[mutant.name]})")
    return found


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text(encoding="utf-8"))


def _decisions(node: ast.AST, place: _Place) -> Iterator[tuple[ast.AST, _Place]]:
    """The nodes that may be changed, each with its place."""
    if isinstance(node, ast.stmt):
        place = replace(place, statement=node)
    yield node, place
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.arg)):
        return
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        place = replace(place, qualname=f"{place.qualname}.{node.name}".lstrip("."), in_model=_is_model(node))
    for child in ast.iter_child_nodes(node):
        if _is_type(node, child, in_model=place.in_model):
            continue
        if isinstance(node, _FUNCTIONS) and place.function is None and isinstance(child, ast.stmt):
            begins = min(node.lineno, *(one.lineno for one in node.decorator_list), node.lineno)
            yield from _decisions(child, replace(place, function=(place.qualname, begins)))
        else:
            yield from _decisions(child, place)


def _is_model(node: ast.AST) -> bool:
    """Whether it is a class whose annotations are read at run time, as pydantic's models are: not a dataclass."""
    return isinstance(node, ast.ClassDef) and not any("dataclass" in ast.unparse(one) for one in node.decorator_list)


def _is_type(node: ast.AST, child: ast.AST, *, in_model: bool) -> bool:
    """Whether the child says what something is, for readers and type checkers: nothing depends on it at run time (a model's fields do)."""
    if isinstance(node, _FUNCTIONS):
        return child is node.returns or child in node.decorator_list
    if isinstance(node, ast.ClassDef):
        return child in node.decorator_list
    return isinstance(node, ast.AnnAssign) and child is node.annotation and not in_model


def _edits(node: ast.AST) -> list[tuple[str, ast.AST]]:
    """What one node may be replaced with: (in words, the new node)."""
    edits: list[tuple[str, ast.AST]] = []
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        edits.append(("without it", ast.Pass()))
    elif isinstance(node, ast.Compare):
        for at, operator in enumerate(node.ops):
            ops = [*node.ops[:at], _OPPOSITE[type(operator)](), *node.ops[at + 1 :]]
            other = ast.Compare(node.left, ops, node.comparators)
            edits.append((f"{ast.unparse(node)} -> {ast.unparse(other)}", other))
    elif isinstance(node, ast.BoolOp):
        swapped = ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
        edits.append((f"{ast.unparse(node)} -> {ast.unparse(swapped)}", swapped))
        for at, left_out in enumerate(node.values):
            rest = [value for place, value in enumerate(node.values) if place != at]
            edits.append((f"without operand {ast.unparse(left_out)}", rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        edits.append((f"{ast.unparse(node)} -> without not", node.operand))
    elif isinstance(node, ast.Constant):
        edits += _other_constants(node.value)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in _OTHER_FUNCTION:
        edits.append((f"{node.id} -> {_OTHER_FUNCTION[node.id]}", ast.Name(_OTHER_FUNCTION[node.id], ast.Load())))
    elif isinstance(node, ast.BinOp) and type(node.op) in _OTHER_OPERATION and not _is_text(node):
        operated = ast.BinOp(node.left, _OTHER_OPERATION[type(node.op)](), node.right)
        edits.append((f"{ast.unparse(node)} -> {ast.unparse(operated)}", operated))
    edits += _negated_test(node)
    return edits


def _other_constants(value: object) -> list[tuple[str, ast.AST]]:
    if isinstance(value, bool):
        return [(f"{value} -> {not value}", ast.Constant(not value))]
    return [(f"{value} -> {value + 1}", ast.Constant(value + 1))] if isinstance(value, int) else []


def _negated_test(node: ast.AST) -> list[tuple[str, ast.AST]]:
    """Conditions that are no comparison: those have mutants of their own."""
    if not isinstance(node, (ast.If, ast.IfExp)) or isinstance(node.test, (ast.Compare, ast.BoolOp, ast.UnaryOp)):
        return []
    if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return []
    other = copy.copy(node)
    other.test = ast.UnaryOp(ast.Not(), node.test)
    return [(f"if {ast.unparse(node.test)} -> if not", other)]


def _is_text(node: ast.BinOp) -> bool:
    """Whether it joins texts or lists, which cannot be subtracted; and unions of types."""
    sides = (node.left, node.right)
    joined = any(isinstance(side, (ast.JoinedStr, ast.List, ast.Tuple)) for side in sides)
    return joined or any(isinstance(side, ast.Constant) and isinstance(side.value, (str, bytes, type(None))) for side in sides)


def _text(statement: ast.stmt) -> str:
    """The start of the statement's first line, as Python writes it."""
    lines = ast.unparse(statement).splitlines()
    return next((line for line in lines if not line.startswith("@")), lines[0])[:_NAMED_BY]


def _own_lines(statement: ast.stmt) -> range:
    """The lines of the statement without the statements in it."""
    inner = [child.lineno for child in ast.walk(statement) if isinstance(child, ast.stmt) and child is not statement]
    end = statement.end_lineno or statement.lineno
    return range(statement.lineno, max(statement.lineno + 1, min([end + 1, *inner])))


def _find(code: CodeType, qualname: str, begins: int) -> CodeType | None:
    for inner in code.co_consts:
        if not isinstance(inner, CodeType):
            continue
        if (inner.co_qualname, inner.co_firstlineno) == (qualname, begins):
            return inner
        deeper = _find(inner, qualname, begins)
        if deeper is not None:
            return deeper
    return None


def _replace(tree: ast.AST, target: ast.AST, edit: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, name, edit)
                return
            if isinstance(value, list) and any(item is target for item in value):
                value[next(at for at, item in enumerate(value) if item is target)] = edit
                return

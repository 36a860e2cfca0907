"""The error tree is an interface: every code is unique, documented with its exit status, and raised by some test."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import traceback
from pathlib import Path

import pytest

import confide
from confide.errors import ConfideError, UsageError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors" / "README.md"


def _tree(root: type[ConfideError] = ConfideError) -> list[type[ConfideError]]:
    found = [root]
    for child in root.__subclasses__():
        found += _tree(child)
    return found


ERRORS = _tree()
LEAVES = [error for error in ERRORS if not error.__subclasses__()]


def test_every_code_is_unique() -> None:
    codes = [error.code for error in ERRORS]
    assert len(codes) == len(set(codes))


LOADED_BY_OTHERS = ("confide.cli.demo_files", "confide.keys.storage.migrations.env")
"""Programs of the demo's nodes, and what Alembic runs."""


def test_no_error_class_lives_outside_the_tree_module() -> None:
    for module in pkgutil.walk_packages(confide.__path__, "confide."):
        if not module.name.startswith(LOADED_BY_OTHERS):
            importlib.import_module(module.name)
    assert {error.__module__ for error in _tree()} == {"confide.errors"}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_code_is_kebab_case_and_class_is_described(error: type[ConfideError]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error.code)
    assert error.__doc__
    assert "code" in vars(error), "each class has a code of its own"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_code_is_documented_with_its_exit_status(error: type[ConfideError]) -> None:
    rows = re.findall(r"^\| \[`([a-z-]+)`\]\(\1\.md\) \| (\d+) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert (error.code, str(error.exit_status)) in rows


def test_page_documents_no_code_that_is_gone() -> None:
    documented = re.findall(r"^\| \[?`([a-z-]+)`", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) <= {error.code for error in ERRORS} | {"internal"}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_code_has_a_page_that_says_what_it_means_and_what_not(error: type[ConfideError]) -> None:
    page = (PAGE.parent / f"{error.code}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {error.code}\n")
    assert f"Exit status {error.exit_status}." in page
    assert f"error[{error.code}]" in page
    headings = re.findall(r"^## (.+)$", page, flags=re.MULTILINE)
    assert headings == ["How it arises", "What to do", "What it does not mean"]


def _messages() -> dict[str, list[str]]:
    """Class of error to the messages that the source gives it, as patterns: what is put in when it runs matches anything."""
    found: dict[str, list[str]] = {}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                first = node.args[0]
                parts = first.values if isinstance(first, ast.JoinedStr) else [first]
                pattern = "".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*" for part in parts)
                found.setdefault(node.func.id, []).append(pattern)
    return found


MESSAGES = _messages()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_example_on_a_page_is_a_message_of_the_program(error: type[ConfideError]) -> None:
    page = (PAGE.parent / f"{error.code}.md").read_text(encoding="utf-8")
    (message,) = re.findall(rf"^error\[{error.code}\]: (.+)$", page, flags=re.MULTILINE)
    patterns = [one for one in MESSAGES.get(error.__name__, []) if one != ".*"]
    assert any(re.fullmatch(one, message) for one in patterns), message


def test_every_page_is_of_a_code() -> None:
    pages = {path.stem for path in PAGE.parent.glob("*.md")} - {"README"}
    assert pages == {error.code for error in ERRORS}


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.code)
def test_error_is_raised_by_some_test(error: type[ConfideError]) -> None:
    here = Path(__file__).resolve()
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py") if path.resolve() != here)
    assert any(error.__name__ in source or f'"{error.code}"' in source for source in sources)


def test_a_traceback_says_the_hint() -> None:
    """Of an error that ends a job's program, its log has the traceback alone."""
    shown = "".join(traceback.format_exception(UsageError("the job has no input 'vists'", hint="inputs: visits")))
    assert shown.endswith("UsageError: the job has no input 'vists'\nhint: inputs: visits\n")

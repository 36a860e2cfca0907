"""The documentation is checked, and the checks find what they are for."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


docs = _script("check_docs")
readme = _script("check_readme")
reference = _script("cli_reference")


def test_documentation_has_no_findings(capsys: pytest.CaptureFixture[str]) -> None:
    assert docs.main() == 0, capsys.readouterr().out


def test_page_of_the_command_line_is_current() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run scripts/cli_reference.py"


def test_broken_link_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    page = tmp_path / "a.md"
    page.write_text("# One\n[x](b.md) [y](#one) [z](#two) [w](https://example.com)\n```\n[not a link](c.md)\n```\n", encoding="utf-8")
    assert list(docs.broken_links(page)) == ["a.md: b.md leads nowhere", "a.md: #two: no such heading"]


@pytest.mark.parametrize(
    ("row", "finding"),
    [
        ("| T01 | a threat | A1 | nowhere | nothing |", "names no module"),
        ("| T01 | a threat | A1 | `src/here.py` | nothing |", "names no test"),
        ("| T01 | a threat | A1 | `src/gone.py` | `tests/gone.py` |", "src/gone.py is not there"),
        ("| T01 | a threat | A1 | `src/here.py` | `tests/test_here.py::test_gone` |", "tests/test_here.py has no test_gone"),
        (2 * "| T01 | a threat | A1 | `src/here.py` | `tests/test_here.py` |\n", "two rows have this number"),
    ],
)
def test_threat_without_defence_or_test_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str, finding: str) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    for name in ("src/here.py", "tests/test_here.py", "docs/security/threat-model.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    page = tmp_path / "docs" / "security" / "threat-model.md"
    assert list(docs.broken_threat_rows()) == ["docs/security/threat-model.md: no rows found"]
    page.write_text(row, encoding="utf-8")
    assert any(finding in found for found in docs.broken_threat_rows())


@pytest.mark.parametrize(
    ("cell", "finding"),
    [
        ("the same test", "leak a place: names no test"),
        ("`tests/gone.py::test_gone`", "leak a place: tests/gone.py is not there"),
        ("`tests/test_here.py::test_here`; `tests/test_here.py::test_gone`", "leak a place: tests/test_here.py has no test_gone"),
    ],
)
def test_place_where_spark_could_leak_without_a_test_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str, finding: str
) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    for name, text in (("tests/test_here.py", "def test_here() -> None:"), ("docs/security/spark-leaks.md", "")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert list(docs.broken_leak_rows()) == ["docs/security/spark-leaks.md: no rows found"]
    page = tmp_path / "docs" / "security" / "spark-leaks.md"
    page.write_text(f"| place | test |\n| --- | --- |\n| a place | {cell} |\n| another | `tests/test_here.py` |\n", encoding="utf-8")
    assert list(docs.broken_leak_rows()) == [finding]


def test_path_of_one_machine_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    page = tmp_path / "a.md"
    page.write_text("fine\nsee /wo" + "rk/main\n", encoding="utf-8")
    assert [finding.split(":")[1] for finding in docs.foreign_names(page)] == ["2"]


def test_place_that_was_to_be_filled_in_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    page = tmp_path / "a.md"
    page.write_text("fine\n@@NUMB" + "ERS@@\n", encoding="utf-8")
    assert list(docs.unfilled(page)) == ["a.md:2: something is to be filled in"]


def test_readme_lines_are_compared_by_form() -> None:
    said = "simulated  12.3s ok worker-1 got abcdefabcdef0123... at 127.0.0.1:4711\n"
    assert readme.missing("simulated   1.0s ok worker-2 got 0123456789abcdef... at 127.0.0.1:1\n", said) == []
    assert readme.missing("simulated   1.0s ok worker-2 lost\n", said) == ["simulated   1.0s ok worker-2 lost"]


def test_readme_keeps_its_order() -> None:
    titles = re.findall(r"^## (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert titles == ["What the demo just proved", "The same in Python", "What was tested on what", "Where to read on"]


def test_readme_python_is_fifteen_lines_at_most() -> None:
    block = dict(readme._BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")))["python"]
    assert len([line for line in block.splitlines() if line.strip()]) <= 15

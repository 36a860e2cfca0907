"""Checks what can be checked of the documentation without running anything.

* every relative link in a committed Markdown file leads to a file (and, with ``#``, to a heading);
* every row of the threat model has a number of its own, and names a module and a test that exist;
* no committed text names a machine's own paths or a package registry's host;
* no page has a place that was to be filled in (``@@NAME@@``).
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
# Written so that this file does not match itself.
_HOSTS = [r"pypi\.o" + "rg", r"pythonhosted\.o" + "rg", r"deb\.debian\.o" + "rg"]
_FOREIGN = re.compile("|".join([*_HOSTS, r"(?<![\w.])/wo" + r"rk/", r"/root/\.py" + "env"]))
_TO_FILL = re.compile(r"@@[A-Z_]+@@")
_TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".sh", ".java", ".lock", ".txt", ""}


def _committed() -> list[Path]:
    # Tracked files and those that would be: a new page is checked before its first commit.
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return sorted(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken_links(page: Path) -> Iterator[str]:
    """Links of ``page`` that lead nowhere."""
    for target in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            yield f"{page.relative_to(ROOT)}: {target} leads nowhere"
        elif anchor and file.suffix == ".md" and anchor not in _anchors(file):
            yield f"{page.relative_to(ROOT)}: {target}: no such heading"


def broken_threat_rows() -> Iterator[str]:
    """Rows of the threat model whose number another one has, or whose module or test is not there."""
    page = ROOT / "docs" / "security" / "threat-model.md"
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if re.match(r"\| T\d+", line)]
    if not rows:
        yield "docs/security/threat-model.md: no rows found"
    names = [row.split("|")[1].strip() for row in rows]
    for name, row in zip(names, rows, strict=True):
        if names.count(name) > 1:
            yield f"threat {name}: two rows have this number"
        modules = re.findall(r"`((?:src|java|deploy)/[\w./-]+)`", row)
        if not modules:
            yield f"threat {name}: names no module"
        for module in modules:
            if not (ROOT / module).exists():
                yield f"threat {name}: {module} is not there"
        yield from _missing_tests(f"threat {name}", row)


def broken_leak_rows() -> Iterator[str]:
    """Rows of the table of places where Spark could leak whose test is not there."""
    page = ROOT / "docs" / "security" / "spark-leaks.md"
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][2:]
    if not rows:
        yield "docs/security/spark-leaks.md: no rows found"
    for row in rows:
        yield from _missing_tests(f"leak {row.split(' | ')[0].removeprefix('| ')}", row.split(" | ")[-1])


def _missing_tests(name: str, row: str) -> Iterator[str]:
    tests = re.findall(r"`(tests/[\w./-]+\.py)(?:::(\w+))?`", row)
    if not tests:
        yield f"{name}: names no test"
    for file, test in tests:
        path = ROOT / file
        if not path.exists():
            yield f"{name}: {file} is not there"
        elif test and f"def {test}(" not in path.read_text(encoding="utf-8"):
            yield f"{name}: {file} has no {test}"


def foreign_names(path: Path) -> Iterator[str]:
    """Lines that name a registry's host or a path of one machine."""
    if path.suffix not in _TEXT:
        return
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if _FOREIGN.search(line):
            yield f"{path.relative_to(ROOT)}:{number}: names a registry or a path of one machine"


def unfilled(page: Path) -> Iterator[str]:
    """Lines of ``page`` that still wait for their text."""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if _TO_FILL.search(line):
            yield f"{page.relative_to(ROOT)}:{number}: something is to be filled in"


def main() -> int:
    """Print every finding; 1 if there is one."""
    files = _committed()
    findings = [finding for path in files if path.suffix == ".md" for finding in broken_links(path)]
    findings += [finding for path in files if path.suffix == ".md" for finding in unfilled(path)]
    findings += [*broken_threat_rows(), *broken_leak_rows()]
    findings += [finding for path in files for finding in foreign_names(path)]
    for finding in findings:
        print(finding)
    print(f"documentation: {len(findings)} findings in {len(files)} files")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

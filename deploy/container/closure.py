"""Prints the part of requirements.lock that the broker's image needs: the chosen packages with all that they depend on.

``closure.py build NAME...`` or ``closure.py run EXTRAS``, in the folder of the lock.  What depends on what, pip asks the index; what is
installed, the lock's hashes decide.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", text.strip(), maxsplit=1)[0]).lower()


def _locked(path: Path) -> dict[str, str]:
    """The lock's entries, by normalised name: each with its hashes."""
    entries: dict[str, list[str]] = {}
    current: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and line[0] not in " #":
            current = entries[_name(line)] = [line]
        elif line.startswith("    --hash="):
            current.append(line)
    return {name: "\n".join(lines) for name, lines in entries.items()}


def _wanted(kind: str, words: list[str]) -> list[str]:
    if kind == "build":
        return words
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [extra for word in words for extra in word.split(",") if extra]
    return [*project["dependencies"], *(need for extra in extras for need in project["optional-dependencies"][extra])]


def _closure(wanted: list[str], locked: dict[str, str]) -> list[str]:
    """Names of what pip would install at the locked versions."""
    with tempfile.TemporaryDirectory() as folder:
        pins, report = Path(folder) / "pins", Path(folder) / "report"
        pins.write_text("\n".join(entry.partition(" ")[0] for entry in locked.values()), encoding="utf-8")
        options = ["--dry-run", "--quiet", "--ignore-installed", "--only-binary=:all:", "--constraint", str(pins), "--report", str(report)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *wanted], check=True, stdout=subprocess.DEVNULL)
        found = json.loads(report.read_text(encoding="utf-8"))
    return sorted(_name(one["metadata"]["name"]) for one in found["install"])


def main() -> int:
    """Print the entries."""
    locked = _locked(Path("requirements.lock"))
    for name in _closure(_wanted(sys.argv[1], sys.argv[2:]), locked):
        if name not in locked:
            sys.exit(f"{name} is not in requirements.lock")
        print(locked[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())

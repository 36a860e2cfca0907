"""Prints the part of requirements.lock that the broker's image needs: the chosen packages with all that they depend on.

``PYTHONPATH=src closure.py build NAME...`` or ``... closure.py run EXTRAS``, in the folder of the lock.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from confide.jobs.images.lock import needed, parse, requirement_name


def _wanted(kind: str, words: list[str]) -> list[str]:
    if kind == "build":
        return words
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [extra for word in words for extra in word.split(",") if extra]
    return [*project["dependencies"], *(need for extra in extras for need in project["optional-dependencies"][extra])]


def main() -> int:
    """Print the entries."""
    locked = parse(Path("requirements.lock").read_text(encoding="utf-8"))
    for package in needed(locked, map(requirement_name, _wanted(sys.argv[1], sys.argv[2:]))).values():
        print(package.requirement())
    return 0


if __name__ == "__main__":
    sys.exit(main())

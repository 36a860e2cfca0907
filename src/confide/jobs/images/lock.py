"""Lock files: packages by version and by the hashes of their release files.  Pure; pip, which installs from them, checks the hashes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from confide.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PINNED: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[^\]]*\])?==([^\s;\\]+)")
_EXTRA: Final = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


@dataclass(frozen=True, slots=True)
class Locked:
    """One package.  ``because``: who needs it, as far as the lock's comments say (``# via``, as pip-compile and uv write them)."""

    name: str
    version: str
    hashes: tuple[str, ...]
    because: frozenset[str]

    def requirement(self) -> str:
        """The entry, in the form in which pip reads it."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{digest}" for digest in self.hashes)])


def parse(text: str) -> dict[str, Locked]:
    """A lock's packages by name.

    Raises:
        ParseError: an entry is not pinned by version and hash, or there is none.
    """
    found: dict[str, Locked] = {}
    for entry in _entries(text):
        pinned = _PINNED.match(entry[0])
        hashes = tuple(digest for line in entry for digest in _HASH.findall(line))
        if pinned is None or not hashes:
            hint = "write it by `pip-compile --generate-hashes` or `uv pip compile --generate-hashes`"
            raise ParseError("a package of the lock is not pinned by version and SHA-256", got=entry[0][:80], hint=hint)
        name = normal(pinned[1])
        found[name] = Locked(name, pinned[3], hashes, frozenset(_because(entry)))
    if not found:
        raise ParseError("the lock has no packages")
    return found


def needed(locked: Mapping[str, Locked], wanted: Iterable[str]) -> dict[str, Locked]:
    """The packages that are wanted, and all that the lock says are there because of them.

    That can be more than is needed: the lock does not say for which extra of its parent a package is there.

    Raises:
        ParseError: one that is wanted is not in the lock.
    """
    open_ones = [normal(name) for name in wanted]
    missing = sorted(set(open_ones) - set(locked))
    if missing:
        raise ParseError(f"the lock does not have {', '.join(missing)}", hint="make the lock for the extras that the image is to have")
    found = {}
    while open_ones:
        name = open_ones.pop()
        if name not in found:
            found[name] = locked[name]
            open_ones += [other.name for other in locked.values() if name in other.because]
    return dict(sorted(found.items()))


def requirements(metadata: str, extras: Iterable[str]) -> list[str]:
    """Names of what a distribution with this metadata (core metadata, ``Requires-Dist``) needs, with some of its extras.

    Raises:
        ParseError: it has no such extra.
    """
    chosen = set(extras)
    unknown = chosen - set(re.findall(r"^Provides-Extra: (.+)$", metadata, flags=re.MULTILINE))
    if unknown:
        raise ParseError(f"there is no extra {', '.join(sorted(unknown))}")
    found = []
    for line in re.findall(r"^Requires-Dist: (.+)$", metadata, flags=re.MULTILINE):
        extra = _EXTRA.search(line)
        if extra is None or extra[1] in chosen:
            found.append(requirement_name(line))
    return sorted(set(found))


def requirement_name(text: str) -> str:
    """Whose a requirement is (PyPA, "Dependency specifiers")."""
    return normal(re.split(r"[\[<>=!~;( ]", text.strip(), maxsplit=1)[0])


def normal(name: str) -> str:
    """A name as packages are compared (PyPA, "Names and normalization")."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _entries(text: str) -> list[list[str]]:
    """Each package's lines: its own, and the indented ones below it."""
    found: list[list[str]] = []
    for line in text.splitlines():
        if line and line[0] not in " #-":
            found.append([line])
        elif found and line.startswith(" "):
            found[-1].append(line.strip())
    return found


def _because(entry: list[str]) -> list[str]:
    """The names in its comments.  ``# via`` stands before the first; each other has a line."""
    words = [line.removeprefix("#").strip().removeprefix("via").strip() for line in entry[1:] if line.startswith("#")]
    return [normal(word.split(" ")[0]) for word in words if word]

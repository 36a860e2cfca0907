"""What names on the command line stand for: files, folders, patterns, standard input, and URLs."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

from confide.data.remote import remote_sources
from confide.data.sources import Source, local_source, plain_sources
from confide.errors import DataError, UsageError

STDIN: Final = "-"
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*(::|://)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """The sources that names stand for.  ``plain``: each was named as a file, or by a pattern, rather than as part of a folder."""

    sources: tuple[Source, ...]
    plain: bool


def find_sources(names: Sequence[str]) -> Found:
    """The files that these names stand for: a file, a folder with all in it, a pattern (``*``, ``?``, ``[...]``, ``**``), a URL, ``-``.

    A name that is a file is that file, whatever characters it has.  Every file has one place in the dataset: two that would have the same
    are refused, and so is a pattern that finds nothing.

    Raises:
        DataError: there is no such file, or two would have one name.
        UsageError: standard input together with others, or a URL that cannot be read safely.
        UnavailableError: a remote storage does not answer.
    """
    if STDIN in names:
        if len(names) != 1:
            raise UsageError("standard input is read alone", hint="name either `-` or files")
        return Found((Source("stdin", lambda: sys.stdin.buffer, once=True),), plain=True)
    sources: dict[str, tuple[Source, str]] = {}
    plain = True
    for name in names:
        found, named_plainly = _find(name)
        plain = plain and named_plainly
        for source in found:
            if source.name in sources:
                hint = "encrypt the folder above them, or make two datasets"
                other = sources[source.name][1]
                raise DataError(f"two files would be {source.name} in the dataset", hint=hint, path=name, other=other)
            sources[source.name] = (source, name)
    if not sources:
        raise DataError("there is no file to encrypt", path=names[0] if names else None)
    return Found(tuple(source for source, _ in sources.values()), plain)


def _find(name: str) -> tuple[list[Source], bool]:
    if _URL.match(name) and not os.path.lexists(name):
        return remote_sources(name)
    path = Path(name)
    if os.path.lexists(path) or not glob.has_magic(name):
        return plain_sources(path), not path.is_dir()
    found = sorted(Path(one) for one in glob.glob(name, recursive=True))  # noqa: PTH207 -- absolute patterns, too
    files = [one for one in found if not one.is_dir()]
    if not files:
        raise DataError(f"no file is called {name}", hint="patterns do not find names that begin with a dot", path=name)
    # Below the part of the pattern that is plain text, files keep the folders that they lie in.
    above = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
    return [local_source(one.relative_to(above).as_posix(), one) for one in files], True

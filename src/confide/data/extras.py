"""The libraries by which storages are used: there, and new enough, or an error that says what to install.

The versions are those of the extras in ``pyproject.toml``, which bind who installs by them and nobody else.
"""

from __future__ import annotations

import importlib.metadata
import re
from typing import Final

from confide.errors import ExtraMissingError

LEAST: Final = {"boto3": (1, 40), "fsspec": (2025, 9), "s3fs": (2025, 9)}
"""The oldest versions that are used.  Before these, boto3 and fsspec do not know of writing a file only if there is none."""
_EXTRAS: Final = {"boto3": "confide[s3]", "fsspec": "confide[fsspec]", "s3fs": "s3fs"}


def require_library(name: str, what: str) -> None:
    """Return if the library ``name`` is installed and new enough.  ``what`` is used through it.

    Raises:
        ExtraMissingError: it is not.
    """
    hint = f"pip install --upgrade '{_EXTRAS[name]}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as cause:
        raise ExtraMissingError(f"{what} used through {name}, which is not installed", hint=hint) from cause
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < LEAST[name]:
        least = ".".join(map(str, LEAST[name]))
        raise ExtraMissingError(f"{what} used through {name}, and {version} is too old", hint=hint, expected=f">={least}", got=version)


def package_missing(url: str, cause: ImportError) -> ExtraMissingError:
    """What to raise if fsspec knows a URL's scheme and lacks the package for it: fsspec's own words name it."""
    said = cause.name or re.sub(r"[^\w .,:'-]", " ", str(cause))[:200]
    hint = f"install the package that fsspec names for it: {said}"
    return ExtraMissingError(f"fsspec needs another package for {url.split('://', 1)[0]}://", hint=hint)

"""What Kubernetes allows as names, labels and keys.  Pure.

Its documentation, "Object Names and IDs" and "Labels and Selectors": DNS labels are those of RFC 1123 (services: RFC 1035, which begin
with a letter), at most 63 characters; keys have an optional DNS subdomain of at most 253 and a slash before a name of at most 63.
"""

from __future__ import annotations

import re
from typing import Final

from confide.errors import UsageError

# The ends are \Z: $ would match before a line's end, too.
LABEL: Final = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z"
SUBDOMAIN: Final = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\Z"
VALUE: Final = r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?\Z"
_QUALIFIED: Final = r"([A-Za-z0-9][A-Za-z0-9._-]{0,61})?[A-Za-z0-9]"
_PREFIX: Final = r"(?=[^/]{1,253}/)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*/"
KEY: Final = rf"^({_PREFIX})?{_QUALIFIED}\Z"
KEY_OR_NONE: Final = rf"^(({_PREFIX})?{_QUALIFIED})?\Z"
RESOURCE: Final = rf"^{_PREFIX}{_QUALIFIED}\Z"
MAX_NAME: Final = 63
"""Longer names of pods would do, but a Job's name is a label of its pods, and a Service's is a DNS label."""


def check_key(key: str) -> None:
    """Refuse what is no key of a label or annotation.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(KEY, key):
        raise ValueError(f"{key[:80]!r} is not a key: a name of at most 63 letters, digits, dots, dashes and underscores, or domain/name")


def check_object_name(name: str) -> str:
    """Return the name of an object of a run, if Kubernetes takes it for each kind that a run has.

    Raises:
        UsageError: it is longer than 63 characters, or has others than lower-case letters, digits and dashes, or begins with no letter.
    """
    if len(name) > MAX_NAME or not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
        hint = "a job's name is the beginning of its runs' ids: use a letter first, then lower-case letters, digits and dashes"
        raise UsageError(f"not a name that Kubernetes takes: {name[:80]!r}", hint=hint, limit=MAX_NAME)
    return name

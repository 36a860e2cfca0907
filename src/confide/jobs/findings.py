"""What a doctor finds: one line for each thing that was looked at."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One line: what was looked at, whether it will do, what was found, and what to do if it will not."""

    check: str
    ok: bool
    found: str
    hint: str = ""
    needed: bool = True

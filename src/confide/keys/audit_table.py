"""Events of the audit log as rows for people and spreadsheets.  Pure; nothing is verified here."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Final

from confide.canonical import Json
from confide.keys.audit import AuditEntry, AuditLog

_DIGEST = re.compile(r"[0-9a-f]{24,}")
_SHOWN: Final = ("action", "time", "owners", "blind")
_SHORT: Final = 16
"""So many characters of a digest tell one from another at a glance."""


def row_of(event: Json) -> tuple[str, str, str]:
    """Time, action and everything else that an event says."""
    told = {name: value for name, value in sorted(event.items()) if name not in _SHOWN and value not in (None, "", [])}
    facts = [f"{name}={_plain(value)}" for name, value in told.items()]
    return str(event.get("time", ""))[:19].replace("T", " "), str(event.get("action", "")), " ".join(facts)


def csv_lines(log: AuditLog) -> Iterator[str]:
    """One line an entry.  A cell that a spreadsheet would take for a formula begins with an apostrophe (OWASP, CSV Injection)."""
    for cells in (("seq", "time", "action", "owners", "what", "leaf"), *map(_cells, log.entries)):
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow([f"'{cell}" if cell[:1] in {"=", "+", "-", "@", "\t"} else cell for cell in cells])
        yield line.getvalue()


def _cells(entry: AuditEntry) -> tuple[str, ...]:
    if entry.event is None:
        return str(entry.seq), "", "", "", "(another's)", entry.leaf
    time, action, what = row_of(entry.event)
    return str(entry.seq), time, action, ",".join(map(str, entry.event.get("owners", []))), what, entry.leaf


def _plain(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    if _DIGEST.fullmatch(text):
        return f"{text[:_SHORT]}..."
    return json.dumps(text) if " " in text else text

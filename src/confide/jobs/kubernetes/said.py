"""What a cluster says, taken for nothing more than it is: whatever has another type than it should is as if it were not said."""

from __future__ import annotations

from typing import Any, Final

from confide.canonical import Json

_MAX_WORDS: Final = 600


def as_object(value: Any) -> Json:
    """An object, or an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """A list, or an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: Any) -> str:
    """A text, or an empty one.  It may have any characters: :func:`words` makes it fit to be shown."""
    return value if isinstance(value, str) else ""


def about(found: Json) -> Json:
    """An object's metadata."""
    return as_object(found.get("metadata"))


def name_of(found: Json) -> str:
    """An object's name, or an empty one."""
    return as_text(about(found).get("name"))


def label_of(found: Json, label: str) -> str:
    """What one of an object's labels says."""
    return as_text(as_object(about(found).get("labels")).get(label))


def words(text: str) -> str:
    """A message that can be shown on a terminal: one line, no control characters, not endless."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _MAX_WORDS]).split())
    return line if len(line) <= _MAX_WORDS else f"{line[:_MAX_WORDS]}..."

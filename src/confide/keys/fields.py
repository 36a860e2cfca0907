"""Reads the JSON fields of a request to the broker: a missing one, or one of another type, is refused and never a default."""

from __future__ import annotations

from typing import TypeVar

from confide.canonical import Json
from confide.crypto.http_messages import Request
from confide.errors import ParseError

T = TypeVar("T")


def body(request: Request) -> Json:
    """The request's JSON object.

    Raises:
        ParseError: there is none.
    """
    if request.json is None:
        raise ParseError("this request needs a JSON body")
    return request.json


def text(request: Request, field: str) -> str:
    """A field that is text.  Raises ``ParseError`` if there is none."""
    return _field(request, field, str, "a text field is missing")


def number(request: Request, field: str) -> int:
    """A field that is a whole number.  Raises ``ParseError`` if there is none."""
    return _field(request, field, int, "a whole number is missing")


def object_(request: Request, field: str) -> Json:
    """A field that is an object.  Raises ``ParseError`` if there is none."""
    return _field(request, field, dict, "an object field is missing")


def list_(request: Request, field: str) -> list[object]:
    """A field that is a list.  Raises ``ParseError`` if there is none."""
    return _field(request, field, list, "a list is missing")


def flag(request: Request, field: str) -> bool:
    """A field that is true or false, and false if it is left out.  Raises ``ParseError`` for anything else."""
    value = body(request).get(field, False)
    if not isinstance(value, bool):
        raise ParseError("a field is true or false", field=field)
    return value


def signatures(rest: Json) -> list[object]:
    """The signatures of the node's job, which requests may leave out."""
    found = rest.get("signatures", [])
    if not isinstance(found, list):
        raise ParseError("signatures of a job are a list")
    return found


def optional_text(request: Request, name: str) -> str | None:
    """A field that is text, or is not there."""
    return text(request, name) if name in body(request) else None


def texts(*lists: list[object]) -> bool:
    """Whether all items of all lists are text."""
    return all(isinstance(item, str) for items in lists for item in items)


def _field(request: Request, field: str, kind: type[T], missing: str) -> T:
    value = body(request).get(field)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ParseError(missing, field=field)
    return value

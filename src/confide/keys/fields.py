"""Reads the JSON fields of a request to the broker: a missing one, or one of another type, is refused and never a default."""

from __future__ import annotations

from confide.canonical import Json
from confide.crypto.http import Request
from confide.errors import ParseError


def body(request: Request) -> Json:
    """The request's JSON object.

    Raises:
        ParseError: there is none.
    """
    if request.json is None:
        raise ParseError("this request needs a JSON body")
    return request.json


def text(request: Request, field: str) -> str:
    """A field that is text.

    Raises:
        ParseError: there is none.
    """
    value = body(request).get(field)
    if not isinstance(value, str):
        raise ParseError("a text field is missing", field=field)
    return value


def number(request: Request, field: str) -> int:
    """A field that is a whole number.

    Raises:
        ParseError: there is none.
    """
    value = body(request).get(field)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ParseError("a whole number is missing", field=field)
    return value


def object_(request: Request, field: str) -> Json:
    """A field that is an object.

    Raises:
        ParseError: there is none.
    """
    value = body(request).get(field)
    if not isinstance(value, dict):
        raise ParseError("an object field is missing", field=field)
    return value


def list_(request: Request, field: str) -> list[object]:
    """A field that is a list.

    Raises:
        ParseError: there is none.
    """
    value = body(request).get(field)
    if not isinstance(value, list):
        raise ParseError("a list is missing", field=field)
    return value


def signatures(rest: Json) -> list[object]:
    """The signatures of the node's job, which requests may leave out."""
    found = rest.get("signatures", [])
    if not isinstance(found, list):
        raise ParseError("signatures of a job are a list")
    return found


def texts(*lists: list[object]) -> bool:
    """Whether all items of all lists are text."""
    return all(isinstance(item, str) for items in lists for item in items)

"""Forms of the companion: what its user was shown and asked to confirm, each good for one answer.  Pure."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Final, Literal
from urllib.parse import parse_qsl

from confide.errors import CredentialError, ParseError

Action = Literal["approve", "reject", "take-back", "end"]
ACTIONS: Final[tuple[Action, ...]] = ("approve", "reject", "take-back", "end")
MAX_FORM_BYTES: Final = 4096
FORM_S: Final = 900.0
"""How long a form that was shown may be answered."""
_MOST: Final = 32
_FIELDS: Final = frozenset({"form", "digest", "read"})


@dataclass(frozen=True, slots=True)
class Shown:
    """What the user was shown: an action on exactly this subject."""

    action: Action
    subject: str
    digest: str
    until: float


@dataclass(slots=True)
class Forms:
    """The forms that are out.  The token in each is what another site cannot know."""

    _out: dict[str, Shown] = field(default_factory=dict)

    def show(self, action: Action, subject: str, digest: str) -> str:
        """A token for a form that shows this."""
        while len(self._out) >= _MOST:
            del self._out[next(iter(self._out))]
        token = secrets.token_urlsafe(24)
        self._out[token] = Shown(action, subject, digest, time.monotonic() + FORM_S)
        return token

    def take(self, action: Action, body: bytes) -> Shown:
        """What was shown in the form that is answered; it cannot be answered again.

        Raises:
            ParseError: it is none of our forms.
            CredentialError: it was not shown, was answered, is too old, was of something else, or its user did not confirm.
        """
        fields = _read(body)
        shown = self._out.pop(fields["form"], None)
        if shown is None or time.monotonic() > shown.until:
            raise CredentialError("this form was answered already, or is too old", hint="look at the grant again")
        if shown.action != action or not compare_digest(fields["digest"], shown.digest):
            raise CredentialError("the form is of something else than what was shown", expected=shown.digest, got=fields["digest"])
        if fields.get("read") != "yes":
            raise CredentialError("it was not confirmed", hint="tick the box to say that you have read it")
        return shown


def read_code(body: bytes) -> str:
    """The code in the entry's form.

    Raises:
        ParseError: it is another form.
    """
    return _pairs(body, frozenset({"code"})).get("code", "").strip()


def _read(body: bytes) -> dict[str, str]:
    fields = _pairs(body, _FIELDS)
    if not {"form", "digest"} <= set(fields) or not fields["digest"].isascii():
        raise ParseError("not one of the companion's forms")
    return fields


def _pairs(body: bytes, known: frozenset[str]) -> dict[str, str]:
    if len(body) > MAX_FORM_BYTES:
        raise ParseError("a form is too large", limit=MAX_FORM_BYTES)
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=8, errors="strict")
    except ValueError as cause:
        raise ParseError("not a form") from cause
    if not {name for name, _ in pairs} <= known or len(dict(pairs)) != len(pairs):
        raise ParseError("not one of the companion's forms")
    return dict(pairs)

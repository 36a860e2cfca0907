"""Finds, in what a failed program printed, the reason that Spark's JVMs gave: a changed file rather than "the program ended with 1".

Reads log text, which a program may write itself, so the answer explains a failure and decides nothing.
"""

from __future__ import annotations

import re
from typing import Final

from confide.errors import ConfideError, IntegrityError, error_from_json

# Java's side puts an error's code in brackets before its message (AgentRefusal.java, Container.java).
_CODES: Final = r"data-[a-z]+|manifest-[a-z]+|plaintext-found|key-refused|grant-missing|broker-unavailable|unavailable|credential-refused"
_CODED: Final = re.compile(rf"\[({_CODES})\] ([^\n]{{1,600}})")
_HINTED: Final = re.compile(r"(.{1,300}?) \(hint: (.{1,300}?)\)")
"""A refusal of the agent's with its hint, as AgentRefusal.java puts them."""
_TAG: Final = re.compile(r"GCM tag check failed|AEADBadTagException")
"""What Parquet's own decryption says."""


def reasons_in(text: str) -> list[str]:
    """The reasons of ours that an error of Spark gives, each once; no value of a row is in them."""
    coded = [found[0].strip() for found in _CODED.finditer(text)]
    tags = [found[0] for found in _TAG.finditer(text)]
    return list(dict.fromkeys([*coded, *tags]))


def failure_in(output: str) -> ConfideError | None:
    """The error that ``output`` tells of, or ``None``: the first one with a code, otherwise a failed authentication tag."""
    found = _CODED.search(output)
    if found is not None:
        hinted = _HINTED.match(found[2])
        message, hint = (hinted[1], hinted[2]) if hinted else (found[2].strip()[:300], None)
        return error_from_json({"code": found[1], "message": message, "hint": hint})
    if _TAG.search(output):
        return IntegrityError("encrypted data does not open: it was changed, swapped or renamed", hint="see `confide data verify`")
    return None

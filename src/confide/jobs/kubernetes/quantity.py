"""Amounts as Kubernetes writes them: ``500m``, ``16Mi``, ``1e3``.  Pure.

Follows "Kubernetes API reference, Quantity".
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from confide.errors import ParseError

_POWERS: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_FORM: Final = re.compile(r"([+-]?[0-9]{1,18}(?:\.[0-9]{0,18})?|[+-]?\.[0-9]{1,18})(?:([KMGTPE])i|([numkMGTPE])|[eE]([+-]?[0-9]{1,2}))?")


def parse_quantity(text: object) -> Decimal:
    """The amount.

    Raises:
        ParseError: it is none.
    """
    found = _FORM.fullmatch(str(text)) if isinstance(text, str | int) and not isinstance(text, bool) else None
    if found is None:
        raise ParseError("not an amount as Kubernetes writes it", got=str(text)[:40])
    number, binary, decimal, exponent = found.groups()
    if binary:
        return Decimal(number) * Decimal(1024) ** ("KMGTPE".index(binary) + 1)
    return Decimal(number).scaleb(int(exponent) if exponent else _POWERS[decimal or ""])


def show_bytes(amount: Decimal) -> str:
    """Bytes in the largest unit that leaves at least one of it."""
    for power, unit in ((4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
        if amount >= 1024**power:
            return f"{(amount / 1024**power).normalize():f}"[:7].rstrip(".") + unit
    return f"{amount.normalize():f}"

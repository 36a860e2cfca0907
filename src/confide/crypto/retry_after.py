"""How long a server asks its client to wait: the field ``Retry-After`` of RFC 9110.  Whether to wait is the caller's to decide."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

_MAX_DIGITS: Final = 12
"""Further digits are cut: so many seconds are 30,000 years, and still a number that JSON has."""


def pause_asked(value: str | None) -> float | None:
    """The pause that a service asks for, in seconds (RFC 9110, section 10.2.3); None if it asks for none, or not in words of the RFC."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdecimal():
        return float(text.lstrip("0")[:_MAX_DIGITS] or 0)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return max((until - datetime.now(UTC)).total_seconds(), 0.0)

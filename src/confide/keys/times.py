"""Times that somebody else says: with their zone, as moments in UTC.  Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def utc(moment: datetime) -> datetime:
    """The moment in UTC.

    Raises:
        ValueError: it names no zone, or there is no such year in UTC.
    """
    if moment.tzinfo is None:
        raise ValueError("a time needs a zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError as cause:  # the last and first hours of the calendar, in a zone
        raise ValueError("a time is of the years 1 to 9999 in UTC") from cause


def utc_time(text: str) -> datetime:
    """A time in ISO 8601 with its zone, in UTC.

    Raises:
        ValueError: it is none.
    """
    return utc(datetime.fromisoformat(text))

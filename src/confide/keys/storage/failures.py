"""What drivers and SQLAlchemy say of a database, as ``StoreError``: which table, and why, and never a statement or a value."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from confide.errors import StoreError


@contextmanager
def as_store_error(path: str | None = None) -> Iterator[None]:
    """Turns what SQLAlchemy or the driver's socket raises inside into ``StoreError``; ``path`` is where the store lies."""
    try:
        yield
    except SQLAlchemyError as cause:
        raise unusable(getattr(cause, "orig", None) or cause, path) from None
    except (OSError, struct.error) as cause:  # the driver does not wrap what its socket says
        raise unreachable(cause, path) from None


def unusable(cause: BaseException, path: str | None = None) -> StoreError:
    """The database has refused."""
    return StoreError(f"the key store cannot be used: {_said(cause)}", path=path)


def unreachable(cause: BaseException, path: str | None = None) -> StoreError:
    """The database did not answer."""
    return StoreError(f"the key store's database cannot be reached: {cause}", path=path)


def _said(cause: BaseException) -> str:
    """What the driver says: tables, columns and reasons.  SQLAlchemy's own text would hold the statement as well."""
    if isinstance(cause, SQLAlchemyError):
        return type(cause).__name__
    first = cause.args[0] if cause.args else type(cause).__name__
    return str(first.get("M", first.get("C", "")) if isinstance(first, dict) else first)[:200]

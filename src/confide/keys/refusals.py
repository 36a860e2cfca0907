"""Writes refusals to the audit log: no decision goes unrecorded because it was a no."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from confide.errors import AuditError, ConfideError, Fact, RateLimitedError, StoreError
from confide.keys.audit import new_event
from confide.keys.store import Store

_MAX_MESSAGE: Final = 300
_LINE: Final = ("check", "expected", "got", "policy")
"""Facts of a refusal by a policy: the line that decided."""


@contextmanager
def refusals_audited(
    store: Store, clock: Callable[[], datetime], action: str, owners: Sequence[str], facts: Mapping[str, Fact]
) -> Iterator[None]:
    """Record an error that leaves the block, and let it go on.  Put it outside of the transaction that the error undoes.

    A store that cannot be read cannot be written either: its own errors are not recorded.
    Nor is asking too often: a flood of requests is no flood of records.
    """
    try:
        yield
    except (StoreError, AuditError, RateLimitedError):
        raise
    except ConfideError as error:
        told: dict[str, Fact] = {name: _short(error.facts[name]) for name in _LINE if name in error.facts}
        known: dict[str, Fact] = {**facts, "refused": action, "code": error.code, "message": _short(error.message), **told}
        known["hint"] = _short(error.hint)
        store.append_audit(new_event("refuse", owners, clock(), **known))
        raise


def _short(value: Fact) -> Fact:
    return value[:_MAX_MESSAGE] if isinstance(value, str) else value

"""Writes refusals to the audit log: no decision goes unrecorded because it was a no."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from confide.errors import AuditError, ConfideError, Fact, RateLimitedError, StoreError
from confide.keys.audit import new_event
from confide.keys.store import Store

_MAX_MESSAGE: Final = 300
_LINE: Final = ("check", "expected", "got", "policy")
"""Facts of a refusal by a policy: the line that decided."""


class refusals_audited:  # noqa: N801 -- read as a verb, as context managers are
    """Record an error that leaves the block, and let it go on.  Put it outside of the transaction that the error undoes.

    A store that cannot be read cannot be written either: its own errors are not recorded.
    Nor is asking too often: a flood of requests is no flood of records.
    """

    __slots__ = ("_action", "_clock", "_facts", "_owners", "_store")

    def __init__(self, store: Store, clock: Callable[[], datetime], action: str, owners: Sequence[str], facts: Mapping[str, Fact]) -> None:
        self._store, self._clock, self._action, self._owners, self._facts = store, clock, action, owners, facts

    def __enter__(self) -> None:
        """Nothing is recorded of what goes well: its own step does that."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None and isinstance(error, ConfideError) and not isinstance(error, StoreError | AuditError | RateLimitedError):
            self._record(error)

    def _record(self, error: ConfideError) -> None:
        told: dict[str, Fact] = {name: _short(error.facts[name]) for name in _LINE if name in error.facts}
        known: dict[str, Fact] = {**self._facts, "refused": self._action, "code": error.code, "message": _short(error.message), **told}
        known["hint"] = _short(error.hint)
        self._store.append_audit(new_event("refuse", self._owners, self._clock(), **known))


def _short(value: Fact) -> Fact:
    return value[:_MAX_MESSAGE] if isinstance(value, str) else value

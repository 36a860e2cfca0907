"""What stands under a store's root key besides the store's own two keys, and how each of it comes under another one.

Whatever wraps with the store's KMS has a place here: what is forgotten is lost with the old root key (a test looks for it in the source).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from confide.canonical import Json
from confide.keys.audit import new_event
from confide.keys.custody.protocol import Kms, Unlock
from confide.keys.escrow_commands import recovery_use
from confide.keys.escrow_records import KeptRecovery
from confide.keys.hierarchy import kek_context
from confide.keys.kbs.resources import Resource, context_of
from confide.keys.key_records import Key
from confide.keys.records import Record
from confide.keys.store import Store
from confide.keys.transfer_commands import WRAPPING_USE, KeptWrappingKey

Move = Callable[[bytes, Json], bytes]
"""Something wrapped, and its context, under the new root key."""


def rekey(store: Store, unlock: Unlock, now: datetime, *, shares: list[str]) -> int:
    """Put a store under a new root key, which ``unlock`` opens from then on; returns how many records it has.

    All at once: whatever happens, either the old way opens the whole store or the new one does.  Brokers that have it open stop, as the
    store's rows are under another key than they know.  ``shares``: whose shares made the old root key, for the audit log.

    Raises:
        StoreError: the store cannot be read or written.
        StepUnknownError: the database was lost in the middle: one of the two ways opens the store.
        CustodyError: one of the two custodies refuses, or cannot be reached.
    """
    old = store.kms

    def change_to(new: Kms) -> Callable[[str, Json], Json | None]:
        def move(wrapped: bytes, context: Json) -> bytes:
            secret = old.unwrap(wrapped, context=context)
            try:
                return new.wrap(secret, context=context)
            finally:
                secret.wipe()

        def change(kind: str, body: Json) -> Json | None:
            holder = HOLDERS.get(kind)
            return None if holder is None else holder(body, move).to_json()

        return change

    event = new_event("rekey", (), now, custody=unlock.called, shares=shares)
    return store.rekey(unlock, change_to, event)


def _key(body: Json, move: Move) -> Record:
    found = Key.from_json(body)
    for number, version in enumerate(found.versions, start=1):
        if version.wrapped is not None:
            wrapped = move(version.wrapped, kek_context(found.owner, found.name, number))
            found = found.with_version(number, replace(version, wrapped=wrapped))
    return found


def _resource(body: Json, move: Move) -> Record:
    found = Resource.from_json(body)
    if not found.sealed:  # deleted: its key is not kept either
        return found
    return replace(found, wrapped_key=move(found.wrapped_key, context_of(found.name, found.version)))


def _wrapping_key(body: Json, move: Move) -> Record:
    found = KeptWrappingKey.from_json(body)
    return replace(found, wrapped=move(found.wrapped, WRAPPING_USE))


def _recovery(body: Json, move: Move) -> Record:
    found = KeptRecovery.from_json(body)
    return replace(found, wrapped=move(found.wrapped, recovery_use(found.recovery)))


HOLDERS: Final[Mapping[str, Callable[[Json, Move], Record]]] = {
    Key.kind: _key,
    Resource.kind: _resource,
    KeptWrappingKey.kind: _wrapping_key,
    KeptRecovery.kind: _recovery,
}
"""Kinds of records that hold something wrapped by the store's KMS."""

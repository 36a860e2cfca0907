"""Whether a broker can do its work now.  Why not is one of three words: who asks is anybody."""

from __future__ import annotations

from typing import Literal

from confide.errors import AuditError, StoreError
from confide.keys.custody.seal_state import SealableKms
from confide.keys.records import Owner
from confide.keys.store import Store

Hindrance = Literal["stopping", "custody", "store"]


def hindrance(store: Store, *, stopping: bool) -> Hindrance | None:
    """What keeps the broker from giving keys, if anything.

    ``stopping``: it takes no further requests.  ``custody``: it is sealed.  ``store``: its database does not answer, was changed, or
    cannot keep what is written.  A disk that is full shows at the next write, which is refused, and from then on here,
    as long as a small row finds no room either.
    """
    if stopping:
        return "stopping"
    if isinstance(store.kms, SealableKms) and store.kms.sealed is not None:
        return "custody"
    try:
        store.find(Owner, "healthz")
        return None if store.is_writable() else "store"
    except (StoreError, AuditError):
        return "store"

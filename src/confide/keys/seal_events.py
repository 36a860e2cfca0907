"""That a custody gave or took back a broker's master key, in the broker's audit log: which custody, at which broker, why and when.

A sealed broker can still write its log: what authenticates rows is not the master key.  Shares that were brought: ``cli.shares``.
"""

from __future__ import annotations

from confide.keys.audit import new_event
from confide.keys.custody.seal_state import Note, SealChange
from confide.keys.store import Store


def seals_audited(store: Store, host: str) -> Note:
    """Keeps each change as an event ``seal`` or ``unseal`` of the time when it happened.  ``host`` is the machine of this broker."""

    def note(change: SealChange) -> None:
        facts = {"custody": change.service, "host": host}
        if change.reason:
            store.append_audit(new_event("seal", (), change.at, **facts, reason=change.reason))
        else:
            store.append_audit(new_event("unseal", (), change.at, **facts))

    return note

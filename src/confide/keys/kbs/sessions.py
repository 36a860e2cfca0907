"""Sessions of guests: nonce, then evidence bound to key and nonce.  Shared by all brokers of a store, **not bound to a TLS channel**.

A cookie may move from one connection to another, as the protocol has it, and from one broker to another; what it buys is a resource
encrypted to the attested key.  What is attested here is a :class:`Guest`, which no grant takes: those want a
:class:`~confide.attest.binding.SessionBinding`.  Why sessions lie in the store: docs/decisions/0020-shared-sessions.md.
"""

from __future__ import annotations

import hmac
import secrets
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from confide.attest.binding import NONCE_BYTES
from confide.errors import NonceError
from confide.ids import Nonce
from confide.keys.kbs.messages import GuestTee
from confide.keys.kbs.session_records import (
    SKEW,
    SLOTS,
    Challenge,
    Guest,
    GuestSession,
    SpentNonce,
    id_of_text,
    slot_of,
    slots,
    unknown_session,
)

if TYPE_CHECKING:
    from confide.keys.store import Store

MAX_SESSIONS: Final = 10_000
"""Cap on attested sessions in a store, and on failed tries that are remembered; a client gets one slot's part of each."""
_SWEEP_EVERY: Final = timedelta(seconds=1)
_SWEPT: Final = 300
"""Rows that a step removes at most, on the way: more than come in that time, and few enough that others do not wait for it."""


class GuestSessions:
    """All guests' sessions of one store.  Safe to use from several threads and processes.

    :meth:`begin` and :meth:`open` ask nothing of the store: a challenge is in its cookie.  :meth:`admit` and :meth:`spend` use one up, in a
    step of the store, so that of all tries at all brokers one wins.
    """

    def __init__(self, store: Store, *, nonce_ttl: timedelta, session_ttl: timedelta) -> None:
        self._store = store
        self._nonce_ttl, self.ttl = nonce_ttl, session_ttl
        self._cookie_tag = partial(store.tag, "kbs-challenge")
        self._slot_tag = partial(store.tag, "kbs-client")
        self._last_swept = datetime.min.replace(tzinfo=UTC)

    def __len__(self) -> int:
        return sum(self._store.count(GuestSession, slot) for slot in slots())

    def begin(self, tee: GuestTee, now: datetime) -> tuple[str, str]:
        """A new challenge: the cookie's value, and the nonce in standard base64."""
        challenge = Challenge(tee, Nonce(secrets.token_bytes(NONCE_BYTES)), now)
        return challenge.cookie(self._cookie_tag), challenge.text

    def open(self, cookie: str, nonce: str, now: datetime) -> Challenge:
        """The challenge that a guest answers.  Whether it was answered before, :meth:`admit` and :meth:`spend` find out.

        Raises:
            BindingError: no broker of this store asked it.
            NonceError: the nonce is not this session's, or has expired.
        """
        challenge = Challenge.of_cookie(cookie, self._cookie_tag)
        if not hmac.compare_digest(challenge.text.encode(), nonce.encode()):
            raise NonceError("the nonce is not the one of this session")
        if not challenge.issued - SKEW <= now < challenge.issued + self._nonce_ttl:
            raise NonceError("the nonce has expired", expired=(challenge.issued + self._nonce_ttl).isoformat())
        return challenge

    def spend(self, challenge: Challenge, client: str, now: datetime) -> None:
        """The try has failed: its nonce is used up.  Raises as :meth:`admit`."""
        with self._store.transaction():
            self._use_up(challenge)
            slot = self._room(SpentNonce, client, now)
            self._store.put(SpentNonce(challenge.id, slot), expires=self._forgotten(challenge))

    def admit(self, challenge: Challenge, client: str, guest: Guest, token: str, now: datetime) -> None:
        """From now on the session is ``guest``'s; ``token`` is the id of the token that says so.

        Raises:
            NonceError: another try has used the nonce up, or this client has too many sessions or failed tries.
        """
        with self._store.transaction():
            self._use_up(challenge)
            ends = now + self.ttl
            session = GuestSession(challenge.id, self._room(GuestSession, client, now), guest, token, ends)
            self._store.put(session, expires=max(ends, self._forgotten(challenge)))

    def of_cookie(self, cookie: str, now: datetime) -> Guest:
        """The guest of a session.

        Raises:
            BindingError: there is no such session, it has expired, or no evidence was accepted.
        """
        return self._session(Challenge.of_cookie(cookie, self._cookie_tag).id, now).guest

    def of_token(self, token: str, nonce: object, now: datetime) -> Guest:
        """The guest that a token was issued for, which says its nonce.  Raises as :meth:`of_cookie`."""
        found = self._session(id_of_text(nonce), now)
        if not hmac.compare_digest(found.token.encode(), token.encode()):
            raise unknown_session()
        return found.guest

    # --- inside ------------------------------------------------------------------------------------------------------

    def _session(self, name: str, now: datetime) -> GuestSession:
        found = self._store.get(GuestSession, name)
        if found is None or now >= found.expires:
            raise unknown_session()
        return found

    def _forgotten(self, challenge: Challenge) -> datetime:
        """When every broker has refused the challenge for its age, however its clock goes."""
        return challenge.issued + self._nonce_ttl + 2 * SKEW

    def _use_up(self, challenge: Challenge) -> None:
        """Check that nobody has used a nonce.  Inside the step that does."""
        known = self._store.get(GuestSession, challenge.id) or self._store.get(SpentNonce, challenge.id)
        swept = self._store.swept()
        # What may have been forgotten counts as used, so that no clock that goes wrong makes a nonce new.
        if known is not None or (swept is not None and self._forgotten(challenge) <= swept):
            raise NonceError("the nonce is unknown or was used before")

    def _room(self, kind: type[GuestSession | SpentNonce], client: str, now: datetime) -> str:
        """The client's slot, if there is room in it for one more."""
        slot = slot_of(client, self._slot_tag)
        if now - self._last_swept >= _SWEEP_EVERY or self._store.count(kind, slot) >= MAX_SESSIONS // SLOTS:
            self._store.sweep(now, limit=_SWEPT)
            self._last_swept = now
        if self._store.count(kind, slot) >= MAX_SESSIONS // SLOTS:
            raise NonceError("too many sessions, or failed tries, are this client's", hint="try again later")
        return slot

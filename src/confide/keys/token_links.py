"""People tie what an issuer calls them to their enrolled key, over TLS with that key only: no token makes tokens.

A tie is made by showing both at once, the key and a token of that subject, so nobody ties what is another's.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from confide.canonical import Json
from confide.errors import CredentialError
from confide.keys.callers import Callers
from confide.keys.limits import RateLimits
from confide.keys.sessions import Peer
from confide.keys.store import Store
from confide.keys.token_records import TokenLink, link_id
from confide.keys.tokens import Tokens


class TokenLinks(Callers):
    """Each command writes the audit log, refusals included."""

    def __init__(self, store: Store, clock: Callable[[], datetime], tokens: Tokens, limits: RateLimits | None = None) -> None:
        super().__init__(store, clock, limits)
        self._tokens = tokens

    def link(self, peer: Peer, text: str) -> Json:
        """From now on, the token's subject is the client.

        Raises:
            CredentialError: the client showed no enrolled key, the token does not count, its issuer does not speak for the client's
                tenant, or its subject is tied to somebody else.
            IssuerError: the issuer's keys cannot be had.
        """
        with self._command("token-link", peer, {}) as who:
            said = self._tokens.read(text, peer)
            if not said.issuer.of_tenant(who.tenant):
                raise CredentialError("the token's issuer does not speak for people of this tenant")
            made = TokenLink(said.issuer.issuer, said.subject, who.name)
            with self._store.transaction():
                before = self._store.get(TokenLink, made.id)
                if before is not None and before.owner != who.name:
                    raise CredentialError("the token's subject is tied to another credential")
                self._store.put(made)
                self._note("token-link", who, issuer=made.issuer, subject=made.subject)
        return made.to_json()

    def links(self, peer: Peer) -> Json:
        """The client's ties."""
        with self._command("list-token-links", peer, {}) as who:
            return {"links": [link.to_json() for link in self._store.find(TokenLink, who.name)]}

    def unlink(self, peer: Peer, issuer: str, subject: str) -> Json:
        """Untie a subject: its tokens count no more.

        Raises:
            CredentialError: it is not tied to the client.
        """
        with self._command("token-unlink", peer, {}) as who, self._store.transaction():
            found = self._store.get(TokenLink, link_id(issuer, subject))
            if found is None or found.owner != who.name:
                raise CredentialError("no such subject is tied to this credential")
            self._store.delete(TokenLink, found.id)
            self._note("token-unlink", who, issuer=found.issuer, subject=found.subject)
        return found.to_json()

"""Who asks, in commands of enrolled people.  Refusals are recorded.

That is the holder of the enrolled key that the client proved in the TLS handshake, or whom a verified token names that was tied to such a
key before (``keys.tokens``, ``keys.token_links``); a token that is not bound to the client's certificate reads only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime

from confide.crypto.secret import SecretBytes
from confide.crypto.sign import PublicKey
from confide.errors import CredentialError, Fact, UsageError
from confide.ids import KeyRef
from confide.keys.audit import new_event
from confide.keys.escrow_records import FormerCredential
from confide.keys.hierarchy import KeyHierarchy
from confide.keys.key_outlines import KeyOutline
from confide.keys.key_records import Key
from confide.keys.limits import RateLimits
from confide.keys.quotas import Quotas
from confide.keys.records import Dataset, Owner
from confide.keys.refusals import refusals_audited
from confide.keys.roles import check_may
from confide.keys.sessions import Peer, TokenSubject
from confide.keys.store import Store
from confide.keys.tenants import Tenants
from confide.keys.token_records import TokenLink, link_id


class Callers:
    """What commands of enrolled people over one store have in common."""

    def __init__(self, store: Store, clock: Callable[[], datetime], limits: RateLimits | None = None) -> None:
        """``limits``: the rates of the process that serves these commands."""
        self._limits = limits
        self._quotas = Quotas(store, clock)
        self._store = store
        self._clock = clock
        self._keys = KeyHierarchy(store)
        self._tenants = Tenants(store)

    def who(self, peer: Peer, action: str = "") -> Owner:
        """Whose key the client has shown, or whom its token's subject is tied to.  What that person may do: :meth:`admitted`.

        A token has to be good for ``action``; without one, for what only tokens are good for that are bound to the client.

        Raises:
            CredentialError: it showed none, or one that is not enrolled, or not any more.
        """
        if peer.token is not None:
            return self._of_token(peer.token, action)
        found = self._store.find(Owner, shown_key(peer).digest)
        if len(found) != 1:
            raise CredentialError("this credential is not enrolled at this broker", hint="enrol it with a token from the broker's operator")
        return standing(found[0])

    def _of_token(self, said: TokenSubject, action: str) -> Owner:
        link = self._store.get(TokenLink, link_id(said.issuer.issuer, said.subject))
        found = None if link is None else self._store.get(Owner, link.owner)
        if found is None or not said.issuer.of_tenant(found.tenant):
            hint = "tie it to an enrolled key with `confide keys tokens link`"
            raise CredentialError("the token's subject is nobody here", hint=hint)
        wanted = said.issuer.groups.get(found.office)
        if wanted is not None and said.groups.isdisjoint(wanted):
            raise CredentialError(f"the token has none of the groups that are {found.office.value}s")
        if not said.issuer.allows(action, bound=said.bound):
            hint = "show a token that is bound to this client's certificate (RFC 8705), or the enrolled key"
            raise CredentialError("a token is not good for this", hint=hint, action=action)
        return standing(found)

    @contextmanager
    def admitted(self, action: str, owner: Owner, facts: Mapping[str, Fact]) -> Iterator[None]:
        """Go on if ``owner`` may use this command; refusals inside the block, and this one, are recorded as theirs.

        Raises:
            CredentialError: people of that office may not.
            RateLimitedError: their tenant asks too often.  That is not recorded: a flood of requests is no flood of records.
        """
        if self._limits is not None:
            self._limits.tenants([owner.tenant])
        with self._audited(action, [owner.name], {**facts, "owner": owner.name}):
            check_may(owner.office, action)
            yield

    def known(self, peer: Peer, action: str) -> Owner:
        """As :meth:`who`, if that person may do ``action``; a refusal is recorded as one of it."""
        with self._command(action, peer, {}) as owner:
            return owner

    def _own_key(self, owner: Owner, name: str) -> Key:
        """The owner's key; the answer for another's key is the same whether it exists or not."""
        ref = KeyRef.parse(name)
        if ref.owner != owner.name:
            raise CredentialError("this credential does not own that key", owner=owner.name, key=ref.id)
        found = self._store.get(Key, ref.id)
        if found is None:
            raise UsageError(f"there is no key {ref.id}", hint=f"make it with `confide keys create {ref.id}`")
        return found

    def _is_signer(self, owner: Owner, dataset: Dataset) -> bool:
        """Whether an owner's dataset is this credential's: signed by it, or by one that trustees have said it stands in for."""
        if dataset.signer == owner.spki:
            return True
        key = KeyRef.parse(dataset.wrapped.key)
        former = FormerCredential(key.id, dataset.signer)
        return key.owner == owner.name and self._store.get(FormerCredential, former.id) is not None

    def _take_over(self, owner: Owner, outline: KeyOutline, secret: SecretBytes) -> Key:
        """The owner's key from elsewhere (:meth:`KeyHierarchy.take_over`), counted among the tenant's if it is new here."""
        if self._store.get(Key, outline.key) is None:
            self._quotas.charge(owner.tenant, "keys")
        return self._keys.take_over(outline, secret)

    def _note(self, action: str, owner: Owner, *, concerned: Sequence[str] = (), **facts: Fact) -> None:
        """Record what ``owner`` has done; ``concerned`` see the event as well.  Inside the transaction that does it.

        Raises:
            CredentialError: the credential was withdrawn since the request was admitted: what it did would outlive it.
        """
        standing(self._store.get(Owner, owner.name) or owner)
        self._store.append_audit(new_event(action, [owner.name, *concerned], self._clock(), owner=owner.name, **facts))

    def _audited(self, action: str, owners: Sequence[str], facts: Mapping[str, Fact]) -> AbstractContextManager[None]:
        return refusals_audited(self._store, self._clock, action, owners, facts)

    @contextmanager
    def _command(self, action: str, peer: Peer, facts: Mapping[str, Fact]) -> Iterator[Owner]:
        """Find out who asks, and whether they may; refusals inside the block are recorded as theirs."""
        with self._audited(action, [], facts):
            owner = self.who(peer, action)
        with self.admitted(action, owner, facts):
            yield owner


def standing(owner: Owner) -> Owner:
    """Return ``owner`` if it was not withdrawn.

    Raises:
        CredentialError: it was.
    """
    if owner.withdrawn is not None:
        raise CredentialError("this credential was withdrawn at this broker", hint="enrol a new one, under a new name")
    return owner


def shown_key(peer: Peer) -> PublicKey:
    """The key that the client proved.

    Raises:
        CredentialError: it showed none.
    """
    if peer.spki is None:
        raise CredentialError("this command needs a credential: the client showed no key")
    return PublicKey.from_spki(peer.spki)

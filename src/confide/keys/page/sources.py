"""Where pages get what they show: the broker's own commands, for the client that asks.  Who sees what is decided there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from confide.crypto.sign import PublicKey
from confide.keys.audit import AuditEntry, AuditHead
from confide.keys.connection import Answer
from confide.keys.grant_client import GrantList, read_grant_list
from confide.keys.key_client import KeyInfo, read_keys
from confide.keys.roles import allows

if TYPE_CHECKING:
    from confide.keys.broker import Broker
    from confide.keys.sessions import Peer


class Source(Protocol):
    """What one person may see of a broker."""

    @property
    def name(self) -> str:
        """Who looks."""
        ...

    def may(self, action: str) -> bool:
        """Whether people of the reader's office may use that command: what they may not is not offered."""
        ...

    def keys(self) -> tuple[KeyInfo, ...]:
        """Own keys; for an auditor, those that the auditor sees."""
        ...

    def grant_list(self) -> GrantList:
        """Grants of own keys, and of those that one approves for."""
        ...

    def audit_page(self, first: int, limit: int) -> tuple[list[AuditEntry], AuditHead]:
        """At most ``limit`` entries of the audit log from number ``first``, and its head."""
        ...


class Commands:
    """What a client of this broker may see: the answers that its commands would get.

    Raises:
        CredentialError: the client has shown no key, or one that is not enrolled.
    """

    def __init__(self, broker: Broker, peer: Peer) -> None:
        self._broker = broker
        self._peer = peer
        self._reader = broker.owners.known(peer, "page")

    @property
    def name(self) -> str:
        """Who looks."""
        return self._reader.name

    def may(self, action: str) -> bool:
        """Whether people of the reader's office may use that command."""
        return allows(self._reader.office, action)

    def keys(self) -> tuple[KeyInfo, ...]:
        """Own keys; for an auditor, those that the auditor sees."""
        return read_keys(Answer(self._broker.key_commands.keys(self._peer)))

    def grant_list(self) -> GrantList:
        """Grants of own keys, and of those that one approves for."""
        return read_grant_list(Answer(self._broker.grants.grants(self._peer)))

    def audit_page(self, first: int, limit: int) -> tuple[list[AuditEntry], AuditHead]:
        """At most ``limit`` entries of the audit log from number ``first``, and its head."""
        answer = Answer(self._broker.owners.audit(self._peer, first, limit))
        key = PublicKey.from_spki(self._broker.store.signing_key.spki_der)
        return [AuditEntry.from_json(one) for one in answer.objects("entries")], AuditHead.verify(answer.field("head", dict), key)

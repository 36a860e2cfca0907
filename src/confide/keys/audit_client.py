"""The client for the audit log: nothing of it is believed that the broker's signed head does not prove."""

from __future__ import annotations

from typing import Final

from confide.canonical import Json
from confide.errors import BrokerError
from confide.keys.audit import AuditEntry, AuditHead, AuditLog, AuditProof, hashes
from confide.keys.key_client import KeyClient

_PAGE: Final = 1000
"""Entries that are asked for in one request."""


class AuditCalls(KeyClient):
    """The requests.  Errors as in :class:`~confide.keys.key_client.KeyClient`."""

    def audit(self) -> AuditLog:
        """The audit log as this owner may see it, with its signed head, verified against the broker's key.

        Raises:
            AuditError: the log or its head does not verify.
        """
        entries, envelope = self._audit_page(1)
        head = AuditHead.verify(envelope, self.broker_key())
        while len(entries) < head.size:
            more, _ = self._audit_page(len(entries) + 1)
            if not more:
                raise BrokerError("the broker's answer ends before its audit log does", expected=head.size, got=len(entries))
            entries += more
        log = AuditLog(tuple(entries[: head.size]), envelope)
        log.verify(self.broker_key())
        return log

    def _audit_page(self, first: int) -> tuple[list[AuditEntry], Json]:
        answer = self._call("POST", "audit", {"first": first, "limit": _PAGE})
        return [AuditEntry.from_json(one) for one in answer.objects("entries")], answer.field("head", dict)

    def audit_proof(self, seq: int) -> AuditProof:
        """Entry ``seq`` (its event only if it concerns this owner) with the proof that it is in the log, verified.

        Raises:
            UsageError: there is no such entry.
            AuditError: its proof does not hold.
        """
        proof = AuditProof.from_json(self._call("POST", "audit/proof", {"seq": seq}).field("proof", dict))
        if proof.entry.seq != seq:
            raise BrokerError("the broker's answer proves another entry", expected=seq, got=proof.entry.seq)
        proof.verify(self.broker_key())
        return proof

    def audit_since(self, seen: AuditHead) -> AuditHead:
        """The newest head, after checking that its log continues the one of ``seen``: without reading either.

        Raises:
            AuditError: the log was cut, rewritten or forked since.
        """
        head = AuditHead.verify(self.audit_head(), self.broker_key())
        answer = self._call("POST", "audit/consistency", {"old": min(seen.size, head.size), "new": head.size})
        head.continues(seen, hashes(answer.field("proof", list)))
        return head

    def audit_head(self) -> Json:
        """The signed head alone (DSSE envelope), verified."""
        head: Json = self._call("POST", "audit-head", {}).field("head", dict)
        AuditHead.verify(head, self.broker_key())
        return head

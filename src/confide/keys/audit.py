"""The broker's audit log: a Merkle tree over every decision, signed heads, proofs, and views that hide others' events.

The log is that of RFC 9162 (section 2.1) with ``leaf = SHA-256(0x00 ‖ RFC 8785 of the event)``.  Each event carries 16 random bytes, so
that the leaf of an event one may not see cannot be matched against guesses.  Pure: where the log is kept is ``keys.store``'s affair.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from confide.canonical import Json, b64url, canonical, parse_object
from confide.crypto.sign import PublicKey, SigningKey, dsse_sign, dsse_verify
from confide.errors import AuditError, ConfideError, Fact
from confide.keys.merkle import MAX_PROOF, leaf_hash, root_of, verify_consistency, verify_inclusion

HEAD_TYPE: Final = "application/vnd.confide.audit-head+json"
HEAD_FORMAT: Final = "confide-audit-head-v2"
PROOF_FORMAT: Final = "confide-audit-proof-v1"
_HEX = re.compile(r"[0-9a-f]{64}")
_SALT_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One place in the log, counted from 1.  ``event`` is ``None`` in the view of somebody whom it does not concern."""

    seq: int
    leaf: str
    event: Json | None

    @classmethod
    def of(cls, seq: int, event: Json) -> Self:
        """The entry that holds ``event``."""
        return cls(seq, leaf_of_event(event).hex(), event)

    def to_json(self) -> Json:
        """The entry as JSON: one line of an export."""
        return {"seq": self.seq, "leaf": self.leaf, "event": self.event}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            AuditError: it is not an entry.
        """
        match data:
            case {"seq": int(seq), "leaf": str(leaf), "event": event}:
                if len(data) == 3 and _HEX.fullmatch(leaf) and isinstance(event, dict | None):
                    return cls(seq, leaf, event)
        raise AuditError("not an entry of an audit log")

    def hidden(self) -> AuditEntry:
        """The entry as others see it: its place and leaf."""
        return AuditEntry(self.seq, self.leaf, None)

    def check(self) -> bytes:
        """The leaf, after checking that the event (if it is shown) is the one it was made from.

        Raises:
            AuditError: the event was changed.
        """
        leaf = bytes.fromhex(self.leaf)
        if self.event is not None and leaf_of_event(self.event) != leaf:
            raise AuditError("an audit event was changed", seq=self.seq)
        return leaf


@dataclass(frozen=True, slots=True)
class AuditHead:
    """How far the log had come at ``time``: its length and Merkle root (hex).  Whoever keeps one notices a log that was cut or rewritten.

    ``epoch`` counts the store's steps and never goes back.
    """

    size: int
    root: str
    epoch: int
    time: str

    @classmethod
    def verify(cls, envelope: Json, key: PublicKey) -> Self:
        """Read a head that ``key`` signed.

        Raises:
            AuditError: it is not signed by ``key``, or is not a head.
        """
        try:
            head = parse_object(dsse_verify(envelope, key, HEAD_TYPE))
        except ConfideError as cause:
            raise AuditError(f"the audit head does not verify: {cause.message}", hint=cause.hint, **cause.facts) from cause
        match head:
            case {"format": str(form), "size": int(size), "root": str(root), "epoch": int(epoch), "time": str(time)}:
                if form == HEAD_FORMAT and len(head) == 5 and size >= 0 and epoch >= 0 and _HEX.fullmatch(root):
                    return cls(size, root, epoch, time)
        raise AuditError("the signed audit head has another form")

    def sign(self, key: SigningKey) -> Json:
        """The head in a DSSE envelope."""
        body = {"format": HEAD_FORMAT, "size": self.size, "root": self.root, "epoch": self.epoch, "time": self.time}
        return dsse_sign(key, HEAD_TYPE, canonical(body))

    def continues(self, seen: AuditHead, proof: Sequence[bytes]) -> None:
        """Check that this head is of the same log as ``seen``, which came before it.

        Raises:
            AuditError: it is not: the log was cut, rewritten or forked.
        """
        verify_consistency(seen.size, bytes.fromhex(seen.root), self.size, bytes.fromhex(self.root), proof)
        if self.epoch < seen.epoch:
            raise AuditError("the audit log's store went back to an earlier state", seen=seen.epoch, got=self.epoch)


def new_event(action: str, owners: Sequence[str], now: datetime, **fields: Fact | list[str]) -> Json:
    """An event: what was done or refused, when, and whose business it is.  ``fields`` are public values, never keys or evidence bodies."""
    blind = b64url(secrets.token_bytes(_SALT_BYTES))
    return {"action": action, "time": now.isoformat(), "owners": sorted(set(owners)), "blind": blind, **fields}


def leaf_of_event(event: Json) -> bytes:
    """The event's leaf in the tree."""
    return leaf_hash(canonical(event))


def view(entries: Sequence[AuditEntry], sees: Callable[[Json], bool]) -> tuple[AuditEntry, ...]:
    """The log as somebody may see it: full events where ``sees`` says so, leaves of all others.  Who sees what: ``keys.tenants``."""
    return tuple(e if e.event is not None and sees(e.event) else e.hidden() for e in entries)


def verify_entries(entries: Sequence[AuditEntry], *, first: int = 1) -> list[bytes]:
    """Check that ``entries`` are without a gap from number ``first``, none changed; returns their leaves.

    Raises:
        AuditError: an entry is missing, out of order or changed; ``facts`` hold its number.
    """
    leaves = []
    for expected, entry in enumerate(entries, start=first):
        if entry.seq != expected:
            raise AuditError("the audit log has a gap", expected=expected, got=entry.seq)
        leaves.append(entry.check())
    return leaves


@dataclass(frozen=True, slots=True)
class AuditLog:
    """A log and the signed head over it, as the broker answered: nothing is verified yet."""

    entries: tuple[AuditEntry, ...]
    head: Json

    def verify(self, key: PublicKey, *, seen: AuditHead | None = None) -> AuditHead:
        """Check the whole log against its signed head, and that it continues the head ``seen`` earlier (from a receipt, say).

        Raises:
            AuditError: the log is not the one that was signed, or not a continuation of ``seen``.
        """
        head = AuditHead.verify(self.head, key)
        leaves = verify_entries(self.entries)
        if head.size != len(leaves) or head.root != root_of(leaves).hex():
            raise AuditError("the audit log is not the one that its head was signed for", expected=head.size, got=len(leaves))
        if seen is not None and (seen.size > len(leaves) or seen.root != root_of(leaves[: seen.size]).hex() or seen.epoch > head.epoch):
            raise AuditError("the audit log does not continue the one that was seen before", seen=seen.size, got=head.size)
        return head

    def export(self) -> Iterator[str]:
        """The log as JSON Lines: the entries, then ``{"head": …}``."""
        for entry in self.entries:
            yield json.dumps(entry.to_json(), sort_keys=True)
        yield json.dumps({"head": self.head}, sort_keys=True)

    @classmethod
    def load(cls, lines: Sequence[str]) -> Self:
        """The inverse of :meth:`export`; nothing is verified.

        Raises:
            AuditError: a line is not what it must be.
        """
        try:
            objects = [parse_object(line) for line in lines if line.strip()]
        except ConfideError as cause:
            raise AuditError("the exported audit log is not JSON Lines") from cause
        if not objects or set(objects[-1]) != {"head"} or not isinstance(objects[-1]["head"], dict):
            raise AuditError("the exported audit log has no head")
        return cls(tuple(AuditEntry.from_json(one) for one in objects[:-1]), objects[-1]["head"])


@dataclass(frozen=True, slots=True)
class AuditProof:
    """One entry with the proof that it is in the log of a signed head: all that an auditor needs who is not to see the rest."""

    entry: AuditEntry
    path: tuple[bytes, ...]
    head: Json

    def verify(self, key: PublicKey) -> AuditHead:
        """Check the entry against the head that ``key`` signed.

        Raises:
            AuditError: the head or the proof does not hold.
        """
        head = AuditHead.verify(self.head, key)
        verify_inclusion(self.entry.check(), self.entry.seq - 1, head.size, self.path, bytes.fromhex(head.root))
        return head

    def to_json(self) -> Json:
        """The proof as JSON."""
        path = [node.hex() for node in self.path]
        return {"format": PROOF_FORMAT, "entry": self.entry.to_json(), "path": path, "head": self.head}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`; nothing is verified.

        Raises:
            AuditError: it is not a proof.
        """
        match data:
            case {"format": str(form), "entry": dict(entry), "path": list(path), "head": dict(head)}:
                if form == PROOF_FORMAT and len(data) == 4:
                    return cls(AuditEntry.from_json(entry), hashes(path), head)
        raise AuditError("not a proof of an audit entry")


def hashes(values: object) -> tuple[bytes, ...]:
    """A proof's hashes, from their hex forms.

    Raises:
        AuditError: they are none, or too many.
    """
    if not isinstance(values, list) or len(values) > MAX_PROOF or not all(isinstance(v, str) and _HEX.fullmatch(v) for v in values):
        raise AuditError("the proof is no list of hashes")
    return tuple(bytes.fromhex(value) for value in values)

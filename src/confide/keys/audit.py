"""The broker's audit log: a hash chain over every decision, a signed head, and views that hide others' events.

``hash(n) = SHA-256(hash(n-1) ‖ SHA-256(RFC 8785 of event n))``, ``hash(0)`` is 32 zero bytes.  Each event carries 16 random bytes, so
that the digest of an event one may not see cannot be matched against guesses.  Pure: where the log is kept is ``keys.store``'s affair.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from confide.canonical import Json, b64url, canonical, parse_object, sha256_hex
from confide.crypto.sign import PublicKey, SigningKey, dsse_sign, dsse_verify
from confide.errors import AuditError, ConfideError, Fact

HEAD_TYPE: Final = "application/vnd.confide.audit-head+json"
HEAD_FORMAT: Final = "confide-audit-head-v1"
GENESIS: Final = "00" * 32
_HEX = re.compile(r"[0-9a-f]{64}")
_SALT_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One place in the chain.  ``event`` is ``None`` in the view of somebody whom it does not concern."""

    seq: int
    digest: str
    hash: str
    event: Json | None

    def to_json(self) -> Json:
        """The entry as JSON: one line of an export."""
        return {"seq": self.seq, "digest": self.digest, "hash": self.hash, "event": self.event}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            AuditError: it is not an entry.
        """
        match data:
            case {"seq": int(seq), "digest": str(digest), "hash": str(link), "event": event}:
                if len(data) == 4 and _HEX.fullmatch(digest) and _HEX.fullmatch(link) and isinstance(event, dict | None):
                    return cls(seq, digest, link, event)
        raise AuditError("not an entry of an audit log")

    def hidden(self) -> AuditEntry:
        """The entry as others see it: its place and digest."""
        return AuditEntry(self.seq, self.digest, self.hash, None)


@dataclass(frozen=True, slots=True)
class AuditHead:
    """How far the log had come at ``time``: its length and last hash.  Whoever keeps a head notices a log that was cut or rewritten."""

    size: int
    hash: str
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
            case {"format": str(form), "size": int(size), "hash": str(link), "time": str(time)}:
                if form == HEAD_FORMAT and len(head) == 4 and size >= 0 and _HEX.fullmatch(link):
                    return cls(size, link, time)
        raise AuditError("the signed audit head has another form")

    def sign(self, key: SigningKey) -> Json:
        """The head in a DSSE envelope."""
        return dsse_sign(key, HEAD_TYPE, canonical({"format": HEAD_FORMAT, "size": self.size, "hash": self.hash, "time": self.time}))


def new_event(action: str, owners: Sequence[str], now: datetime, **fields: Fact | list[str]) -> Json:
    """An event: what was done or refused, when, and whose business it is.  ``fields`` are public values, never keys or evidence bodies."""
    blind = b64url(secrets.token_bytes(_SALT_BYTES))
    return {"action": action, "time": now.isoformat(), "owners": sorted(set(owners)), "blind": blind, **fields}


def digest_of_event(event: Json) -> str:
    """SHA-256 of the canonical form, hex."""
    return sha256_hex(canonical(event))


def link(previous: str, digest: str) -> str:
    """The chain's next hash."""
    return hashlib.sha256(bytes.fromhex(previous) + bytes.fromhex(digest)).hexdigest()


def view(entries: Sequence[AuditEntry], owner: str) -> tuple[AuditEntry, ...]:
    """The log as ``owner`` may see it: full events that concern the owner, digests of all others."""
    return tuple(e if e.event is not None and owner in e.event.get("owners", ()) else e.hidden() for e in entries)


def verify_chain(entries: Sequence[AuditEntry]) -> str:
    """Check that ``entries`` are a whole chain from its start, and return its last hash.

    Raises:
        AuditError: an entry is missing, out of order or changed; ``facts`` hold its number.
    """
    last = GENESIS
    for expected, entry in enumerate(entries, start=1):
        if entry.seq != expected:
            raise AuditError("the audit log has a gap", expected=expected, got=entry.seq)
        if entry.event is not None and digest_of_event(entry.event) != entry.digest:
            raise AuditError("an audit event was changed", seq=entry.seq)
        last = link(last, entry.digest)
        if last != entry.hash:
            raise AuditError("the audit log's chain is broken", seq=entry.seq)
    return last


@dataclass(frozen=True, slots=True)
class AuditLog:
    """A log and the signed head over it, as the broker answered: nothing is verified yet."""

    entries: tuple[AuditEntry, ...]
    head: Json

    def verify(self, key: PublicKey, *, seen: AuditHead | None = None) -> AuditHead:
        """Check the whole chain against its signed head, and that it continues the head ``seen`` earlier (from a receipt, say).

        Raises:
            AuditError: the chain is broken, not the one that was signed, or not a continuation of ``seen``.
        """
        head = AuditHead.verify(self.head, key)
        last = verify_chain(self.entries)
        if head.size != len(self.entries) or head.hash != last:
            raise AuditError("the audit log is not the one that its head was signed for", expected=head.size, got=len(self.entries))
        if seen is not None and seen.hash != (self.entries[seen.size - 1].hash if 0 < seen.size <= len(self.entries) else GENESIS):
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

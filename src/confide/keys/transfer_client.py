"""The owners' client for taking a key from one broker to another, and the file that it travels in.

A file of an export is JSON Lines: the signed export with the source broker's public key, then the datasets under the key.  It holds
nothing that only the target broker's wrapping key does not protect; dataset ids and snapshot numbers are in it in the clear.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from confide.canonical import Json, b64url, from_b64url, parse_object
from confide.crypto.sign import PublicKey
from confide.errors import ConfideError, GrantError, TransferError, UsageError
from confide.ids import KeyRef, SpkiDigest, check_name
from confide.keys.connection import Answer
from confide.keys.grant_client import departure_view, read_grant_list
from confide.keys.key_client import KeyClient
from confide.keys.transfer import ExportRequest, KeyExport, WrappingKey

FORMAT: Final = "confide-key-transfer-v1"
WRAPPING_FORMAT: Final = "confide-wrapping-key-file-v1"
_BATCH: Final = 500


class TransferClient(KeyClient):
    """Commands about keys' transfer.  Errors as in :class:`~confide.keys.key_client.KeyClient`."""

    def wrapping_key(self) -> Json:
        """The broker's wrapping key as the content of a file, for an export elsewhere; verified.

        Raises:
            TransferError: the pinned broker did not sign it.
        """
        signed: Json = self._call("GET", "keys/wrapping-key").field("wrapping_key", dict)
        WrappingKey.verify(signed, self.broker_key())
        return {"format": WRAPPING_FORMAT, "broker": b64url(self.broker_key().spki_der), "wrapping_key": signed}

    def export_key(self, name: str, wrapping_file: Json, target: SpkiDigest) -> Iterator[str]:
        """The lines of an export of a key, for the broker whose key is ``target`` and whose wrapping key the file holds.

        ``target`` must come from whoever runs that broker, not from the file.

        Raises:
            TransferError: the file is of another broker, or the answer is not the export that was asked for.
            GrantError: it waits for the approvals that the key's rule asks for.  To be asked for again when they are there.
        """
        jwk = _wrapping_key(wrapping_file, target)
        source = self.broker_key()
        request = ExportRequest(self._id(name), source.digest, target, jwk, datetime.now(UTC).isoformat())
        answer = self._call("POST", "keys/export", {"request": request.sign(self._credential.key)})
        signed = left(answer, "export")
        if KeyExport.verify(signed, self._credential.key.public, source.spki_der).request != request:
            raise TransferError("the broker exported something else than was asked for")
        rule = read_grant_list(self._call("GET", "grants")).rule(self._id(name))
        told = {"rule": {"threshold": rule.threshold, "approvers": rule.names}} if rule.threshold else {}
        yield json.dumps({"format": FORMAT, "source": b64url(source.spki_der), "export": signed, **told}, sort_keys=True)
        yield from self._dataset_lines(name)

    def _dataset_lines(self, name: str) -> Iterator[str]:
        place = 0
        while place >= 0:
            page = self._call("POST", "datasets/export", {"key": self._id(name), "start": place})
            for dataset in page.objects("datasets"):
                yield json.dumps(dataset, sort_keys=True)
            place = page.field("next", int)

    def import_key(self, lines: Iterable[str]) -> tuple[KeyRef, int]:
        """Take over a key and its datasets from the lines of an export; returns the key and how many datasets were new here.

        May be called again for the same export: what is there stays as it is.

        Raises:
            TransferError: the lines are no export, or not one that this credential asked for.
            UsageError: the broker has another key of that name.
        """
        rest = lines_of(lines)
        match next(rest, {}):
            case {"format": str(form), "source": str(source), "export": dict(export), **more} if form == FORMAT and set(more) <= {"rule"}:
                ref = self._call("POST", "keys/import", {"export": export, "source": source}).key_ref()
            case _:
                raise TransferError("the file is no key's export")
        return ref, self._import_datasets(rest)

    def _import_datasets(self, datasets: Iterator[Json]) -> int:
        new = 0
        while batch := list(islice(datasets, _BATCH)):
            new += self._call("POST", "datasets/import", {"datasets": batch}).field("imported", int)
        return new


def rule_before(line: str) -> tuple[int, tuple[str, ...]] | None:
    """How many of whom had to approve at the broker that a key comes from, as the first line of its file says; ``None``: nobody had to.

    It is not signed, and nothing is decided by it.  A rule names people by their credentials at one broker: only the owner can say who they
    are at another one.

    Raises:
        TransferError: it is no such line.
    """
    match next(lines_of([line]), {}).get("rule"):
        case None:
            return None
        case {"threshold": int(threshold), "approvers": list(names), **more} if not more and 1 <= threshold <= len(names):
            with contextlib.suppress(UsageError):
                return threshold, tuple(check_name(str(name), "approver") for name in names)
    raise TransferError("the file does not say properly who approved")


def left(answer: Answer, field: str) -> Json:
    """The key that left its broker, as the answer has it.

    Raises:
        GrantError: it waits for approvals.
    """
    if answer.has("waits"):
        view = departure_view(answer.field("waits", dict))
        hint = f"its approvers run `confide keys approve {view.departure.id}`; then give this command again"
        facts = {"departure": view.departure.id, "key": view.departure.key, "digest": view.departure.digest}
        raise GrantError(f"the key may leave only with the approvals of its grants: it has {view.standing.votes}", hint=hint, **facts)
    found: Json = answer.field(field, dict)
    return found


def _wrapping_key(file: Json, target: SpkiDigest) -> Json:
    match file:
        case {"format": str(form), "broker": str(broker), "wrapping_key": dict(signed), **rest} if form == WRAPPING_FORMAT and not rest:
            try:
                key = PublicKey.from_spki(from_b64url(broker))
            except ConfideError as cause:
                raise TransferError("the wrapping key's file names no broker") from cause
            if key.digest != target:
                raise TransferError("the wrapping key is of another broker than was named", expected=target, got=key.digest)
            return WrappingKey.verify(signed, key).jwk
    raise TransferError("the file holds no wrapping key", hint="`confide keys wrapping-key` writes one at the target broker")


def lines_of(lines: Iterable[str]) -> Iterator[Json]:
    """The lines of a file that a key travels or is kept in.

    Raises:
        TransferError: one is not a JSON object.
    """
    for line in lines:
        try:
            yield parse_object(line)
        except ConfideError as cause:
            raise TransferError("a line of the file is not JSON") from cause

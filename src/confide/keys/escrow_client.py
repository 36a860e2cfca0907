"""The client for keys in the hands of trustees: for owners, for trustees, and for who brings a key back at another broker.

The file of an escrow is JSON Lines: what owner and broker signed, then the datasets under the key, as in an export.  It holds nothing that
fewer trustees than the owner said could open.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from confide.canonical import Json
from confide.crypto.seal import SealKey, seal
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import PublicKey, SigningKey, read_private_file, write_private_file
from confide.errors import BrokerError, ConfideError, EscrowError
from confide.ids import KeyRef, SpkiDigest, check_name
from confide.keys.credentials import Credential
from confide.keys.custody.shares import Share
from confide.keys.escrow import ASK, Contribution, Escrow, EscrowRequest, Recovery, Trustee, TrusteeKey
from confide.keys.escrow_records import KeptEscrow
from confide.keys.transfer_client import TransferClient, left, lines_of

_SUFFIX: Final = ".escrow.pem"


def trustee_key(folder: Path, name: str) -> SealKey:
    """The private key that shares for ``name`` are sealed to: a file of its own next to the credential, made when first asked for.

    Raises:
        CredentialError: it cannot be written or read, or others can read it.
        UnwrapError: it is no key.
    """
    path = folder / f"{check_name(name, 'owner')}{_SUFFIX}"
    if not path.exists():
        write_private_file(path, SigningKey.generate().private_pem().reveal())
    return SealKey.from_private_pem(SecretBytes(read_private_file(path)))


class EscrowClient(TransferClient):
    """Commands about escrows.  Errors as in :class:`~confide.keys.key_client.KeyClient`."""

    def register_trustee_key(self, key: SealKey) -> None:
        """Have shares for this credential sealed to ``key`` from now on."""
        self._call("POST", "escrow/trustee-key", {"envelope": TrusteeKey(key.public_jwk()).sign(self._credential.key)})

    def escrow_key(self, name: str, trustees: Mapping[str, SpkiDigest], threshold: int) -> Iterator[str]:
        """The lines of a new escrow of a key: any ``threshold`` of the trustees can bring it back.

        ``trustees`` are their names at this broker and the digests of their credentials, which must come from themselves: a broker's
        operator can enrol somebody else under a name.

        Raises:
            EscrowError: a trustee's credential is another one, it has not signed its key, or the answer is not what was asked for.
            UsageError: a trustee has registered no key.
            GrantError: it waits for the approvals that the key's rule asks for.  To be asked for again when they are there.
        """
        source = self.broker_key()
        found = tuple(self._trustee(one, trustees) for one in self._trustees(trustees))
        request = EscrowRequest(self._id(name), source.digest, found, threshold, datetime.now(UTC).isoformat())
        own = self._credential.key
        request.check(own.public)
        signed = left(self._call("POST", "escrow", {"request": request.sign(own)}), "escrow")
        escrow = Escrow.verify(signed, own.public, source.spki_der)
        if escrow.request != request:
            raise EscrowError("the broker made another escrow than was asked for")
        yield json.dumps(escrow.head(signed, own), sort_keys=True)
        yield from self._dataset_lines(name)

    def _trustees(self, pins: Mapping[str, SpkiDigest]) -> list[Json]:
        names = sorted(pins)
        asked = [f"{name}@{pins[name]}" for name in names]  # so that those of another tenant are found too
        found = self._call("POST", "escrow/trustees", {"names": asked}).objects("trustees")
        if [one.get("name") for one in found] != names:
            raise BrokerError("the broker named other trustees than it was asked for", field="trustees")
        return found

    @staticmethod
    def _trustee(found: Json, pins: Mapping[str, SpkiDigest]) -> Trustee:
        match found:
            case {"name": str(name), "spki": str(text), "key": dict(envelope)}:
                try:
                    key = PublicKey.from_spki(bytes.fromhex(text))
                except (ConfideError, ValueError) as cause:
                    raise BrokerError("the broker's answer names no trustee's key", field="spki") from cause
                pin = pins.get(name)
                if key.digest != pin:
                    raise EscrowError("a trustee's credential is another than was named", trustee=name, expected=pin, got=key.digest)
                return Trustee(name, key, TrusteeKey.verify(envelope, key).jwk)
        raise BrokerError("the broker's answer lacks a field", field="trustees")

    def escrows(self) -> tuple[KeptEscrow, ...]:
        """The escrows of the owner's keys that were made at this broker."""
        try:
            return tuple(KeptEscrow.from_json(one) for one in self._call("GET", "escrow").objects("escrows"))
        except (KeyError, TypeError, ValueError, ConfideError) as cause:
            raise BrokerError("the broker's answer has a wrong field", field="escrows") from cause

    def ask_recovery(self, lines: Iterable[str]) -> Json:
        """Ask the broker to take over the key of an escrow: the content of a file for its trustees.

        Raises:
            EscrowError: the lines are no escrow, or the broker asks for something else than it was asked to.
        """
        escrow = Escrow.of_head(next(lines_of(lines), {}))
        asked: Json = self._call("POST", "escrow/request", {"escrow": escrow.digest, "key": escrow.request.key}).field("recovery", dict)
        recovery = Recovery.of_file(asked, self.broker_key().digest)
        if (recovery.escrow, recovery.key, recovery.requester) != (escrow.digest, escrow.request.key, self._credential.spki):
            raise EscrowError("the broker asks for another recovery than it was asked to")
        return asked

    def announce(self, escrow: Escrow, recovery: Recovery) -> None:
        """Tell the key's owner, through the audit log of the broker that made the escrow, that this trustee contributes.

        Raises:
            EscrowError: this is not that broker.
        """
        if self.broker_key().digest != escrow.source.digest:
            raise EscrowError("this credential's broker is not the one that made the escrow", expected=escrow.source.digest)
        self._call("POST", "escrow/announce", {"escrow": escrow.digest, "recovery": recovery.form()})

    def recover(self, lines: Iterable[str], contributions: Sequence[Json]) -> tuple[KeyRef, int]:
        """Take over an escrow's key and datasets; returns the key and how many datasets were new here.

        Raises:
            EscrowError: the lines are no escrow, or a contribution is not what it must be, or they are too few.
            UsageError: the broker has another key of that name.
        """
        rest = lines_of(lines)
        ref = self._call("POST", "escrow/recover", {"head": next(rest, {}), "contributions": list(contributions)}).key_ref()
        return ref, self._import_datasets(rest)

    def adopt_dataset(self, manifest: Json) -> bool:
        """Take over a dataset under an own key by its manifest; whether it was new here.

        Raises:
            ManifestError, RollbackError: it is not a current manifest of a signer that counts here.
            UnwrapError: its key was not wrapped under the key that it names.
        """
        return self._call("POST", "datasets/adopt", {"manifest": manifest}).flag("new")


def contribute(head: Json, request: Json, credential: Credential, key: SealKey, *, target: SpkiDigest, requester: SpkiDigest) -> Json:
    """A trustee's share of an escrow (the first line of its file), sealed to the recovery that ``request`` asks for; signed.

    ``target`` is the broker that is to have the key and ``requester`` the credential that is to own it there: both must come from those
    who run the one and hold the other.

    Raises:
        EscrowError: the escrow or the request does not verify, is another one's, or the credential is no trustee.
        UnwrapError: the share was sealed to another key than this.
    """
    escrow, recovery = asked_of(head, request, target=target, requester=requester)
    index = escrow.index_of(credential.spki)
    share = Share.parse(key.open(escrow.sealed[index - 1], context=escrow.share_context(index)))
    if share.digest() != escrow.shares.digests[index - 1]:
        raise EscrowError("the share in the escrow is not the one that its broker named", trustee=credential.name)
    made = Contribution(escrow.digest, recovery.digest, index)
    sealed = seal(share.to_text(), recovery.jwk, context=made.context)
    share.value.wipe()
    return made.sign(credential.key, sealed)


def asked_of(head: Json, request: Json, *, target: SpkiDigest, requester: SpkiDigest) -> tuple[Escrow, Recovery]:
    """The escrow and the recovery that a trustee is asked for, if the one is of the other and for whom it was said to be.

    Raises:
        EscrowError: it is not.
    """
    escrow, recovery = Escrow.of_head(head), Recovery.of_file(request, target)
    if (recovery.escrow, recovery.key) != (escrow.digest, escrow.request.key):
        raise EscrowError("the recovery is asked for another escrow", expected=escrow.digest, got=recovery.escrow[:96])
    if recovery.requester != requester:
        said = recovery.requester[:80]
        raise EscrowError("the recovery is for another credential than was named", hint=ASK, expected=requester, got=said)
    return escrow, recovery

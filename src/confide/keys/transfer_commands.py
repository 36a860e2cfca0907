"""Owners' commands that take a key from one broker to another, wrapped; and what the broker keeps for it, its wrapping key."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final, Self

from confide.canonical import Json, from_b64url
from confide.crypto.envelope import WrappedKey
from confide.crypto.seal import SealKey, seal
from confide.crypto.sign import PublicKey, SigningKey, unverified_keyid
from confide.errors import CredentialError, ManifestError, ParseError, TransferError
from confide.ids import DatasetId, KeyRef, SpkiDigest
from confide.keys.escrow_records import FormerCredential
from confide.keys.key_records import Key, KeyState
from confide.keys.leaving import LeavingKeys
from confide.keys.manifest_claims import ManifestClaims
from confide.keys.records import Dataset, Owner, version_ref
from confide.keys.sessions import Peer
from confide.keys.transfer import ExportRequest, KeyExport, WrappingKey

DATASETS_PAGE: Final = 500
"""Datasets in one answer or request."""
_MOST_READ: Final = 3000
WRAPPING_USE: Final = {"use": "wrapping-key"}
_ONLY: Final = "own"


@dataclass(frozen=True, slots=True)
class KeptWrappingKey:
    """The broker's private wrapping key, as the KMS wrapped it: never its signing key, which has another use."""

    kind: ClassVar[str] = "wrapping-key"
    wrapped: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """There is one."""
        return _ONLY

    @property
    def ref(self) -> str:
        """There is one."""
        return _ONLY

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        return {"wrapped": self.wrapped.hex()}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(bytes.fromhex(data["wrapped"]))


class TransferCommands(LeavingKeys):
    """Each command writes the audit log, refusals included."""

    def wrapping_key(self, peer: Peer) -> Json:
        """This broker's public wrapping key, signed.

        Raises:
            CredentialError: the client is nobody here.
        """
        with self._command("wrapping-key", peer, {}):
            return {"wrapping_key": WrappingKey(self._wrapping_key().public_jwk()).sign(self._store.signing_key)}

    def export_key(self, peer: Peer, signed_request: Json) -> Json:
        """An own key with all its versions, sealed to another broker as the owner's signed request says; or what it waits for.

        Raises:
            TransferError: the client did not sign the request, or it is for another broker.
            CredentialError: the key is not the client's.
        """
        with self._command("export-key", peer, {}) as owner, self._store.transaction():
            request = ExportRequest.verify(signed_request, PublicKey.from_spki(owner.spki))
            own = self._store.signing_key
            if request.source != own.spki_digest:
                raise TransferError("the request is for another broker", expected=own.spki_digest, got=request.source[:80])
            key = self._own_key(owner, request.key)
            waits = self._waits(owner, key, "export", request.terms)
            if waits is not None:
                return waits
            outline, secret = self._keys.outline(key)
            export = KeyExport(request, signed_request, own.public, outline, "")
            signed = replace(export, jwe=seal(secret, request.jwk, context=export.context)).sign(own)
            secret.wipe()
            self._note("export-key", owner, concerned=self._approvers(key), key=key.id, version=key.newest.version, target=request.target)
        return {"export": signed}

    def import_key(self, peer: Peer, signed_export: Json, source: str) -> Json:
        """Take over a key that the client exported at another broker; ``source`` is that broker's public key (base64url DER).

        A key that was taken over before stays as it is.

        Raises:
            TransferError: the client did not ask for the export, it is for another broker, or not by the broker that it names.
            CredentialError: the key has another owner's name.
            UsageError: there is another key of that name here.
            UnwrapError: what is sealed does not open here.
        """
        with self._command("import-key", peer, {}) as owner, self._store.transaction():
            export = KeyExport.verify(signed_export, PublicKey.from_spki(owner.spki), from_b64url(source))
            request, own = export.request, self._wrapping_key()
            if request.target != self._store.signing_key.spki_digest or request.jwk != own.public_jwk():
                raise TransferError("the export is for another broker", got=request.target[:80])
            ref = KeyRef.parse(request.key)
            if ref.owner != owner.name:
                raise CredentialError("this credential does not own that key", owner=owner.name, key=ref.id)
            secret = own.open(export.jwe, context=export.context)
            made = self._take_over(owner, export.outline, secret)
            secret.wipe()
            self._note("import-key", owner, key=made.id, version=made.newest.version, source=request.source)
            return {"key": made.id, "version": made.newest.version}

    def export_datasets(self, peer: Peer, name: str, start: int) -> Json:
        """Some of the datasets that an own key opens (their wrapped keys are public), and where the next ones are (-1: there are none).

        Raises:
            CredentialError: the key is not the client's.
        """
        with self._command("export-datasets", peer, {"key": name[:130]}) as owner:
            key = self._own_key(owner, name)
            numbered = enumerate(key.versions, start=1)
            openable = [number for number, version in numbered if version.state is not KeyState.DESTROYED]
            refs = {version_ref(KeyRef(key.owner, key.name, number)) for number in openable}
            found: list[Dataset] = []
            read, next_place = 0, -1
            for place, part in self._store.walk(Dataset, start=max(start, 0)):
                found += [dataset for dataset in part if dataset.ref in refs]
                read += len(part)
                if len(found) >= DATASETS_PAGE or read >= _MOST_READ:
                    next_place = place
                    break
            return {"datasets": [dataset.to_json() for dataset in found], "next": next_place}

    def import_datasets(self, peer: Peer, datasets: list[Json]) -> Json:
        """Take over datasets under own keys, with the newest snapshots that the other broker had seen.  Known ones stay as they are.

        Raises:
            ParseError: one is none.
            CredentialError: one is not the client's: of another signer or under another's key.
            UnwrapError: one's key was not wrapped under the key that it names, or for another dataset.
        """
        with self._command("import-datasets", peer, {}) as owner, self._store.transaction():
            new = 0
            for data in datasets:
                dataset = _dataset(data)
                if not self._is_signer(owner, dataset):
                    raise CredentialError("a dataset is of another signer than this credential", dataset=dataset.dataset[:80])
                self._own_key(owner, dataset.wrapped.key)
                self._keys.dataset_key(dataset).wipe()
                if self._store.get(Dataset, dataset.dataset) is None:
                    self._quotas.charge(owner.tenant, "datasets")
                    self._store.put(dataset)
                    new += 1
            self._note("import-datasets", owner, datasets=new)
        return {"imported": new}

    def adopt_dataset(self, peer: Peer, manifest: Json) -> Json:
        """Take over one dataset under an own key by its manifest, which carries its wrapped keys: for those that no export knew.

        The broker has nothing else to tell whether this is the newest snapshot: from now on, older ones are refused.

        Raises:
            ManifestError: nobody who counts here has signed it.
            CredentialError: the key, or the dataset, is not the client's.
            UnwrapError, KeyDestroyedError: its key was not wrapped under that key, or that version is gone.
        """
        with self._command("adopt-dataset", peer, {}) as owner, self._store.transaction():
            signer = self._signer_of(owner, manifest)
            claims = ManifestClaims.verify(manifest, signer)
            dataset, new = self._adopted(owner, signer, claims.wrapped)
            self._store.put(dataset.after(claims))
            self._note("adopt-dataset", owner, dataset=claims.dataset, key=claims.wrapped.key, snapshot=claims.snapshot)
            for name, wrapped in claims.groups.items():
                group, _ = self._adopted(owner, signer, wrapped)
                self._store.put(group.giving() if group.wrapped == wrapped else group)
                self._note("adopt-dataset", owner, dataset=group.dataset, key=wrapped.key, table=claims.dataset, group=name[:64])
            return {"dataset": claims.dataset, "snapshot": claims.snapshot, "new": new}

    def _adopted(self, owner: Owner, signer: PublicKey, wrapped: WrappedKey) -> tuple[Dataset, bool]:
        """The dataset, or column group, of a wrapped key that ``signer`` has put into a manifest; and whether it is new here."""
        self._own_key(owner, wrapped.key)
        known = self._store.get(Dataset, wrapped.dataset)
        dataset = known or Dataset(DatasetId(wrapped.dataset), wrapped, signer.spki_der)
        if dataset.signer != signer.spki_der or not self._is_signer(owner, dataset):
            raise CredentialError("a dataset is of another signer than this credential", dataset=wrapped.dataset[:80])
        self._keys.dataset_key(dataset).wipe()
        if known is None:
            self._quotas.charge(owner.tenant, "datasets")
        return dataset, known is None

    def _signer_of(self, owner: Owner, manifest: Json) -> PublicKey:
        """Of the client's credential and those that it stands in for, the one that the manifest claims to be signed by."""
        formers = [former.spki for key in self._store.find(Key, owner.name) for former in self._store.find(FormerCredential, key.id)]
        claimed = _claimed_signer(manifest)
        for spki in (owner.spki, *formers):
            if PublicKey(spki).digest == claimed:
                return PublicKey.from_spki(spki)
        raise CredentialError("the manifest is of another signer than this credential", signer=claimed)

    def _wrapping_key(self) -> SealKey:
        with self._store.transaction():
            kept = self._store.get(KeptWrappingKey, _ONLY)
            if kept is None:
                kept = KeptWrappingKey(self._store.kms.wrap(SigningKey.generate().private_pem(), context=WRAPPING_USE))
                self._store.put(kept)
        return SealKey.from_private_pem(self._store.kms.unwrap(kept.wrapped, context=WRAPPING_USE))


def _claimed_signer(manifest: Json) -> SpkiDigest:
    try:
        return unverified_keyid(manifest)
    except ParseError as cause:
        raise ManifestError(f"not a signed manifest: {cause.message}") from cause


def _dataset(data: Json) -> Dataset:
    match data:
        case {
            "dataset": str(),
            "wrapped": dict(),
            "signer": str(),
            "snapshot": int() | None as snapshot,
            "manifest_digest": str() | None as digest,
            "origin": None,
            "given": list(given),
        } if (snapshot is None) == (digest is None) and not isinstance(snapshot, bool) and all(isinstance(one, str) for one in given):
            with suppress(ParseError, ValueError, KeyError, TypeError):
                found = Dataset.from_json(data)
                if found.to_json() == data and found.wrapped.dataset == found.dataset:
                    return found
    raise ParseError("not a dataset of an export")

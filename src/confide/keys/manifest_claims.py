"""The few fields of a dataset's manifest that the broker decides by.  Written for manifests of ``confide.data.manifest``.

Everything else in a manifest (files, schema, lengths) is checked by the node that reads the data.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self

from confide.canonical import Json, parse_object, sha384_hex
from confide.crypto.envelope import WrappedKey
from confide.crypto.sign import PublicKey, dsse_verify, unverified_keyid, unverified_payload
from confide.errors import ConfideError, IntegrityError, ManifestError
from confide.ids import DatasetId

MAX_MANIFESTS: Final = 100
"""Datasets that one request asks for: as many as one step of the broker may hold up others for."""
PAYLOAD_TYPE: Final = "application/vnd.confide.manifest+json"
MANIFEST_FORMAT: Final = "confide-manifest-v1"
_MAX_SNAPSHOT: Final = 2**53 - 1
"""Largest integer that RFC 8785 can carry."""
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_MAX_KNOWN: Final = 4096
"""How many verified manifests are remembered, by digest: some hundred bytes each, however long they are."""


@dataclass(frozen=True, slots=True)
class ManifestClaims:
    """What a signed manifest says of its dataset.  ``digest`` is SHA-384 of the signed bytes, hex; ``groups`` are column groups' keys.

    ``parent`` is the digest of the manifest of the snapshot before.
    """

    dataset: DatasetId
    snapshot: int
    wrapped: WrappedKey
    digest: str
    groups: Mapping[str, WrappedKey] = field(default_factory=dict)
    parent: str | None = None

    @classmethod
    def verify(cls, envelope: Json, signer: PublicKey) -> Self:
        """As :meth:`ShownManifest.claims`."""
        return cls._remembered(envelope, _digest(envelope), signer)

    @classmethod
    def _remembered(cls, envelope: Json, digest: bytes, signer: PublicKey) -> Self:
        name = (digest, signer.spki_der)
        known = _verified.get(name)
        if not isinstance(known, cls):
            known = cls._verify(envelope, signer)
            if len(_verified) >= _MAX_KNOWN:
                _verified.clear()
                _named.clear()
            _verified[name], _named[digest] = known, known.dataset
        return known

    @classmethod
    def _verify(cls, envelope: Json, signer: PublicKey) -> Self:
        try:
            payload = dsse_verify(envelope, signer, PAYLOAD_TYPE)
        except IntegrityError as cause:
            message = f"the manifest is not signed by the dataset's signer: {cause.message}"
            raise ManifestError(message, hint=cause.hint, **cause.facts) from cause
        except ConfideError as cause:
            raise ManifestError(f"not a signed manifest: {cause.message}", hint=cause.hint, **cause.facts) from cause
        return cls._read(payload)

    @classmethod
    def _read(cls, payload: bytes) -> Self:
        data = _object(payload)
        match data:
            case {"format": str(form), "dataset": str(dataset), "snapshot": int(snapshot), "key": str(key), "version": int(version)}:
                wrapped = _wrapped(data.get("wrapped"))
                same = (wrapped.key, wrapped.version, wrapped.dataset) == (key, version, dataset)
                if form == MANIFEST_FORMAT and same and not isinstance(snapshot, bool) and 0 <= snapshot <= _MAX_SNAPSHOT:
                    groups, parent = _groups(data.get("groups", [])), data.get("parent")
                    before = parent if isinstance(parent, str) else None
                    return cls(DatasetId(dataset), snapshot, wrapped, sha384_hex(payload), groups, before)
        raise ManifestError("the manifest is of another version, or its key fields contradict each other")


_verified: Final[dict[tuple[bytes, bytes], ManifestClaims]] = {}
"""What was verified, by the digest of the whole envelope and the key that signed it (DER)."""
_named: Final[dict[bytes, DatasetId]] = {}
"""The dataset that a verified envelope names, by the envelope's digest: reading it again finds the same."""


class ShownManifest:
    """An envelope that somebody showed.  Its digest is made once, for both of the questions that it is asked.

    Raises:
        ManifestError: it is no JSON.
    """

    __slots__ = ("_digest", "_envelope")

    def __init__(self, envelope: Json) -> None:
        self._envelope = envelope
        self._digest = _digest(envelope)

    def unverified_dataset(self) -> DatasetId:
        """The dataset that the manifest *claims* to be of: to find whose signature to demand, nothing else.

        Raises:
            ManifestError: it is not a manifest.
        """
        known = _named.get(self._digest)
        if known is not None:
            return known
        try:
            dataset = _object(unverified_payload(self._envelope)).get("dataset")
        except ManifestError:
            raise
        except ConfideError as cause:
            raise ManifestError(f"not a signed manifest: {cause.message}") from cause
        if not isinstance(dataset, str):
            raise ManifestError("the manifest names no dataset")
        return DatasetId(dataset)

    def unverified_digest(self) -> str:
        """SHA-384 of the signed bytes, hex: to find who announced the manifest, nothing else.

        Raises:
            ManifestError: it is not a manifest.
        """
        try:
            return sha384_hex(unverified_payload(self._envelope))
        except ConfideError as cause:
            raise ManifestError(f"not a signed manifest: {cause.message}") from cause

    def claims(self, signer: PublicKey) -> ManifestClaims:
        """Read the claims of a manifest that ``signer`` signed.  Whether the snapshot is current is not checked here.

        What this signer has signed is remembered: it says the same each time.

        Raises:
            ManifestError: it is not signed by ``signer``, or is not a manifest.
        """
        return ManifestClaims._remembered(self._envelope, self._digest, signer)  # noqa: SLF001 -- its digest is this envelope's

    def claims_of_any(self, signers: Iterable[PublicKey]) -> ManifestClaims | None:
        """As :meth:`claims` of the one of ``signers`` that has signed it; ``None``: none of them has, or it is not a manifest."""
        with contextlib.suppress(ConfideError):
            claimed = unverified_keyid(self._envelope)
            for signer in signers:
                if signer.digest == claimed:
                    return self.claims(signer)
        return None


def _digest(envelope: Json) -> bytes:
    """SHA-256 over one text for one envelope."""
    try:
        return hashlib.sha256(_ENCODER.encode(envelope).encode()).digest()
    except (TypeError, ValueError) as cause:
        raise ManifestError("not a signed manifest: it is not JSON") from cause


def unverified_dataset(envelope: Json) -> DatasetId:
    """As :meth:`ShownManifest.unverified_dataset`."""
    return ShownManifest(envelope).unverified_dataset()


def _object(payload: bytes) -> Json:
    try:
        return parse_object(payload)
    except ConfideError as cause:
        raise ManifestError("the manifest is not a JSON object") from cause


def _groups(data: object) -> Mapping[str, WrappedKey]:
    found: dict[str, WrappedKey] = {}
    for group in data if isinstance(data, list) else [data]:
        match group:
            case {"name": str(name), "wrapped": wrapped} if name not in found:
                found[name] = _wrapped(wrapped)
            case _:
                raise ManifestError("the manifest's column groups cannot be read")
    return MappingProxyType(found)


def _wrapped(data: object) -> WrappedKey:
    if not isinstance(data, dict):
        raise ManifestError("the manifest carries no wrapped key")
    try:
        return WrappedKey.from_json(data)
    except ConfideError as cause:
        raise ManifestError(f"the manifest's wrapped key cannot be read: {cause.message}") from cause

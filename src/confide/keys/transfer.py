"""Taking a key from one broker to another: three signed statements, and what each vouches for.  Pure: no store, no private key.

1. ``WrappingKey``: broker B's public key to wrap to, signed by B.  The owner's client checks it against the pin of B.
2. ``ExportRequest``: which key goes from which broker to which, and to what wrapping key; signed by the owner's credential.
3. ``KeyExport``: the key's versions sealed to that wrapping key (JWE, ``crypto.seal``), signed by broker A, with the request inside.

B takes an export only if the owner who brings it signed the request, the request names A's key and B's own, and A signed the export: a
plaintext never leaves a broker, and neither a stranger's broker nor a stranger's wrapping key can be put in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from confide.canonical import Json, b64url, canonical, from_b64url, parse_object, sha384_hex
from confide.crypto.seal import check_public_jwk
from confide.crypto.sign import PublicKey, SigningKey, dsse_sign, dsse_verify
from confide.errors import ConfideError, TransferError
from confide.ids import KeyRef, SpkiDigest
from confide.keys.key_records import KeyState

WRAPPING_TYPE: Final = "application/vnd.confide.wrapping-key+json"
REQUEST_TYPE: Final = "application/vnd.confide.key-export-request+json"
EXPORT_TYPE: Final = "application/vnd.confide.key-export+json"
_MAX_VERSIONS: Final = 1000


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """A broker's public key (P-256 JWK) that keys are wrapped to."""

    jwk: Json

    def sign(self, broker: SigningKey) -> Json:
        """The statement, signed by the broker whose key it is (DSSE envelope)."""
        return dsse_sign(broker, WRAPPING_TYPE, canonical({"format": "confide-wrapping-key-v1", "jwk": self.jwk}))

    @classmethod
    def verify(cls, envelope: Json, broker: PublicKey) -> Self:
        """Read a wrapping key that ``broker`` signed.

        Raises:
            TransferError: it did not, or this is none.
        """
        data = _verified(envelope, broker, WRAPPING_TYPE, {"format", "jwk"})
        if data["format"] != "confide-wrapping-key-v1":
            raise TransferError("a wrapping key of another version")
        return cls(_read(lambda: check_public_jwk(data["jwk"])))


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """An owner's word: this key goes from the broker ``source`` to the broker ``target``, wrapped to ``jwk``."""

    key: str
    source: SpkiDigest
    target: SpkiDigest
    jwk: Json
    time: str

    def _form(self) -> Json:
        fields = {"key": self.key, "source": self.source, "target": self.target, "jwk": self.jwk, "time": self.time}
        return {"format": "confide-key-export-request-v1", **fields}

    @property
    def digest(self) -> str:
        """SHA-384 of the request's canonical form, hex."""
        return sha384_hex(canonical(self._form()))

    def sign(self, owner: SigningKey) -> Json:
        """The request, signed by the owner's credential (DSSE envelope)."""
        return dsse_sign(owner, REQUEST_TYPE, canonical(self._form()))

    @classmethod
    def verify(cls, envelope: Json, owner: PublicKey) -> Self:
        """Read a request that ``owner`` signed.

        Raises:
            TransferError: another one did, or this is none.
        """
        data = _verified(envelope, owner, REQUEST_TYPE, {"format", "key", "source", "target", "jwk", "time"})
        texts = [data[name] for name in ("key", "source", "target", "time")]
        if data["format"] != "confide-key-export-request-v1" or not all(isinstance(text, str) for text in texts):
            raise TransferError("an export request of another version")
        key, source, target, time = texts
        ref = _read(lambda: KeyRef.parse(key))
        return cls(ref.id, SpkiDigest(source), SpkiDigest(target), _read(lambda: check_public_jwk(data["jwk"])), time)


@dataclass(frozen=True, slots=True)
class KeyExport:
    """A key's versions (state and since when), its creation, and the openable versions' bytes sealed as one JWE."""

    request: ExportRequest
    signed_request: Json
    source: PublicKey
    versions: tuple[tuple[KeyState, datetime], ...]
    created: datetime
    jwe: str

    @property
    def context(self) -> Json:
        """What the sealed bytes are bound to."""
        return {"use": "key-export", "request": self.request.digest, "versions": _states(self.versions)}

    def sign(self, broker: SigningKey) -> Json:
        """The export, signed by the broker that it comes from (DSSE envelope)."""
        body = {
            "format": "confide-key-export-v1",
            "request": self.signed_request,
            "source": b64url(self.source.spki_der),
            "versions": _states(self.versions),
            "created": self.created.isoformat(),
            "jwe": self.jwe,
        }
        return dsse_sign(broker, EXPORT_TYPE, canonical(body))

    @classmethod
    def verify(cls, envelope: Json, owner: PublicKey, claimed_source: bytes) -> Self:
        """Read an export that ``owner`` asked for, and that the broker named in the owner's request made.

        ``claimed_source`` is that broker's public key (DER), from anywhere: the request says which one it must be.

        Raises:
            TransferError: one of the signatures is another's, or this is no export.
        """
        source = _read(lambda: PublicKey.from_spki(claimed_source))
        data = _verified(envelope, source, EXPORT_TYPE, {"format", "request", "source", "versions", "created", "jwe"})
        if data["format"] != "confide-key-export-v1" or not isinstance(data["jwe"], str) or not isinstance(data["request"], dict):
            raise TransferError("an export of another version")
        request = ExportRequest.verify(data["request"], owner)
        if request.source != source.digest or _read(lambda: from_b64url(data["source"])) != source.spki_der:
            raise TransferError("the export comes from another broker than its owner asked", expected=request.source, got=source.digest)
        versions = _read(lambda: tuple((KeyState(v["state"]), _time(v["since"])) for v in data["versions"]))
        active = [number for number, (state, _) in enumerate(versions, start=1) if state is KeyState.ACTIVE]
        if not 0 < len(versions) <= _MAX_VERSIONS or active not in ([], [len(versions)]):
            raise TransferError("the export's versions are not those of a key")
        return cls(request, data["request"], source, versions, _read(lambda: _time(data["created"])), data["jwe"])


def _states(versions: tuple[tuple[KeyState, datetime], ...]) -> list[Json]:
    return [{"state": state.value, "since": since.isoformat()} for state, since in versions]


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time needs a zone")
    return found


def _verified(envelope: Json, key: PublicKey, kind: str, fields: set[str]) -> Json:
    try:
        data = parse_object(dsse_verify(envelope, key, kind))
    except ConfideError as cause:
        raise TransferError(f"a statement of a key's transfer does not verify: {cause.message}") from cause
    if set(data) != fields:
        raise TransferError("a statement of a key's transfer has other fields than it must")
    return data


def _read(reading: Callable[[], Any]) -> Any:
    try:
        return reading()
    except (ConfideError, ValueError, TypeError, KeyError, AttributeError) as cause:
        raise TransferError("a field of a key's transfer cannot be read") from cause

"""Taking a key from one broker to another: three signed statements, and what each vouches for.  Pure: no store, no private key.

1. ``WrappingKey``: broker B's public key to wrap to, signed by B.  The owner's client checks it against the pin of B.
2. ``ExportRequest``: which key goes from which broker to which, and to what wrapping key; signed by the owner's credential.
3. ``KeyExport``: the key's versions sealed to that wrapping key (JWE, ``crypto.seal``), signed by broker A, with the request inside.

B takes an export only if the owner who brings it signed the request, the request names A's key and B's own, and A signed the export: a
plaintext never leaves a broker, and neither a stranger's broker nor a stranger's wrapping key can be put in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from confide.canonical import Json, b64url, canonical, from_b64url, sha384_hex
from confide.crypto.seal import check_public_jwk
from confide.crypto.sign import PublicKey, SigningKey, dsse_sign
from confide.errors import TransferError
from confide.ids import KeyRef, SpkiDigest
from confide.keys.key_outlines import KeyOutline
from confide.keys.statements import SignedKey, Statements

WRAPPING_TYPE: Final = "application/vnd.confide.wrapping-key+json"
REQUEST_TYPE: Final = "application/vnd.confide.key-export-request+json"
EXPORT_TYPE: Final = "application/vnd.confide.key-export+json"
_STATEMENTS: Final = Statements(TransferError, "a key's transfer")


class WrappingKey(SignedKey):
    """A broker's public key that keys are wrapped to, signed by the broker."""

    __slots__ = ()
    type = WRAPPING_TYPE
    form = "confide-wrapping-key-v1"
    statements = _STATEMENTS


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
    def terms(self) -> Json:
        """From where to where: what the key's approvers are asked, whenever the owner asks it."""
        return {"source": self.source, "target": self.target, "jwk": self.jwk}

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
        form, fields = "confide-key-export-request-v1", {"key", "source", "target", "jwk", "time"}
        data = _STATEMENTS.verified(envelope, owner, REQUEST_TYPE, form, fields)
        key, source, target, time = _STATEMENTS.texts(data, "key", "source", "target", "time")
        ref, jwk = _STATEMENTS.read(lambda: (KeyRef.parse(key), check_public_jwk(data["jwk"])))
        return cls(ref.id, SpkiDigest(source), SpkiDigest(target), jwk, time)


@dataclass(frozen=True, slots=True)
class KeyExport:
    """What a key is, and its openable versions' bytes sealed as one JWE."""

    request: ExportRequest
    signed_request: Json
    source: PublicKey
    outline: KeyOutline
    jwe: str

    @property
    def context(self) -> Json:
        """What the sealed bytes are bound to."""
        return {"use": "key-export", "request": self.request.digest, "versions": self.outline.states()}

    def sign(self, broker: SigningKey) -> Json:
        """The export, signed by the broker that it comes from (DSSE envelope)."""
        body = {
            "format": "confide-key-export-v1",
            "request": self.signed_request,
            "source": b64url(self.source.spki_der),
            **self.outline.to_json(),
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
        read = _STATEMENTS.read
        source = read(lambda: PublicKey.from_spki(claimed_source))
        fields = {"request", "source", "versions", "created", "jwe"}
        data = _STATEMENTS.verified(envelope, source, EXPORT_TYPE, "confide-key-export-v1", fields)
        (jwe,) = _STATEMENTS.texts(data, "jwe")
        request = ExportRequest.verify(data["request"], owner)
        if request.source != source.digest or read(lambda: from_b64url(data["source"])) != source.spki_der:
            raise TransferError("the export comes from another broker than its owner asked", expected=request.source, got=source.digest)
        outline = read(lambda: KeyOutline.from_json(request.key, data["versions"], data["created"]))
        return cls(request, data["request"], source, outline, jwe)

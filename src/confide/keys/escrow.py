"""A key in the hands of trustees: five signed statements, and what each vouches for.  Pure: no store, no private key of its own.

1. ``TrusteeKey``: a trustee's public key for shares, signed by its credential, which the owner's client has pinned.
2. ``EscrowRequest``: which key, which trustees with which keys, and how many of them are enough; signed by the owner's credential.
3. ``Escrow``: the key's versions under a fresh escrow key, whose shares are sealed one to each trustee, with a digest of each; signed by
   the broker, with the request inside, and countersigned by the owner.
4. ``Recovery``: who asks for the key at another broker, and that broker's one-time key; signed by that broker.
5. ``Contribution``: one trustee's share, sealed to that one-time key and to nothing else; signed by the trustee.

The escrow key exists in the broker that makes the escrow while it makes it, and in the one that recovers the key; a share in the clear
exists there, and in the memory of its trustee's program while that seals it anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Self

from confide.canonical import Json, b64url, canonical, from_b64url, sha384_hex
from confide.crypto.seal import check_public_jwk, jwk_thumbprint
from confide.crypto.sign import PublicKey, SigningKey, dsse_sign, unverified_keyid
from confide.errors import EscrowError
from confide.ids import KeyRef, SpkiDigest, check_name
from confide.keys.custody.shares import ShareSet
from confide.keys.key_outlines import KeyOutline
from confide.keys.statements import SignedKey, Statements
from confide.keys.times import utc_time

TRUSTEE_TYPE: Final = "application/vnd.confide.trustee-key+json"
REQUEST_TYPE: Final = "application/vnd.confide.key-escrow-request+json"
ESCROW_TYPE: Final = "application/vnd.confide.key-escrow+json"
COUNTERSIGN_TYPE: Final = "application/vnd.confide.key-escrow-countersign+json"
RECOVERY_TYPE: Final = "application/vnd.confide.key-recovery+json"
CONTRIBUTION_TYPE: Final = "application/vnd.confide.escrow-contribution+json"
FILE_FORMAT: Final = "confide-key-escrow-file-v1"
RECOVERY_FILE_FORMAT: Final = "confide-key-recovery-file-v1"
ASK: Final = "ask the owner and the broker's operator for the whole digests, by another way than the files came"
"""What helps a trustee whose digests are not those of the request."""
MAX_TRUSTEES: Final = 32
_RECOVERY_FORM: Final = "confide-key-recovery-v1"
_RECOVERY_FIELDS: Final = {"escrow", "key", "broker", "requester", "jwk", "expires"}
_STATEMENTS: Final = Statements(EscrowError, "a key's escrow")
_read = _STATEMENTS.read


class TrusteeKey(SignedKey):
    """A trustee's public key that shares are sealed to: never the credential's own, which signs it."""

    __slots__ = ()
    type = TRUSTEE_TYPE
    form = "confide-trustee-key-v1"
    statements = _STATEMENTS


@dataclass(frozen=True, slots=True)
class Trustee:
    """Who holds a share: its name at the owner's broker, its credential's public key, and the key that its share is sealed to."""

    name: str
    key: PublicKey
    jwk: Json

    def to_json(self) -> Json:
        """As in a request."""
        return {"name": self.name, "spki": b64url(self.key.spki_der), "jwk": self.jwk}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            EscrowError: it is none.
        """
        match data:
            case {"name": str(name), "spki": str(spki), "jwk": dict(jwk), **rest} if not rest:
                return cls(check_name(name, "trustee"), PublicKey.from_spki(from_b64url(spki)), check_public_jwk(jwk))
        raise EscrowError("not a trustee of an escrow")


@dataclass(frozen=True, slots=True)
class EscrowRequest:
    """An owner's word: ``threshold`` of these trustees together may bring this key of the broker ``source`` back."""

    key: str
    source: SpkiDigest
    trustees: tuple[Trustee, ...]
    threshold: int
    time: str

    def check(self, owner: PublicKey) -> None:
        """Return if nobody could bring the key back alone: not as one trustee, not under two names, and not as its owner.

        Raises:
            EscrowError: somebody could, or there are more trustees than there may be.
        """
        several: dict[str, set[str]] = {
            "names": {one.name for one in self.trustees},
            "credentials": {one.key.digest for one in self.trustees},
            "keys": {jwk_thumbprint(one.jwk) for one in self.trustees},
        }
        for what, found in several.items():
            if len(found) != len(self.trustees):
                raise EscrowError(f"two trustees have one of their {what} in common")
        if owner.digest in several["credentials"]:
            raise EscrowError("the key's owner cannot be a trustee of it")
        if not 2 <= self.threshold <= len(self.trustees) <= MAX_TRUSTEES:
            hint = f"at least 2 trustees must be needed, of at most {MAX_TRUSTEES}"
            raise EscrowError("such an escrow cannot be made", hint=hint, threshold=self.threshold, trustees=len(self.trustees))

    def _form(self) -> Json:
        trustees = [trustee.to_json() for trustee in self.trustees]
        fields = {"key": self.key, "source": self.source, "trustees": trustees, "threshold": self.threshold, "time": self.time}
        return {"format": "confide-key-escrow-request-v1", **fields}

    @property
    def terms(self) -> Json:
        """Whose hands, and how many of them: what the key's approvers are asked, whenever the owner asks it."""
        return {"source": self.source, "threshold": self.threshold, "trustees": [trustee.to_json() for trustee in self.trustees]}

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
            EscrowError: another one did, this is none, or as :meth:`check`.
        """
        form, fields = "confide-key-escrow-request-v1", {"key", "source", "trustees", "threshold", "time"}
        data = _STATEMENTS.verified(envelope, owner, REQUEST_TYPE, form, fields)
        key, source, time = _STATEMENTS.texts(data, "key", "source", "time")
        if type(data["threshold"]) is not int or not isinstance(data["trustees"], list):
            raise EscrowError("a field of a key's escrow cannot be read")
        ref, trustees = _read(lambda: (KeyRef.parse(key), tuple(map(Trustee.from_json, data["trustees"]))))
        found = cls(ref.id, SpkiDigest(source), trustees, data["threshold"], time)
        found.check(owner)
        return found


@dataclass(frozen=True, slots=True)
class Escrow:
    """What a key is, its openable versions under the escrow key, and the shares of that: sealed to their trustees, and a digest of each."""

    request: EscrowRequest
    signed_request: Json
    owner: PublicKey
    source: PublicKey
    outline: KeyOutline
    shares: ShareSet
    wrapped: bytes = b""
    sealed: tuple[str, ...] = ()

    @property
    def context(self) -> Json:
        """What the wrapped bytes are bound to."""
        return {"use": "key-escrow", "request": self.request.digest, **self.outline.to_json()}

    def share_context(self, index: int) -> Json:
        """What the sealed share ``index`` (from 1) is bound to."""
        return {"use": "escrow-share", "request": self.request.digest, "set": self.shares.id.hex(), "index": index}

    def _form(self) -> Json:
        fields = {
            "request": self.signed_request,
            "source": b64url(self.source.spki_der),
            **self.outline.to_json(),
            "shares": self.shares.to_json(),
            "wrapped": b64url(self.wrapped),
            "sealed": list(self.sealed),
        }
        return {"format": "confide-key-escrow-v1", **fields}

    @property
    def digest(self) -> str:
        """SHA-384 of the escrow's canonical form, hex: its name."""
        return sha384_hex(canonical(self._form()))

    def index_of(self, trustee: SpkiDigest) -> int:
        """Which share is that of the credential, from 1.

        Raises:
            EscrowError: none is.
        """
        for index, one in enumerate(self.request.trustees, start=1):
            if one.key.digest == trustee:
                return index
        raise EscrowError("this credential is no trustee of this escrow", credential=trustee)

    def sign(self, broker: SigningKey) -> Json:
        """The escrow, signed by the broker that makes it (DSSE envelope)."""
        return dsse_sign(broker, ESCROW_TYPE, canonical(self._form()))

    @classmethod
    def verify(cls, envelope: Json, owner: PublicKey, claimed_source: bytes) -> Self:
        """Read an escrow that ``owner`` asked for, and that the broker named in the owner's request made.

        Raises:
            EscrowError: one of the signatures is another's, or this is no escrow.
        """
        source = _read(lambda: PublicKey.from_spki(claimed_source))
        fields = {"request", "source", "versions", "created", "shares", "wrapped", "sealed"}
        data = _STATEMENTS.verified(envelope, source, ESCROW_TYPE, "confide-key-escrow-v1", fields)
        request = EscrowRequest.verify(data["request"], owner)
        if request.source != source.digest or _read(lambda: from_b64url(data["source"])) != source.spki_der:
            raise EscrowError("the escrow was made by another broker than its owner asked", expected=request.source, got=source.digest)
        outline = _read(lambda: KeyOutline.from_json(request.key, data["versions"], data["created"]))
        shares, wrapped = _read(lambda: (ShareSet.from_json(data["shares"]), from_b64url(data["wrapped"])))
        sealed = data["sealed"]
        if not isinstance(sealed, list) or not all(isinstance(one, str) for one in sealed):
            raise EscrowError("a field of a key's escrow cannot be read")
        if (shares.threshold, shares.count, len(sealed)) != (request.threshold, *[len(request.trustees)] * 2):
            raise EscrowError("the escrow's shares are not those that its owner asked for")
        return cls(request, data["request"], owner, source, outline, shares, wrapped, tuple(sealed))

    # --- its file ----------------------------------------------------------------------------------------------------

    def head(self, envelope: Json, owner: SigningKey) -> Json:
        """The first line of the escrow's file: the broker's ``envelope`` of it, countersigned."""
        seen = canonical({"format": "confide-key-escrow-countersign-v1", "escrow": self.digest})
        keys = {"owner": b64url(self.owner.spki_der), "source": b64url(self.source.spki_der)}
        return {"format": FILE_FORMAT, **keys, "escrow": envelope, "countersign": dsse_sign(owner, COUNTERSIGN_TYPE, seen)}

    @classmethod
    def of_head(cls, head: Json) -> Self:
        """The escrow of a file, as its owner and its broker signed it.  *Who* they are is for its reader to judge.

        Raises:
            EscrowError: they did not, or this is no escrow's file.
        """
        match head:
            case {"format": str(form), "owner": str(owner), "source": str(source), "escrow": dict(signed), "countersign": dict(seen),
                  **rest} if form == FILE_FORMAT and not rest:  # fmt: skip
                key, broker = _read(lambda: (PublicKey.from_spki(from_b64url(owner)), from_b64url(source)))
                found = cls.verify(signed, key, broker)
                data = _STATEMENTS.verified(seen, key, COUNTERSIGN_TYPE, "confide-key-escrow-countersign-v1", {"escrow"})
                if data["escrow"] != found.digest:
                    raise EscrowError("the owner has countersigned another escrow", expected=found.digest)
                return found
        raise EscrowError("the file is no key's escrow", hint="`confide keys escrow make` writes one")


@dataclass(frozen=True, slots=True)
class Recovery:
    """A broker's word: the credential ``requester``, which it knows as the key's owner, asks for an escrowed key by this one-time key."""

    escrow: str
    key: str
    broker: SpkiDigest
    requester: SpkiDigest
    jwk: Json
    expires: datetime

    def form(self) -> Json:
        """As it is signed and kept."""
        fields = {"escrow": self.escrow, "key": self.key, "broker": self.broker, "requester": self.requester, "jwk": self.jwk}
        return {"format": _RECOVERY_FORM, **fields, "expires": self.expires.isoformat()}

    @property
    def digest(self) -> str:
        """SHA-384 of the canonical form, hex: the recovery's name."""
        return sha384_hex(canonical(self.form()))

    def sign(self, broker: SigningKey) -> Json:
        """The recovery's file: the broker's public key, and the statement that it signed (DSSE envelope)."""
        signed = dsse_sign(broker, RECOVERY_TYPE, canonical(self.form()))
        return {"format": RECOVERY_FILE_FORMAT, "broker": b64url(broker.spki_der), "recovery": signed}

    @classmethod
    def of_file(cls, file: Json, target: SpkiDigest) -> Self:
        """The recovery that the broker ``target`` signed; ``target`` comes from whoever runs that broker, not from the file.

        Raises:
            EscrowError: another one did, or this is no recovery's file.
        """
        match file:
            case {"format": str(form), "broker": str(text), "recovery": dict(signed), **rest} if form == RECOVERY_FILE_FORMAT and not rest:
                broker = _read(lambda: PublicKey.from_spki(from_b64url(text)))
                if broker.digest != target:
                    found_at = broker.digest
                    raise EscrowError("the recovery is asked for by another broker than was named", hint=ASK, expected=target, got=found_at)
                data = _STATEMENTS.verified(signed, broker, RECOVERY_TYPE, _RECOVERY_FORM, _RECOVERY_FIELDS)
                found = cls.from_form(data)
                if found.broker != target:
                    raise EscrowError("the recovery is for another broker than signed it", expected=target, got=found.broker[:80])
                return found
        raise EscrowError("the file asks for no recovery", hint="`confide keys escrow request` writes one, at another broker")

    @classmethod
    def from_form(cls, data: Json) -> Self:
        """The inverse of :meth:`form`.

        Raises:
            EscrowError: it is none.
        """
        if set(data) != {"format", *_RECOVERY_FIELDS} or data["format"] != _RECOVERY_FORM:
            raise EscrowError("not a recovery of a key")
        escrow, key, broker, requester, expires = _STATEMENTS.texts(data, "escrow", "key", "broker", "requester", "expires")
        ref, jwk, end = _read(lambda: (KeyRef.parse(key), check_public_jwk(data["jwk"]), utc_time(expires)))
        return cls(escrow, ref.id, SpkiDigest(broker), SpkiDigest(requester), jwk, end)


@dataclass(frozen=True, slots=True)
class Contribution:
    """A trustee's word: its share of this escrow goes to this recovery, to which it is sealed."""

    escrow: str
    recovery: str
    index: int
    jwe: str = ""

    @property
    def context(self) -> Json:
        """What the sealed share is bound to."""
        return {"use": "escrow-contribution", "escrow": self.escrow, "recovery": self.recovery, "index": self.index}

    def sign(self, trustee: SigningKey, jwe: str) -> Json:
        """The contribution with its sealed share, signed by the trustee's credential (DSSE envelope)."""
        made = replace(self, jwe=jwe)
        fields = {"escrow": made.escrow, "recovery": made.recovery, "index": made.index, "jwe": made.jwe}
        return dsse_sign(trustee, CONTRIBUTION_TYPE, canonical({"format": "confide-escrow-contribution-v1", **fields}))

    @classmethod
    def verify(cls, envelope: Json, escrow: Escrow) -> Self:
        """Read a contribution to ``escrow`` that the trustee whose share it is has signed.

        Raises:
            EscrowError: another one did, it is to another escrow, or this is none.
        """
        index = escrow.index_of(_read(lambda: unverified_keyid(envelope)))
        trustee, fields = escrow.request.trustees[index - 1], {"escrow", "recovery", "index", "jwe"}
        data = _STATEMENTS.verified(envelope, trustee.key, CONTRIBUTION_TYPE, "confide-escrow-contribution-v1", fields)
        of, recovery, jwe = _STATEMENTS.texts(data, "escrow", "recovery", "jwe")
        if of != escrow.digest or type(data["index"]) is not int or data["index"] != index:
            raise EscrowError("a contribution is to another escrow, or of another's share", trustee=trustee.name)
        return cls(of, recovery, index, jwe)


def one_recovery(contributions: Sequence[Contribution]) -> str:
    """The recovery that all contributions are to.

    Raises:
        EscrowError: there is none, or they are to several.
    """
    found = {contribution.recovery for contribution in contributions}
    if len(found) != 1:
        raise EscrowError("the contributions are not to one recovery", hint="each trustee contributes to the same request", got=len(found))
    return found.pop()

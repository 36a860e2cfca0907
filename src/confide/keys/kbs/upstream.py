"""Custody by an upstream key broker service: the key is a resource that this broker gets by attesting itself.

The usual way for a broker in a TEE to come up with nobody at hand: Trustee, or another broker of Confide, decides by this broker's
evidence whether it may have the key.  Any server of KBS protocol 0.4.0 does (``keys.kbs.client``); it wraps nothing itself, so wrapping
is done here, under the resource, which is in memory for that moment only.

Layout of what is wrapped: key check value (16 bytes), nonce (12), AES-256-GCM ciphertext and tag.  The check value says which resource it
was: one that somebody has put into its place is refused as such, and nothing is wrapped or opened under it unnoticed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from confide.attest.collect import Attester
from confide.crypto.secret import SecretBytes
from confide.crypto.tls import PinnedSpki
from confide.errors import (
    AttestationError,
    AttesterError,
    ConfigError,
    CustodyError,
    CustodyOfflineError,
    KbsError,
    RateLimitedError,
    ResourceDeniedError,
    ResourceMissingError,
    UnwrapError,
    UsageError,
)
from confide.ids import SpkiDigest
from confide.keys.kbs.client import KbsClient
from confide.keys.kbs.resources import ResourceName
from confide.keys.kbs.transport import KbsTrust, PinnedCa

KEY_BYTES: Final = 32
_CALL_S: Final = 10.0
_CHECK_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_WRAPPED_BYTES: Final = _CHECK_BYTES + _NONCE_BYTES + KEY_BYTES + _TAG_BYTES
_LABEL: Final = b"confide upstream custody v1\0"


@dataclass(frozen=True)
class UpstreamKey:
    """A resource of 32 bytes at an upstream, and those ``older`` ones under which keys were wrapped before.

    The server is known by ``spki`` (SHA-256 of its public key) or by certificates in ``ca``, one of them.  ``timeout_s`` is for each of the
    three requests that a resource takes.
    """

    address: str
    key: ResourceName
    attester: Callable[[], Attester] = field(repr=False)
    ca: Path | None = None
    spki: SpkiDigest | None = None
    older: tuple[ResourceName, ...] = ()
    timeout_s: float = _CALL_S

    def __post_init__(self) -> None:
        if (self.ca is None) == (self.spki is None):
            raise ConfigError("an upstream is known by one of ca_file and spki")

    def wrap_key(self, key: SecretBytes, binding: bytes) -> bytes:
        """See :meth:`~confide.keys.custody.protocol.KeyService.wrap_key`."""
        resource = self._resource(self.key)
        head = _check(resource) + secrets.token_bytes(_NONCE_BYTES)
        made = head + _cipher(resource).encrypt(head[_CHECK_BYTES:], key.reveal(), _LABEL + head[:_CHECK_BYTES] + binding)
        resource.wipe()
        return made

    def unwrap_key(self, wrapped: bytes, binding: bytes) -> SecretBytes:
        """See :meth:`~confide.keys.custody.protocol.KeyService.unwrap_key`."""
        if len(wrapped) != _WRAPPED_BYTES:
            raise UnwrapError("not a key that was wrapped under an upstream's resource")
        check, nonce, sealed = wrapped[:_CHECK_BYTES], wrapped[_CHECK_BYTES:][:_NONCE_BYTES], wrapped[_CHECK_BYTES + _NONCE_BYTES :]
        for name in (self.key, *self.older):
            resource = self._resource(name)
            try:
                if hmac.compare_digest(_check(resource), check):
                    return SecretBytes(_cipher(resource).decrypt(nonce, sealed, _LABEL + check + binding))
            except InvalidTag:
                raise UnwrapError("a key does not open under the upstream's resource: another use, or changed bytes") from None
            finally:
                resource.wipe()
        hint = "somebody has put another value into its place: put the genuine one back, or name the resource that it was in older_keys"
        raise CustodyError("the upstream's resource is not the one that this was wrapped under", hint=hint, resource=self.key.path)

    def _resource(self, name: ResourceName) -> SecretBytes:
        """The resource, got under this broker's own evidence.

        Raises:
            CustodyError: the upstream refuses this broker, has no such resource, or it is not a key.
            CustodyOfflineError: it cannot be reached, has no time, answers what is no answer, or there is no evidence to be had.
        """
        try:
            with KbsClient(self.address, self._trust(), attester=self.attester(), timeout=self.timeout_s) as client:
                found = client.resource(name)
        except (AttestationError, ResourceDeniedError, ResourceMissingError) as cause:
            hint = "see the upstream's audit log, and its rules for this broker's measurement"
            raise CustodyError(f"the upstream refuses: {cause.message}", hint=hint, reason=cause.code) from None
        except (KbsError, RateLimitedError) as cause:
            message = "the upstream key broker cannot be reached, has no time, or answers what is no answer"
            raise CustodyOfflineError(message, reason=cause.message[:200]) from None
        except AttesterError as cause:
            hint = "run the broker inside a TEE: an upstream gives its key to evidence only"
            raise CustodyOfflineError(
                "this broker has no evidence to show to its upstream", hint=hint, reason=cause.message[:200]
            ) from None
        if len(found) != KEY_BYTES:
            raise CustodyError("the upstream's resource is not a key of 32 bytes", got=len(found), resource=name.path)
        return found

    def _trust(self) -> KbsTrust:
        if self.ca is None:
            return PinnedSpki(SpkiDigest(self.spki or ""))
        try:
            trust = PinnedCa(self.ca.read_text(encoding="ascii"))
            trust.context()
        except (OSError, ValueError, UsageError) as cause:
            raise ConfigError(f"cannot read the certificates in {self.ca}", path=str(self.ca)) from cause
        return trust


def _check(resource: SecretBytes) -> bytes:
    """What tells one resource from another, and says nothing else about 32 random bytes."""
    return hmac.digest(resource.reveal(), _LABEL + b"check", hashlib.sha256)[:_CHECK_BYTES]


def _cipher(resource: SecretBytes) -> AESGCM:
    """A key of its own, so that the check value is of another one."""
    return AESGCM(hmac.digest(resource.reveal(), _LABEL + b"wrap", hashlib.sha256))

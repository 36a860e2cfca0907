"""Custody by a PKCS#11 token: an AES key that never leaves the device.  Needs the extra ``pkcs11``.

PKCS #11 Specification 3.1, section 6.13 (AES-GCM, ``CKM_AES_GCM``) with the binding as additional authenticated data.  A key that the
token would give out, or lets be read, is refused: it would be no custody.  What is wrapped names its key by ``CKA_ID``, so that a
key may be followed by another under the same label and the older one still opens what it wrapped.
A call into the token's library cannot be ended from outside; ``seal_state`` does not wait for one.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from confide.crypto.secret import SecretBytes
from confide.errors import CustodyError, CustodyOfflineError, ExtraMissingError, UnwrapError
from confide.keys.custody.credential_file import read_credential

if TYPE_CHECKING:
    from pkcs11 import Session

_NONCE_BYTES: Final = 12
_MAX_ID: Final = 255
_OFFLINE: Final = ("DeviceError", "DeviceRemoved", "DeviceMemory", "TokenNotPresent", "TokenNotRecognised", "NoSuchToken", "GeneralError",
                   "FunctionFailed", "HostMemory", "SessionCount", "SessionClosed", "SessionHandleInvalid", "SlotIDInvalid",
                   "FunctionCancelled")  # fmt: skip
"""Failures of the device, not decisions of it (section 5.1)."""
_one_at_a_time = threading.Lock()
_DAMAGED: Final = ("EncryptedDataInvalid", "EncryptedDataLenRange", "AEADDecryptFailed")


@dataclass(frozen=True)
class Pkcs11Key:
    """One AES key on one token.  ``key_id`` (hex) chooses among several of the same label."""

    module: Path
    token: str
    key: str
    pin_file: Path
    key_id: str | None = None

    def wrap_key(self, key: SecretBytes, binding: bytes) -> bytes:
        """See :meth:`KeyService.wrap_key`: length of the key's id (1 byte), its id, nonce, ciphertext and tag."""
        with self._session() as session:
            found = self._find(session, bytes.fromhex(self.key_id) if self.key_id is not None else None, use="ENCRYPT")
            name = bytes(found.id)
            if len(name) > _MAX_ID:
                raise CustodyError("the id of the key on the token is too long")
            nonce = secrets.token_bytes(_NONCE_BYTES)
            sealed = found.encrypt(key.reveal(), mechanism=_gcm(), mechanism_param=_parameters(nonce, binding))
            return bytes([len(name)]) + name + nonce + bytes(sealed)

    def unwrap_key(self, wrapped: bytes, binding: bytes) -> SecretBytes:
        """See :meth:`KeyService.unwrap_key`."""
        start = 1 + wrapped[0]
        nonce, sealed = wrapped[start : start + _NONCE_BYTES], wrapped[start + _NONCE_BYTES :]
        if not sealed:
            raise _damaged()
        with self._session() as session:
            found = self._find(session, wrapped[1:start], use="DECRYPT")
            try:
                return SecretBytes(bytes(found.decrypt(sealed, mechanism=_gcm(), mechanism_param=_parameters(nonce, binding))))
            except _errors().GeneralError:
                # What SoftHSM says to a wrong tag, and any token when it is broken: it is asked for something that must succeed.
                _self_test(found)
                raise _damaged() from None

    @contextmanager
    def _session(self) -> Iterator[Session]:
        """A session that is logged in, for one operation and no other at a time: a token has one login state for a whole process."""
        pin = read_credential(self.pin_file)
        with _one_at_a_time:
            library = _library(self.module)
            try:
                session = library.get_token(token_label=self.token).open(user_pin=pin.reveal().decode("utf-8", "replace"))
                try:
                    yield session
                finally:
                    session.close()
            except _errors().PKCS11Error as cause:
                error = _translated(cause)
                if isinstance(error, CustodyOfflineError):
                    _begin_anew(library)
                raise error from None

    def _find(self, session: Session, name: bytes | None, *, use: str) -> Any:
        """The key with that label and id.

        Raises:
            CustodyError: there is none, there are several, it is not for this ``use``, or the token would give it out.
        """
        from pkcs11 import Attribute, KeyType, ObjectClass  # noqa: PLC0415  an extra

        wanted: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES, Attribute.LABEL: self.key}
        if name is not None:
            wanted[Attribute.ID] = name
        found: list[Any] = list(session.get_objects(wanted))
        if len(found) != 1:
            hint = "make one that is sensitive and not extractable" if not found else "choose one by key_id"
            raise CustodyError("the token has not exactly one such AES key", hint=hint, key=self.key, found=len(found))
        if found[0][Attribute.EXTRACTABLE] or not found[0][Attribute.SENSITIVE]:
            raise CustodyError("the token would give this key out", hint="make one that is sensitive and not extractable", key=self.key)
        if not found[0][Attribute[use]]:
            raise CustodyError("the token does not let this key be used so", key=self.key, use=use.lower())
        return found[0]


def _library(module: Path) -> Any:
    try:
        import pkcs11  # noqa: PLC0415  an extra
    except ImportError as cause:
        raise ExtraMissingError("custody by a PKCS#11 token needs an extra", hint="pip install 'confide[pkcs11]'") from cause
    try:
        return pkcs11.lib(str(module))
    except (pkcs11.exceptions.PKCS11Error, RuntimeError) as cause:
        raise CustodyOfflineError("the token's library cannot be loaded", path=str(module)) from cause


def _errors() -> Any:
    from pkcs11 import exceptions  # noqa: PLC0415  an extra

    return exceptions


def _gcm() -> Any:
    from pkcs11 import Mechanism  # noqa: PLC0415  an extra

    return Mechanism.AES_GCM


def _parameters(nonce: bytes, binding: bytes) -> Any:
    from pkcs11 import GCMParams  # noqa: PLC0415  an extra

    return GCMParams(nonce, binding)


def _self_test(key: Any) -> None:
    """Raises what the token raises if it does not decrypt what it has just encrypted."""
    parameters = _parameters(secrets.token_bytes(_NONCE_BYTES), b"self-test")
    key.decrypt(key.encrypt(b"self-test", mechanism=_gcm(), mechanism_param=parameters), mechanism=_gcm(), mechanism_param=parameters)


def _begin_anew(library: Any) -> None:
    """Finalize the token's library and initialize it again: many do not find a token that was away otherwise (section 5.4)."""
    with suppress(_errors().PKCS11Error):
        library.reinitialize()


def _translated(cause: Exception) -> CustodyError | UnwrapError:
    """By the name of the code that the token returned.  Its text may say anything, and is left out."""
    name = type(cause).__name__
    if name in _DAMAGED:
        return _damaged()
    if name in _OFFLINE:
        return CustodyOfflineError("the token cannot be used now", reason=name)
    return CustodyError("the token refuses", reason=name)


def _damaged() -> UnwrapError:
    return UnwrapError("the token does not open this wrapped key: another key, another use, or changed bytes")

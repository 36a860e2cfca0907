"""Custody by Azure Key Vault or a Managed HSM.  Needs the extra ``azure`` (azure-keyvault-keys, azure-identity).

Azure Key Vault REST API, "Get Key", "Sign" and "Unwrap Key", with an RSA key: RSA-OAEP-256 and PS256.  Wrapping is done here, by the
library, with the public key that the vault gives out.  Anybody can do that; so the vault also signs what was wrapped, with the binding,
and what it did not sign is refused.  What is wrapped names the key's version, so that older versions still open.  Who we are is an
application's secret.
Nothing is taken from the environment: not the credentials, proxy or certificates.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from confide.crypto.secret import SecretBytes
from confide.crypto.timed_http import end_in_time
from confide.errors import CustodyError, CustodyOfflineError, ExtraMissingError, UnwrapError
from confide.keys.custody.credential_file import read_credential
from confide.keys.custody.verified_tls import refuse_key_log

_CALL_S: Final = 10.0
_AUTHORITY: Final = "https://login.microsoftonline.com"
_VERSION: Final = re.compile(r"[0-9a-f]{32}")
_VERSION_BYTES: Final = 32
_LABEL: Final = b"confide-azure-v1\0"


@dataclass(frozen=True)
class AzureKey:
    """One RSA key of one vault.  ``authority`` is where tokens come from."""

    vault: str
    key: str
    tenant: str
    client: str
    secret_file: Path
    authority: str = _AUTHORITY
    ca: Path | None = None
    timeout_s: float = _CALL_S
    _made: list[tuple[object, Any]] = field(default_factory=list, init=False, repr=False, compare=False)

    def wrap_key(self, key: SecretBytes, binding: bytes) -> bytes:
        """See :meth:`KeyService.wrap_key`: the key's version (32 characters), length of the ciphertext (2 bytes), ciphertext, signature."""
        return self._call(lambda: self._wrap(key, binding))

    def unwrap_key(self, wrapped: bytes, binding: bytes) -> SecretBytes:
        """See :meth:`KeyService.unwrap_key`."""
        version = wrapped[:_VERSION_BYTES].decode("latin-1")
        start = _VERSION_BYTES + 2
        end = start + int.from_bytes(wrapped[_VERSION_BYTES:start], "big")
        if not _VERSION.fullmatch(version) or end >= len(wrapped):
            raise _damaged()
        signed = _digest(wrapped[:end], binding)
        return SecretBytes(self._call(lambda: self._unwrap(version, wrapped[start:end], signed, wrapped[end:]), damaged=True))

    def _wrap(self, key: SecretBytes, binding: bytes) -> bytes:
        from azure.keyvault.keys import KeyClient  # noqa: PLC0415  an extra
        from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm, SignatureAlgorithm  # noqa: PLC0415  an extra

        found = KeyClient(self.vault, self._credential(), **self._transport()).get_key(self.key)
        version = found.properties.version
        if not isinstance(version, str) or not _VERSION.fullmatch(version):
            raise _no_answer()
        with CryptographyClient(found, self._credential(), **self._transport()) as client:
            sealed = _bytes(client.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, key.reveal()).encrypted_key)
            head = version.encode() + len(sealed).to_bytes(2, "big") + sealed
            return head + _bytes(client.sign(SignatureAlgorithm.ps256, _digest(head, binding)).signature)

    def _unwrap(self, version: str, sealed: bytes, signed: bytes, signature: bytes) -> bytes:
        from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm, SignatureAlgorithm  # noqa: PLC0415  an extra

        name = f"{self.vault}/keys/{self.key}/{version}"
        with CryptographyClient(name, self._credential(), **self._transport()) as client:
            if client.verify(SignatureAlgorithm.ps256, signed, signature).is_valid is not True:
                raise _damaged()
            return _bytes(client.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, sealed).key)

    def _call(self, action: Any, *, damaged: bool = False) -> bytes:
        try:
            from azure.core.exceptions import AzureError  # noqa: PLC0415  an extra
        except ImportError as cause:
            raise ExtraMissingError("custody by Azure Key Vault needs an extra", hint="pip install 'confide[azure]'") from cause
        refuse_key_log()
        # Its log at level INFO has addresses and headers in it.
        logging.getLogger("azure").setLevel(logging.WARNING)
        try:
            found: bytes = action()
        except AzureError as cause:
            raise _failure(cause, damaged=damaged) from None
        except (ValueError, TypeError, KeyError, AttributeError) as cause:
            # What the library makes of bodies that are none, and of a token service that is not the vault's.
            raise CustodyOfflineError("the key service gave an answer that is not one", reason=type(cause).__name__) from None
        return found

    def _credential(self) -> Any:
        """The credential for the secret that the file holds now.  It keeps its token until that ends."""
        from azure.identity import ClientSecretCredential  # noqa: PLC0415  an extra

        secret = read_credential(self.secret_file).reveal().decode("latin-1")
        wanted = (secret, self.authority)
        if not self._made or self._made[0][0] != wanted:
            made = ClientSecretCredential(self.tenant, self.client, secret, authority=self.authority, disable_instance_discovery=True,
                                          **self._transport())  # fmt: skip
            self._made[:] = [(wanted, made)]
        return self._made[0][1]

    def _transport(self) -> dict[str, Any]:
        from azure.core.pipeline.transport import RequestsTransport  # noqa: PLC0415  an extra

        wire = RequestsTransport(use_env_settings=False, connection_verify=str(self.ca) if self.ca else True,
                                 connection_timeout=self.timeout_s, read_timeout=self.timeout_s)  # fmt: skip
        wire.open()  # which makes its session
        end_in_time(wire.session.get_adapter("https://").poolmanager, body_s=self.timeout_s)
        return {"transport": wire, "retry_total": 0}


def _bytes(found: object) -> bytes:
    """What the library took from an answer: it hands on a number as it came, of which ``bytes`` would make that many zeros."""
    if not isinstance(found, bytes):
        raise _no_answer()
    return found


def _digest(head: bytes, binding: bytes) -> bytes:
    return hashlib.sha256(_LABEL + binding + head).digest()


def _failure(cause: Any, *, damaged: bool) -> CustodyError | UnwrapError:
    """By status.  The service's text may say anything, and is left out."""
    status = getattr(cause, "status_code", None)
    name = type(cause).__name__
    if name == "ClientAuthenticationError":
        return CustodyError("the key service refuses: the application's secret is not accepted", reason=name)
    if damaged and status == 400:
        return _damaged()
    if not isinstance(status, int) or not 400 <= status < 500 or status == 429:
        return CustodyOfflineError("the key service cannot be reached", reason=name, status=status if isinstance(status, int) else None)
    return CustodyError("the key service refuses", hint="see its log: the key's state and policy, and our application", status=status)


def _no_answer() -> CustodyOfflineError:
    return CustodyOfflineError("the key service gave an answer that is not one")


def _damaged() -> UnwrapError:
    return UnwrapError("the key service does not open this wrapped key: another key, another use, or changed bytes")

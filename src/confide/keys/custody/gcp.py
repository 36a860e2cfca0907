"""Custody by Google Cloud KMS.  Needs the extra ``gcp`` (google-cloud-kms).

Cloud KMS API reference, ``projects.locations.keyRings.cryptoKeys.encrypt`` and ``.decrypt``, with the binding as additional authenticated
data.
Rotation is Google's: its ciphertext names the version.  Who we are is a service account's key, in the file that Google makes of it.
Nothing is taken from the environment: not the endpoint, credentials, proxy or certificates.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from confide.crypto.secret import SecretBytes
from confide.crypto.timed_http import end_in_time
from confide.errors import CredentialError, CustodyError, CustodyOfflineError, ExtraMissingError, UnwrapError
from confide.keys.custody.credential_file import read_credential
from confide.keys.custody.verified_tls import refuse_key_log

_CALL_S: Final = 10.0
_HOST: Final = "cloudkms.googleapis.com"
_SCOPE: Final = "https://www.googleapis.com/auth/cloudkms"
_DAMAGED: Final = "INVALID_ARGUMENT"
"""What Decrypt answers to ciphertext that is not of this key, or to other additional data (``google.rpc.Code``)."""


@dataclass(frozen=True)
class GcpKey:
    """One key, ``projects/*/locations/*/keyRings/*/cryptoKeys/*``.  ``endpoint`` is HOST[:PORT]."""

    key: str
    credentials_file: Path
    endpoint: str | None = None
    ca: Path | None = None
    timeout_s: float = _CALL_S
    _made: list[tuple[object, Any]] = field(default_factory=list, init=False, repr=False, compare=False)

    def wrap_key(self, key: SecretBytes, binding: bytes) -> bytes:
        """See :meth:`KeyService.wrap_key`."""
        return self._call("encrypt", "ciphertext", plaintext=key.reveal(), additional_authenticated_data=binding)

    def unwrap_key(self, wrapped: bytes, binding: bytes) -> SecretBytes:
        """See :meth:`KeyService.unwrap_key`."""
        return SecretBytes(self._call("decrypt", "plaintext", ciphertext=wrapped, additional_authenticated_data=binding))

    def _call(self, operation: str, answer: str, **fields: bytes) -> bytes:
        client = self._client()
        from google.api_core.exceptions import GoogleAPICallError  # noqa: PLC0415  an extra
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415  an extra
        from requests.exceptions import RequestException  # noqa: PLC0415  comes with the extra

        try:
            found = getattr(getattr(client, operation)(request={"name": self.key, **fields}, retry=None, timeout=self.timeout_s), answer)
        except GoogleAPICallError as cause:
            raise _failure(cause, operation) from None
        except (GoogleAuthError, RequestException, ValueError, TypeError, KeyError, AttributeError) as cause:
            # The last four, and ParseError of protobuf (a ValueError or not): what the library makes of bodies that are none.
            raise CustodyOfflineError("the key service cannot be reached", reason=type(cause).__name__) from None
        except Exception as cause:  # noqa: BLE001  protobuf's errors have no class in common with anything above
            raise CustodyOfflineError("the key service gave an answer that is not one", reason=type(cause).__name__) from None
        if not isinstance(found, bytes) or not found:
            raise CustodyOfflineError("the key service gave an answer that is not one")
        return found

    def _client(self) -> Any:
        """The client for the credentials that the file holds now."""
        text = read_credential(self.credentials_file).reveal()
        wanted = (text, self.endpoint)
        if not self._made or self._made[0][0] != wanted:
            self._made[:] = [(wanted, self._new_client(text))]
        return self._made[0][1]

    def _new_client(self, text: bytes) -> Any:
        try:
            from google.cloud.kms_v1 import KeyManagementServiceClient  # noqa: PLC0415  an extra
            from google.oauth2.service_account import Credentials  # noqa: PLC0415  an extra
        except ImportError as cause:
            raise ExtraMissingError("custody by Google Cloud KMS needs an extra", hint="pip install 'confide[gcp]'") from cause
        refuse_key_log()
        try:
            credentials = Credentials.from_service_account_info(json.loads(text), scopes=[_SCOPE])  # type: ignore[no-untyped-call]
        except (ValueError, KeyError, TypeError, AttributeError):
            hint = "it is the JSON file of a service account's key"
            raise CredentialError(f"{self.credentials_file} has no Google credentials", hint=hint) from None
        # Its debug log has whole requests in it, with the keys that are to be encrypted.
        logging.getLogger("google").setLevel(logging.WARNING)
        options = {"api_endpoint": self.endpoint or _HOST, "universe_domain": "googleapis.com"}
        client: Any = KeyManagementServiceClient(credentials=credentials, transport="rest", client_options=options)
        # The library would take a proxy and certificates from the environment.
        session = client.transport._session  # noqa: SLF001  there is no other way to its settings
        for one in (session, session._auth_request.session):  # noqa: SLF001  the same, for tokens
            one.trust_env = False
            end_in_time(one.get_adapter("https://").poolmanager, body_s=self.timeout_s)
            if self.ca is not None:
                one.verify = str(self.ca)
        return client


def _failure(cause: Any, operation: str) -> CustodyError | UnwrapError:
    """By status, and for 400 by the code in the body.  The service's text may say anything, and is left out."""
    status = cause.code if isinstance(cause.code, int) else 0
    code = ""
    try:
        code = str(cause.response.json()["error"]["status"])[:80]
    except (ValueError, KeyError, TypeError, AttributeError):
        status = 0 if status == 400 else status  # no error of Cloud KMS
    if operation == "decrypt" and status == 400 and code == _DAMAGED:
        return UnwrapError("the key service does not open this wrapped key: another key, another use, or changed bytes")
    if not 400 <= status < 500 or status == 429:
        return CustodyOfflineError("the key service answered with an error", status=status)
    return CustodyError("the key service refuses", hint="see its log: the key's state and policy, and our account", reason=code)

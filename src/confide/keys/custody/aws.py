"""Custody by AWS KMS.  Needs the extra ``aws`` (boto3).

AWS KMS API Reference, "Encrypt" and "Decrypt", with the binding in the encryption context, so that AWS's own log shows which use was
asked for.  Rotation is AWS's: its ciphertext names the key and its version; Decrypt names the key all the same, so that ciphertext of
another key is refused.  Nothing is taken from the environment or from ``~/.aws``: not the endpoint, credentials, proxy or certificates.
"""

from __future__ import annotations

import configparser
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from confide.canonical import b64url
from confide.crypto.secret import SecretBytes
from confide.crypto.timed_http import end_in_time
from confide.errors import CredentialError, CustodyError, CustodyOfflineError, ExtraMissingError, UnwrapError
from confide.keys.custody.credential_file import read_credential
from confide.keys.custody.verified_tls import refuse_key_log

_CALL_S: Final = 10.0
_DAMAGED: Final = {"InvalidCiphertextException", "IncorrectKeyException"}
_OFFLINE: Final = {"DependencyTimeoutException", "KMSInternalException", "KeyUnavailableException", "ThrottlingException",
                   "RequestLimitExceeded", "ServiceUnavailable", "InternalFailure", "LimitExceededException"}  # fmt: skip
"""Codes that are no decision on this key ("Decrypt", "Errors", and "Common Errors")."""


@dataclass(frozen=True)
class AwsKey:
    """One KMS key.  ``credentials_file`` is in the format of AWS's shared credentials file, profile ``default``, mode 0600."""

    region: str
    key: str
    credentials_file: Path
    endpoint: str | None = None
    ca: Path | None = None
    timeout_s: float = _CALL_S
    _made: list[tuple[object, Any]] = field(default_factory=list, init=False, repr=False, compare=False)
    """The client and what it was made of: one takes half a second to make."""

    def wrap_key(self, key: SecretBytes, binding: bytes) -> bytes:
        """See :meth:`KeyService.wrap_key`."""
        return self._call("encrypt", "CiphertextBlob", Plaintext=key.reveal(), EncryptionContext=_context(binding))

    def unwrap_key(self, wrapped: bytes, binding: bytes) -> SecretBytes:
        """See :meth:`KeyService.unwrap_key`."""
        return SecretBytes(self._call("decrypt", "Plaintext", CiphertextBlob=wrapped, EncryptionContext=_context(binding)))

    def _call(self, operation: str, field: str, **arguments: object) -> bytes:
        client = self._client()
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError  # noqa: PLC0415  an extra

        try:
            answer: Any = getattr(client, operation)(KeyId=self.key, **arguments)
        except ClientError as cause:
            raise _failure(cause.response) from None
        except (BotoCoreError, HTTPClientError, ValueError, TypeError, KeyError, AttributeError) as cause:
            # The last four: what botocore makes of bodies that are not what the service promises.
            raise CustodyOfflineError("the key service cannot be reached", reason=type(cause).__name__) from None
        found = answer.get(field) if isinstance(answer, dict) else None
        if not isinstance(found, bytes) or not found:
            raise CustodyOfflineError("the key service gave an answer that is not one")
        return found

    def _client(self) -> Any:
        """The client for the credentials that the file holds now."""
        wanted = (_credentials(self.credentials_file), self.endpoint)
        if not self._made or self._made[0][0] != wanted:
            self._made[:] = [(wanted, self._new_client(*wanted[0]))]
        return self._made[0][1]

    def _new_client(self, *credentials: str | None) -> Any:
        try:
            from botocore.config import Config  # noqa: PLC0415  an extra
            from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES, ConstantProvider  # noqa: PLC0415  an extra
            from botocore.session import Session  # noqa: PLC0415  an extra
        except ImportError as cause:
            raise ExtraMissingError("custody by AWS KMS needs an extra", hint="pip install 'confide[aws]'") from cause
        refuse_key_log()
        # Its debug log has whole requests in it, with the keys that are to be encrypted.
        logging.getLogger("botocore").setLevel(logging.WARNING)
        session = Session()
        # Each of the library's settings is set to its built-in default, so that neither environment nor files are looked at.
        settings = session.get_component("config_store")
        for name, (_, _, default, _) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items():
            settings.set_config_provider(name, ConstantProvider(default))
        settings.set_config_provider("config_file", ConstantProvider(os.devnull))
        session.set_credentials(*credentials)
        config = Config(
            connect_timeout=self.timeout_s, read_timeout=self.timeout_s, retries={"total_max_attempts": 1, "mode": "standard"},
            proxies={}, ignore_configured_endpoint_urls=True, user_agent_extra="confide",
        )  # fmt: skip
        client = session.create_client(
            "kms", region_name=self.region, endpoint_url=self.endpoint or f"https://kms.{self.region}.amazonaws.com",
            verify=str(self.ca) if self.ca else _bundle(), config=config,
        )  # fmt: skip
        end_in_time(client._endpoint.http_session._manager, body_s=self.timeout_s)  # noqa: SLF001  there is no other way to its connections
        return client


def _bundle() -> str:
    """The certificates that botocore comes with: named, because ``verify=True`` would let the environment choose."""
    import botocore  # noqa: PLC0415  an extra

    return str(Path(botocore.__file__).parent / "cacert.pem")


def _credentials(path: Path) -> tuple[str, str, str | None]:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(read_credential(path).reveal().decode())
        section = parser["default"]
        return section["aws_access_key_id"], section["aws_secret_access_key"], section.get("aws_session_token")
    except (configparser.Error, KeyError, UnicodeDecodeError):
        raise CredentialError(f"{path} has no AWS credentials", hint="write a [default] section as in ~/.aws/credentials") from None


def _context(binding: bytes) -> dict[str, str]:
    return {"confide": b64url(binding)}


def _failure(response: Any) -> CustodyError | UnwrapError:
    """By status and code.  The service's text may say anything, and is left out."""
    code = str(response.get("Error", {}).get("Code", ""))[:80]
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code in _DAMAGED:
        return UnwrapError("the key service does not open this wrapped key: another key, another use, or changed bytes")
    if code in _OFFLINE or not isinstance(status, int) or not 400 <= status < 500 or status == 429:
        return CustodyOfflineError("the key service answered with an error", reason=code)
    return CustodyError("the key service refuses", hint="see its log: the key's state and policy, and our credentials", reason=code)

"""S3 by boto3: a client that talks to one host, objects that are read by ranges of one version, and objects that are written in parts.

Credentials are given (a node has them from a key broker service) or found where boto3 looks for them: environment, profiles, instance
roles.  Bytes are checked by whoever reads them; nothing here trusts or verifies a storage.
"""

from __future__ import annotations

import io
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Final, cast
from urllib.parse import urlsplit

from cryptography import x509

from confide.canonical import Json, parse_object
from confide.crypto.secret import SecretBytes
from confide.data.extras import require_library
from confide.errors import ConfideError, CredentialError, DataError, OutputExistsError, UnavailableError, UsageError
from confide.seekable import SeekableReader

BLOCK: Final = 8 << 20
"""Bytes asked for, or sent, at one time: a request's latency is then small beside its transfer.  S3's parts have at least 5 MiB."""
_PLAIN_HTTP: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_ATTEMPTS: Final = 5
"""How often one range is asked for if its transfer breaks off; refusals (503 and so on) botocore itself repeats."""
_PAUSE_S: Final = 0.1
_CONNECTIONS: Final = 64
"""Kept open at most.  A node's agent fetches for all of its engine's threads at one time, and a handshake takes longer than a range."""
_TEXTS: Final = ("access_key_id", "secret_access_key")
_OPTIONAL: Final = ("session_token", "endpoint", "region", "ca")


@dataclass(frozen=True, slots=True)
class S3Access:
    """Credentials, and the storage that they are for: whoever makes a job cannot have them used at another one."""

    key_id: str
    secret: SecretBytes
    token: SecretBytes | None = None
    endpoint: str | None = None
    region: str | None = None
    ca: str | None = None
    """Certificates (PEM), of which the endpoint's must come, instead of those that boto3 trusts."""

    @classmethod
    def parse(cls, data: bytes) -> S3Access:
        """Read the JSON of ``docs/guides/storage.md``.

        Raises:
            CredentialError: it is something else.  What it says is in no message.
        """
        hint = f"it is a JSON object of texts: {', '.join(_TEXTS)}, and if need be {', '.join(_OPTIONAL)}"
        try:
            found: Json | None = parse_object(data)
        except ConfideError:
            found = None
        if found is None or not set(_TEXTS) <= set(found) <= {*_TEXTS, *_OPTIONAL}:
            raise CredentialError("a resource is no credential of a storage", hint=hint)
        if not all(isinstance(value, str) and value for value in found.values()):
            raise CredentialError("a field of a storage's credential is not a text", hint=hint)
        token, ca = found.get("session_token"), found.get("ca")
        if ca is not None and not _are_certificates(ca):
            raise CredentialError("the ca of a storage's credential is not certificates in PEM", hint=hint)
        return cls(
            found["access_key_id"],
            SecretBytes(found["secret_access_key"].encode()),
            None if token is None else SecretBytes(token.encode()),
            found.get("endpoint"),
            found.get("region"),
            ca,
        )


def _are_certificates(text: str) -> bool:
    try:
        return bool(x509.load_pem_x509_certificates(text.encode()))
    except ValueError:
        return False


def _in_memory(text: str) -> tuple[int, str]:
    """A file that is in no folder, where a host could change it: its descriptor, and the name by which this process opens it."""
    try:
        descriptor = os.memfd_create("confide-ca", os.MFD_CLOEXEC)
    except OSError as cause:
        hint = "use an S3 whose certificate comes from a public CA"
        raise UnavailableError("this system has no files in memory, which a storage's private CA needs", hint=hint) from cause
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(text.encode())
    return descriptor, f"/proc/self/fd/{descriptor}"


def s3_client(access: S3Access | None = None) -> Any:
    """A client for ``access``; without one, what boto3 finds on this machine counts.

    Raises:
        ExtraMissingError: boto3 is not installed, or too old.
        UnavailableError: boto3 finds no way to use S3.
        UsageError: what is sent and read would pass a network in the clear.
    """
    require_library("boto3", "S3 is")
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    config = Config(
        retries={"mode": "standard", "total_max_attempts": 8},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=_CONNECTIONS,
        ignore_configured_endpoint_urls=access is not None,  # a node's environment is not its owner's
    )
    given: dict[str, Any] = {}
    if access is not None:
        given = {
            "aws_access_key_id": access.key_id,
            "aws_secret_access_key": access.secret.reveal().decode(),
            "aws_session_token": None if access.token is None else access.token.reveal().decode(),
            "endpoint_url": access.endpoint,
            "region_name": access.region,
            "verify": True,
        }
    held = None
    if access is not None and access.ca is not None:
        held, given["verify"] = _in_memory(access.ca)  # botocore takes a file's name only, and reads it for each connection
    try:
        client = boto3.client("s3", config=config, **given)
    except (BotoCoreError, ValueError) as cause:
        if held is not None:
            os.close(held)
        raise UnavailableError(f"S3 cannot be used: {type(cause).__name__}", hint="see `aws configure`") from cause
    if held is not None:
        weakref.finalize(client, os.close, held)
    where = urlsplit(client.meta.endpoint_url)
    if where.scheme != "https" and where.hostname not in _PLAIN_HTTP:
        raise UsageError("the S3 endpoint would get and send everything in the clear", hint="give an https:// endpoint", got=where.netloc)
    if access is not None:
        client.meta.events.register("before-send.s3", partial(_stay, where.scheme, str(where.hostname)))
    return client


def _stay(scheme: str, host: str, request: Any, **_: object) -> None:
    """Refuse to send a signed request to another host than the credential is for, wherever a storage's answer says to go."""
    where = urlsplit(request.url)
    name = where.hostname or ""
    if where.scheme != scheme or not (name == host or name.endswith(f".{host}")):
        hint = "say in the credential which region or endpoint the bucket is at"
        raise CredentialError("a storage sends its readers to another host", hint=hint, expected=host, got=name[:200])


@contextmanager
def s3_errors(what: str) -> Iterator[None]:
    """Turns what botocore raises into this project's errors, for an object that is called ``what``."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        yield
    except ClientError as error:
        code = code_of(error)
        if code in {"404", "NoSuchKey", "NoSuchBucket"}:
            raise DataError(f"there is no file {what}", path=what) from error
        if code in {"412", "PreconditionFailed"}:
            raise DataError(f"{what} was changed while it was read", hint="do it again", path=what) from error
        hint = "it asks for fewer requests: try again later" if code in {"503", "SlowDown"} else "see which credentials are found"
        raise UnavailableError(f"S3 refuses {what}: {code}", hint=hint, path=what) from error
    except BotoCoreError as error:
        hint = "see whether there are credentials, a region, and a network"
        raise UnavailableError(f"S3 cannot be asked for {what}: {type(error).__name__}", hint=hint, path=what) from error


def code_of(error: Any) -> str:
    """S3's word for an error."""
    return str(error.response.get("Error", {}).get("Code", ""))[:60]


# --- reading ----------------------------------------------------------------------------------------------------------


def open_object(client: Any, bucket: str, key: str, size: int, etag: str) -> BinaryIO:
    """One version of an object, to be read from its beginning to its end, mostly."""
    return io.BufferedReader(S3Object(client, bucket, key, size, etag), BLOCK)


class S3Object(SeekableReader):
    """One version of an object, by ranges: a range of any other version is refused (``If-Match``).  Each read is a request."""

    def __init__(self, client: Any, bucket: str, key: str, size: int, etag: str) -> None:
        super().__init__()
        self._get: Callable[..., Any] = partial(client.get_object, Bucket=bucket, Key=key, IfMatch=etag)
        self._what = f"s3://{bucket}/{key}"
        self._size = size

    @property
    def size(self) -> int:
        """Length in bytes, as it was when the version was looked at."""
        return self._size

    def readinto(self, buffer: Any, /) -> int:
        """Fill ``buffer`` with one request.

        Raises:
            DataError: there is another version now.
            UnavailableError: S3 refuses, or its transfers break off again and again.
        """
        view = memoryview(buffer).cast("B")
        count = min(len(view), self._size - self._position)
        if count <= 0:
            return 0
        view[:count] = self._range(self._position, count)
        self._position += count
        return count

    def _range(self, start: int, length: int) -> bytes:
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError  # noqa: PLC0415

        for left in reversed(range(_ATTEMPTS)):
            with s3_errors(self._what):
                try:
                    data = self._get(Range=f"bytes={start}-{start + length - 1}")["Body"].read(length + 1)
                except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                    if not left:
                        raise
                    continue
            if len(data) == length:
                return cast("bytes", data)
        raise UnavailableError(f"S3 does not give all of {self._what}", hint="its transfers break off: try again later", path=self._what)


# --- writing ----------------------------------------------------------------------------------------------------------


def write_object(client: Any, bucket: str, key: str, source: BinaryIO) -> None:
    """Write what ``source`` holds, in parts if it is long.  Whatever ends this early leaves neither an object nor parts of one.

    Raises:
        UnavailableError, DataError: S3 refuses, or does not answer.
    """
    part = source.read(BLOCK)
    with s3_errors(f"s3://{bucket}/{key}"):
        if len(part) < BLOCK:
            client.put_object(Bucket=bucket, Key=key, Body=part)
            return
        upload = {"Bucket": bucket, "Key": key, "UploadId": client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]}
        try:
            parts: list[Json] = []
            while part:
                sent = client.upload_part(**upload, PartNumber=len(parts) + 1, Body=part)
                parts.append({"PartNumber": len(parts) + 1, "ETag": sent["ETag"]})
                part = source.read(BLOCK)
            client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except BaseException:
            with suppress(Exception):  # the reason why it failed is what is told
                client.abort_multipart_upload(**upload)
            raise


def create_object(client: Any, bucket: str, key: str, data: bytes) -> bool:
    """Write an object that is not there yet: of several writers one succeeds (``If-None-Match``).  ``False``: it was there, with this data.

    Raises:
        OutputExistsError: there is one, with other bytes.
        UnavailableError: S3 refuses, or does not answer: it may be there.
    """
    from botocore.exceptions import ClientError  # noqa: PLC0415

    what, left = f"s3://{bucket}/{key}", _ATTEMPTS
    with s3_errors(what):
        while True:
            left -= 1
            try:
                client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except ClientError as error:
                code = code_of(error)
                if code in {"409", "ConditionalRequestConflict"} and left:  # another writer is at it: S3 says to ask again
                    time.sleep(_PAUSE_S)
                    continue
                if code not in {"412", "PreconditionFailed"}:
                    raise
                # A request that is repeated because its answer was lost finds what it wrote itself.
                if client.get_object(Bucket=bucket, Key=key)["Body"].read(len(data) + 1) != data:
                    raise OutputExistsError(f"{what} exists", hint="another writer was first", path=what) from error
                return False
            return True

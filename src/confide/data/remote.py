"""Plaintext in remote storages as sources: S3 by boto3, any other URL by fsspec.  Nothing is written there, and no copy is made here.

Credentials are found where these libraries look for them (environment, profiles, instance roles); there is no other way to give one.
"""

from __future__ import annotations

import fnmatch
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast
from urllib.parse import urljoin, urlsplit

from confide.data.sources import Source
from confide.errors import DataError, ExtraMissingError, UnavailableError, UsageError
from confide.seekable import SeekableReader

if TYPE_CHECKING:
    from confide.canonical import Json

_MAGIC: Final = re.compile(r"[*?\[]")
_IN_THE_CLEAR: Final = frozenset({"arrow_hdfs", "ftp", "hdfs", "http", "jlab", "jupyter", "webhdfs", "ws"})
"""What fsspec speaks without TLS, always or unless it is told otherwise, which a URL cannot do."""
_CACHES: Final = frozenset({"blockcache", "cached", "filecache", "simplecache"})
"""fsspec's layers that keep what they read in a temporary folder, as it is."""
_PLAIN_HTTP: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_READ: Final = 8 << 20
"""Bytes asked for at one time: a request's latency is then small beside its transfer."""
_READ_ATTEMPTS: Final = 5
"""How often one range is asked for if its transfer breaks off; refusals (503 and so on) botocore itself repeats."""


def remote_sources(url: str) -> tuple[list[Source], bool]:
    """The files that a URL names: an object, all below a name that ends with ``/``, or a pattern.  Also: whether it names plain files.

    Raises:
        UsageError: what is read would pass a network in the clear, or be kept on this machine.
        DataError: there is nothing of that name.
        ExtraMissingError: the library that reads such URLs is not installed.
        UnavailableError: the storage does not answer, or refuses.
    """
    links = [link.split("://", 1)[0].lower() for link in url.split("::")]
    if found := sorted(_IN_THE_CLEAR.intersection(links)):
        raise UsageError(f"{found[0]}:// brings files over the network as they are", hint="use https:// or another encrypted way")
    if found := sorted(_CACHES.intersection(links)):
        raise UsageError(f"{found[0]}:: would keep plaintext in a temporary folder", hint="leave it out")
    if {"s3", "s3a"}.intersection(links):
        _s3_client()  # s3fs takes its endpoint from where boto3 does
    found_there = _s3_sources(url) if links == ["s3"] else _fsspec_sources(url, links)
    if not found_there:
        raise DataError(f"there is no file {url}", path=url)
    return found_there, not url.endswith("/")


def _beginning(key: str) -> str:
    """The folder, with its ``/``, above all that a name or a pattern can mean: names in the dataset are what comes after."""
    magic = _MAGIC.search(key)
    plain = key if magic is None else key[: magic.start()]
    return plain[: plain.rfind("/") + 1]


def _matches(pattern: str, key: str) -> bool:
    """As a shell's patterns: ``*`` stays within a folder and ``**`` does not."""
    wanted, parts = pattern.split("/"), key.split("/")
    if "**" not in wanted:
        return len(wanted) == len(parts) and all(map(fnmatch.fnmatchcase, parts, wanted))
    at = wanted.index("**")
    before, after = wanted[:at], "/".join(wanted[at + 1 :])
    if len(parts) < at or not all(map(fnmatch.fnmatchcase, parts[:at], before)):
        return False
    rest = parts[at:]
    return not after or any(_matches(after, "/".join(rest[skip:])) for skip in range(len(rest)))


# --- S3 ---------------------------------------------------------------------------------------------------------------


def _s3_sources(url: str) -> list[Source]:
    parts = urlsplit(url, allow_fragments=False)
    bucket, key = parts.netloc, url.split("://", 1)[1].partition("/")[2]
    if not bucket or "@" in bucket or not key:
        raise UsageError("an S3 URL is s3://BUCKET/KEY", hint="end it with / for all below, or use a pattern", got=bucket)
    client = _s3_client()
    above = _beginning(key)
    found = []
    if _MAGIC.search(key) or key.endswith("/"):
        with _s3_errors(url):
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=_MAGIC.split(key, maxsplit=1)[0]):
                for one in page.get("Contents", []):
                    listed = str(one["Key"])
                    if not listed.endswith("/") and (key.endswith("/") or _matches(key, listed)):
                        found.append((listed, int(one["Size"]), str(one["ETag"])))
    else:
        with _s3_errors(url):
            one = client.head_object(Bucket=bucket, Key=key)
        found.append((key, int(one["ContentLength"]), str(one["ETag"])))
    return [Source(name.removeprefix(above), partial(_open_s3, client, bucket, name, size, etag), size, etag) for name, size, etag in found]


def _s3_client() -> Any:
    try:
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415
    except ImportError as cause:
        raise ExtraMissingError("S3 is read by boto3, which is not installed", hint="pip install 'confide[s3]'") from cause
    config = Config(retries={"mode": "standard", "total_max_attempts": 8}, connect_timeout=10, read_timeout=60)
    try:
        client = boto3.client("s3", config=config)
    except BotoCoreError as cause:
        raise UnavailableError(f"S3 cannot be used: {type(cause).__name__}", hint="see `aws configure`") from cause
    where = urlsplit(client.meta.endpoint_url)
    if where.scheme != "https" and where.hostname not in _PLAIN_HTTP:
        raise UsageError("the S3 endpoint would get and send everything in the clear", hint="give an https:// endpoint", got=where.netloc)
    return client


@contextmanager
def _s3_errors(what: str) -> Iterator[None]:
    """Turns what botocore raises into this project's errors, for an object that is called ``what``."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))[:60]
        if code in {"404", "NoSuchKey", "NoSuchBucket"}:
            raise DataError(f"there is no file {what}", path=what) from error
        if code in {"412", "PreconditionFailed"}:
            raise DataError(f"{what} was changed while it was read", hint="do it again", path=what) from error
        hint = "it asks for fewer requests: try again later" if code in {"503", "SlowDown"} else "see which credentials are found"
        raise UnavailableError(f"S3 refuses {what}: {code}", hint=hint, path=what) from error
    except BotoCoreError as error:
        hint = "see whether there are credentials, a region, and a network"
        raise UnavailableError(f"S3 cannot be asked for {what}: {type(error).__name__}", hint=hint, path=what) from error


def _open_s3(client: Any, bucket: str, key: str, size: int, etag: str) -> BinaryIO:
    return io.BufferedReader(_S3Object(client, bucket, key, size, etag), _READ)


class _S3Object(SeekableReader):
    """One version of an object, by ranges: a range of any other version is refused (``If-Match``)."""

    def __init__(self, client: Any, bucket: str, key: str, size: int, etag: str) -> None:
        super().__init__()
        self._get: Callable[..., Any] = partial(client.get_object, Bucket=bucket, Key=key, IfMatch=etag)
        self._what = f"s3://{bucket}/{key}"
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        count = min(len(view), self._size - self._position)
        if count <= 0:
            return 0
        view[:count] = self._range(self._position, count)
        self._position += count
        return count

    def _range(self, start: int, length: int) -> bytes:
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError  # noqa: PLC0415

        for left in reversed(range(_READ_ATTEMPTS)):
            with _s3_errors(self._what):
                try:
                    data = self._get(Range=f"bytes={start}-{start + length - 1}")["Body"].read(length + 1)
                except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                    if not left:
                        raise
                    continue
            if len(data) == length:
                return cast("bytes", data)
        raise UnavailableError(f"S3 does not give all of {self._what}", hint="its transfers break off: try again later", path=self._what)


# --- everything else ------------------------------------------------------------------------------------------------


def _fsspec_sources(url: str, links: Sequence[str]) -> list[Source]:
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415
    except ImportError as cause:
        raise ExtraMissingError("such URLs are read by fsspec, which is not installed", hint="pip install 'confide[fsspec]'") from cause
    refused: list[UsageError] = []
    try:
        storage, path = url_to_fs(url, **(_https_only(refused) if "https" in links else {}))
        above = _beginning(path if not url.endswith("/") else path.rstrip("/") + "/")
        if url.endswith("/"):
            names = sorted(storage.find(path))
        elif _MAGIC.search(path):
            names = sorted(name for name in storage.glob(path) if storage.isfile(name))
        else:
            names = [path] if storage.isfile(path) else []
        if refused:  # fsspec takes any error for a file that is not there
            raise refused[0]
        return [
            Source(name.removeprefix(above), partial(storage.open, name, "rb"), storage.info(name).get("size"), storage.ukey(name))
            for name in names
        ]
    except ImportError as cause:
        hint = "install the package that fsspec names for it" + (f": {cause.name}" if cause.name else "")
        raise ExtraMissingError(f"fsspec needs another package for {url.split('://', 1)[0]}://", hint=hint) from cause
    except (OSError, ValueError) as cause:
        raise UnavailableError(f"cannot read {url.split('?', 1)[0]}: {type(cause).__name__}", path=url.split("?", 1)[0]) from cause


def _https_only(refused: list[UsageError]) -> Json:
    """Options for fsspec under which an ``https://`` server cannot send its reader to a URL in the clear; ``refused`` gets the attempts."""
    import aiohttp  # noqa: PLC0415 - fsspec's own way to HTTP

    async def on_redirect(_session: object, _context: object, told: aiohttp.TraceRequestRedirectParams) -> None:
        headers = told.response.headers
        where = urlsplit(urljoin(str(told.url), headers.get("Location") or headers.get("URI") or ""))  # as aiohttp takes it
        if where.scheme != "https":
            hint = "the server sends its readers there: use another URL"
            refused.append(UsageError(f"{where.scheme}:// brings files over the network as they are", hint=hint, got=where.netloc))
            raise refused[-1]

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(on_redirect)
    return {"https": {"client_kwargs": {"trace_configs": [trace]}}}

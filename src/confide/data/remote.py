"""Plaintext in remote storages as sources: S3 by boto3, any other URL by fsspec.  Nothing is written there, and no copy is made here.

Credentials are found where these libraries look for them (environment, profiles, instance roles); there is no other way to give one.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from confide.data.extras import package_missing, require_library
from confide.data.s3 import open_object, s3_client, s3_errors
from confide.data.sources import Source
from confide.errors import DataError, UnavailableError, UsageError

if TYPE_CHECKING:
    from confide.canonical import Json

_MAGIC: Final = re.compile(r"[*?\[]")
_IN_THE_CLEAR: Final = frozenset({"arrow_hdfs", "ftp", "hdfs", "http", "jlab", "jupyter", "webhdfs", "ws"})
"""What fsspec speaks without TLS, always or unless it is told otherwise, which a URL cannot do."""
_CACHES: Final = frozenset({"blockcache", "cached", "filecache", "simplecache"})
"""fsspec's layers that keep what they read in a temporary folder, as it is."""


def remote_sources(url: str) -> tuple[list[Source], bool]:
    """The files that a URL names: an object, all below a name that ends with ``/``, or a pattern.  Also: whether it names plain files.

    Raises:
        UsageError: what is read would pass a network in the clear, or be kept on this machine.
        DataError: there is nothing of that name.
        ExtraMissingError: the library that reads such URLs is not installed.
        UnavailableError: the storage does not answer, or refuses.
    """
    links = checked_links(url)
    found_there = _s3_sources(url) if links == ["s3"] else _fsspec_sources(url, links)
    if not found_there:
        raise DataError(f"there is no file {url}", path=url)
    return found_there, not url.endswith("/")


def checked_links(url: str) -> list[str]:
    """The schemes of a URL, outermost first (fsspec chains them with ``::``).

    Raises:
        UsageError: what is read would pass a network in the clear, or be kept on this machine.
        ExtraMissingError: S3 in a chain needs s3fs, which is not installed or too old.
    """
    links = [link.split("://", 1)[0].lower() for link in url.split("::")]
    if found := sorted(_IN_THE_CLEAR.intersection(links)):
        raise UsageError(f"{found[0]}:// brings files over the network as they are", hint="use https:// or another encrypted way")
    if found := sorted(_CACHES.intersection(links)):
        raise UsageError(f"{found[0]}:: would keep plaintext in a temporary folder", hint="leave it out")
    if links != ["s3"] and {"s3", "s3a"}.intersection(links):
        s3_client()  # s3fs takes its endpoint from where boto3 does
        require_library("s3fs", "S3 below other URLs is")
    return links


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
    client = s3_client()
    above = _beginning(key)
    found = []
    if _MAGIC.search(key) or key.endswith("/"):
        with s3_errors(url):
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=_MAGIC.split(key, maxsplit=1)[0]):
                for one in page.get("Contents", []):
                    listed = str(one["Key"])
                    if not listed.endswith("/") and (key.endswith("/") or _matches(key, listed)):
                        found.append((listed, int(one["Size"]), str(one["ETag"])))
    else:
        with s3_errors(url):
            one = client.head_object(Bucket=bucket, Key=key)
        found.append((key, int(one["ContentLength"]), str(one["ETag"])))
    return [
        Source(name.removeprefix(above), partial(open_object, client, bucket, name, size, etag), size, etag) for name, size, etag in found
    ]


# --- everything else ------------------------------------------------------------------------------------------------


def _fsspec_sources(url: str, links: Sequence[str]) -> list[Source]:
    require_library("fsspec", "such URLs are")
    from fsspec.core import url_to_fs  # noqa: PLC0415

    refused: list[UsageError] = []
    try:
        storage, path = url_to_fs(url, **https_only(links, refused))
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
        raise package_missing(url, cause) from cause
    except (OSError, ValueError) as cause:
        raise UnavailableError(f"cannot read {url.split('?', 1)[0]}: {type(cause).__name__}", path=url.split("?", 1)[0]) from cause


def https_only(links: Sequence[str], refused: list[UsageError]) -> Json:
    """Options for fsspec under which an ``https://`` server cannot send its reader to a URL in the clear; ``refused`` gets the attempts."""
    if "https" not in links:
        return {}
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

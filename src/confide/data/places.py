"""Where datasets lie: a folder here, or names below a URL of S3 or of fsspec.  Readers take either and check what they get.

A remote folder answers ``folder / path`` with a file that is read by ranges, without a copy here.  Which version of a file it is, is fixed
when it is first looked at: all later reads through that folder are of this one.  That helps against writers; a storage that lies is noticed
by authenticated encryption, by digests, and by readers that look at each deciding byte once.

Knows nothing of manifests, keys or plaintext.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, TypeAlias
from urllib.parse import urlsplit

from confide.data.extras import package_missing, require_library
from confide.data.fsspec_file import FsspecFile
from confide.data.remote import checked_links, https_only
from confide.data.s3 import S3Access, S3Object, create_object, s3_client, s3_errors, write_object
from confide.errors import DataError, OutputExistsError, UnavailableError, UsageError
from confide.regular_file import open_regular
from confide.seekable import SeekableReader

_BUFFER: Final = 1 << 20
_MAX_COPY: Final = 5 << 30


@dataclass(frozen=True, slots=True)
class Version:
    """One state of a remote file: its length, the storage's word for this state, when it was written if that is known."""

    size: int
    token: str
    written: datetime | None = None


class RemoteFile:
    """A name in a remote folder; nothing says that there is such a file."""

    def __init__(self, folder: RangedFolder, path: str) -> None:
        self.folder = folder
        self.path = path

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    def __str__(self) -> str:
        return f"{self.folder}/{self.path}"

    def open(self, *, newest: bool = False) -> SeekableReader:
        """The file, without a buffer: each read is a request.  ``newest``: as it is now, and not as it was first seen.

        Raises:
            FileNotFoundError: there is none.
            UnavailableError: the storage refuses, or does not answer.
        """
        found = self.folder.look(self.path) if newest else self.folder.version(self.path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such file", str(self))
        return self.folder.reader(self.path, found)


class RangedFolder(ABC):
    """Files that are read by ranges.  One object is one look at a storage: files keep the versions that it has seen first.

    For several threads.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._seen: dict[str, Version] = {}

    def __str__(self) -> str:
        return self._url

    def __truediv__(self, path: str) -> RemoteFile:
        return RemoteFile(self, path)

    @property
    def name(self) -> str:
        """The last part of its URL."""
        return PurePosixPath(self._url).name

    def version(self, path: str) -> Version | None:
        """The version of a file that counts here; ``None`` if there is none."""
        seen = self._seen.get(path)
        if seen is None and (seen := self.look(path)) is not None:
            seen = self._seen.setdefault(path, seen)
        return seen

    @abstractmethod
    def look(self, path: str) -> Version | None:
        """The version of a file that the storage shows now."""

    @abstractmethod
    def reader(self, path: str, version: Version) -> SeekableReader:
        """One version of a file."""


class RemoteFolder(RangedFolder):
    """Names below a URL."""

    @abstractmethod
    def below(self, path: str) -> RemoteFolder:
        """A folder in this one."""

    @abstractmethod
    def files(self) -> Mapping[str, Version]:
        """All files that the storage lists now."""

    @abstractmethod
    def write(self, path: str, source: BinaryIO) -> None:
        """Write a file whose name nobody else uses; after an error there is none."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Write a file that is not there yet.  ``False``: it was there, with this very data, as after a request that is repeated.

        Raises:
            OutputExistsError: it is, with other data.
            UnavailableError: the storage refuses, or does not answer: it may be there.
        """

    @abstractmethod
    def replace(self, path: str, data: bytes) -> None:
        """Write a file in the place of the one that is there: whoever reads it gets the old one or the new one, whole."""

    @abstractmethod
    def renew(self, path: str, version: Version) -> bool:
        """Have a file count as written now, with the same bytes.  ``False``: it is too long for that."""

    @abstractmethod
    def remove(self, paths: Iterable[str]) -> None:
        """Remove files, as far as that can be done."""


Place: TypeAlias = "Path | RemoteFolder"
"""A dataset's folder."""
FilePlace: TypeAlias = "Path | RemoteFile"


def open_place(place: FilePlace, *, newest: bool = False, buffer: int = _BUFFER) -> io.BufferedReader:
    """A file for reading; here a regular one.  ``newest``: a remote one as it is now, and not as it was first seen.

    ``buffer``: bytes that are asked for at one time of a remote one.

    Raises:
        OSError: there is none, or it cannot be opened.
        UnavailableError: the storage refuses, or does not answer.
    """
    return open_regular(place) if isinstance(place, Path) else io.BufferedReader(place.open(newest=newest), buffer)


def is_there(place: FilePlace) -> bool:
    """Whether there is something of that name."""
    return os.path.lexists(place) if isinstance(place, Path) else place.folder.version(place.path) is not None


def is_url(text: str) -> bool:
    """Whether a name is a URL, and no path here."""
    return "://" in text


def remote_folder(url: str, access: S3Access | None = None) -> RemoteFolder:
    """The folder that a URL names.  ``access``: credentials for S3, instead of those that are found on this machine.

    Raises:
        UsageError: it names no folder, has a password in it, or what is read would pass a network in the clear.
        ExtraMissingError: the library for such URLs is not installed.
        UnavailableError: that library finds no way to the storage.
    """
    links = checked_links(url)
    try:
        parts = urlsplit(url, allow_fragments=False)
        secret = parts.password is not None or (links == ["s3"] and "@" in parts.netloc)
    except ValueError:
        raise UsageError("not a URL", hint="write s3://BUCKET/FOLDER, or another URL that fsspec knows") from None
    if secret:
        raise UsageError("a password in a URL would be shown and kept", hint="leave it out: credentials are found where the library looks")
    if links == ["s3"]:
        bucket, _, prefix = url.split("://", 1)[1].rstrip("/").partition("/")
        if not bucket or not prefix:
            raise UsageError("a dataset on S3 is at s3://BUCKET/FOLDER", got=bucket)
        return S3Folder(s3_client(access), bucket, prefix)
    if access is not None:
        raise UsageError("credentials of a job are for s3:// only", hint="give a URL that needs none, or use S3", got=links[0])
    return FsspecFolder.at(url, links)


class S3Folder(RemoteFolder):
    """Objects whose keys begin with ``prefix/``."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        super().__init__(f"s3://{bucket}/{prefix}")
        self._client, self._bucket, self._prefix = client, bucket, f"{prefix}/"

    def below(self, path: str) -> RemoteFolder:
        """With the same client."""
        return S3Folder(self._client, self._bucket, self._prefix + path)

    def look(self, path: str) -> Version | None:
        """One HEAD request."""
        from botocore.exceptions import ClientError  # noqa: PLC0415

        with s3_errors(str(self / path)):
            try:
                found = self._client.head_object(Bucket=self._bucket, Key=self._prefix + path)
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                    return None
                raise
        return Version(int(found["ContentLength"]), str(found["ETag"]), found.get("LastModified"))

    def reader(self, path: str, version: Version) -> SeekableReader:
        """By ranges, each of this version (``If-Match``)."""
        return S3Object(self._client, self._bucket, self._prefix + path, version.size, version.token)

    def files(self) -> Mapping[str, Version]:
        """By ``ListObjectsV2``; names that end with ``/`` are no files but what consoles make for folders."""
        found: dict[str, Version] = {}
        with s3_errors(str(self)):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix):
                for one in page.get("Contents", []):
                    path = str(one["Key"]).removeprefix(self._prefix)
                    if not path.endswith("/") and path:
                        found[path] = Version(int(one["Size"]), str(one["ETag"]), one.get("LastModified"))
        return found

    def write(self, path: str, source: BinaryIO) -> None:
        """In parts, if it is long."""
        write_object(self._client, self._bucket, self._prefix + path, source)

    def create(self, path: str, data: bytes) -> bool:
        """By ``If-None-Match: *``."""
        return create_object(self._client, self._bucket, self._prefix + path, data)

    def replace(self, path: str, data: bytes) -> None:
        """Objects are always written whole."""
        self.write(path, io.BytesIO(data))

    def renew(self, path: str, version: Version) -> bool:
        """By a copy of the object onto itself, which S3 makes of 5 GiB at most."""
        if version.size > _MAX_COPY:
            return False
        source = {"Bucket": self._bucket, "Key": self._prefix + path}
        with s3_errors(str(self / path)):
            self._client.copy_object(**source, CopySource=source, CopySourceIfMatch=version.token, MetadataDirective="REPLACE")
        return True

    def remove(self, paths: Iterable[str]) -> None:
        """One request each: a bucket's rules may allow that alone."""
        for path in paths:
            with s3_errors(str(self / path)):
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + path)


class FsspecFolder(RemoteFolder):
    """Files below a URL of fsspec.  Whether :meth:`create` is one step for all writers is up to the file system behind it."""

    def __init__(self, url: str, storage: Any, root: str) -> None:
        """``storage`` is fsspec's, in which ``root`` is what the URL names."""
        super().__init__(url)
        self._storage, self._root = storage, root.rstrip("/") + "/"

    @classmethod
    def at(cls, url: str, links: Sequence[str]) -> FsspecFolder:
        """``links``: the URL's schemes (:func:`confide.data.remote.checked_links`)."""
        require_library("fsspec", "such URLs are")
        from fsspec.core import url_to_fs  # noqa: PLC0415

        shown = url.split("?", 1)[0]
        try:
            with _fsspec_errors(shown):
                return cls(shown, *url_to_fs(url, **https_only(links, [])))  # what it refuses is as if not there
        except ImportError as cause:
            raise package_missing(url, cause) from cause

    def below(self, path: str) -> RemoteFolder:
        """In the same file system."""
        return FsspecFolder(f"{self._url}/{path}", self._storage, self._root + path)

    def look(self, path: str) -> Version | None:
        """What the file system says of it, past what it remembers."""
        with self._errors():
            self._storage.invalidate_cache()
            try:
                found = self._storage.info(self._root + path)
            except FileNotFoundError:
                return None
            if found.get("type") != "file" or not isinstance(found.get("size"), int):
                return None
            return Version(found["size"], str(self._storage.ukey(self._root + path)))

    def reader(self, path: str, version: Version) -> SeekableReader:
        """Of this version as far as the file system tells versions apart when it is opened."""
        with self._errors():
            if str(self._storage.ukey(self._root + path)) != version.token:
                raise DataError(f"{self / path} was changed while it was read", hint="do it again", path=str(self / path))
            return FsspecFile(str(self / path), version.size, self._storage.open(self._root + path, "rb"))

    def files(self) -> Mapping[str, Version]:
        """By the file system's ``find``."""
        with self._errors():
            self._storage.invalidate_cache()
            found = self._storage.find(self._root, detail=True)
        size = {str(name): int(info.get("size") or 0) for name, info in found.items()}
        return {name.removeprefix(self._root): Version(length, "") for name, length in size.items()}

    def write(self, path: str, source: BinaryIO) -> None:
        """As the file system writes: most have parts of their own."""
        name = self._root + path
        try:
            with self._errors():
                self._storage.makedirs(name.rsplit("/", 1)[0], exist_ok=True)
                with self._storage.open(name, "wb") as target:
                    while block := source.read(_BUFFER):
                        target.write(block)
        except BaseException:
            self.remove([path])
            raise

    def create(self, path: str, data: bytes) -> bool:
        """By the file system's ``pipe_file`` with ``mode="create"``."""
        name = self._root + path
        with self._errors():
            try:
                self._storage.makedirs(name.rsplit("/", 1)[0], exist_ok=True)
                self._storage.pipe_file(name, data, mode="create")
            except FileExistsError as error:
                if self._storage.cat_file(name) != data:
                    raise OutputExistsError(f"{self / path} exists", hint="another writer was first", path=str(self / path)) from error
                return False
        return True

    def replace(self, path: str, data: bytes) -> None:
        """By a file beside it that is moved: many file systems write into the file that is there, and a kill would leave half of it."""
        beside = f"{path}.{secrets.token_hex(8)}"
        self.write(beside, io.BytesIO(data))
        with self._errors():
            self._storage.mv(self._root + beside, self._root + path)

    def renew(self, path: str, version: Version) -> bool:
        """Nothing here asks how old files are."""
        return True

    def remove(self, paths: Iterable[str]) -> None:
        """One by one."""
        for path in paths:
            with self._errors():
                if self._storage.exists(self._root + path):
                    self._storage.rm_file(self._root + path)

    def _errors(self) -> AbstractContextManager[None]:
        return _fsspec_errors(str(self))


@contextmanager
def _fsspec_errors(what: str) -> Iterator[None]:
    """File systems raise what they like: their texts may hold addresses with secrets in them, so none is passed on."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except (OSError, ValueError, NotImplementedError) as cause:
        hint = "see which credentials are found, and whether there is a network"
        raise UnavailableError(f"cannot use {what}: {type(cause).__name__}", hint=hint, path=what) from cause


def written_at(place: FilePlace) -> datetime | None:
    """When a file was last written, if it is there and the storage says so."""
    try:
        if isinstance(place, Path):
            return datetime.fromtimestamp(place.lstat().st_mtime, UTC)
        found = place.folder.version(place.path)
    except OSError:
        return None
    return None if found is None else found.written

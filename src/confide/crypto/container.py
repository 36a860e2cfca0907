"""The chunked container for data files that are not Parquet: seekable, and no byte of it changes unnoticed.

The format is ``docs/formats/container.md``; numbers in comments are its sections.  That a container is the one its manifest
means, and not an older one of the same path, is not checked here but by ``confide.data.manifest``.
"""

from __future__ import annotations

import io
import os
import secrets
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from confide.crypto.derive import CONTAINER_SALT_BYTES, file_key
from confide.crypto.secret import SecretBytes
from confide.errors import IntegrityError
from confide.ids import DatasetId

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAGIC: Final = b"CONFIDE1"
HEADER_BYTES: Final = 48
CHUNK_BYTES: Final = 64 * 1024
"""Plaintext bytes in a full chunk: 64 KiB fit a core's second-level cache; larger chunks measured slower."""
TAG_BYTES: Final = 16
SEALED_BYTES: Final = CHUNK_BYTES + TAG_BYTES
MAX_CHUNKS: Final = 2**32

_FIXED: Final = struct.pack(">8sHBB4x", MAGIC, 1, 16, 0)
"""Everything of the header but the salt (3.1)."""
_NONCE: Final = struct.Struct(">7xIB")


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the file size says about a container (4)."""

    chunks: int
    plaintext: int

    def sealed_length(self, index: int) -> int:
        """Length of sealed chunk ``index`` in the file."""
        return SEALED_BYTES if index < self.chunks - 1 else self.plaintext + self.chunks * TAG_BYTES - index * SEALED_BYTES


def _shape(file_size: int) -> _Shape:
    body = file_size - HEADER_BYTES
    chunks = -(-body // SEALED_BYTES)
    final = body - (chunks - 1) * SEALED_BYTES
    if body < TAG_BYTES or chunks > MAX_CHUNKS or final < TAG_BYTES + (chunks > 1):
        raise IntegrityError("no container has this file size: it was cut or is something else", size=file_size)
    return _Shape(chunks, body - chunks * TAG_BYTES)


def plaintext_size(file_size: int) -> int:
    """Length of the plaintext of a container of ``file_size`` bytes.  Not authenticated until the container is opened (4).

    Raises:
        IntegrityError: no container has that size.
    """
    return _shape(file_size).plaintext


def container_size(plaintext: int) -> int:
    """Length of the container of ``plaintext`` bytes: the inverse of :func:`plaintext_size`."""
    return HEADER_BYTES + plaintext + max(1, -(-plaintext // CHUNK_BYTES)) * TAG_BYTES


def _nonce(index: int, *, final: bool) -> bytes:
    return _NONCE.pack(index, final)


def seal_stream(src: BinaryIO, dst: BinaryIO, dataset_key: SecretBytes, dataset: DatasetId, path: str) -> int:
    """Write all that ``src`` still holds to ``dst`` as one container that opens under ``path`` only; returns the plaintext length.

    ``path`` is the file's final path in its dataset.  Making the file visible (fsync, rename, manifest) is the caller's.

    Raises:
        ParseError: dataset id or path do not have the documented form.
        KeyAccessError: the dataset key is not 32 bytes.
        OSError: reading or writing failed; what was written does not open.
    """
    return _seal(src, dst, dataset_key, dataset, path, salt=secrets.token_bytes(CONTAINER_SALT_BYTES))


def _seal(src: BinaryIO, dst: BinaryIO, dataset_key: SecretBytes, dataset: DatasetId, path: str, *, salt: bytes) -> int:
    """As :func:`seal_stream` with a given salt: for test vectors only, because a salt used twice breaks AES-GCM."""
    header = _FIXED + salt
    cipher = AESGCM(file_key(dataset_key, kind="container", dataset=dataset, path=path, salt=salt).reveal())
    dst.write(header)
    index, total = 0, 0
    chunk = _read_full(src, CHUNK_BYTES)
    while True:
        # A chunk is known to be final only when nothing follows it (6).
        following = _read_full(src, CHUNK_BYTES) if len(chunk) == CHUNK_BYTES else b""
        if index >= MAX_CHUNKS:
            raise IntegrityError("a container cannot hold this much", limit=MAX_CHUNKS * CHUNK_BYTES)
        dst.write(cipher.encrypt(_nonce(index, final=not following), chunk, header))
        total += len(chunk)
        if not following:
            return total
        chunk, index = following, index + 1


def _read_full(src: BinaryIO, length: int) -> bytes:
    data = src.read(length) or b""
    if len(data) in {0, length}:
        return data
    parts, got = [data], len(data)
    while got < length and (data := src.read(length - got)):  # pipes and sockets give less than asked for
        parts.append(data)
        got += len(data)
    return b"".join(parts)


class ContainerReader(io.RawIOBase):
    """A container's plaintext as a seekable file.  Opening authenticates its length, reading authenticates each chunk.

    Not for several threads at once.  After a failure every read fails.  Closing it closes ``fileobj``.
    """

    def __init__(self, fileobj: BinaryIO, dataset_key: SecretBytes, dataset: DatasetId, path: str) -> None:
        """Open a container under the path by which it was asked for (5).

        Raises:
            IntegrityError: not a container, cut, extended or changed, or of another key, dataset or path.
            ParseError: dataset id or path do not have the documented form.
        """
        super().__init__()
        self._file = fileobj
        self._path = path
        self._shape = _shape(fileobj.seek(0, os.SEEK_END))
        self._header = self._fetch(0, HEADER_BYTES, "header")
        salt = self._header[len(_FIXED) :]
        if self._header[: len(_FIXED)] != _FIXED:
            raise IntegrityError("not a container of this version", path=path)
        self._cipher = AESGCM(file_key(dataset_key, kind="container", dataset=dataset, path=path, salt=salt).reveal())
        self._failed = False
        self._position = 0
        self._index, self._chunk = -1, b""
        self._load(self._shape.chunks - 1)  # authenticates the number of chunks, and so the length, before anything is returned

    @property
    def size(self) -> int:
        """Length of the plaintext in bytes, authenticated."""
        return self._shape.plaintext

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always: any offset costs one chunk."""
        return True

    def tell(self) -> int:
        """Position in the plaintext."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a plaintext position; past the end reads nothing."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the start of the file")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer`` as far as one chunk reaches; 0 at the end.

        Raises:
            IntegrityError: the chunk was changed, or an earlier read failed.
        """
        if self._failed:
            raise IntegrityError("this container failed to open before", path=self._path)
        if self._position >= self.size:
            return 0
        index, offset = divmod(self._position, CHUNK_BYTES)
        self._load(index)
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._chunk) - offset)
        view[:count] = memoryview(self._chunk)[offset : offset + count]
        self._position += count
        return count

    def close(self) -> None:
        """Forget the plaintext held and close the file."""
        if not self.closed:
            self._chunk = b""
            self._file.close()
        super().close()

    def _load(self, index: int) -> None:
        if index == self._index:
            return
        try:
            sealed = self._fetch(HEADER_BYTES + index * SEALED_BYTES, self._shape.sealed_length(index), "chunk")
            chunk = self._cipher.decrypt(_nonce(index, final=index == self._shape.chunks - 1), sealed, self._header)
        except InvalidTag:
            self._failed = True
            raise IntegrityError(
                "a container does not open: its bytes were changed, or it is of another key, dataset or path", path=self._path, chunk=index
            ) from None
        except IntegrityError:
            self._failed = True
            raise
        self._index, self._chunk = index, chunk

    def _fetch(self, offset: int, length: int, what: str) -> bytes:
        self._file.seek(offset)
        data = _read_full(self._file, length)
        if len(data) != length:
            raise IntegrityError(f"a container ends inside its {what}", path=self._path, offset=offset)
        return data

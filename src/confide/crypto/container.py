"""The chunked container for data files that are not Parquet: seekable, and no byte of it changes unnoticed.

The format is ``docs/formats/container.md``, version 2; numbers in comments are its sections.  That a container is the one its manifest
means, and not an older one of the same path, is not checked here but by ``confide.data.manifest``.

Chunks are sealed and opened between buffers that are made once: memory that is new for each chunk would cost as much as AES-GCM does.
"""

from __future__ import annotations

import hmac
import io
import os
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from confide.crypto.derive import COMMITMENT_BYTES, CONTAINER_SALT_BYTES, ContainerKeys, container_keys
from confide.crypto.secret import SecretBytes
from confide.errors import IntegrityError
from confide.ids import DatasetId
from confide.seekable import SeekableReader

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAGIC: Final = b"CONFIDE2"
CHUNK_BYTES: Final = 64 * 1024
"""Plaintext bytes in a full chunk: 64 KiB fit a core's second-level cache; larger chunks measured slower."""
TAG_BYTES: Final = 16
SEALED_BYTES: Final = CHUNK_BYTES + TAG_BYTES
MAX_CHUNKS: Final = 2**32

_FIXED: Final = struct.pack(">8sHBB4x", MAGIC, 2, 16, 0)
"""Everything of the header before salt and commitment (3.1)."""
_COMMITMENT_AT: Final = len(_FIXED) + CONTAINER_SALT_BYTES
HEADER_BYTES: Final = _COMMITMENT_AT + COMMITMENT_BYTES
_NONCE: Final = struct.Struct(">7xIB")

KeysOfSalt = Callable[[bytes], ContainerKeys]
"""Key and commitment of one container, by the salt in its header (2.2)."""


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


def seal_stream_under(src: BinaryIO, dst: BinaryIO, keys_of_salt: KeysOfSalt) -> int:
    """As :func:`seal_stream` for who is given the keys of single files: ``keys_of_salt`` is asked for those of a new salt."""
    salt = secrets.token_bytes(CONTAINER_SALT_BYTES)
    return _seal_under(src, dst, keys_of_salt(salt), salt)


def _seal(src: BinaryIO, dst: BinaryIO, dataset_key: SecretBytes, dataset: DatasetId, path: str, *, salt: bytes) -> int:
    """As :func:`seal_stream` with a given salt: for test vectors only, because a salt used twice breaks AES-GCM."""
    return _seal_under(src, dst, container_keys(dataset_key, dataset=dataset, path=path, salt=salt), salt)


def _seal_under(src: BinaryIO, dst: BinaryIO, keys: ContainerKeys, salt: bytes) -> int:
    header = _FIXED + salt + keys.commitment
    cipher = AESGCM(keys.key.reveal())
    dst.write(header)
    chunk, following = memoryview(bytearray(CHUNK_BYTES)), memoryview(bytearray(CHUNK_BYTES))
    sealed = memoryview(bytearray(SEALED_BYTES))
    index, total = 0, 0
    length = _fill(src, chunk)
    while True:
        # A chunk is known to be final only when nothing follows it (6).
        behind = _fill(src, following) if length == CHUNK_BYTES else 0
        if index >= MAX_CHUNKS:
            raise IntegrityError("a container cannot hold this much", limit=MAX_CHUNKS * CHUNK_BYTES)
        out = sealed[: length + TAG_BYTES]
        cipher.encrypt_into(_nonce(index, final=not behind), chunk[:length], header, out)
        dst.write(out)
        total += length
        if not behind:
            return total
        chunk, following, length, index = following, chunk, behind, index + 1


class _ReadsInto(Protocol):
    def readinto(self, buffer: WriteableBuffer, /) -> int | None: ...


def _fill(src: BinaryIO, buffer: memoryview) -> int:
    """Read until ``buffer`` is full or ``src`` ends; pipes and sockets give less than asked for.  Returns how much there was."""
    got = 0
    while got < len(buffer):
        if hasattr(src, "readinto"):
            count = cast("_ReadsInto", src).readinto(buffer[got:])
        else:
            data = cast("bytes | None", src.read(len(buffer) - got))
            count = None if data is None else len(data)
            buffer[got : got + len(data or b"")] = data or b""
        if count is None:  # taken for the end, it would cut the file
            raise BlockingIOError("a source that does not wait for its data is not read")
        if not count:
            break
        got += count
    return got


class ContainerReader(SeekableReader):
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
        self._begin(fileobj, path, lambda salt: container_keys(dataset_key, dataset=dataset, path=path, salt=salt))

    def _begin(self, fileobj: BinaryIO, path: str, keys_of_salt: KeysOfSalt) -> None:
        self._file = fileobj
        self._path = path
        self._chunk, self._sealed = memoryview(bytearray(CHUNK_BYTES)), memoryview(bytearray(SEALED_BYTES))
        self._shape = _shape(fileobj.seek(0, os.SEEK_END))
        self._failed = False
        self._index = -1
        self._header = self._fetch(0, HEADER_BYTES, "header").tobytes()
        self._cipher = AESGCM(self._committed_key(keys_of_salt).reveal())
        self._load(self._shape.chunks - 1)  # authenticates the number of chunks, and so the length, before anything is returned

    def _committed_key(self, keys_of_salt: KeysOfSalt) -> SecretBytes:
        """The key of this container, if it is the one that the header commits to (5)."""
        fixed, salt, commitment = self._header[: len(_FIXED)], self._header[len(_FIXED) : _COMMITMENT_AT], self._header[_COMMITMENT_AT:]
        if fixed != _FIXED:
            raise IntegrityError("not a container of this version", path=self._path)
        keys = keys_of_salt(salt)
        if not hmac.compare_digest(keys.commitment, commitment):
            raise IntegrityError("a container is of another key, dataset or path, or its header was changed", path=self._path)
        return keys.key

    @property
    def size(self) -> int:
        """Length of the plaintext in bytes, authenticated."""
        return self._shape.plaintext

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer`` with as much as there is; 0 at the end.  Of a chunk that is refused nothing stays in it.

        Raises:
            IntegrityError: a chunk was changed, or an earlier read failed.
        """
        view, filled = memoryview(buffer).cast("B"), 0
        while filled < len(view) and (count := self._read_some(view[filled:])):
            filled += count
        return filled

    def _read_some(self, view: memoryview) -> int:
        """Up to one chunk: a whole one is opened where the caller wants it, without a copy."""
        index, offset = divmod(self._position, CHUNK_BYTES)
        length = min(CHUNK_BYTES, self.size - self._position)
        if offset or not 0 < length <= len(view) or index == self._index:
            piece = self._take(len(view))
            view[: len(piece)] = piece
            return len(piece)
        self._open(index, view[:length])
        self._position += length
        return length

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to ``size`` bytes, of one chunk at most; all that is left without a size.  Raises as :meth:`readinto`."""
        return self.readall() if size is None or size < 0 else self._take(size).tobytes()

    def readall(self) -> bytes:
        """All that is left, read into memory that becomes the result.  Raises as :meth:`readinto`."""
        left = max(0, self.size - self._position)
        result = io.BytesIO()
        if left:
            result.seek(left - 1)
            result.write(b"\0")
        with result.getbuffer() as view:
            self.readinto(view)
        return result.getvalue()

    def close(self) -> None:
        """Forget the plaintext held and close the file."""
        if not self.closed:
            self._index = -1
            self._chunk[:] = bytes(CHUNK_BYTES)
            self._file.close()
        super().close()

    def _take(self, limit: int) -> memoryview:
        """Up to ``limit`` bytes of the chunk at the position, which moves on; good until the next call."""
        self._check_whole()
        if self._position >= self.size:
            return self._chunk[:0]
        index, offset = divmod(self._position, CHUNK_BYTES)
        if index != self._index:
            self._load(index)
        count = min(limit, CHUNK_BYTES - offset, self.size - self._position)
        self._position += count
        return self._chunk[offset : offset + count]

    def _check_whole(self) -> None:
        if self._failed:
            raise IntegrityError("this container failed to open before", path=self._path)

    def _load(self, index: int) -> None:
        self._index = -1
        self._open(index, self._chunk[: self._shape.sealed_length(index) - TAG_BYTES])
        self._index = index

    def _open(self, index: int, target: memoryview) -> None:
        """Open a chunk into ``target``, which has its length.  ``target`` is zero if that fails."""
        self._check_whole()
        self._failed = True
        sealed = self._fetch(HEADER_BYTES + index * SEALED_BYTES, len(target) + TAG_BYTES, "chunk")
        nonce = _nonce(index, final=index == self._shape.chunks - 1)
        try:
            self._cipher.decrypt_into(nonce, sealed, self._header, target)
        except InvalidTag:
            target[:] = bytes(len(target))  # nobody vouches for what the cipher has put there
            raise IntegrityError("a container does not open: its bytes were changed", path=self._path, chunk=index) from None
        self._failed = False

    def _fetch(self, offset: int, length: int, what: str) -> memoryview:
        self._file.seek(offset)
        data = self._sealed[:length]
        if _fill(self._file, data) != length:
            raise IntegrityError(f"a container ends inside its {what}", path=self._path, offset=offset)
        return data


class FileKeyReader(ContainerReader):
    """A :class:`ContainerReader` for who is given the keys of single files.  ``path`` is for messages: the key is bound to its own."""

    def __init__(self, fileobj: BinaryIO, path: str, keys_of_salt: KeysOfSalt) -> None:
        """Raises as :class:`ContainerReader`, and whatever ``keys_of_salt`` raises."""
        SeekableReader.__init__(self)
        self._begin(fileobj, path, keys_of_salt)

"""Reads ``.cbc`` files that BigDL PPML encrypted, so that datasets can be made of them.  Writes none.

The format, and what it leaves unprotected, is ``docs/formats/bigdl-cbc.md``; numbers in comments are its sections.  Unlike BigDL's own
reader this one checks a file's MAC, and does so before any of its plaintext is given to anybody.  Knows nothing of folders and datasets.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, BinaryIO, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.padding import PKCS7

from confide.data.bigdl_keys import DataKey
from confide.errors import DataError, IntegrityError, ParseError, WeakKeyError
from confide.regular_file import open_regular

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

HEADER_BYTES: Final = 400
MAC_BYTES: Final = 32
BLOCK_BYTES: Final = 16
SMALLEST: Final = HEADER_BYTES + BLOCK_BYTES + MAC_BYTES
"""Padding fills at least one block, even of no plaintext."""
TEXT_SUFFIXES: Final = frozenset({".csv", ".json", ".txt"})
"""What BigDL's writers for Spark call text files, which Spark writes in UTF-8."""

_LENGTHS: Final = struct.Struct(">ii")
_PRINTABLE: Final = bytes(range(0x20, 0x7F))
_STEP: Final = 1 << 20
_OLDER: Final = "BigDL's earlier files, with a header of 25 bytes, and its files without a MAC (`nativeaescbc`) are not read"

KeyOf = Callable[["Header"], DataKey]
"""Which data key a file is under, by its header."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first 400 bytes of a file (2).  Nothing in it is authenticated."""

    raw: bytes
    wrapped: str
    iv: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Header:
        """Read a header.

        Raises:
            ParseError: these are not 400 bytes of that layout.
        """
        if len(raw) != HEADER_BYTES:
            raise ParseError("a BigDL file begins with a header of 400 bytes", hint=_OLDER, got=len(raw))
        wrapped_length, iv_length = _LENGTHS.unpack_from(raw)
        if iv_length != BLOCK_BYTES or not 0 <= wrapped_length <= HEADER_BYTES - _LENGTHS.size - BLOCK_BYTES:
            raise ParseError("not the header of a BigDL file: its lengths are not", hint=_OLDER, offset=0)
        iv_at = _LENGTHS.size + wrapped_length
        rest = raw[iv_at + BLOCK_BYTES :]
        if rest != b"\x80" * len(rest):
            raise ParseError("not the header of a BigDL file: its padding is not", hint=_OLDER, offset=iv_at + BLOCK_BYTES)
        wrapped = raw[_LENGTHS.size : iv_at]
        if wrapped.translate(None, _PRINTABLE):
            raise ParseError("not the header of a BigDL file: its key is no text", hint=_OLDER, offset=_LENGTHS.size)
        return cls(raw, wrapped.decode("ascii"), raw[iv_at : iv_at + BLOCK_BYTES])


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A file whose MAC was right when :func:`check_file` read all of it.  The way to its plaintext."""

    path: Path
    header: Header
    size: int
    mac: bytes
    key: DataKey

    def open(self, told: Callable[[int], None] = lambda _: None) -> BinaryIO:
        """The plaintext as a stream.  What is read now has the MAC that was checked, or the stream does not end without an error.

        A reader must throw away what it has if reading fails, as whoever makes a dataset does.  ``told`` is given the bytes read.

        Raises:
            DataError: the file cannot be opened.
        """
        with readable(self.path):
            return io.BufferedReader(_Plaintext(self, told), _STEP)


def check_file(
    path: Path, name: str, key_of: KeyOf, *, accept_weak: bool = False, told: Callable[[int], None] = lambda _: None
) -> CheckedFile:
    """Read a whole file and check its MAC, its padding and, where ``name`` is a text file's, that it begins like one.

    ``told`` is given the bytes read, as they are.  That the IV, the wrapped key and the name are the writer's is not checked: nothing of
    the format tells (5).  No plaintext leaves this function.

    Raises:
        DataError: it cannot be read.
        ParseError: it does not have the layout.
        UnwrapError: its wrapped key does not open.
        WeakKeyError: its key can be found by trying, and ``accept_weak`` is not set.
        IntegrityError: the MAC, the padding or the beginning is not what it must be.
    """
    with readable(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = Header.parse(file.read(HEADER_BYTES))
        if size < SMALLEST or (size - SMALLEST) % BLOCK_BYTES:
            raise IntegrityError("no BigDL file has this size: it was cut or extended", path=str(path), size=size)
        key = key_of(header)
        if key.weakness and not accept_weak:
            raise WeakKeyError(f"the key of {path.name} {key.weakness}", path=str(path))
        first, last, ciphertext = b"", header.iv, _Ciphertext(file, size, key, path)
        for sealed in ciphertext:
            first = first or sealed[:BLOCK_BYTES]
            last = (last + sealed[-2 * BLOCK_BYTES :])[-2 * BLOCK_BYTES :]
            told(len(sealed))
    final = _unpadded(_cbc(key, last[:BLOCK_BYTES], last[BLOCK_BYTES:]), path)
    whole = size == SMALLEST
    if PurePath(name).suffix.lower() in TEXT_SUFFIXES:
        _check_text(final if whole else _cbc(key, header.iv, first), path, whole=whole)
    return CheckedFile(path, header, size, ciphertext.mac, key)


class _Ciphertext:
    """A file's ciphertext in pieces.  If iteration ends without an error the MAC was right, and is in ``mac``."""

    def __init__(self, file: BinaryIO, size: int, key: DataKey, path: Path) -> None:
        self._file, self._left, self._path = file, size - HEADER_BYTES - MAC_BYTES, path
        self._hmac = HMAC(key.mac.reveal(), SHA256())
        self.mac = b""

    def __iter__(self) -> Iterator[bytes]:
        while self._left:
            sealed = self._file.read(min(_STEP, self._left))
            self._left -= len(sealed)
            if not sealed:
                raise _changed(self._path)
            self._hmac.update(sealed)
            yield sealed
        found = self._file.read(MAC_BYTES + 1)
        try:
            self._hmac.verify(found)
        except InvalidSignature:
            message = f"the MAC of {self._path.name} is wrong: its bytes were changed or cut, or it is under another key"
            raise IntegrityError(message, path=str(self._path)) from None
        self.mac = found


def _cbc(key: DataKey, iv: bytes, sealed: bytes) -> bytes:
    return Cipher(AES(key.cipher.reveal()), CBC(iv)).decryptor().update(sealed)


def _unpadded(block: bytes, path: Path) -> bytes:
    unpadder = PKCS7(8 * BLOCK_BYTES).unpadder()
    try:
        return unpadder.update(block) + unpadder.finalize()
    except ValueError:
        raise _other_header(path, "its padding is wrong") from None


def _check_text(first: bytes, path: Path, *, whole: bool) -> None:
    """Whoever changed the IV at random has made something else of the first block (5)."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(first, whole)
    except UnicodeDecodeError:
        raise _other_header(path, "it does not begin with text") from None
    if "\0" in text:
        raise _other_header(path, "it does not begin with text")


class _Plaintext(io.RawIOBase):
    """The plaintext of a checked file; reads it a second time and checks it a second time."""

    def __init__(self, checked: CheckedFile, told: Callable[[int], None]) -> None:
        super().__init__()
        self._checked = checked
        self._told = told
        self._file = open_regular(checked.path)
        self._pieces = self._decrypted()
        self._held = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None and not self._ended:  # it failed before
                raise _changed(self._checked.path)
            if piece is None:
                return 0
            self._held = memoryview(piece)
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._held))
        view[:count] = self._held[:count]
        self._held = self._held[count:]
        return count

    def close(self) -> None:
        self._held = memoryview(b"")
        self._file.close()
        super().close()

    def _decrypted(self) -> Iterator[bytes]:
        """The file may be another one by now: its header has to be the checked one, and its MAC be right and the same."""
        checked = self._checked
        if self._file.read(HEADER_BYTES) != checked.header.raw:
            raise _changed(checked.path)
        decryptor = Cipher(AES(checked.key.cipher.reveal()), CBC(checked.header.iv)).decryptor()
        held, ciphertext = b"", _Ciphertext(self._file, checked.size, checked.key, checked.path)
        for sealed in ciphertext:
            yield held[:-BLOCK_BYTES]
            held = held[-BLOCK_BYTES:] + decryptor.update(sealed)
            self._told(len(sealed))
        if ciphertext.mac != checked.mac:  # of the same key, but another file's
            raise _changed(checked.path)
        yield _unpadded(held, checked.path)  # the end is held back until the MAC was right
        self._ended = True


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what the file system says of ``path`` into ``DataError``."""
    try:
        yield
    except OSError as cause:
        raise DataError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause


def _changed(path: Path) -> IntegrityError:
    return IntegrityError(f"{path.name} changed while it was read", hint="let nothing write to it meanwhile", path=str(path))


def _other_header(path: Path, why: str) -> IntegrityError:
    hint = "its MAC is right, so the ciphertext is; the header, which no MAC covers, is not the writer's, or the name is not the file's"
    return IntegrityError(f"{path.name} does not open: {why}", hint=hint, path=str(path))

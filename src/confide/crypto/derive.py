"""File keys from a dataset key: each file of a dataset has a key of its own, bound to dataset, path and kind of file.

Containers commit to their key: what is derived for them has a second half, public, that stands for the one key that opens them.

Pure: no files, no network.  The dataset key comes from the broker (``confide.keys``); who may have it is decided there.
The format is ``docs/formats/container.md``, section 2.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Literal, get_args

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from confide.crypto.secret import SecretBytes
from confide.errors import KeyAccessError, ParseError
from confide.ids import DatasetId, check_name

FileKind = Literal["parquet"]
"""Kinds of files whose keys are derived alone.  Containers have :func:`container_keys`."""

KEY_BYTES: Final = 32
"""Length of dataset keys and file keys: AES-256."""
CONTAINER_SALT_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32
"""Two keys with one commitment are a collision of SHA-256: 2^128 steps."""
MAX_PATH_BYTES: Final = 1024
"""Cap on a data path in UTF-8: no file system or object store in use allows much more."""

_FILE_LABEL: Final = b"confide-file-v1\0"
_CONTAINER_LABEL: Final = b"confide-file-v2\0container\0"
_PARQUET_LABEL: Final = b"confide-parquet-v1\0"
_JOURNAL_LABEL: Final = b"confide-journal-v1\0"
_WORK_LABEL: Final = b"confide-work-v1\0"
_DATASET_ID = re.compile(r"[0-9a-f]{32}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")


def check_data_path(path: str) -> str:
    """Return ``path`` if it names a file inside a dataset folder, in its one spelling.

    That is: relative, POSIX, no empty, ``.`` or ``..`` segment, no backslash or control character, at most 1024 bytes of UTF-8.
    Whether a manifest lists the file is not checked here but by ``confide.node.keyring``.

    Raises:
        ParseError: for anything else, so that two spellings never mean one file and no path leaves the folder.
    """
    try:
        encoded = path.encode("utf-8")
    except UnicodeEncodeError as cause:
        raise ParseError("a data path is not Unicode text", path=ascii(path[:120])) from cause
    if not encoded or len(encoded) > MAX_PATH_BYTES or _CONTROL.search(path) or any(part in {"", ".", ".."} for part in path.split("/")):
        raise ParseError("not a plain relative path inside a dataset", path=ascii(path[:120]))
    return path


def check_dataset_id(dataset: str) -> DatasetId:
    """Return ``dataset`` as an id if it is 32 lower-case hex characters.

    Raises:
        ParseError: for anything else.  The fixed length and alphabet keep the derivation's fields apart.
    """
    if not _DATASET_ID.fullmatch(dataset):
        raise ParseError("not a dataset id", dataset=ascii(dataset[:80]))
    return DatasetId(dataset)


@dataclass(frozen=True, slots=True)
class ContainerKeys:
    """What one container is sealed under.  ``commitment`` is public: it stands in the header and says nothing about ``key``."""

    key: SecretBytes
    commitment: bytes


def file_key(dataset_key: SecretBytes, *, kind: FileKind, dataset: DatasetId, path: str) -> SecretBytes:
    """The 32-byte key of one Parquet file: HKDF-SHA-256 over the dataset key (RFC 5869).  Parquet's nonces are random.

    Nothing in a Parquet file commits to it (``docs/decisions/0022-container-format.md``).

    Raises:
        KeyAccessError: the dataset key is not 32 bytes: whatever it is, it never becomes a key.
        ParseError: dataset id, path or kind do not have the documented form.
    """
    if kind not in get_args(FileKind):
        raise ParseError("unknown kind of data file", kind=ascii(kind)[:40])
    info = _FILE_LABEL + kind.encode("ascii") + b"\0" + _dataset_and_path(dataset, path)
    return SecretBytes(_expand(dataset_key, b"", info, KEY_BYTES))


def container_keys(dataset_key: SecretBytes, *, dataset: DatasetId, path: str, salt: bytes) -> ContainerKeys:
    """Key and commitment of the container at ``path`` whose header holds ``salt``: 64 bytes of HKDF-SHA-256 over the dataset key.

    Two containers share a key only if dataset, path and salt are all the same.  Nobody finds two dataset keys, ids or paths with one
    commitment without a collision of SHA-256.  That a header's commitment is this one is checked by who opens the container.

    Raises:
        KeyAccessError: the dataset key is not 32 bytes.
        ParseError: dataset id, path or salt do not have the documented form.
    """
    if len(salt) != CONTAINER_SALT_BYTES:
        raise ParseError("wrong salt length for a container", expected=CONTAINER_SALT_BYTES, got=len(salt))
    derived = _expand(dataset_key, salt, _CONTAINER_LABEL + _dataset_and_path(dataset, path), KEY_BYTES + COMMITMENT_BYTES)
    return ContainerKeys(SecretBytes(derived[:KEY_BYTES]), derived[KEY_BYTES:])


def _expand(dataset_key: SecretBytes, salt: bytes, info: bytes, length: int) -> bytes:
    if len(dataset_key) != KEY_BYTES:
        raise KeyAccessError("a dataset key has 32 bytes; this is something else", got=len(dataset_key))
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(dataset_key.reveal())


def column_wrapping_key(key: SecretBytes, *, dataset: DatasetId, path: str, group: str = "") -> SecretBytes:
    """The 32-byte key that wraps the keys in one Parquet file of a table with column groups (``docs/formats/container.md``, 2.4).

    Without ``group``: from the dataset's key, for the footer and columns of no group.  With one: from that group's key, for its columns.

    Raises:
        KeyAccessError: the key is not 32 bytes.
        ParseError: dataset id, path or group do not have the documented form.
    """
    if len(key) != KEY_BYTES:
        raise KeyAccessError("a dataset key has 32 bytes; this is something else", got=len(key))
    kind = b"parquet-columns\0" + check_name(group, "column group").encode("ascii") if group else b"parquet-table"
    info = _FILE_LABEL + kind + b"\0" + _dataset_and_path(dataset, path)
    return SecretBytes(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=b"", info=info).derive(key.reveal()))


def parquet_aad_prefix(dataset: DatasetId, path: str) -> bytes:
    """The 32-byte AAD prefix of one Parquet file (Parquet Modular Encryption, "AAD prefix"); never stored in the file.

    Raises:
        ParseError: dataset id or path do not have the documented form.
    """
    return hashlib.sha256(_PARQUET_LABEL + _dataset_and_path(dataset, path)).digest()


def _dataset_and_path(dataset: DatasetId, path: str) -> bytes:
    return check_dataset_id(dataset).encode("ascii") + b"\0" + check_data_path(path).encode("utf-8")


def journal_key(dataset_key: SecretBytes, dataset: DatasetId) -> SecretBytes:
    """The 32-byte key that authenticates the journal of a command that encrypts into a dataset (``confide.data.journal``).

    Raises:
        KeyAccessError: the dataset key is not 32 bytes.
        ParseError: the dataset id does not have the documented form.
    """
    return _of_dataset(_JOURNAL_LABEL, dataset_key, dataset)


def work_key(dataset_key: SecretBytes, dataset: DatasetId) -> SecretBytes:
    """The 32-byte key of the digests that say which work made a snapshot (``docs/formats/dataset.md``, section 3.1).

    Raises:
        KeyAccessError: the dataset key is not 32 bytes.
        ParseError: the dataset id does not have the documented form.
    """
    return _of_dataset(_WORK_LABEL, dataset_key, dataset)


def _of_dataset(label: bytes, dataset_key: SecretBytes, dataset: DatasetId) -> SecretBytes:
    return SecretBytes(_expand(dataset_key, b"", label + check_dataset_id(dataset).encode("ascii"), KEY_BYTES))

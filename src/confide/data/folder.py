"""A dataset's folder as files: which are there, whether they are encrypted, whether they are the manifest's.  Needs no key."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Final

from confide.crypto.container import MAGIC as CONTAINER_MAGIC
from confide.data.manifest import MANIFEST_NAME, FileEntry, Kind, Manifest
from confide.data.places import FilePlace, Place, RemoteFile, open_place
from confide.data.s3 import BLOCK
from confide.errors import DataError, IntegrityError, ManifestError, PlaintextError
from confide.regular_file import open_regular

_AT_ONCE: Final = 1024
"""Files whose verification is planned at one time: a dataset may have hundreds of thousands."""
PARQUET_MAGIC: Final = b"PARE"
"""First and last bytes of a Parquet file with an encrypted footer; a plaintext file has ``PAR1``."""
PARQUET_TAIL_BYTES: Final = 8
"""Length of the footer, then the magic (Parquet's "File format")."""
AES_GCM_V1: Final = b"\x1c\x1c"
"""How ``FileCryptoMetaData`` begins: ``encryption_algorithm`` (field 1), of it ``AES_GCM_V1`` (field 1), in Thrift's compact protocol.

Nothing authenticates this one choice (Parquet Modular Encryption, "Encrypted footer"), and under ``AES_GCM_CTR_V1`` readers would take
pages without tags: a file that says so is not one of ours.
"""


def data_files(folder: Place) -> list[str]:
    """Relative paths of all files in ``folder`` but the manifest; links and other things are refused."""
    if not isinstance(folder, Path):
        return sorted(path for path in folder.files() if path != MANIFEST_NAME)
    found = []
    for place in sorted(folder.rglob("*")):
        path = place.relative_to(folder).as_posix()
        if place.is_symlink() or not (place.is_file() or place.is_dir()):
            raise ManifestError("a dataset's folder holds something that is not a file", path=path)
        if "_temporary" in path.split("/"):
            raise DataError("a task's uncommitted file is left in the output", path=path)
        if place.is_file() and path != MANIFEST_NAME:
            found.append(path)
    return found


def check_encrypted(path: Path, kind: Kind | None = None) -> Kind:
    """What kind of encrypted file ``path`` is, by its magic; that it opens is checked by reading it.

    Raises:
        PlaintextError: it is neither, or not of ``kind``.
        IntegrityError: Parquet under an algorithm that authenticates less than every page.
    """
    try:
        with open_regular(path) as file:
            head = file.read(len(CONTAINER_MAGIC))
            size = file.seek(0, os.SEEK_END)
            file.seek(-min(PARQUET_TAIL_BYTES, size), os.SEEK_END)
            tail = file.read()
            file.seek(max(0, size - PARQUET_TAIL_BYTES - int.from_bytes(tail[:-4], "little")))
            algorithm = file.read(len(AES_GCM_V1))
    except OSError as cause:
        raise DataError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause
    found: Kind | None = None
    if head.startswith(PARQUET_MAGIC) and tail.endswith(PARQUET_MAGIC):
        found = "parquet"
    elif head == CONTAINER_MAGIC:
        found = "files"
    if found is None or kind not in {None, found}:
        facts = {"path": str(path), "expected": kind or "encrypted", "got": found or "plain"}
        raise PlaintextError(f"{path.name} is not encrypted as it must be", hint=None, **facts)
    if found == "parquet" and algorithm != AES_GCM_V1:
        raise IntegrityError(f"a Parquet file says that its pages have no tags: {path.name}", path=str(path))
    return found


def require_encrypted_parquet(data: bytes, path: str) -> None:
    """Return if a whole Parquet file says that its footer, and all of its pages, are encrypted and authenticated.

    Raises:
        PlaintextError: its footer is not encrypted.
        IntegrityError: it is under an algorithm that authenticates less than every page.
    """
    length = int.from_bytes(data[-PARQUET_TAIL_BYTES : -len(PARQUET_MAGIC)], "little")
    if not (data.startswith(PARQUET_MAGIC) and data.endswith(PARQUET_MAGIC)):
        raise PlaintextError(f"not an encrypted Parquet file: {path}", path=path)
    if not data.startswith(AES_GCM_V1, max(0, len(data) - PARQUET_TAIL_BYTES - length)):
        raise IntegrityError(f"a Parquet file says that its pages have no tags: {path}", path=path)


def verify_files(folder: Place, manifest: Manifest, *before: Manifest, on_file: Callable[[FileEntry], None] | None = None) -> None:
    """Return if the files of a snapshot, and of those ``before`` it, are in ``folder``, each with its size and digest.  Needs no key.

    Raises:
        IntegrityError: a file is missing or has other bytes.
        ManifestError: two snapshots list other bytes at the same path.
    """
    entries = iter(listed_files(manifest, *before).values())
    with ThreadPoolExecutor(os.cpu_count(), "confide-verify") as pool:  # hashing does not hold the interpreter
        while batch := list(islice(entries, _AT_ONCE)):
            checks = [(entry, pool.submit(_verify_file, folder, entry)) for entry in batch]
            try:
                for entry, check in checks:
                    check.result()
                    if on_file is not None:
                        on_file(entry)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def listed_files(*snapshots: Manifest) -> dict[str, FileEntry]:
    """All files of these snapshots of one dataset, by path.

    Raises:
        ManifestError: two of them list other bytes at the same path.
    """
    found: dict[str, FileEntry] = {}
    for snapshot in snapshots:
        for entry in snapshot.files:
            if found.setdefault(entry.path, entry) != entry:
                raise ManifestError(f"two snapshots list other bytes at one path: {entry.path}", path=entry.path)
    return found


def refuse_foreign(folder: Place, known: Collection[str]) -> None:
    """Return if no file but those of ``known`` paths is in a dataset's folder.

    Raises:
        ManifestError: there is one.
    """
    foreign = [path for path in data_files(folder) if path not in known]
    if foreign:
        hint = "it is foreign, or of a writer that is at work or was stopped: `confide data clean` removes those"
        raise ManifestError(f"a file is not in the manifest: {foreign[0]}", hint=hint, path=foreign[0], count=len(foreign))


def _verify_file(folder: Place, entry: FileEntry) -> None:
    place = folder / entry.path
    try:
        size = size_of_file(place)
        digest = digest_of_file(place)[1] if size == entry.size else ""
    except OSError as cause:
        raise IntegrityError(f"a file of the dataset is missing: {entry.path}", path=entry.path) from cause
    if size != entry.size:
        message = f"a file has another length than the manifest says: {entry.path}"
        raise IntegrityError(message, path=entry.path, expected=entry.size, got=size)
    if digest != entry.sha256:
        message = f"a file has other bytes than the manifest says: {entry.path}"
        raise IntegrityError(message, path=entry.path, expected=entry.sha256, got=digest)


def describe(folder: Path, path: str, *, rows: int | None) -> FileEntry:
    """The manifest's entry of a finished file.

    Raises:
        PlaintextError: it is not encrypted.
    """
    check_encrypted(folder / path)
    size, digest = digest_of_file(folder / path)
    return FileEntry(path, size, digest, rows)


def size_of_file(place: FilePlace) -> int:
    """Size in bytes.

    Raises:
        OSError: it is not there.
    """
    if isinstance(place, RemoteFile):
        with place.open() as file:
            return file.size
    return place.stat().st_size


def digest_of_file(path: FilePlace) -> tuple[int, str]:
    """Size in bytes and SHA-256, hex."""
    with open_place(path, buffer=BLOCK) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest

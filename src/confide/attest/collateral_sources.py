"""Where collateral is kept and found: files, given sets, several sources in order.  Of either vendor.

Knows nothing of whether a set is signed by whom it must be: ``verify`` and ``snp`` check that each time they use one.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Protocol

from confide.attest.amd_certs import PRODUCTS
from confide.attest.amd_collateral import AmdCollateral, AmdEpoch
from confide.attest.certs import CA_KINDS
from confide.attest.collateral import MAX_COLLATERAL_BYTES, Collateral, CollateralEpoch
from confide.attest.tpm import TpmCollateral
from confide.canonical import Json, parse_object
from confide.errors import CollateralError, ParseError
from confide.ids import Tee
from confide.regular_file import read_regular

_FMSPC = re.compile(r"[0-9a-f]{12}")
_AMD_KEYS = {"vcek", "vlek"}
_log = logging.getLogger(__name__)
_MAX_MARK = 4096
_MAX_FILE = 2 * MAX_COLLATERAL_BYTES
"""Cap on one set in a file, in bytes: escapes and white space may double it."""

AnyCollateral = Collateral | AmdCollateral | TpmCollateral
"""A set of either vendor's, or what a TPM's certificates are judged by, which no store keeps."""


def read_collateral(data: object) -> AnyCollateral:
    """Read the JSON form of either vendor's collateral.

    Raises:
        CollateralError: it is neither.
    """
    if isinstance(data, dict) and "product" in data:
        return AmdCollateral.from_json(data)
    if isinstance(data, dict) and "root" in data:
        return TpmCollateral.from_json(data)
    return Collateral.from_json(data)


def load_collateral(path: Path) -> AnyCollateral:
    """Read a file of that form.

    Raises:
        CollateralError: there is none, or it is not collateral.
    """
    try:
        return read_collateral(parse_object(read_regular(path, _MAX_FILE)))
    except OSError as cause:
        raise CollateralError(f"cannot read collateral: {cause.strerror}", path=str(path)) from cause
    except ParseError as cause:
        raise CollateralError("the collateral file is not JSON", path=str(path)) from cause


def save_collateral(collateral: AnyCollateral, path: Path) -> None:
    """Write the JSON form in one atomic step."""
    write_atomic(path, json.dumps(collateral.to_json(), indent=1).encode())


class CollateralSource(Protocol):
    """Where a verifier gets collateral from."""

    def get(self, platform: str, ca: str, tee: Tee) -> AnyCollateral:
        """The set for a platform: an FMSPC and the PCK CA's kind, or AMD's product and kind of endorsement key.

        Raises:
            CollateralError: there is none.
        """
        ...


class CollateralStore:
    """Collateral in a folder, one file a platform.  New sets replace old ones; older ones are refused (no roll-back).

    How new the newest set was that was ever kept is in a file of its own, the mark: a set that is damaged is replaced, and what is older
    than it was is still refused.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[tuple[str, str, Tee], tuple[str, tuple[int, int, int], AnyCollateral]] = {}
        """What was read last for a platform: from where, which file it was, and what it held."""

    def get(self, platform: str, ca: str, tee: Tee) -> AnyCollateral:
        """The set for a platform.

        Raises:
            CollateralError: there is none, or the file holds another platform's.
        """
        wanted = (_spelling(platform, tee), ca, tee)
        known = self._read.get(wanted)
        path = str(self._path(platform, ca, tee)) if known is None else known[0]
        try:
            status = os.stat(path)  # noqa: PTH116 -- a broker asks at each release: making a Path takes longer than the question
        except OSError as cause:
            raise _missing(platform, ca, tee) from cause
        # Files are replaced, never written in place, so the same inode, time and size is the same set.
        identity = (status.st_ino, status.st_mtime_ns, status.st_size)
        if known is not None and known[1] == identity:
            return known[2]
        found = load_collateral(Path(path))
        if found.platform != wanted:
            raise CollateralError("a collateral file holds another platform's collateral", path=path)
        self._read[wanted] = (path, identity, found)
        return found

    def put(self, collateral: AnyCollateral) -> None:
        """Keep a set.

        Raises:
            CollateralError: it is older than the one that is kept.
        """
        with self.locked(*collateral.platform):
            self.put_within_lock(collateral)

    def put_within_lock(self, collateral: AnyCollateral) -> None:
        """:meth:`put`, for a caller that holds the platform's lock.

        Raises:
            CollateralError: it is older than one that was kept before, or the folder cannot be written to.
        """
        path = self._path(*collateral.platform)
        mark = path.with_suffix(".mark")
        for seen in (_epoch_in(mark), _epoch_of(path)):
            if seen is not None:
                check_not_older(collateral.epoch, seen)
        try:
            # The mark last: a set without its mark is held against itself.
            save_collateral(collateral, path)
            write_atomic(mark, json.dumps(collateral.epoch.to_json()).encode())
        except OSError as cause:
            raise _unwritable(cause, path) from cause

    def sets(self) -> list[AnyCollateral]:
        """Everything that is kept, by file name.

        Raises:
            CollateralError: a file is not collateral.
        """
        return [load_collateral(path) for path in sorted(self._folder.glob("*.json"))]

    @contextmanager
    def locked(self, platform: str, ca: str, tee: Tee) -> Iterator[None]:
        """Of all processes that share the folder, one at a time does this for a platform.

        Raises:
            CollateralError: the folder cannot be written to.
        """
        path = self._path(platform, ca, tee).with_suffix(".lock")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError as cause:
            raise _unwritable(cause, path) from cause
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, platform: str, ca: str, tee: Tee) -> Path:
        # The platform comes out of foreign evidence: only its known forms may become part of a path.
        spelling = _spelling(platform, tee)
        known = _FMSPC.fullmatch(spelling) and ca in CA_KINDS.values() if tee is not Tee.SNP else spelling in PRODUCTS and ca in _AMD_KEYS
        if not known:
            raise CollateralError("not a platform that collateral exists for")
        return self._folder / f"{tee.value}-{spelling.lower()}-{ca}.json"


class FixedCollateral:
    """Given sets only: those stored with old evidence, or an offline bundle."""

    def __init__(self, *sets: AnyCollateral) -> None:
        self._sets = {one.platform: one for one in sets}

    def get(self, platform: str, ca: str, tee: Tee) -> AnyCollateral:
        """The set for a platform.  Raises ``CollateralError`` if it is not among the given ones."""
        found = self._sets.get((_spelling(platform, tee), ca, tee))
        if found is None:
            raise _missing(platform, ca, tee)
        return found


class CollateralSources:
    """Several sources, asked in order."""

    def __init__(self, *sources: CollateralSource) -> None:
        self._sources = sources

    def get(self, platform: str, ca: str, tee: Tee) -> AnyCollateral:
        """The first source's answer.  Raises the last source's ``CollateralError`` if none has the platform."""
        error = _missing(platform, ca, tee)
        for source in self._sources:
            try:
                return source.get(platform, ca, tee)
            except CollateralError as refused:
                error = refused
        raise error


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write ``data`` so that a reader sees the old file or the new one, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave the new name with nothing in it
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def check_not_older(epoch: object, seen: object) -> None:
    """Refuse a roll-back.

    Raises:
        CollateralError: a set of ``epoch`` is older than one of ``seen``, or of another vendor.
    """
    match epoch, seen:
        case CollateralEpoch() as one, CollateralEpoch() as known:
            one.check_not_older_than(known)
        case AmdEpoch() as one, AmdEpoch() as known:
            one.check_not_older_than(known)
        case _:
            raise CollateralError("the collateral is of another vendor")


def _epoch_of(path: Path) -> object | None:
    """How new the kept set is; None if there is none, or it is damaged: the mark says then how new it was."""
    try:
        return load_collateral(path).epoch if path.exists() else None
    except CollateralError as damaged:
        _log.warning("the kept collateral is damaged and will be replaced: %s: %s", path, damaged.message)
        return None


def _epoch_in(mark: Path) -> object | None:
    if not mark.exists():
        return None
    try:
        return _read_epoch(parse_object(read_regular(mark, _MAX_MARK)))
    except (OSError, ParseError) as cause:
        hint = "nothing older than what was kept may be taken: remove the file if the machine's clock and its collateral are right"
        raise CollateralError("it is not known any more how new collateral has been", hint=hint, path=str(mark)) from cause


def _read_epoch(data: Json) -> CollateralEpoch | AmdEpoch:
    for kind in (CollateralEpoch, AmdEpoch):
        types = {one.name: int if one.type == "int" else str for one in fields(kind)}
        if set(data) == set(types) and all(type(data[name]) is types[name] for name in types):
            return kind(**data)
    raise ParseError("not an epoch of collateral")


def _unwritable(cause: OSError, path: Path) -> CollateralError:
    hint = "make room, or let this user write to the folder"
    return CollateralError(f"collateral cannot be kept: {cause.strerror}", hint=hint, path=str(path))


def _spelling(platform: str, tee: Tee) -> str:
    """An FMSPC is hex, which some spell in capitals."""
    return platform if tee is Tee.SNP else platform.lower()


def _missing(platform: str, ca: str, tee: Tee) -> CollateralError:
    return CollateralError("there is no collateral for this platform", platform=platform[:40], ca=ca, tee=tee.value)

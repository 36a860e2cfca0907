"""A dataset's snapshots: the signed manifests in its folder, which of them is the newest, and how the next one is committed.

``_snapshots/<number>.json`` holds the manifest of each snapshot; a dataset that has only had one may do without.  A snapshot is
committed by making its file there, which only one of several writers can.  ``_confide.json`` is a copy of the newest one, put there
afterwards: readers begin there and go on to what was committed since.  Each manifest names the digest of the one before, so the newest
vouches for all.

Nothing here knows who may sign, or whether the storage shows the newest snapshot that there is: the job and the broker do.
The layout is ``docs/formats/dataset.md``, section 1.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from confide.canonical import Json, canonical, parse_object, sha384_hex
from confide.crypto.sign import PublicKey, unverified_keyid, unverified_payload
from confide.data.manifest import MANIFEST_NAME, MAX_BYTES, SNAPSHOTS, Manifest, read_payload, verify_manifest
from confide.data.places import FilePlace, Place, RemoteFolder, is_there, open_place
from confide.durable import sync_file, sync_folder
from confide.errors import ConfideError, DataError, ManifestError, OutputExistsError, SnapshotConflictError, UnavailableError, UsageError

_MAX_AHEAD: Final = 256
"""How many snapshots may have been committed since ``_confide.json`` was written: writers that were stopped in between, or overtaken."""

_LOOKS: Final = 5
"""How often a manifest is read that is another one at the end of each reading."""


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest as it lies in a folder.  ``unverified`` is what it *claims*; ``manifest.verify_manifest`` makes it count."""

    folder: Place
    envelope: Json
    unverified: Manifest

    @property
    def local(self) -> Path:
        """The folder, for who changes what is in it.

        Raises:
            UsageError: it is in a remote storage.
        """
        return local_folder(self.folder)

    @property
    def signer(self) -> PublicKey:
        """The claimed signer."""
        return self.unverified.signer

    @property
    def digest(self) -> str:
        """SHA-384 of the signed payload, hex."""
        return sha384_hex(unverified_payload(self.envelope))


def local_folder(folder: Place) -> Path:
    """A dataset's folder, for who changes what is in it.

    Raises:
        UsageError: it is in a remote storage.
    """
    if not isinstance(folder, Path):
        raise UsageError("this is for datasets in folders here, and not in a remote storage", path=str(folder))
    return folder


def load_manifest(folder: Place) -> SignedManifest:
    """The manifest of the newest snapshot in ``folder``; its signature is not checked.

    Raises:
        ManifestError: there is none, it is not a manifest, or snapshots do not follow one another.
    """
    found = _read(folder, MANIFEST_NAME)
    for _ in range(_MAX_AHEAD):
        name = _name(found.unverified.snapshot + 1)
        if not is_there(folder / name):
            return found
        following = _read(folder, name)
        _check_follows(following, found)
        found = following
    hint = "bring the folder back from a copy of one time"
    raise ManifestError(f"{MANIFEST_NAME} is too old", hint=hint, path=str(folder), limit=_MAX_AHEAD)


def history(newest: SignedManifest) -> Iterator[SignedManifest]:
    """The snapshots before ``newest``, latest first, as far back as they are kept.  Each is vouched for by the one after it.

    Raises:
        ManifestError: one is not the snapshot that the one after it names.
    """
    after = newest
    while after.unverified.parent is not None and is_there(newest.folder / _name(after.unverified.snapshot - 1)):
        before = _read(newest.folder, _name(after.unverified.snapshot - 1))
        _check_follows(after, before)
        yield before
        after = before


def verify_manifests(newest: SignedManifest) -> list[SignedManifest]:
    """All snapshots that are kept, the newest first, if each manifest in the folder is whole: also copies that no reader would look at.

    Each is signed by the key that it names; who may sign for the dataset is not checked.

    Raises:
        ManifestError: one is not signed by the key that it names, or not the snapshot that its name says and the newest vouches for.
    """
    chain = [newest, *history(newest)]
    known = {_name(one.unverified.snapshot): one.digest for one in chain}
    for name in (MANIFEST_NAME, *known):
        if is_there(newest.folder / name):
            copy = _read(newest.folder, name)
            verify_manifest(copy.envelope, copy.signer)
            place = _name(copy.unverified.snapshot)
            if known.get(place) != copy.digest or name not in {MANIFEST_NAME, place}:
                raise ManifestError("a manifest is not the one that the newest vouches for", path=name, snapshot=copy.unverified.snapshot)
    return chain


def snapshot_numbered(newest: SignedManifest, number: int) -> SignedManifest:
    """Snapshot ``number`` of the dataset whose newest one is given (which may be it), found through the chain of digests.

    Raises:
        UsageError: it is not kept, or there never was one.
        ManifestError: the chain is broken.
    """
    for found in (newest, *history(newest)):
        if found.unverified.snapshot == number:
            return found
    hint = f"`confide data log {newest.folder}` shows those that are kept"
    raise UsageError(f"the dataset has no snapshot {number} here", hint=hint, newest=newest.unverified.snapshot)


def commit_snapshot(
    parent: SignedManifest, made: SignedManifest, *, staged: Path | None = None, at_last: Callable[[], None] = lambda: None
) -> None:
    """Make a signed manifest the snapshot after ``parent``, for all readers at once.

    ``staged`` is the caller's own folder beside the dataset's, for what is not there yet; at a URL there is nothing of that kind.
    ``at_last`` is called before the one step that commits: what goes wrong earlier has committed nothing.

    Raises:
        SnapshotConflictError: another one became the snapshot after ``parent`` first.
        ManifestError: it does not follow ``parent``, or another manifest is kept as ``parent``.
        UnavailableError: the file system or the storage refuses; :func:`is_committed` tells whether before or after.
    """
    _check_follows(made, parent)
    try:
        _keep(parent, staged)
        at_last()
        _commit(made, staged)
    except OSError as cause:
        raise UnavailableError(f"cannot write to {made.folder}: {cause.strerror}", path=str(made.folder)) from cause


def _keep(parent: SignedManifest, staged: Path | None) -> None:
    """Make sure that a manifest that others will follow is at its own name, beside the copy that readers begin with."""
    folder, name = parent.folder, _name(parent.unverified.snapshot)
    if isinstance(folder, Path):
        (folder / SNAPSHOTS).mkdir(exist_ok=True)
    try:
        made = _write_new(folder, name, parent.envelope, staged)
        if made and isinstance(folder, RemoteFolder) and _write_new(folder, name, parent.envelope, staged):
            hint = "use a storage that knows `If-None-Match: *`: with this one, a snapshot could be lost when two writers are at work"
            raise UnavailableError(f"{folder} replaces what is there when it is told not to", hint=hint, path=str(folder))
    except FileExistsError:
        if _read(folder, name).digest != parent.digest:
            raise ManifestError("another manifest is kept as the snapshot to go on from", path=name, expected=parent.digest) from None
    if isinstance(folder, Path):
        sync_folder(folder)


def _commit(made: SignedManifest, staged: Path | None) -> None:
    number = made.unverified.snapshot
    try:
        _write_new(made.folder, _name(number), made.envelope, staged)
    except FileExistsError as cause:
        raise SnapshotConflictError(
            f"another writer committed snapshot {number} first",
            hint="nothing of yours is visible; look at the new snapshot and do it again",
            path=str(made.folder),
            snapshot=number,
        ) from cause
    except UnavailableError as error:  # it may be the answer that was lost
        if not isinstance(made.folder, RemoteFolder):
            raise
        if not _is_shown(made):
            error.hint = f"see with `confide data log {made.folder}` whether snapshot {number} is there; if not, do it again"
            raise


def _is_shown(made: SignedManifest) -> bool:
    with contextlib.suppress(ConfideError):
        return is_committed(made)
    return False


def is_committed(made: SignedManifest) -> bool:
    """Whether this very manifest is a snapshot in its folder."""
    name = _name(made.unverified.snapshot)
    return is_there(made.folder / name) and _read(made.folder, name).digest == made.digest


def write_manifest(folder: Place, envelope: Json, *, staged: Path | None = None) -> None:
    """Put a signed manifest into ``folder`` as the newest: a reader sees the old one or the new one, whole, also after a crash.

    ``staged`` is as for :func:`commit_snapshot`; without one a new one is made and removed.

    Raises:
        UnavailableError: it cannot be written; the old one stays.
    """
    if not isinstance(folder, Path):
        folder.replace(MANIFEST_NAME, canonical(envelope))
        return
    path = folder / MANIFEST_NAME
    try:
        with _copied(folder, envelope, staged) as copy:
            copy.replace(path)
        sync_folder(folder)
    except OSError as cause:
        raise UnavailableError(f"cannot write {path}: {cause.strerror}", path=str(path)) from cause


def manifest_path(snapshot: Manifest) -> str:
    """Where a snapshot's manifest lies in the dataset's folder."""
    return _name(snapshot.snapshot)


def _name(snapshot: int) -> str:
    return f"{SNAPSHOTS}/{snapshot}.json"


def _check_follows(after: SignedManifest, before: SignedManifest) -> None:
    later, earlier = after.unverified, before.unverified
    if (later.parent, later.snapshot, later.dataset) != (before.digest, earlier.snapshot + 1, earlier.dataset):
        raise ManifestError(
            "a snapshot does not follow the one before it", snapshot=later.snapshot, expected=before.digest, got=str(later.parent)
        )


def _bytes_of(place: FilePlace) -> bytes:
    """What is there now.  At a URL writers replace a file while it is read: then that is begun anew."""

    def look() -> bytes:
        with open_place(place, newest=True) as file:
            return file.read(MAX_BYTES + 1)

    for _ in range(_LOOKS - 1):
        with contextlib.suppress(DataError):
            return look()
    return look()


def _read(folder: Place, name: str) -> SignedManifest:
    path = folder / name
    try:
        data = _bytes_of(path)
    except OSError as cause:
        hint = "is this the folder of an encrypted dataset? `confide data encrypt` makes one"
        raise ManifestError(f"no manifest in {folder}: {cause.strerror}", hint=hint, path=str(path)) from cause
    if len(data) > MAX_BYTES:
        raise ManifestError("a manifest is too large", path=str(path), limit=MAX_BYTES)
    try:
        envelope = parse_object(data)
        payload, claimed = unverified_payload(envelope), unverified_keyid(envelope)
    except ConfideError as cause:
        raise ManifestError(f"{path} is not a signed manifest: {cause.message}", path=str(path)) from cause
    if canonical(envelope) != data:
        raise ManifestError(f"{path} holds more than a signed manifest", path=str(path))
    manifest = read_payload(payload)
    if manifest.signer.digest != claimed:
        raise ManifestError("a manifest is signed by another key than it names", expected=manifest.signer.digest, got=claimed)
    return SignedManifest(folder, envelope, manifest)


@contextlib.contextmanager
def staged_beside(folder: Path) -> Iterator[Path]:
    """An empty hidden folder beside a dataset's, on the same file system, which is gone afterwards: a kill leaves nothing in the dataset.

    What a kill leaves there, ``confide data clean`` removes.  Where there is no such place, because the dataset's folder is a file system
    of its own or nobody may write beside it, it is the dataset's folder itself.

    Raises:
        UnavailableError: the file system refuses.
    """
    place = folder.absolute()
    made = place.with_name(f".{place.name}.new-{secrets.token_hex(8)}")
    try:
        beside = place.stat().st_dev == place.parent.stat().st_dev and os.access(place.parent, os.W_OK | os.X_OK)
        if beside:
            made.mkdir(mode=0o700)
    except OSError as cause:
        raise UnavailableError(f"cannot write beside {folder}: {cause.strerror}", path=str(folder)) from cause
    try:
        yield made if beside else folder
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def _copied(folder: Path, envelope: Json, staged: Path | None) -> Iterator[Path]:
    """The envelope in a durable file outside the dataset, which is gone afterwards."""
    with contextlib.nullcontext(staged) if staged is not None else staged_beside(folder) as place:
        copy = place / f".{MANIFEST_NAME}.{secrets.token_hex(8)}"
        try:
            place.mkdir(mode=0o700, exist_ok=True)  # a `data clean` that goes by another clock may have taken it for left behind
            with copy.open("xb") as file:
                file.write(canonical(envelope))
                sync_file(file)
            yield copy
        finally:
            copy.unlink(missing_ok=True)


def _write_new(folder: Place, name: str, envelope: Json, staged: Path | None) -> bool:
    """Write the file ``name``, whole or not at all.  ``False``: it was there, and is this one.

    ``FileExistsError`` if another one is there; in a folder here, if any is.
    """
    if not isinstance(folder, Path):
        try:
            return folder.create(name, canonical(envelope))
        except OutputExistsError as cause:
            raise FileExistsError(errno.EEXIST, "another writer was first", name) from cause
    with _copied(folder, envelope, staged) as copy:
        os.link(copy, folder / name)
    sync_folder((folder / name).parent)
    return True

"""What a dataset shows to whoever can read its folder and has no key.  Neither opens nor verifies anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import unquote

from confide.crypto.container import plaintext_size
from confide.data.folder import data_files, listed_files
from confide.data.manifest import FileEntry, Manifest
from confide.data.places import written_at
from confide.data.snapshots import SignedManifest, history, manifest_path
from confide.errors import ConfideError

_NULL: Final = "__HIVE_DEFAULT_PARTITION__"
"""What Spark calls a partition folder of rows without a value."""
HIDDEN_OF_TABLES: Final = ("values", "minima, maxima and counts of nulls: footers and page headers are encrypted too")
HIDDEN_OF_FILES: Final = ("the files' contents",)


@dataclass(frozen=True, slots=True)
class OutsideFile:
    """A file as the storage shows it: what the manifest lists, the length of its contents (no tables), its date if it is there."""

    entry: FileEntry
    plaintext: int | None
    written: datetime | None


@dataclass(frozen=True, slots=True)
class Outside:
    """All that is visible of one snapshot, besides the manifest's own fields."""

    files: tuple[OutsideFile, ...]
    partitions: dict[str, tuple[str | None, ...]]
    snapshots: tuple[int, ...]
    unlisted: int

    @property
    def plaintext(self) -> int | None:
        """Bytes of all contents together; ``None`` for a table."""
        known = [file.plaintext for file in self.files if file.plaintext is not None]
        return sum(known) if known and len(known) == len(self.files) else None


def look(newest: SignedManifest, manifest: Manifest) -> Outside:
    """What is visible of the snapshot ``manifest`` of the dataset whose newest manifest is given.

    Raises:
        ManifestError: snapshots do not follow one another, or the folder holds something that is no file.
    """
    folder, chain = newest.folder, [newest.unverified, *(one.unverified for one in history(newest))]
    known = {*listed_files(*chain), *map(manifest_path, chain)}
    return Outside(
        tuple(OutsideFile(file, _plaintext(manifest, file), written_at(folder / file.path)) for file in manifest.files),
        partitions([file.path for file in manifest.files]),
        tuple(one.snapshot for one in chain),
        sum(path not in known for path in data_files(folder)),
    )


def partitions(paths: Sequence[str]) -> dict[str, tuple[str | None, ...]]:
    """Columns and values in the names of folders (``name=value``, as Spark's ``partitionBy`` makes them), each value once, sorted."""
    found: dict[str, set[str | None]] = {}
    for path in paths:
        for part in path.split("/")[:-1]:
            name, equals, value = part.partition("=")
            if name and equals:
                found.setdefault(unquote(name), set()).add(None if value == _NULL else unquote(value))
    return {name: tuple(sorted(values, key=lambda value: (value is not None, value or ""))) for name, values in found.items()}


def _plaintext(manifest: Manifest, file: FileEntry) -> int | None:
    if manifest.kind != "files":
        return None
    try:
        return plaintext_size(file.size)
    except ConfideError:  # a manifest that nobody has verified may list any size
        return None

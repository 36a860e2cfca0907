"""What Spark workers' agents report to the driver's: keys that they were given, files that their tasks wrote, how much they did.

Builds and reads the reports (``confide.node.workload.Tell``); they come from attested nodes, and are read totally all the same.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Final

from confide.canonical import Json
from confide.errors import ParseError, ProtocolError
from confide.ids import Purpose
from confide.jobs.statement import DataEntry, ReleaseEntry
from confide.keys.grants import GrantRef

if TYPE_CHECKING:
    from collections.abc import Iterable

    from confide.ids import NodeId
    from confide.keys.released_keys import OutputKey, ReleasedKey

_NO_COUNT: Final = 1 << 53
"""JSON numbers are exact below it."""


@dataclass(frozen=True, slots=True)
class FilesWritten:
    """Files of outputs that a finished task left: absolute paths."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FilesDeleted:
    """A file, or a folder with all that was in it, that a task deleted."""

    path: str


def key_opened(name: str, purpose: Purpose, released: ReleasedKey | OutputKey) -> Json:
    """The report that the broker gave this node the key of the job's input or output ``name``."""
    return {
        "type": "key-opened",
        "name": name,
        "purpose": purpose.value,
        "key": released.key.id,
        "version": released.key.version,
        "grants": {key: ref.to_json() for key, ref in released.grants.items()},
    }


def group_name(name: str, group: str) -> str:
    """How reports and receipts name a column group of the job's input ``name``; no input's name holds a slash."""
    return f"{name}/{group}"


def files_written(paths: Iterable[str]) -> Json:
    """The report that a task finished these files."""
    return {"type": "files-written", "paths": list(paths)}


def counted(node: NodeId, counts: Json) -> DataEntry:
    """The row of ``node`` with these counts.

    Raises:
        ProtocolError: one is missing, unknown or no count.
    """
    names = {field.name for field in fields(DataEntry)} - {"node"}
    if set(counts) != names or not all(type(value) is int and 0 <= value < _NO_COUNT for value in counts.values()):
        raise ProtocolError("a node reports counts in another form", node=node)
    return DataEntry(node=str(node), **counts)


def files_deleted(path: str) -> Json:
    """The report that a task deleted this."""
    return {"type": "files-deleted", "path": path}


def data_counted(entry: DataEntry) -> Json:
    """The report of how much a node's tasks did with datasets so far."""
    counts = asdict(entry)
    del counts["node"]  # who reports is known
    return {"type": "data-counted", "counts": counts}


def read_report(node: NodeId, report: Json) -> ReleaseEntry | FilesWritten | FilesDeleted | DataEntry:
    """The inverse of the four, for a report of ``node``.

    Raises:
        ProtocolError: it is none of them.
    """
    match report:
        case {
            "type": "key-opened",
            "name": str(name),
            "purpose": str(purpose),
            "key": str(key),
            "version": int(version),
            "grants": dict(refs),
        }:
            try:
                grants = {str(root): GrantRef.from_json(ref).to_json() for root, ref in refs.items()}
                return ReleaseEntry(str(node), name, Purpose(purpose).value, key, version, grants)
            except (ParseError, ValueError) as cause:
                raise ProtocolError("a worker reports a key in another form", node=node) from cause
        case {"type": "files-written", "paths": list(paths)} if all(isinstance(path, str) for path in paths):
            return FilesWritten(tuple(paths))
        case {"type": "files-deleted", "path": str(path)}:
            return FilesDeleted(path)
        case {"type": "data-counted", "counts": dict(counts)}:
            return counted(node, counts)
    raise ProtocolError("a worker's report is none", node=node)

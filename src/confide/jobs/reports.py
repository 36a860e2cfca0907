"""What Spark workers' agents report to the driver's: keys that they were given, files that their tasks wrote.

Builds and reads the reports (``confide.node.workload.Tell``); they come from attested nodes, and are read totally all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from confide.canonical import Json
from confide.errors import ParseError, ProtocolError
from confide.ids import Purpose
from confide.jobs.statement import ReleaseEntry
from confide.keys.grants import GrantRef

if TYPE_CHECKING:
    from collections.abc import Iterable

    from confide.ids import NodeId
    from confide.keys.client import OutputKey, ReleasedKey


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


def files_deleted(path: str) -> Json:
    """The report that a task deleted this."""
    return {"type": "files-deleted", "path": path}


def read_report(node: NodeId, report: Json) -> ReleaseEntry | FilesWritten | FilesDeleted:
    """The inverse of the three, for a report of ``node``.

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
    raise ProtocolError("a worker's report is none", node=node)

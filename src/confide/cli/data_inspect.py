"""``confide data inspect``: what a dataset shows to everybody who can read its folder, and what it does not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from confide.cli.dataset_keys import DATASET, SNAPSHOT, place_of
from confide.cli.new_dataset import facts
from confide.cli.output import Context, answers, print_facts, print_table, say

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.data.manifest import Manifest
    from confide.data.outside import Outside

_MOST_VALUES: Final = 8
"""Partition values that are named; ``--json`` has all."""


@click.command("inspect")
@click.argument("folder", type=DATASET)
@SNAPSHOT
@click.option("--files", "with_files", is_flag=True, help="Show each file too (--json always does).")
@answers
def inspect(context: Context, folder: Path | str, snapshot: int | None, *, with_files: bool) -> None:
    """Show what a dataset tells to whoever can read FOLDER and has no key: this, and nothing else.

    Needs no key; nothing is verified (`confide data verify` does that).
    """
    from confide.data.outside import HIDDEN_OF_FILES, HIDDEN_OF_TABLES, look
    from confide.data.snapshots import load_manifest, snapshot_numbered

    newest = load_manifest(place_of(folder))
    manifest = newest.unverified if snapshot is None else snapshot_numbered(newest, snapshot).unverified
    seen = look(newest, manifest)
    hidden = HIDDEN_OF_TABLES if manifest.kind == "parquet" else HIDDEN_OF_FILES
    value = {**facts(newest.folder, manifest), "verified": False}
    columns = list((manifest.schema or {}).get("columns", []))

    def text() -> None:
        print_facts({name: item for name, item in value.items() if item is not None})
        if columns:
            say()
            _print_columns(manifest, columns)
        if with_files:
            say()
            rows = [(file["path"], file["size"], file["rows"], file["plaintext_bytes"], file["written"]) for file in _files(seen)]
            print_table(("file", "bytes", "rows", "plaintext bytes", "written"), rows)
        say()
        if columns:
            say("also visible: how many pages each file has, and how long each is: Parquet puts the length of an encrypted part before it")
        _say_more(seen)
        say(f"not visible without the key: {'; '.join(hidden)}")

    more = {
        "groups": [{"name": group.name, "key": group.wrapped.key, "columns": list(group.columns)} for group in manifest.groups],
        "plaintext_bytes": seen.plaintext,
        "partitions": {name: list(values) for name, values in seen.partitions.items()},
        "snapshots": list(seen.snapshots),
        "unlisted_files": seen.unlisted,
        "hidden": list(hidden),
    }
    context.answer({**value, "columns": columns, **more, "file_list": _files(seen)}, text)


def _print_columns(manifest: Manifest, columns: list[Json]) -> None:
    """Names and types; of a table with column groups also the key that each column is under."""
    from confide.data.column_groups import group_of

    heads = ("column", "type", "nullable", "key")
    rows = []
    for column in columns:
        group = group_of(manifest.groups, column["name"])
        key = manifest.key if group is None else group.wrapped.key
        rows.append((column["name"], column["type"], "yes" if column["nullable"] else "no", key))
    print_table(heads if manifest.groups else heads[:3], rows if manifest.groups else [row[:3] for row in rows])


def _say_more(seen: Outside) -> None:
    """What is visible besides the manifest's fields."""
    for name, values in seen.partitions.items():
        shown = ", ".join("(none)" if value is None else value for value in values[:_MOST_VALUES])
        rest = f" and {len(values) - _MOST_VALUES:,} more" if len(values) > _MOST_VALUES else ""
        say(f"also visible: values of column {name}, in the names of folders: {shown}{rest}")
    if seen.plaintext is not None:
        say(f"also visible: lengths of the contents, {seen.plaintext:,} bytes together, and the files' names")
    say(f"also visible: when each file was written; snapshots {', '.join(map(str, seen.snapshots))}, and what each added and removed")
    if seen.unlisted:
        say(f"also there: {seen.unlisted:,} files that no snapshot lists (`confide data clean`)")


def _files(seen: Outside) -> list[Json]:
    return [
        {
            "path": file.entry.path,
            "size": file.entry.size,
            "sha256": file.entry.sha256,
            "rows": file.entry.rows,
            "plaintext_bytes": file.plaintext,
            "written": None if file.written is None else file.written.isoformat(timespec="seconds"),
        }
        for file in seen.files
    ]

"""``confide data head``: the first rows of a table, or lines of a file.  The plaintext goes to standard output and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.dataset_keys import COLUMNS, DATASET, KEY_FILE, KEY_RESOURCE, SNAPSHOT, WHO, column_list, keys_of, place_of
from confide.cli.output import Context, answers, plain, print_table, say
from confide.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from confide.canonical import Json
    from confide.crypto.secret import SecretBytes
    from confide.data.manifest import Manifest
    from confide.data.places import Place

_LINE_BYTES = 64 * 1024
"""A longer line of a file is cut."""


@click.command("head")
@click.argument("folder", type=DATASET)
@click.option("-n", "count", type=click.IntRange(min=1, max=100_000), default=10, show_default=True, help="Rows or lines.")
@click.option("--file", "path", metavar="PATH", help="Which file, of a dataset that is no table [default: the first].")
@COLUMNS
@SNAPSHOT
@WHO
@KEY_RESOURCE
@KEY_FILE
@answers
def head(
    context: Context,
    folder: Path | str,
    count: int,
    path: str | None,
    columns: str | None,
    snapshot: int | None,
    who: str | None,
    key_resource: str | None,
    key_file: Path | None,
) -> None:
    """Print the first rows of the table, or lines of a file, that the dataset in FOLDER holds.

    Only what is printed is decrypted, and it is authenticated; the rest of the dataset is not looked at.
    """
    from confide.data.manifest import verify_manifest
    from confide.data.snapshots import load_manifest, snapshot_numbered

    place = place_of(folder)
    newest = load_manifest(place)
    wanted = column_list(columns)
    secret, groups = keys_of(context.settings, newest, who, key_resource, key_file, columns=wanted)
    manifest = verify_manifest(newest.envelope, newest.signer)
    if snapshot is not None:
        manifest = snapshot_numbered(newest, snapshot).unverified
    if manifest.kind == "parquet":
        from confide.data.files import head_rows

        _table(context, head_rows(place, manifest, secret, count, columns=wanted, group_keys=groups))
    elif wanted is not None:
        raise UsageError("the dataset is not a table: it has no columns", hint="leave --columns out")
    else:
        _file(context, place, manifest, secret, count, path)


def _table(context: Context, table: pa.Table) -> None:
    rows = [list(row.values()) for row in table.to_pylist()]
    answer: Json = {"columns": table.column_names, "rows": [[_json(value) for value in row] for row in rows]}
    context.answer(answer, lambda: print_table(table.column_names, rows, empty="no rows"))


def _file(context: Context, folder: Place, manifest: Manifest, secret: SecretBytes, count: int, path: str | None) -> None:
    from confide.data.files import open_file

    chosen = path if path is not None else manifest.files[0].path
    lines: list[str] = []
    with open_file(folder, manifest, chosen, secret) as file:
        while len(lines) < count and (line := file.readline(_LINE_BYTES)):
            lines.append(line.decode("utf-8", "backslashreplace").rstrip("\r\n"))

    def text() -> None:
        for line in lines:
            say(plain(line.replace("\t", "    ")))

    context.answer({"file": chosen, "lines": lines}, text)


def _json(value: object) -> object:
    """Numbers, text and truth values as they are, everything else as its text."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

"""``confide data decrypt``: a dataset's plaintext goes to a file, a folder or standard output."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

import click

from confide.cli.dataset_keys import COLUMNS, DATASET, KEY_FILE, KEY_RESOURCE, SNAPSHOT, WHO, column_list, keys_of, place_of
from confide.cli.output import Context, answers, progress
from confide.errors import OutputExistsError, UsageError

if TYPE_CHECKING:
    from confide.crypto.secret import SecretBytes
    from confide.data.decrypting import Form
    from confide.data.manifest import Manifest
    from confide.data.places import Place

_STDOUT = Path("-")


class _What(TypedDict):
    """What is written, and how: ``confide.data.decrypting``."""

    form: Form | None
    columns: list[str] | None
    group_keys: dict[str, SecretBytes]


@click.command("decrypt")
@click.argument("folder", type=DATASET)
@click.argument("target", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--format", "form", type=click.Choice(["csv", "jsonl", "parquet"]),
              help="What a table is written as [default: by TARGET's suffix].")  # fmt: skip
@COLUMNS
@SNAPSHOT
@WHO
@KEY_RESOURCE
@KEY_FILE
@answers
def decrypt(
    context: Context,
    folder: Path | str,
    target: Path,
    form: str | None,
    columns: str | None,
    snapshot: int | None,
    who: str | None,
    key_resource: str | None,
    key_file: Path | None,
) -> None:
    """Decrypt the dataset in FOLDER to TARGET, as its owner or, for a run's output, as a recipient.

    A table goes to one file, other files into a new folder.  Every file is checked before anything is written, and TARGET appears when
    all of it is there.  With - for TARGET a table, or a single file, goes to standard output.

    With --key-resource and --key-file no broker is asked, so nobody says whether the dataset is the newest, or whose signature counts.
    """
    from confide.data.memory import spare_memory

    spare_memory()  # before anything imports Arrow
    from confide.data.folder import verify_files
    from confide.data.manifest import verify_manifest
    from confide.data.snapshots import load_manifest, snapshot_numbered

    if target == _STDOUT and context.as_json:
        raise UsageError("standard output cannot take the data and the answer", hint="leave --json out, or name a file")
    if target != _STDOUT and os.path.lexists(target):
        raise OutputExistsError(f"{target} exists", path=str(target))
    place = place_of(folder)
    found = load_manifest(place)
    wanted = column_list(columns)
    secret, groups = keys_of(context.settings, found, who, key_resource, key_file, columns=wanted)
    manifest = verify_manifest(found.envelope, found.signer)
    if snapshot is not None:
        manifest = snapshot_numbered(found, snapshot).unverified  # vouched for by the digests from the newest one on
    with progress("verifying", manifest.size) as told:
        verify_files(place, manifest, on_file=lambda file: told(file.size, file.rows))
    _write(place, manifest, secret, target, form=cast("Form | None", form), columns=wanted, group_keys=groups)
    if target != _STDOUT:
        facts = {"target": str(target), "dataset": manifest.dataset, "snapshot": manifest.snapshot}
        context.answer({**facts, "kind": manifest.kind, "rows": manifest.rows})


def _write(folder: Place, manifest: Manifest, secret: SecretBytes, target: Path, **what: Unpack[_What]) -> None:
    from confide.data.decrypting import decrypt as decrypt_to
    from confide.data.decrypting import write_stream

    if target == _STDOUT:
        write_stream(folder, manifest, secret, sys.stdout.buffer, **what, progress=progress)
    else:
        decrypt_to(folder, manifest, secret, target, **what, progress=progress)

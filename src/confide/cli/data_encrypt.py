"""``confide data encrypt``: files from here, from a pipe or from a remote storage become a dataset, or a further snapshot of one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from confide.cli.dataset_keys import PlaceType, key_of, place_of
from confide.cli.new_dataset import Made, NewDataset, check_one_key, under_one_key
from confide.cli.output import Context, answers, progress
from confide.errors import DataError, IntegrityError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    import pyarrow as pa

    from confide.crypto.secret import SecretBytes
    from confide.data.journal import Begun
    from confide.data.next_snapshot import Mode
    from confide.data.places import Place
    from confide.data.snapshots import SignedManifest
    from confide.data.sources import Source
    from confide.data.staging import Attempt
    from confide.data.tables import Format, TableInput

_SCHEMA_BYTES = 4 << 20


@click.command("encrypt")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("folder", type=PlaceType(exists=False))
@click.option("--format", "form", type=click.Choice(["csv", "jsonl", "orc", "parquet", "files"]),
              help="What SOURCEs are: one table together, or files to be kept as they are [default: by their suffixes].")
@click.option("--schema", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE",
              help="JSON with the table's columns, as `confide data inspect --json` shows them [default: from all rows].")
@under_one_key
@click.option("--mode", type=click.Choice(["error", "append", "overwrite"]), default="error", show_default=True,
              help="If FOLDER is a dataset already: refuse, add SOURCEs to it, or put them in the place of all that it holds.")
@click.option("--column-key", "column_keys", multiple=True, metavar="OWNER/NAME=A,B",
              help="Encrypt these columns of a table under this key instead: a column group, named as the key.  May be repeated.")
@click.option("--resume", is_flag=True,
              help="Go on where the same command was killed, and do nothing twice; keep what is finished if storage fails.")  # fmt: skip
@answers
def encrypt(
    context: Context,
    sources: tuple[str, ...],
    folder: Path | str,
    form: str | None,
    schema: Path | None,
    mode: str,
    column_keys: tuple[str, ...],
    *,
    resume: bool,
    **under: Any,
) -> None:
    """Encrypt SOURCEs into the new dataset FOLDER and sign its manifest.

    SOURCE is a file, a folder with all below it, a pattern in quotes, `-` for standard input, s3://BUCKET/KEY (a pattern, too, or
    a folder if it ends with /), or any other URL that fsspec reads.  FOLDER is a folder here, or s3://BUCKET/FOLDER or another such URL.
    Credentials for those are found where boto3 and fsspec look.

    Files that are all .csv, .jsonl, .orc or .parquet become one table (encrypted Parquet), in the order in which they are named;
    anything else, and folders, become encrypted containers.  SOURCEs are left as they are, and no plaintext is written anywhere.

    With --mode append or overwrite FOLDER gets a new snapshot under the key that it has, and readers see it as a whole.  If another
    writer was first, nothing of this one is there.  Older snapshots stay until `confide data clean --keep` removes them.

    With --key-resource nothing is asked of the broker: the key is in --key-file (made, mode 0600, if there is none).  Bring it to the
    key broker service (at ours with `confide kbs put`), keep it safe, and name the resource in jobs.

    Columns under a --column-key are for those jobs only that name the group and have a grant of that key, too.
    """
    from confide.data.memory import spare_memory

    spare_memory()  # before anything imports Arrow
    from confide.data.manifest import MANIFEST_NAME
    from confide.data.places import is_there

    source, place = _input(sources, form, schema), place_of(folder)
    if mode != "error" and (os.path.lexists(place) if isinstance(place, Path) else is_there(place / MANIFEST_NAME)):
        if column_keys:
            raise UsageError("the dataset has its column groups already", hint="leave --column-key out: they stay as they are")
        made = _add_snapshot(context, source, place, cast("Mode", mode), resume=resume, **under)
    else:
        made = NewDataset.of(place, resume=resume, mode=mode, column_keys=column_keys, **under).make(context, source)
    context.answer(made.facts(place))


def _input(names: Sequence[str], form: str | None, schema: Path | None) -> TableInput | Sequence[Source]:
    """What the names on the command line stand for: one table, or files."""
    from confide.data.finding import STDIN, find_sources
    from confide.data.tables import TableInput, format_of

    if STDIN in names and form is None:
        raise UsageError("standard input has no name that says what it is", hint="give --format")
    found = find_sources(names)
    if form is None and found.plain:
        forms = {format_of(source.name) for source in found.sources}
        form = forms.pop() if len(forms) == 1 else None
    if form in {None, "files"}:
        if schema is not None:
            raise UsageError("files have no columns", hint="leave --schema out, or say with --format what the table is in")
        return found.sources
    return TableInput(found.sources, cast("Format", form), None if schema is None else _columns(schema))


def _columns(file: Path) -> pa.Schema:
    from confide.canonical import parse_object
    from confide.data.schema import schema_of
    from confide.regular_file import read_regular

    try:
        data = read_regular(file, _SCHEMA_BYTES)
    except OSError as cause:
        raise UsageError(f"cannot read {file}: {cause.strerror}", path=str(file)) from cause
    columns = parse_object(data).get("columns")
    found = schema_of(columns) if isinstance(columns, list) and columns else None
    if found is None:
        hint = 'it is {"columns": [{"name": "id", "type": "int64"}, ...]}, with types as `confide data inspect --json` shows them'
        raise DataError(f"{file} does not say what the columns are, or has types with parts", hint=hint, path=str(file))
    return found


def _add_snapshot(
    context: Context,
    source: TableInput | Sequence[Source],
    folder: Place,
    mode: Mode,
    *,
    key: str | None,
    key_resource: str | None,
    key_file: Path | None,
    who: str | None,
    name: str | None,
    resume: bool,
) -> Made:
    """A further snapshot, under the dataset's own key: what is given must name that one."""
    from confide.cli.owners import client_of, credential_of
    from confide.data.commit import add_snapshot
    from confide.data.snapshots import load_manifest
    from confide.ids import KeyRef
    from confide.keys.credentials import Credential

    check_one_key(key, key_resource, key_file, who)
    if name is not None:
        raise UsageError("the dataset has its name already", hint="leave --name out")
    parent, now = load_manifest(folder), datetime.now(UTC)
    if key is None:
        secret = key_of(context.settings, parent, who, key_resource, key_file)
        signer = credential_of(context.settings, who).key
        with _attempt(context, source, parent, mode, secret, resume=resume) as attempt:
            made = add_snapshot(source, parent, mode, dataset_key=secret, signer=signer, now=now, attempt=attempt, progress=progress)
            return Made(made.unverified, before=attempt.done is not None)
    ref = KeyRef.parse(key)
    if ref.id != parent.unverified.key or ref.version:
        raise UsageError(f"the dataset is under {parent.unverified.key}", hint=f"give --key {parent.unverified.key}", got=key)
    signer = Credential.load(context.settings.credentials_dir, ref.owner).key
    with client_of(context.settings, ref.owner) as client:
        secret = client.open(parent.envelope).secret
        groups = {group.name: client.open(parent.envelope, group.name).secret for group in parent.unverified.groups}
        with _attempt(context, source, parent, mode, secret, resume=resume) as attempt:
            made = add_snapshot(
                source, parent, mode, dataset_key=secret, signer=signer, now=now, register=client.register_manifest, group_keys=groups,
                attempt=attempt, progress=progress,
            )  # fmt: skip
            return Made(made.unverified, before=attempt.done is not None)


@contextmanager
def _attempt(
    context: Context, source: object, parent: SignedManifest, mode: Mode, secret: SecretBytes, *, resume: bool
) -> Iterator[Attempt]:
    """Where to write first: a new place, or with ``resume`` that of an earlier command."""
    from confide.data.remote_staging import attempt_at, resumed_at
    from confide.data.staging import task_of
    from confide.data.work import snapshot_made_by

    dataset, journals = parent.unverified.dataset, context.settings.uploads_dir
    task = task_of(source, dataset=dataset, mode=mode)

    def opened(begun: Begun) -> SecretBytes:
        if begun.dataset != dataset:
            raise IntegrityError("a journal is of another dataset", expected=dataset, got=begun.dataset)
        return secret

    staged: AbstractContextManager[Attempt]
    if resume:
        done = snapshot_made_by(task, parent, secret)
        staged = resumed_at(parent.folder, task, journals=journals, open_key=opened, done=done)
    else:
        staged = attempt_at(parent.folder, journals=None if task is None else journals)
    with staged as attempt:
        if attempt.journal is None and attempt.done is None and task is not None:
            attempt.begin(task, dataset, secret)
        yield attempt

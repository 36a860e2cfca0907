"""``confide data``: datasets, as their owners and recipients handle them.  Keys come from the broker and stay in this process."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from confide.cli.data_head import head
from confide.cli.data_snapshots import clean, log
from confide.cli.dataset_keys import COLUMNS, KEY_FILE, KEY_RESOURCE, SNAPSHOT, WHO, column_list, keys_of
from confide.cli.import_bigdl import import_bigdl
from confide.cli.new_dataset import NewDataset, check_one_key, facts, under_one_key
from confide.cli.output import Context, answers, print_facts, print_table, progress, say, short
from confide.errors import ManifestError, OutputExistsError, UsageError

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.data.commit import Mode
    from confide.data.manifest import Manifest

_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@click.group("data")
def command() -> None:
    """Encrypt, decrypt, import, look at, verify and clean datasets."""


@command.command("encrypt")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path))
@under_one_key
@click.option(
    "--mode",
    type=click.Choice(["error", "append", "overwrite"]),
    default="error",
    show_default=True,
    help="If FOLDER is a dataset already: refuse, add SOURCE to it, or put SOURCE in the place of all that it holds.",
)
@click.option(
    "--column-key",
    "column_keys",
    multiple=True,
    metavar="OWNER/NAME=A,B",
    help="Encrypt these columns of a table under this key instead: a column group, named as the key.  May be repeated.",
)
@answers
def encrypt(context: Context, source: Path, folder: Path, mode: str, column_keys: tuple[str, ...], **under: Any) -> None:
    """Encrypt SOURCE into the new dataset FOLDER and sign its manifest.

    A .csv or .parquet file becomes a table (encrypted Parquet), any other file or a whole folder of files becomes encrypted containers.
    SOURCE is left as it is.

    With --mode append or overwrite FOLDER gets a new snapshot under the key that it has, and readers see it as a whole.  If another
    writer was first, nothing of this one is there.  Older snapshots stay until `confide data clean --keep` removes them.

    With --key-resource nothing is asked of the broker: the key is in --key-file (made, mode 0600, if there is none).  Bring it to the
    key broker service (at ours with `confide kbs put`), keep it safe, and name the resource in jobs.

    Columns under a --column-key are for those jobs only that name the group and have a grant of that key, too.
    """
    if mode != "error" and os.path.lexists(folder):
        if column_keys:
            raise UsageError("the dataset has its column groups already", hint="leave --column-key out: they stay as they are")
        manifest = _add_snapshot(context, source, folder, cast("Mode", mode), **under)
    else:
        manifest = NewDataset.of(folder, column_keys=column_keys, **under).make(context, source)
    context.answer(facts(folder, manifest))


def _add_snapshot(
    context: Context,
    source: Path,
    folder: Path,
    mode: Mode,
    *,
    key: str | None,
    key_resource: str | None,
    key_file: Path | None,
    who: str | None,
    name: str | None,
) -> Manifest:
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
        secret, _ = keys_of(context.settings, parent, who, key_resource, key_file, columns=None)
        signer = credential_of(context.settings, who).key
        return add_snapshot(source, parent, mode, dataset_key=secret, signer=signer, now=now).unverified
    ref = KeyRef.parse(key)
    if ref.id != parent.unverified.key or ref.version:
        raise UsageError(f"the dataset is under {parent.unverified.key}", hint=f"give --key {parent.unverified.key}", got=key)
    signer = Credential.load(context.settings.credentials_dir, ref.owner).key
    with client_of(context.settings, ref.owner) as client:
        secret = client.open(parent.envelope).secret
        groups = {group.name: client.open(parent.envelope, group.name).secret for group in parent.unverified.groups}
        return add_snapshot(
            source, parent, mode, dataset_key=secret, signer=signer, now=now, register=client.register_manifest, group_keys=groups
        ).unverified


@command.command("decrypt")
@click.argument("folder", type=_FOLDER)
@click.argument("target", type=click.Path(path_type=Path))
@COLUMNS
@SNAPSHOT
@WHO
@KEY_RESOURCE
@KEY_FILE
@answers
def decrypt(
    context: Context,
    folder: Path,
    target: Path,
    columns: str | None,
    snapshot: int | None,
    who: str | None,
    key_resource: str | None,
    key_file: Path | None,
) -> None:
    """Decrypt the dataset in FOLDER to TARGET, as its owner or, for a run's output, as a recipient.

    A table goes to a .csv or .parquet file, other files into a new folder.  Every file is checked before TARGET appears.

    With --key-resource and --key-file no broker is asked, so nobody says whether the dataset is the newest, or whose signature counts.
    """
    from confide.data.files import decrypt as decrypt_files
    from confide.data.folder import verify_files
    from confide.data.manifest import verify_manifest
    from confide.data.snapshots import load_manifest, snapshot_numbered

    if os.path.lexists(target):
        raise OutputExistsError(f"{target} exists", path=str(target))
    found = load_manifest(folder)
    wanted = column_list(columns)
    secret, groups = keys_of(context.settings, found, who, key_resource, key_file, columns=wanted)
    manifest = verify_manifest(found.envelope, found.signer)
    if snapshot is not None:
        manifest = snapshot_numbered(found, snapshot).unverified  # vouched for by the digests from the newest one on
    verify_files(folder, manifest)
    decrypt_files(folder, manifest, secret, target, columns=wanted, group_keys=groups)
    facts = {"target": str(target), "dataset": manifest.dataset, "snapshot": manifest.snapshot}
    context.answer({**facts, "kind": manifest.kind, "rows": manifest.rows})


@command.command("inspect")
@click.argument("folder", type=_FOLDER)
@SNAPSHOT
@answers
def inspect(context: Context, folder: Path, snapshot: int | None) -> None:
    """Show what a dataset says about itself.  Needs no key; nothing is verified (`confide data verify` does that)."""
    from confide.data.snapshots import load_manifest, snapshot_numbered

    newest = load_manifest(folder)
    manifest = newest.unverified if snapshot is None else snapshot_numbered(newest, snapshot).unverified
    value = {**facts(folder, manifest), "verified": False}
    columns = list((manifest.schema or {}).get("columns", []))

    def text() -> None:
        print_facts({name: item for name, item in value.items() if item is not None})
        if columns:
            say()
            rows = [(c["name"], c["type"], "yes" if c["nullable"] else "no", _column_key(manifest, c["name"])) for c in columns]
            heads = ("column", "type", "nullable", "key")
            print_table(heads if manifest.groups else heads[:3], rows if manifest.groups else [row[:3] for row in rows])

    files = [{"path": f.path, "size": f.size, "sha256": f.sha256, "rows": f.rows} for f in manifest.files]
    groups = [{"name": group.name, "key": group.wrapped.key, "columns": list(group.columns)} for group in manifest.groups]
    context.answer({**value, "columns": columns, "groups": groups, "file_list": files}, text)


def _column_key(manifest: Manifest, column: str) -> str:
    """The key that a column of a table is under."""
    from confide.data.column_groups import group_of

    group = group_of(manifest.groups, column)
    return manifest.key if group is None else group.wrapped.key


@command.command("verify")
@click.argument("folder", type=_FOLDER)
@click.option("--signer", metavar="HEX", help="SHA-256 of the public key that must have signed [default: the key that it names].")
@answers
def verify(context: Context, folder: Path, signer: str | None) -> None:
    """Check a dataset's signature, and the digest of every file of every snapshot that is kept.  Needs no key.

    Without --signer the dataset is only shown to be whole: anybody can sign a dataset of their own.  Jobs and the broker know who must
    sign.
    """
    from confide.data.folder import listed_files, refuse_foreign, verify_files
    from confide.data.manifest import verify_manifest
    from confide.data.snapshots import history, load_manifest, manifest_path

    found = load_manifest(folder)
    if signer is not None and signer != found.signer.digest:
        raise ManifestError("the dataset is signed by another key", expected=signer, got=found.signer.digest)
    manifest = verify_manifest(found.envelope, found.signer)
    before = [one.unverified for one in history(found)]
    files = listed_files(manifest, *before)
    refuse_foreign(folder, {*files, *(manifest_path(one) for one in (manifest, *before))})
    with progress("verifying", sum(file.size for file in files.values())) as told:
        verify_files(folder, manifest, *before, on_file=lambda file: told(file.size, file.rows))
    value: Json = {"accepted": True, **facts(folder, manifest), "signer_given": signer is not None}
    value |= {"snapshots": 1 + len(before), "files_checked": len(files)}

    def text() -> None:
        doubt = "" if signer is not None else " (give --signer to say who must have)"
        say(f"ok: signed by {short(manifest.signer.digest)}{doubt}")
        say(f"ok: {len(files)} files are the listed ones, whole and encrypted")
        if before:
            say(f"ok: snapshots {before[-1].snapshot} to {manifest.snapshot} follow one another")

    context.answer(value, text)


command.add_command(import_bigdl)
command.add_command(head)
command.add_command(log)
command.add_command(clean)

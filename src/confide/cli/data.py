"""``confide data``: datasets, as their owners and recipients handle them.  Keys come from the broker and stay in this process."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from confide.cli.data_head import head
from confide.cli.data_snapshots import clean, log
from confide.cli.dataset_keys import KEY_FILE, KEY_RESOURCE, SNAPSHOT, WHO, key_of
from confide.cli.output import Context, answers, print_facts, print_table, progress, say, short
from confide.errors import ManifestError, OutputExistsError, UsageError

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.data.commit import Mode
    from confide.data.manifest import Manifest

_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@click.group("data")
def command() -> None:
    """Encrypt, decrypt, look at, verify and clean datasets."""


@command.command("encrypt")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--key", metavar="OWNER/NAME", help="The broker's key to encrypt under; its owner signs the dataset.")
@click.option("--key-resource", metavar="URI", help="Instead: kbs://HOST:PORT/repository/type/tag, whose value is in --key-file.")
@KEY_FILE
@click.option("--as", "who", metavar="NAME", help="With --key-resource: whose credential signs [default: the only one there is].")
@click.option("--name", help="Name of the dataset [default: the folder's name].")
@click.option("--mode", type=click.Choice(["error", "append", "overwrite"]), default="error", show_default=True,
              help="If FOLDER is a dataset already: refuse, add SOURCE to it, or put SOURCE in the place of all that it holds.")
@answers
def encrypt(
    context: Context,
    source: Path,
    folder: Path,
    key: str | None,
    key_resource: str | None,
    key_file: Path | None,
    who: str | None,
    name: str | None,
    mode: str,
) -> None:
    """Encrypt SOURCE into the new dataset FOLDER and sign its manifest.

    A .csv or .parquet file becomes a table (encrypted Parquet), any other file or a whole folder of files becomes encrypted containers.
    SOURCE is left as it is.

    With --mode append or overwrite FOLDER gets a new snapshot under the key that it has, and readers see it as a whole.  If another
    writer was first, nothing of this one is there.  Older snapshots stay until `confide data clean --keep` removes them.

    With --key-resource nothing is asked of the broker: the key is in --key-file (made, mode 0600, if there is none).  Bring it to the
    key broker service (at ours with `confide kbs put`), keep it safe, and name the resource in jobs.
    """
    from confide.ids import check_name

    if (key is None) == (key_resource is None) or (key_resource is None) != (key_file is None) or (key is not None and who is not None):
        raise UsageError("a dataset is under one key", hint="give --key OWNER/NAME, or --key-resource URI with --key-file FILE")
    if mode != "error" and os.path.lexists(folder):
        if name is not None:
            raise UsageError("the dataset has its name already", hint="leave --name out")
        added = _add_snapshot(context, source, folder, cast("Mode", mode), key, key_resource, key_file, who)
        context.answer(_facts(folder, added))
        return
    title = check_name(name if name is not None else folder.name, "dataset name")
    if os.path.lexists(folder):
        hint = "choose another folder, or add to it with --mode append or overwrite"
        raise OutputExistsError(f"{folder} exists", hint=hint, path=str(folder))
    if key_resource is not None and key_file is not None:
        manifest = _encrypt_for_kbs(context, source, folder, key_resource, key_file, who, title)
    else:
        manifest = _encrypt_for_broker(context, source, folder, str(key), title)
    context.answer(_facts(folder, manifest))


def _encrypt_for_broker(context: Context, source: Path, folder: Path, key: str, title: str) -> Manifest:
    from confide.cli.owners import client_of
    from confide.data.commit import create_dataset
    from confide.ids import KeyRef
    from confide.keys.credentials import Credential

    ref = KeyRef.parse(key)
    if ref.version:
        raise UsageError("data is encrypted under a key's newest version", hint=f"write {ref.id}")
    credential = Credential.load(context.settings.credentials_dir, ref.owner)
    with client_of(context.settings, ref.owner) as client:
        minted = client.mint_dataset(ref.name)
        return create_dataset(
            source,
            folder,
            name=title,
            owner=ref.owner,
            dataset=minted.dataset,
            dataset_key=minted.secret,
            wrapped=minted.wrapped,
            signer=credential.key,
            now=datetime.now(UTC),
            register=client.register_manifest,
        ).unverified


def _encrypt_for_kbs(context: Context, source: Path, folder: Path, uri: str, key_file: Path, who: str | None, title: str) -> Manifest:
    from confide.cli.owners import credential_of
    from confide.crypto.secret import SecretBytes
    from confide.crypto.sign import read_private_file, write_private_file
    from confide.data.commit import create_dataset
    from confide.ids import new_dataset_id
    from confide.keys.kbs.dataset_key import resource_of_key, wrap_dataset_key

    _, resource = resource_of_key(uri)
    credential = credential_of(context.settings, who)
    if not key_file.exists():
        write_private_file(key_file, SecretBytes.random().reveal())
    dataset, dataset_key = new_dataset_id(), SecretBytes.random()
    kept = SecretBytes(read_private_file(key_file))
    wrapped = wrap_dataset_key(kept, dataset_key, owner=credential.name, name=resource, dataset=dataset)
    return create_dataset(
        source,
        folder,
        name=title,
        owner=credential.name,
        dataset=dataset,
        dataset_key=dataset_key,
        wrapped=wrapped,
        signer=credential.key,
        now=datetime.now(UTC),
    ).unverified


def _add_snapshot(
    context: Context, source: Path, folder: Path, mode: Mode, key: str | None, uri: str | None, key_file: Path | None, who: str | None
) -> Manifest:
    """A further snapshot, under the dataset's own key: what is given must name that one."""
    from confide.cli.owners import client_of, credential_of
    from confide.data.commit import add_snapshot
    from confide.data.snapshots import load_manifest
    from confide.ids import KeyRef
    from confide.keys.credentials import Credential

    parent, now = load_manifest(folder), datetime.now(UTC)
    if uri is not None and key_file is not None:
        secret = key_of(context.settings, parent, who, uri, key_file)
        signer = credential_of(context.settings, who).key
        return add_snapshot(source, parent, mode, dataset_key=secret, signer=signer, now=now).unverified
    ref = KeyRef.parse(str(key))
    if ref.id != parent.unverified.key or ref.version:
        raise UsageError(f"the dataset is under {parent.unverified.key}", hint=f"give --key {parent.unverified.key}", got=str(key))
    signer = Credential.load(context.settings.credentials_dir, ref.owner).key
    with client_of(context.settings, ref.owner) as client:
        secret = client.open(parent.envelope).secret
        return add_snapshot(
            source, parent, mode, dataset_key=secret, signer=signer, now=now, register=client.register_manifest
        ).unverified


@command.command("decrypt")
@click.argument("folder", type=_FOLDER)
@click.argument("target", type=click.Path(path_type=Path))
@SNAPSHOT
@WHO
@KEY_RESOURCE
@KEY_FILE
@answers
def decrypt(
    context: Context,
    folder: Path,
    target: Path,
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
    from confide.data.snapshots import load_manifest, snapshot_before

    if os.path.lexists(target):
        raise OutputExistsError(f"{target} exists", path=str(target))
    found = load_manifest(folder)
    secret = key_of(context.settings, found, who, key_resource, key_file)
    manifest = verify_manifest(found.envelope, found.signer)
    if snapshot is not None:
        manifest = snapshot_before(found, snapshot).unverified  # vouched for by the digests from the newest one on
    verify_files(folder, manifest)
    decrypt_files(folder, manifest, secret, target)
    facts = {"target": str(target), "dataset": manifest.dataset, "snapshot": manifest.snapshot}
    context.answer({**facts, "kind": manifest.kind, "rows": manifest.rows})


@command.command("inspect")
@click.argument("folder", type=_FOLDER)
@SNAPSHOT
@answers
def inspect(context: Context, folder: Path, snapshot: int | None) -> None:
    """Show what a dataset says about itself.  Needs no key; nothing is verified (`confide data verify` does that)."""
    from confide.data.snapshots import load_manifest, snapshot_before

    newest = load_manifest(folder)
    manifest = newest.unverified if snapshot is None else snapshot_before(newest, snapshot).unverified
    value = {**_facts(folder, manifest), "verified": False}
    columns = list((manifest.schema or {}).get("columns", []))

    def text() -> None:
        print_facts({name: item for name, item in value.items() if item is not None})
        if columns:
            say()
            print_table(("column", "type", "nullable"), [(c["name"], c["type"], "yes" if c["nullable"] else "no") for c in columns])

    files = [{"path": f.path, "size": f.size, "sha256": f.sha256, "rows": f.rows} for f in manifest.files]
    context.answer({**value, "columns": columns, "file_list": files}, text)


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
    value: Json = {"accepted": True, **_facts(folder, manifest), "signer_given": signer is not None}
    value |= {"snapshots": 1 + len(before), "files_checked": len(files)}

    def text() -> None:
        doubt = "" if signer is not None else " (give --signer to say who must have)"
        say(f"ok: signed by {short(manifest.signer.digest)}{doubt}")
        say(f"ok: {len(files)} files are the listed ones, whole and encrypted")
        if before:
            say(f"ok: snapshots {before[-1].snapshot} to {manifest.snapshot} follow one another")

    context.answer(value, text)


command.add_command(head)
command.add_command(log)
command.add_command(clean)


def _facts(folder: Path, manifest: Manifest) -> Json:
    return {
        "folder": str(folder),
        "name": manifest.name,
        "dataset": manifest.dataset,
        "kind": manifest.kind,
        "snapshot": manifest.snapshot,
        "created": manifest.created,
        "files": len(manifest.files),
        "rows": manifest.rows,
        "bytes": manifest.size,
        "key": f"{manifest.key}@{manifest.version}",
        "signer": manifest.signer.digest,
        "made_by": manifest.owner if manifest.owner is not None else f"run {manifest.run}",
        "manifest": manifest.digest,
    }

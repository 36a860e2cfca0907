"""``confide data``: datasets, as their owners and recipients handle them.  Keys come from the broker and stay in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.data_decrypt import decrypt
from confide.cli.data_encrypt import encrypt
from confide.cli.data_head import head
from confide.cli.data_inspect import inspect
from confide.cli.data_rewrap import rewrap
from confide.cli.data_snapshots import clean, log
from confide.cli.dataset_keys import DATASET, place_of
from confide.cli.import_bigdl import import_bigdl
from confide.cli.new_dataset import facts
from confide.cli.output import Context, answers, progress, say, short
from confide.errors import ManifestError

if TYPE_CHECKING:
    from confide.canonical import Json


@click.group("data")
def command() -> None:
    """Encrypt, decrypt, import, look at, verify, re-wrap and clean datasets."""


@command.command("verify")
@click.argument("folder", type=DATASET)
@click.option("--signer", metavar="HEX", help="SHA-256 of the public key that must have signed [default: the key that it names].")
@answers
def verify(context: Context, folder: Path | str, signer: str | None) -> None:
    """Check a dataset's signatures, and the digest of every file of every snapshot that is kept.  Needs no key.

    Without --signer the dataset is only shown to be whole: anybody can sign a dataset of their own.  Jobs and the broker know who must
    sign.
    """
    from confide.data.folder import listed_files, refuse_foreign, verify_files
    from confide.data.snapshots import load_manifest, manifest_path, verify_manifests

    place = place_of(folder)
    found = load_manifest(place)
    if signer is not None and signer != found.signer.digest:
        raise ManifestError("the dataset is signed by another key", expected=signer, got=found.signer.digest)
    manifest, *before = (one.unverified for one in verify_manifests(found))
    files = listed_files(manifest, *before)
    refuse_foreign(place, {*files, *(manifest_path(one) for one in (manifest, *before))})
    with progress("verifying", sum(file.size for file in files.values())) as told:
        verify_files(place, manifest, *before, on_file=lambda file: told(file.size, file.rows))
    value: Json = {"accepted": True, **facts(place, manifest), "signer_given": signer is not None}
    value |= {"snapshots": 1 + len(before), "files_checked": len(files)}

    def text() -> None:
        doubt = "" if signer is not None else " (give --signer to say who must have)"
        say(f"ok: signed by {short(manifest.signer.digest)}{doubt}")
        say(f"ok: {len(files)} files are the listed ones, whole and encrypted")
        if before:
            say(f"ok: snapshots {before[-1].snapshot} to {manifest.snapshot} follow one another")

    context.answer(value, text)


command.add_command(encrypt)
command.add_command(decrypt)
command.add_command(import_bigdl)
command.add_command(inspect)
command.add_command(head)
command.add_command(log)
command.add_command(clean)
command.add_command(rewrap)

"""``confide keys escrow``: a key in the hands of trustees, of whom so many as its owner says bring it back together; and ``keys adopt``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.key_transfer import read_object, write_new
from confide.cli.key_versions import own_key
from confide.cli.output import Context, answers, print_table, say
from confide.errors import BrokerError, EscrowError, UsageError

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.ids import SpkiDigest
    from confide.keys.escrow import Escrow, Recovery

_FILE = click.Path(path_type=Path, dir_okay=False)
_THERE = click.Path(path_type=Path, dir_okay=False, exists=True)
_WHO = click.option("--as", "who", metavar="NAME", help="Whose credential to use [default: the only one there is].")
_OUT = click.option("--out", "-o", type=_FILE, required=True, help="Where to write it.")


@click.group("escrow")
def escrow() -> None:
    """Put a key into trustees' hands, and bring it back from there when its broker or its owner's credential is lost."""


@escrow.command("trustee-key")
@_WHO
@answers
def trustee_key(context: Context, who: str | None) -> None:
    """Be ready to be a trustee: make the key that shares for you are sealed to, and register it at your broker.

    Tell owners the digest that this prints: they name you by it.
    """
    from confide.cli.owners import client_of, credential_of
    from confide.keys import escrow_client

    credential = credential_of(context.settings, who)
    key = escrow_client.trustee_key(context.settings.credentials_dir, credential.name)
    with client_of(context.settings, credential.name) as client:
        client.register_trustee_key(key)
    context.answer({"name": credential.name, "credential": credential.spki})


@escrow.command("make")
@click.argument("key")
@click.option("--trustee", "trustees", multiple=True, required=True, metavar="NAME=DIGEST",
              help="A trustee and the digest of its credential, from itself; for each one.")  # fmt: skip
@click.option("--threshold", type=click.IntRange(min=2), required=True, help="How many of them are enough, and needed.")
@_OUT
@answers
def make(context: Context, key: str, trustees: tuple[str, ...], threshold: int, out: Path) -> None:
    """Put KEY with all its versions, and the datasets under it, into a file that any THRESHOLD of the trustees can open together.

    The file is no secret: keep copies of it where they outlive the broker. Versions that are made later are not in it.

    If KEY has approvers, it waits for their approvals: this command says what they approve, and is given again once they have.
    """
    from confide.cli.owners import client_of

    ref, pins = own_key(key), _pins(trustees)
    with client_of(context.settings, ref.owner) as client:
        lines = write_new(out, client.escrow_key(ref.name, pins, threshold))
    value = {"key": ref.id, "file": str(out), "threshold": threshold, "trustees": len(trustees), "datasets": lines - 1}
    context.answer(value, lambda: say(f"any {threshold} of {len(trustees)} trustees can bring {ref.id} back from {out}"))


@escrow.command("ls")
@_WHO
@answers
def ls(context: Context, who: str | None) -> None:
    """List the escrows of your keys that were made at this broker."""
    from confide.cli.owners import client_of

    with client_of(context.settings, who) as client:
        found = client.escrows()
    rows = [
        (f"{e.key}@{e.versions}", f"{e.threshold} of {', '.join(e.trustees)}", f"{e.made:%Y-%m-%d %H:%M}", e.digest[:12]) for e in found
    ]
    value = {"escrows": [one.to_json() for one in found]}
    context.answer(value, lambda: print_table(("up to", "needed", "made", "escrow"), rows, empty="no key is in escrow"))


@escrow.command("request")
@click.argument("file", type=_THERE)
@_WHO
@_OUT
@answers
def request(context: Context, file: Path, who: str | None, out: Path) -> None:
    """Ask your broker to take over the key of the escrow in FILE, and write what its trustees need for that.

    You are enrolled there under the name of the key's owner. The request ends after seven days.
    """
    from confide.cli.owners import client_of, credential_of

    credential = credential_of(context.settings, who)
    with client_of(context.settings, credential.name) as client, file.open(encoding="utf-8") as lines:
        asked = client.ask_recovery(lines)
        broker = client.broker_key().digest
    write_new(out, [json.dumps(asked, indent=2, sort_keys=True)])
    context.answer({"file": str(out), "broker": broker, "credential": credential.spki})


@escrow.command("open")
@click.argument("file", type=_THERE)
@click.option("--request", "asked", type=_THERE, required=True, help="What `confide keys escrow request` wrote.")
@click.option("--to", "target", metavar="DIGEST", required=True, help="The broker that is to have the key: its digest, from its operator.")
@click.option("--for", "requester", metavar="DIGEST", required=True,
              help="Who is to own the key there: the digest of the credential, from its holder.")  # fmt: skip
@click.option("--unannounced", is_flag=True, help="Although the broker that made the escrow cannot be told, so that its owner sees it.")
@_WHO
@_OUT
@answers
def open_(context: Context, file: Path, asked: Path, target: str, requester: str, *, unannounced: bool, who: str | None, out: Path) -> None:
    """As a trustee, contribute your share of the escrow in FILE to the recovery that is asked for.

    The share is sealed to the broker that is to have the key. Ask the one who holds that credential, by another way than this file came,
    whether this is right: nobody asks you again.
    """
    from confide.cli.owners import credential_of
    from confide.ids import SpkiDigest
    from confide.keys import escrow_client

    credential = credential_of(context.settings, who)
    head, recovery = _head(file), read_object(asked)
    ends = {"target": SpkiDigest(target), "requester": SpkiDigest(requester)}
    wanted = escrow_client.asked_of(head, recovery, **ends)
    wanted[0].index_of(credential.spki)
    key = escrow_client.trustee_key(context.settings.credentials_dir, credential.name)
    if not unannounced:
        _announce(context, credential.name, *wanted)
    made = escrow_client.contribute(head, recovery, credential, key, **ends)
    write_new(out, [json.dumps(made, indent=2, sort_keys=True)])
    value = {"key": wanted[0].request.key, "file": str(out), "announced": not unannounced}
    context.answer(value, lambda: say(f"your share of {wanted[0].request.key} is in {out}, for that broker alone"))


@escrow.command("recover")
@click.argument("file", type=_THERE)
@click.option("--contribution", "contributions", type=_THERE, multiple=True, required=True, help="A trustee's, for each one.")
@_WHO
@answers
def recover(context: Context, file: Path, contributions: tuple[Path, ...], who: str | None) -> None:
    """Take over the key of the escrow in FILE, and the datasets under it, by enough trustees' contributions to your request.

    Datasets that were made after the escrow are taken over with `confide keys adopt`.
    """
    from confide.cli.owners import client_of

    given = [read_object(path) for path in contributions]
    with client_of(context.settings, who) as client, file.open(encoding="utf-8") as lines:
        ref, new = client.recover(lines, given)
    value = {"key": ref.id, "version": ref.version, "datasets": new}
    context.answer(value, lambda: say(f"{ref} and {new:,} datasets are here now"))


@click.command("adopt")
@click.argument("folders", type=click.Path(path_type=Path, file_okay=False, exists=True), nargs=-1, required=True)
@_WHO
@answers
def adopt(context: Context, folders: tuple[Path, ...], who: str | None) -> None:
    """Let the broker know the datasets in FOLDERS, whose keys are wrapped under a key that it has.

    For datasets that no export or escrow has in it. The broker takes each one's snapshot for the newest: older ones are refused then.
    """
    from confide.cli.owners import client_of
    from confide.data.snapshots import load_manifest

    new = 0
    with client_of(context.settings, who) as client:
        for folder in folders:
            new += client.adopt_dataset(load_manifest(folder).envelope)
    context.answer({"datasets": len(folders), "new": new}, lambda: say(f"{new:,} of {len(folders):,} datasets were new to the broker"))


def _announce(context: Context, name: str, found: Escrow, recovery: Recovery) -> None:
    """Tell the key's owner, unless the trustee has said that this cannot be."""
    from confide.cli.owners import client_of

    try:
        with client_of(context.settings, name) as client:
            client.announce(found, recovery)
    except (BrokerError, EscrowError) as cause:
        hint = "if its broker is gone for good, add --unannounced"
        raise type(cause)(f"the key's owner cannot be told: {cause.message}", hint=hint, **cause.facts) from cause


def _pins(texts: tuple[str, ...]) -> dict[str, SpkiDigest]:
    found = dict(map(_pin, texts))
    if len(found) != len(texts):
        raise UsageError("a trustee is named twice")
    return found


def _pin(text: str) -> tuple[str, SpkiDigest]:
    from confide.ids import SpkiDigest

    name, separator, digest = text.partition("=")
    if not (separator and name and digest):
        raise UsageError(f"not a trustee: {text[:80]!r}", hint="write NAME=DIGEST; `confide keys escrow trustee-key` prints both")
    return name, SpkiDigest(digest)


def _head(path: Path) -> Json:
    from confide.keys.transfer_client import lines_of

    with path.open(encoding="utf-8") as lines:
        return next(lines_of(lines), {})

"""Taking a key to another broker: ``confide keys wrapping-key``, ``export`` and ``import``.  No plaintext of a key leaves a broker."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import click

from confide.canonical import Json, parse_object
from confide.cli.key_versions import own_key
from confide.cli.output import Context, answers, say
from confide.errors import ParseError, UsageError
from confide.regular_file import read_regular

_FILE = click.Path(path_type=Path, dir_okay=False)
_MAX_FILE = 1024 * 1024


@click.command("wrapping-key")
@click.option("--as", "who", metavar="NAME", help="Whose credential to use [default: the only one there is].")
@click.option("--out", type=_FILE, required=True, help="Where to write it.")
@answers
def wrapping_key(context: Context, who: str | None, out: Path) -> None:
    """Write the broker's public wrapping key, to which another broker can export a key."""
    from confide.cli.owners import client_of

    with client_of(context.settings, who) as client:
        write_new(out, [json.dumps(client.wrapping_key(), indent=2, sort_keys=True)])
        spki = client.broker_key().digest
    context.answer({"file": str(out), "broker": spki})


@click.command("export")
@click.argument("key")
@click.option("--wrapping-key", "wrapping", type=click.Path(path_type=Path, dir_okay=False, exists=True), required=True,
              help="The target broker's, as `confide keys wrapping-key` wrote it there.")  # fmt: skip
@click.option("--to", "target", metavar="SPKI", required=True, help="The target broker's key digest, from its operator.")
@click.option("--out", type=_FILE, required=True, help="Where to write the export.")
@answers
def export(context: Context, key: str, wrapping: Path, target: str, out: Path) -> None:
    """Export KEY with all its versions to another broker, wrapped so that only that one opens it; with the datasets under it.

    The export is signed with your credential, which the other broker must know.  The key stays here too.

    If KEY has approvers, it waits for their approvals: this command says what they approve, and is given again once they have.
    """
    from confide.cli.owners import client_of
    from confide.ids import SpkiDigest

    ref = own_key(key)
    with client_of(context.settings, ref.owner) as client:
        lines = write_new(out, client.export_key(ref.name, read_object(wrapping), SpkiDigest(target)))
    value = {"key": ref.id, "file": str(out), "datasets": lines - 1}
    context.answer(value, lambda: say(f"{ref.id} and {lines - 1:,} datasets are exported to {out}"))


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--as", "who", metavar="NAME", help="Whose credential to use [default: the only one there is].")
@answers
def import_(context: Context, file: Path, who: str | None) -> None:
    """Take over the key of an export that you made at another broker, and the datasets under it.  May be called again.

    Who had to approve there is said, and is not asked here unless you name people of this broker: `confide keys approvers`.
    """
    from confide.cli.owners import client_of
    from confide.keys.transfer_client import rule_before

    with client_of(context.settings, who) as client, file.open(encoding="utf-8") as lines:
        rule = rule_before(lines.readline())
        lines.seek(0)
        ref, new = client.import_key(lines)
    value: Json = {"key": ref.id, "version": ref.version, "datasets": new}
    if rule is not None:
        threshold, names = rule
        value["rule_before"] = {"threshold": threshold, "approvers": list(names)}
        command = f"confide keys approvers {ref.id} {' '.join(names)} --threshold {threshold}"
        say(f"at the other broker {threshold} of {', '.join(names)} had to approve; that is not taken along: `{command}`", err=True)
    context.answer(value, lambda: say(f"{ref} and {new:,} datasets are here now"))


def read_object(path: Path) -> Json:
    """The JSON object that a small file holds.

    Raises:
        UsageError: it cannot be read, or is none.
    """
    try:
        return parse_object(read_regular(path, _MAX_FILE))
    except OSError as cause:
        raise UsageError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause
    except ParseError as cause:
        raise UsageError(f"{path} is not JSON", path=str(path)) from cause


def write_new(path: Path, lines: Iterable[str]) -> int:
    """Write a new file that only this user reads; how many lines.  A part of a file is not left behind."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as cause:
        raise UsageError(f"cannot write {path}: {cause.strerror}", path=str(path)) from cause
    count = 0
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            for line in lines:
                file.write(line + "\n")
                count += 1
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return count

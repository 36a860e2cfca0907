"""``confide audit``: the broker's audit log, as an owner may see it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.output import Context, answers, print_table, say, short
from confide.errors import UsageError
from confide.regular_file import read_regular

if TYPE_CHECKING:
    from confide.crypto.sign import PublicKey
    from confide.keys.audit import AuditHead, AuditLog

_AS = click.option("--as", "who", metavar="NAME", help="Whose credential to use [default: the only one there is].")
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group("audit")
def command() -> None:
    """Read and check the broker's audit log."""


def _fetch(context: Context, who: str | None) -> tuple[AuditLog, PublicKey]:
    from confide.cli.owners import client_of

    with client_of(context.settings, who) as client:
        return client.audit(), client.broker_key()


@command.command("show")
@_AS
@click.option("--last", type=click.IntRange(min=1), help="Only so many of the newest events.")
@answers
def show(context: Context, who: str | None, last: int | None) -> None:
    """Show what the broker decided about an owner's keys.  Others' events show as a digest only.  The log is verified first."""
    from confide.keys.audit_table import row_of

    log, key = _fetch(context, who)
    log.verify(key)
    entries = log.entries if last is None else log.entries[-last:]

    def text() -> None:
        rows = [(e.seq, *row_of(e.event)) if e.event is not None else (e.seq, "", "(another's)", short(e.leaf)) for e in entries]
        print_table(("seq", "time", "action", "what"), rows, empty="the log is empty")

    context.answer({"entries": [entry.to_json() for entry in entries]}, text)


_MAX_EXPORT_BYTES = 1024 * 1024 * 1024
"""Cap on an exported log: at about 1 KiB an entry, a million of them."""


def _read(path: Path) -> str:
    try:
        return read_regular(path, _MAX_EXPORT_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise UsageError(f"cannot read {path}: {getattr(cause, 'strerror', 'it is not text')}", path=str(path)) from cause


@command.command("verify")
@_AS
@click.option("--file", "exported", type=_FILE, help="Check an exported log instead.")
@click.option("--proof", type=_FILE, help="Check the proof of one entry instead.")
@click.option("--since", "receipt", metavar="RUN", help="Also check that the log continues the one that this run's receipt names.")
@click.option("--key", "key_file", type=_FILE, help="The broker's public key (PEM): checks a --file or --proof without asking the broker.")
@answers
def verify(
    context: Context, who: str | None, exported: Path | None, proof: Path | None, receipt: str | None, key_file: Path | None
) -> None:
    """Check the log's Merkle tree and its signed head: nothing was changed, cut or put in."""
    if exported is not None and proof is not None:
        raise UsageError("one thing is checked at a time", hint="give either --file or --proof")
    if proof is not None:
        _verify_proof(context, who, proof, key_file)
        return
    log, key = _log_and_key(context, who, exported, key_file)
    seen = _head_of(context, receipt, key) if receipt else None
    head = log.verify(key, seen=seen)
    value = {"accepted": True, "size": head.size, "root": head.root, "epoch": head.epoch, "signed": head.time, "key": key.digest}
    value["continues"] = seen.size if seen else None

    def text() -> None:
        say(f"ok: {head.size} entries, whole and unchanged, head signed by {short(key.digest)} at {head.time[:19]}")
        if seen is not None:
            say(f"ok: continues the log of {seen.size} entries that the receipt names")

    context.answer(value, text)


def _log_and_key(context: Context, who: str | None, exported: Path | None, key_file: Path | None) -> tuple[AuditLog, PublicKey]:
    from confide.keys.audit import AuditLog

    if key_file is not None and exported is None:
        raise UsageError("--key is for a file", hint="give the exported log with --file, or a proof with --proof")
    found = AuditLog.load(_read(exported).splitlines()) if exported is not None else None
    if found is not None and key_file is not None:
        return found, _public_key(key_file)
    log, key = _fetch(context, who)
    return found or log, key


def _verify_proof(context: Context, who: str | None, file: Path, key_file: Path | None) -> None:
    from confide.canonical import parse_object
    from confide.cli.owners import client_of
    from confide.keys.audit import AuditProof
    from confide.keys.audit_table import row_of

    proof = AuditProof.from_json(parse_object(_read(file)))
    if key_file is not None:
        key = _public_key(key_file)
    else:
        with client_of(context.settings, who) as client:
            key = client.broker_key()
    head = proof.verify(key)
    entry = proof.entry

    def text() -> None:
        say(f"ok: entry {entry.seq} is in the log of {head.size} entries that {short(key.digest)} signed at {head.time[:19]}")
        if entry.event is not None:
            print_table(("seq", "time", "action", "what"), [(entry.seq, *row_of(entry.event))])

    context.answer({"accepted": True, "entry": entry.to_json(), "size": head.size, "root": head.root, "key": key.digest}, text)


def _public_key(file: Path) -> PublicKey:
    from confide.crypto.sign import PublicKey

    return PublicKey.from_pem(_read(file).encode())


def _head_of(context: Context, run: str, key: PublicKey) -> AuditHead:
    from confide.cli.verify import source_of
    from confide.jobs.receipt import verify as verify_receipt
    from confide.keys.audit import AuditHead

    statement = verify_receipt(source_of(context, run), settings=context.settings).require()
    return AuditHead.verify(statement.audit_head, key)


@command.command("prove")
@click.argument("seq", type=click.IntRange(min=1))
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@_AS
@answers
def prove(context: Context, seq: int, target: Path, who: str | None) -> None:
    """Write entry SEQ with the proof that it is in the broker's log to TARGET.

    Whoever has the broker's public key checks it without the broker and without the rest of the log: `confide audit verify --proof`.
    """
    from confide.cli.owners import client_of

    with client_of(context.settings, who) as client:
        proof = client.audit_proof(seq)
    _write_new(target, [json.dumps(proof.to_json(), sort_keys=True)])
    context.answer({"file": str(target), "seq": seq})


@command.command("key")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@_AS
@answers
def key(context: Context, target: Path, who: str | None) -> None:
    """Write the broker's public key (PEM) to TARGET, for those who check exported logs and proofs."""
    from confide.cli.owners import client_of

    with client_of(context.settings, who) as client:
        found = client.broker_key()
    _write_new(target, [found.pem.decode().rstrip("\n")])
    context.answer({"file": str(target), "key": found.digest})


@command.command("export")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@_AS
@click.option("--csv", "as_csv", is_flag=True, help="As a table for spreadsheets, which cannot be verified [default: JSON Lines].")
@answers
def export(context: Context, target: Path, who: str | None, *, as_csv: bool) -> None:
    """Write the log to TARGET: JSON Lines with its signed head in the last line, or CSV.  The log is verified first."""
    from confide.keys.audit_table import csv_lines

    log, public = _fetch(context, who)
    log.verify(public)
    _write_new(target, csv_lines(log) if as_csv else log.export())
    context.answer({"file": str(target), "entries": len(log.entries)})


def _write_new(target: Path, lines: Iterable[str]) -> None:
    try:
        with target.open("x", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    except FileExistsError as cause:
        raise UsageError(f"{target} exists", hint="choose another file", path=str(target)) from cause
    except OSError as cause:
        target.unlink(missing_ok=True)
        raise UsageError(f"cannot write {target}: {cause.strerror}", path=str(target)) from cause

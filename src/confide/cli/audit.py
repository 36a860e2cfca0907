"""``confide audit``: the broker's audit log, as an owner may see it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.output import Context, answers, print_table, say, short
from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.crypto.sign import PublicKey
    from confide.keys.audit import AuditHead, AuditLog

_AS = click.option("--as", "who", metavar="NAME", help="Whose credential to use [default: the only one there is].")
_DIGEST = re.compile(r"[0-9a-f]{24,}")
_SHOWN = ("action", "time", "owners", "blind")


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
    log, key = _fetch(context, who)
    log.verify(key)
    entries = log.entries if last is None else log.entries[-last:]

    def text() -> None:
        rows = [(e.seq, *_row(e.event)) if e.event is not None else (e.seq, "", "(another's)", short(e.digest)) for e in entries]
        print_table(("seq", "time", "action", "what"), rows, empty="the log is empty")

    context.answer({"entries": [entry.to_json() for entry in entries]}, text)


def _row(event: Json) -> tuple[str, str, str]:
    told = {name: value for name, value in sorted(event.items()) if name not in _SHOWN and value not in (None, "", [])}
    facts = [f"{name}={_plain(value)}" for name, value in told.items()]
    return str(event.get("time", ""))[:19].replace("T", " "), str(event.get("action", "")), " ".join(facts)


def _plain(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    if _DIGEST.fullmatch(text):
        return short(text)
    return json.dumps(text) if " " in text else text


@command.command("verify")
@_AS
@click.option("--file", "exported", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Check an exported log instead.")
@click.option("--since", "receipt", metavar="RUN", help="Also check that the log continues the one that this run's receipt names.")
@answers
def verify(context: Context, who: str | None, exported: Path | None, receipt: str | None) -> None:
    """Check the log's hash chain and its signed head: nothing was changed, cut or put in."""
    from confide.keys.audit import AuditLog

    log, key = _fetch(context, who)
    if exported is not None:
        log = AuditLog.load(exported.read_text(encoding="utf-8").splitlines())
    seen = _head_of(context, receipt, key) if receipt else None
    head = log.verify(key, seen=seen)
    value = {"accepted": True, "size": head.size, "hash": head.hash, "signed": head.time, "key": key.digest}
    value["continues"] = seen.size if seen else None

    def text() -> None:
        say(f"ok: {head.size} entries, unbroken, head signed by {short(key.digest)} at {head.time[:19]}")
        if seen is not None:
            say(f"ok: continues the log of {seen.size} entries that the receipt names")

    context.answer(value, text)


def _head_of(context: Context, run: str, key: PublicKey) -> AuditHead:
    from confide.cli.verify import source_of
    from confide.jobs.receipt import verify as verify_receipt
    from confide.keys.audit import AuditHead

    statement = verify_receipt(source_of(context, run), settings=context.settings).require()
    return AuditHead.verify(statement.audit_head, key)


@command.command("export")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@_AS
@answers
def export(context: Context, target: Path, who: str | None) -> None:
    """Write the log as JSON Lines to TARGET, its signed head in the last line.  The log is verified first."""
    log, key = _fetch(context, who)
    log.verify(key)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in log.export())
    except OSError as cause:
        raise UsageError(f"cannot write {target}: {cause.strerror}", path=str(target)) from cause
    context.answer({"file": str(target), "entries": len(log.entries)})

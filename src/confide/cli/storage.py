"""Where the broker's store lies, and what its operator does with it: check, backup, restore, upgrade, and accept that one is older."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.opening import Opening, opening_options, unlock_of
from confide.cli.output import Context, answers, counted, say
from confide.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from confide.config import Settings
    from confide.keys.storage.locations import Location
    from confide.keys.store import Store
    from confide.keys.witness import Witness

WITNESSES = click.option("--witness", "witnesses", multiple=True, metavar="FILE|URL",
                         help="Where heads of the audit log are kept: a file elsewhere, or an https address (repeat).")  # fmt: skip


def location_of(settings: Settings) -> Location:
    """The PostgreSQL database that the settings name, or the file in the home folder.

    Raises:
        UsageError: the settings name no such database.
    """
    from confide.keys.storage.locations import Postgres, SqliteFile

    if settings.database:
        return Postgres(settings.database, settings.database_password_file, settings.database_ca_file)
    return SqliteFile(settings.key_store)


def witnesses_of(settings: Settings, names: Sequence[str]) -> list[Witness]:
    """The witnesses that an operator names."""
    from confide.keys.witness import witness

    return [witness(name, settings.service_ca_file) for name in names]


def open_for_service(store: Store, witnesses: Sequence[Witness]) -> None:
    """Check all of a store before anybody is served from it, and that every witness knows it.

    Raises:
        StoreError, AuditError: a row or the log was changed, or the store is an older copy of itself.
        WitnessError: a witness cannot be asked.
        ClockError: the machine's clock is behind a time at which a broker has acted.
    """
    from confide.keys.broker import utc_now
    from confide.keys.clock import SteadyClock
    from confide.keys.witness import check

    SteadyClock(store, utc_now)()
    store.check()
    check(store, witnesses, utc_now())


@click.command("check")
@WITNESSES
@opening_options
@answers
def check_store(context: Context, witnesses: tuple[str, ...], opening: Opening) -> None:
    """Read every row and every entry of the audit log: all are genuine, the latest, and none is missing.

    A broker may serve meanwhile.
    """
    from confide.keys.broker import utc_now
    from confide.keys.store import Store
    from confide.keys.witness import check

    location = location_of(context.settings)
    with closing(Store.open(location, unlock_of(location, opening, make=False))) as store:
        records = store.check()
        check(store, witnesses_of(context.settings, witnesses), utc_now())
        head = store.head(utc_now())
    value = {"records": records, "entries": head.size, "root": head.root, "epoch": head.epoch, "witnesses": list(witnesses)}
    told = f", as {len(witnesses)} witness{'es' if len(witnesses) > 1 else ''} knew it" if witnesses else ""
    context.answer(value, lambda: say(f"ok: {records} records and {head.size} entries of the audit log, whole and unchanged{told}"))


@click.command("backup")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@answers
def backup_store(context: Context, target: Path) -> None:
    """Write all of the store to the new file TARGET, as it is at one moment.  Brokers go on serving, and no key is needed.

    Secrets in it are wrapped under the master key, which is not in it.
    """
    from confide.keys.storage.backup import backup

    with counted("rows") as told:
        rows = backup(location_of(context.settings), target, told)
    context.answer({"file": str(target), "rows": rows})


@click.command("restore")
@click.argument("source", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@answers
def restore_store(context: Context, source: Path) -> None:
    """Make the store anew from the backup SOURCE: in the home folder, or in the empty database that the settings name.

    What happened after the backup is lost: revoked grants are in force again.  Witnesses refuse such a store until
    `confide broker accept-rollback`.
    """
    from confide.keys.storage.backup import restore

    location = location_of(context.settings)
    with counted("rows") as told:
        rows = restore(source, location, told)
    context.answer({"store": location.name, "rows": rows})


@click.command("upgrade")
@answers
def upgrade_store(context: Context) -> None:
    """Change the tables of an older store to those of this version.  Make a backup first; no broker may serve meanwhile."""
    from confide.keys.store import Store

    location = location_of(context.settings)
    Store.upgrade(location)
    context.answer({"store": location.name})


@click.command("accept-rollback")
@click.option("--reason", required=True, help="Why the store is older than its witnesses: owners read it in the audit log.")
@WITNESSES
@opening_options
@answers
def accept_rollback(context: Context, reason: str, witnesses: tuple[str, ...], opening: Opening) -> None:
    """Take an older copy of the store into service, with the owners' knowledge: the audit log says what was lost, and to which witnesses.

    Every owner sees the entry.  Receipts of what was lost stay witnesses of their own: their logs are not continued any more.
    """
    from confide.keys.broker import utc_now
    from confide.keys.store import Store
    from confide.keys.witness import accept

    if not witnesses:
        raise UsageError("without a witness nothing is refused", hint="give each --witness that knows a later state")
    location = location_of(context.settings)
    with closing(Store.open(location, unlock_of(location, opening, make=False))) as store:
        store.check()
        lost = accept(store, witnesses_of(context.settings, witnesses), reason, utc_now())
        size = store.head(utc_now()).size
    context.answer({"entries": size, "lost": lost})


@click.command("accept-clock")
@click.option("--reason", required=True, help="Why an earlier time is the right one: owners read it in the audit log.")
@opening_options
@answers
def accept_clock(context: Context, reason: str, opening: Opening) -> None:
    """Let brokers go on that refuse because the clock is behind a time at which they have acted: that one was wrong, and this is right.

    Every owner sees the entry.  What had expired by the wrong time, and not by this one, counts again.  Restart brokers in service
    afterwards.
    """
    from confide.keys.broker import utc_now
    from confide.keys.clock import accept
    from confide.keys.store import Store

    location = location_of(context.settings)
    with closing(Store.open(location, unlock_of(location, opening, make=False))) as store:
        now = utc_now()
        seen = accept(store, reason, now)
    context.answer({"seen": seen.isoformat(), "now": now.isoformat()})


COMMANDS = (check_store, backup_store, restore_store, upgrade_store, accept_rollback, accept_clock)

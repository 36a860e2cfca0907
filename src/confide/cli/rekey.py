"""``confide broker rekey``: put the key store under a new master key, in the same or in another custody."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.opening import Opening, opening_options, refuse_missing, unlock_of
from confide.cli.output import Context, answers, say
from confide.cli.shares import desk_at, new_shares
from confide.cli.storage import location_of
from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.keys.custody.protocol import Unlock
    from confide.keys.storage.locations import Location
    from confide.keys.store import Store

_FILE = click.Path(path_type=Path, dir_okay=False)
_THERE = click.Path(path_type=Path, dir_okay=False, exists=True)


@dataclass(frozen=True, slots=True)
class _New:
    """Who is to keep the new master key: exactly one of these."""

    key_file: Path | None
    passphrase_file: Path | None
    custody: Path | None
    shares: str | None
    out: Path | None
    on_disk: bool

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.key_file, self.passphrase_file, self.custody, self.shares)) != 1:
            hint = "give one of --to-key-file, --to-passphrase-file, --to-custody and --to-shares"
            raise UsageError("who is to keep the new master key?", hint=hint)
        if (self.out is None) != (self.shares is None):
            raise UsageError("shares are written into a folder", hint="give --to-shares and --out together")

    def unlock(self, location: Location) -> tuple[Unlock, list[Path]]:
        """The new way to open the store, and the files that were made for it.

        They stay whatever happens then: who removed them after a failure would lose the store if it had come to pass all the same.
        """
        from confide.keys.custody.local import KeyFile

        if self.shares is not None and self.out is not None:
            return new_shares(self.shares, self.out, on_disk=self.on_disk)
        if self.key_file is not None:
            return KeyFile.create(self.key_file), [self.key_file]
        return unlock_of(location, Opening(None, self.passphrase_file, self.custody, shares=False), make=False), []


@click.command("rekey")
@click.option("--to-key-file", type=_FILE, help="A new file that is to hold the new master key (made, mode 0600).")
@click.option("--to-passphrase-file", type=_THERE, help="File with the new passphrase, mode 0600.")
@click.option("--to-custody", type=_FILE, help="TOML file that says which HSM or key service is to keep the new master key.")
@click.option("--to-shares", metavar="T-of-N", help="The new master key goes to N people, of whom any T open the store.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the share files, made if it is not there.")
@click.option("--on-disk", is_flag=True, help="The folder may be on a disk, which may keep what is removed from it.")
@opening_options
@answers
def rekey(
    context: Context, to_key_file: Path | None, to_passphrase_file: Path | None, to_custody: Path | None, to_shares: str | None,
    out: Path | None, opening: Opening, *, on_disk: bool
) -> None:  # fmt: skip
    """Put the key store under a new master key.  The old one, or its shares, open nothing of the store any more.

    How it is opened now is said as for `serve`; with --shares, the holders of enough old shares run `confide broker unseal` meanwhile. End
    brokers first; one that serves the store stops.

    All at once: if it fails or is killed, the store is whole, under the old master key or under the new one. Files that were made for the
    new key stay even then: remove them when `confide broker check` has opened the store with the old key. What a kill leaves of old rows
    in SQLite's files is overwritten when the store is next opened.
    Backups that were made before still open with the old master key, and hold everything: make a new one, and destroy those.
    """
    from confide.keys.broker import utc_now
    from confide.keys.master_key import rekey as put_under

    new = _New(to_key_file, to_passphrase_file, to_custody, to_shares, out, on_disk)
    location = location_of(context.settings)
    refuse_missing(location)
    with ExitStack() as stack:
        store, holders = _opened(context, location, opening, stack)
        store.check()
        unlock, files = new.unlock(location)
        records = put_under(store, unlock, utc_now(), shares=holders)
        store.scrub()
    context.answer({"store": location.name, "records": records, "opens_with": unlock.called, "files": [str(file) for file in files]})


def _opened(context: Context, location: Location, opening: Opening, stack: ExitStack) -> tuple[Store, list[str]]:
    """The store as it is opened now, and whose shares have opened it."""
    from confide.keys.store import Store

    if not opening.shares:
        return stack.enter_context(closing(Store.open(location, unlock_of(location, opening, make=False)))), []
    desk = stack.enter_context(desk_at(context.settings))
    say("waits for the old shares: `confide broker unseal`", err=True)
    return stack.enter_context(closing(Store.open(location, desk))), desk.holders

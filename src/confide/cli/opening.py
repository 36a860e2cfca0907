"""How an operator says that the broker's store is opened: a key file, a passphrase, another's custody, or shares."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from confide.errors import StoreError, UsageError

if TYPE_CHECKING:
    from confide.attest.collect import Attester
    from confide.keys.custody.protocol import Unlock
    from confide.keys.custody.settings import Upstream
    from confide.keys.kbs.upstream import UpstreamKey
    from confide.keys.storage.locations import Location


@dataclass(frozen=True, slots=True)
class Opening:
    """How the operator says that the store is opened: at most one of these, or a passphrase that is asked for."""

    key_file: Path | None
    passphrase_file: Path | None
    custody: Path | None
    shares: bool

    def __post_init__(self) -> None:
        if sum(one not in {None, False} for one in (self.key_file, self.passphrase_file, self.custody, self.shares)) > 1:
            raise UsageError("a store is opened in one way", hint="give one of --key-file, --passphrase-file, --custody and --shares")


def opening_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that make an :class:`Opening`, as ``opening``."""

    @functools.wraps(function)
    def call(*words: Any, key_file: Path | None, passphrase_file: Path | None, custody: Path | None, shares: bool, **rest: Any) -> None:
        function(*words, opening=Opening(key_file, passphrase_file, custody, shares), **rest)

    file = click.Path(path_type=Path, dir_okay=False)
    for option in (
        click.option("--shares", is_flag=True, help="The master key is in several people's hands: see `confide broker init`."),
        click.option("--custody", type=file, help="TOML file that says which HSM or key service keeps the master key."),
        click.option("--passphrase-file", type=click.Path(path_type=Path, dir_okay=False, exists=True),
                     help="File with the passphrase, mode 0600 [default: asked for]."),
        click.option("--key-file", type=file,
                     help="File with the store's master key (made if there is no store yet) [default: a passphrase]."),
    ):  # fmt: skip
        call = option(call)
    return call


def refuse_missing(store: Location) -> None:
    """Say how a store is made, if there is none.

    Raises:
        StoreError: there is none.
    """
    if not store.exists():
        hint = "`confide broker serve` makes one when first started; with shares, `confide broker init` does"
        raise StoreError(f"there is no key store at {store.name}", hint=hint)


def unlock_of(store: Location, opening: Opening, *, make: bool = True) -> Unlock:
    """The way to open the store at that place.  ``make``: with a new key file, if there is neither a store nor the file.

    Raises:
        UsageError: nobody can be asked for a passphrase.
        StoreError: there is no store, and none is to be made.
        CredentialError, ConfigError: a file that opens it cannot be used.
    """
    from confide.crypto.secret import SecretBytes
    from confide.crypto.sign import read_private_file
    from confide.keys.custody.local import KeyFile, Passphrase

    if opening.custody is not None:
        from confide.keys.custody.settings import Upstream, load

        found = load(opening.custody)
        return found.unlock(_upstream(found) if isinstance(found, Upstream) else None)
    if opening.key_file is not None:
        if make and not store.exists() and not opening.key_file.exists():
            return KeyFile.create(opening.key_file)
        return KeyFile(opening.key_file)
    if opening.passphrase_file is not None:
        return Passphrase(SecretBytes(read_private_file(opening.passphrase_file).rstrip(b"\r\n")))
    if not make:
        refuse_missing(store)
    if not sys.stdin.isatty():
        raise UsageError("a passphrase is needed and there is no terminal to ask at", hint="give --passphrase-file or --key-file")
    text: str = click.prompt("passphrase of the key store", hide_input=True, confirmation_prompt=not store.exists(), err=True)
    return Passphrase(SecretBytes(text.encode()))


def _upstream(found: Upstream) -> UpstreamKey:
    """The upstream of a custody file.  The broker shows it evidence of the TEE that it runs in."""
    from confide.attest.collect import find_attester
    from confide.ids import SpkiDigest, Tee
    from confide.keys.kbs.resources import ResourceName
    from confide.keys.kbs.upstream import UpstreamKey

    def attester() -> Attester:
        if found.simulated is None:
            return find_attester()
        from confide.jobs.local.simulation import SimulatedTee

        return SimulatedTee.at(found.simulated).guest(Tee.TDX)

    return UpstreamKey(
        found.address,
        ResourceName.parse(found.key),
        attester,
        ca=found.ca_file,
        spki=None if found.spki is None else SpkiDigest(found.spki),
        older=tuple(ResourceName.parse(one) for one in found.older_keys),
    )

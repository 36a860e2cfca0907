"""``confide data rewrap``: manifests that name the newest wrapped form of their dataset's key.  No data file is touched."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click

from confide.cli.dataset_keys import KEY_FILE, KEY_RESOURCE, WHO, PlaceType, place_of
from confide.cli.new_dataset import facts
from confide.cli.output import SAY_EVERY_S, Context, answers, counted, say
from confide.errors import BrokerError, ConfideError, KeyDestroyedError, UsageError

if TYPE_CHECKING:
    from confide.config import Settings
    from confide.crypto.envelope import WrappedKey
    from confide.data.places import Place
    from confide.data.snapshots import SignedManifest
    from confide.keys.client import OwnerClient


@click.command("rewrap")
@click.argument("folder", type=PlaceType(exists=True))
@click.option("--all", "every", is_flag=True, help="Every dataset in and below FOLDER, except runs' outputs.")
@WHO
@KEY_RESOURCE
@KEY_FILE
@click.option("--new-key-file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="With --key-resource: the 32 bytes to put the dataset's key under (made, mode 0600, if there is no such file).")
@click.option("--new-key-resource", metavar="URI", help="The resource whose value these are [default: the same, which gets another value].")
@answers
def rewrap(
    context: Context,
    folder: Path | str,
    who: str | None,
    key_resource: str | None,
    key_file: Path | None,
    new_key_file: Path | None,
    new_key_resource: str | None,
    *,
    every: bool,
) -> None:
    """Put the newest wrapped form of its key into the manifest of the dataset in FOLDER, as a new snapshot of the same files.

    For after `confide keys rotate` and `confide keys rewrap`: then the manifest opens under the key's newest version by itself, also at
    another broker or from an escrow.  No data file is read or written.  Nothing happens where the manifest has that form already, so a
    command that was stopped goes on when it is called again.

    FOLDER may be a URL, where such a snapshot is two small writes.

    With --key-resource the dataset's key is put under another value, or another resource, of a key broker service.
    """
    place, resource = place_of(folder), _Resource.of(key_resource, key_file, new_key_resource, new_key_file)
    with _Rewrapping(context.settings, who, resource) as rewrapping:
        if every:
            _all(context, place, rewrapping)
            return
        before, after = rewrapping.one(place)
    value = {**facts(place, after.unverified), "rewrapped": after is not before, "key_before": _key(before)}
    context.answer(value, lambda: say(f"{_key(after)} (snapshot {after.unverified.snapshot}{'' if value['rewrapped'] else ', as before'})"))


def _all(context: Context, place: Place, rewrapping: _Rewrapping) -> None:
    """Each dataset below a folder.  What is wrong with one does not keep the others; a broker that is down does."""
    from confide.data.rewrap import find_datasets
    from confide.data.snapshots import load_manifest

    found = list(find_datasets(place))
    if not found:
        raise UsageError(f"there is no dataset in {place}", path=str(place))
    told: dict[str, list[str]] = {"rewrapped": [], "current": [], "outputs": []}
    failed: list[tuple[str, ConfideError]] = []
    with _progress(len(found)) as tell:
        for folder in found:
            try:
                if load_manifest(folder).unverified.owner is None:
                    told["outputs"].append(str(folder))
                else:
                    before, after = rewrapping.one(folder)
                    told["current" if after is before else "rewrapped"].append(str(folder))
            except BrokerError:
                raise
            except ConfideError as error:
                failed.append((str(folder), error))
                say(f"{folder}: {error.code}: {error.message}", err=True)
            tell()
    if failed:
        where, first = failed[0]
        first.facts = {**first.facts, "dataset_folder": where, "failed": len(failed), "done": len(found) - len(failed)}
        raise first
    counts = f"{len(told['rewrapped']):,} manifests are new, {len(told['current']):,} were up to date, {len(told['outputs']):,} are of runs"
    context.answer({"folder": str(place), "datasets": len(found), **told}, lambda: say(counts))


@dataclass(frozen=True)
class _Resource:
    """The resource of a key broker service that datasets are under, and the one that they are to be under, each with its value's file."""

    uri: str
    file: Path
    new_uri: str
    new_file: Path

    @classmethod
    def of(cls, uri: str | None, file: Path | None, new_uri: str | None, new_file: Path | None) -> _Resource | None:
        if (uri, file, new_uri, new_file) == (None, None, None, None):
            return None
        if uri is None or file is None or new_file is None:
            hint = "give --key-resource URI, --key-file FILE and --new-key-file FILE; or none of them, for a key of the broker"
            raise UsageError("a resource, its value and its new value go together", hint=hint)
        return cls(uri, file, new_uri if new_uri is not None else uri, new_file)


@dataclass
class _Rewrapping:
    """Re-wraps one dataset after the other, with one connection for each owner."""

    settings: Settings
    who: str | None
    resource: _Resource | None
    _clients: dict[str, OwnerClient] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def one(self, folder: Place) -> tuple[SignedManifest, SignedManifest]:
        """The newest manifest before and after: the same one, if it was up to date."""
        from confide.cli.owners import credential_of
        from confide.crypto.envelope import WrappedKey
        from confide.data.rewrap import rewrap_dataset
        from confide.data.snapshots import load_manifest
        from confide.ids import KeyRef
        from confide.keys.kbs.dataset_key import PREFIX

        before, now = load_manifest(folder), datetime.now(UTC)
        ref = KeyRef.parse(before.unverified.key)
        signer = credential_of(self.settings, self.who or ref.owner).key
        if self.resource is not None:
            return before, rewrap_dataset(before, self._under_resource(before, self.resource), signer=signer, now=now)
        if ref.name.startswith(PREFIX):
            hint = "give --key-resource, --key-file and --new-key-file"
            raise UsageError("the dataset's key is kept by a key broker service", hint=hint, key=ref.id)
        client = self._client(self.who or ref.owner)
        wrapped, groups = client.wrapped_form(before.envelope), dict[str, WrappedKey]()
        for group in before.unverified.groups:
            with suppress(KeyDestroyedError):  # that column is lost, and the rest of the table is not
                groups[group.name] = client.wrapped_form(before.envelope, group.name)
        return before, rewrap_dataset(before, wrapped, groups=groups, signer=signer, now=now, register=client.register_manifest)

    def _under_resource(self, before: SignedManifest, given: _Resource) -> WrappedKey:
        from confide.crypto.secret import SecretBytes
        from confide.crypto.sign import read_private_file, write_private_file
        from confide.keys.kbs.dataset_key import open_dataset_key, resource_of_key, rewrap_dataset_key

        manifest = before.unverified
        owner, (_, old), (_, new) = manifest.owner or "", resource_of_key(given.uri), resource_of_key(given.new_uri)
        if not given.new_file.exists():
            write_private_file(given.new_file, SecretBytes.random().reveal())
        value = SecretBytes(read_private_file(given.new_file))
        return rewrap_dataset_key(
            manifest.wrapped,
            lambda: open_dataset_key(SecretBytes(read_private_file(given.file)), manifest.wrapped, owner=owner, name=old),
            value,
            owner=owner,
            name=new,
        )

    def _client(self, owner: str) -> OwnerClient:
        from confide.cli.owners import client_of

        if owner not in self._clients:
            self._clients[owner] = self._stack.enter_context(client_of(self.settings, owner))
        return self._clients[owner]


def _key(found: SignedManifest) -> str:
    return f"{found.unverified.key}@{found.unverified.version}"


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """To be called after each dataset: a count on a terminal, else a line now and then."""
    done, said = 0, time.monotonic()
    with counted(f"of {total:,} datasets") as shown:

        def tell() -> None:
            nonlocal done, said
            done += 1
            shown(done)
            if time.monotonic() - said >= SAY_EVERY_S:
                said = time.monotonic()
                say(f"{done:,} of {total:,} datasets", err=True)

        yield tell

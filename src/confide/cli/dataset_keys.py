"""How commands come to the key of a dataset: from the broker, or from a file that holds a key broker service's resource."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.config import Settings
    from confide.crypto.secret import SecretBytes
    from confide.data.places import Place
    from confide.data.snapshots import SignedManifest

WHO = click.option("--as", "who", metavar="NAME", help="Whose credential to use [default: the only one there is].")
KEY_RESOURCE = click.option("--key-resource", metavar="URI", help="The resource that it was encrypted with, whose value is in --key-file.")
KEY_FILE = click.option("--key-file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
                        help="The resource's 32 bytes, for a dataset whose key a key broker service keeps.")  # fmt: skip


class PlaceType(click.ParamType[Any]):
    """A dataset's folder: a path, or a URL of a remote storage, which is not asked before the command begins."""

    name = "folder"

    def __init__(self, *, exists: bool) -> None:
        self._path = click.Path(path_type=Path, file_okay=not exists, exists=exists)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A text if it is a URL, else a path."""
        return value if isinstance(value, str) and "://" in value else self._path.convert(value, param, ctx)


DATASET = PlaceType(exists=True)


def place_of(folder: Path | str) -> Place:
    """What a command's FOLDER names.

    Raises:
        ConfideError: as :func:`confide.data.places.remote_folder` says.
    """
    from confide.data.places import remote_folder

    return folder if isinstance(folder, Path) else remote_folder(folder)


SNAPSHOT = click.option("--snapshot", type=click.IntRange(min=1), metavar="N",
                        help="An older snapshot, as `confide data log` numbers them [default: the newest].")  # fmt: skip


COLUMNS = click.option("--columns", metavar="A,B", help="Only these columns of a table; of others no key is asked for [default: all].")


def column_list(text: str | None) -> list[str] | None:
    """What ``--columns`` names."""
    return None if text is None else [name.strip() for name in text.split(",")]


def keys_of(
    settings: Settings, newest: SignedManifest, who: str | None, uri: str | None, key_file: Path | None, *, columns: list[str] | None
) -> tuple[SecretBytes, dict[str, SecretBytes]]:
    """As :func:`key_of`, and the keys of the column groups that hold any of these ``columns`` (of all, if none are named), by name."""
    from confide.cli.owners import client_of
    from confide.data.column_groups import groups_for

    secret, wanted = key_of(settings, newest, who, uri, key_file), groups_for(newest.unverified.groups, columns)
    if not wanted or uri is not None:
        return secret, {}
    with client_of(settings, who) as client:
        return secret, {group.name: client.open(newest.envelope, group.name).secret for group in wanted}


def key_of(settings: Settings, newest: SignedManifest, who: str | None, uri: str | None, key_file: Path | None) -> SecretBytes:
    """The key of the dataset whose newest manifest this is.

    The broker checks the manifest's signature against the dataset's registered signer, and its snapshot against the newest.  With a
    resource's value in a file nobody does.

    Raises:
        UsageError: only one of resource and file is given.
        ConfideError: the broker, or the file, does not open it.
    """
    from confide.cli.owners import client_of
    from confide.crypto.secret import SecretBytes
    from confide.crypto.sign import read_private_file
    from confide.keys.kbs.dataset_key import open_dataset_key, resource_of_key

    if (uri is None) != (key_file is None):
        raise UsageError("a resource and its value go together", hint="give --key-resource URI and --key-file FILE")
    if uri is None or key_file is None:
        with client_of(settings, who) as client:
            return client.open(newest.envelope).secret
    _, resource = resource_of_key(uri)
    kept = SecretBytes(read_private_file(key_file))
    return open_dataset_key(kept, newest.unverified.wrapped, owner=newest.unverified.owner or "", name=resource)

"""``confide data import-bigdl``: data that BigDL PPML encrypted becomes a dataset, without its plaintext on any disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from confide.cli.new_dataset import NewDataset, under_one_key
from confide.cli.output import Context, answers, counted, print_facts, say
from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.data.bigdl import KeyOf

_KEY = click.Path(path_type=Path, dir_okay=False)
_NOT_AUTHENTICATED = "the first 16 bytes of each file, its name, and that no file is missing: compare them with what you know"


@click.command("import-bigdl")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path(path_type=Path, exists=True))
@click.option("--to", "folder", required=True, metavar="FOLDER", type=click.Path(path_type=Path), help="The dataset to make.")
@click.option("--bigdl-key-file", type=_KEY, metavar="FILE", help="The data key as BigDL's key service gives it: one line of base64.")
@click.option("--bigdl-primary-key-file", type=_KEY, metavar="FILE",
              help="Instead: the primary key that data keys are wrapped under, base64 or the simple service's 16 digits.")  # fmt: skip
@click.option("--accept-weak-key", is_flag=True, help="Import data whose BigDL key can be found by trying.")
@click.option("--skip-empty", is_flag=True, help="Leave out files of no bytes, which BigDL wrote for partitions without rows.")
@under_one_key
@answers
def import_bigdl(
    context: Context,
    sources: tuple[Path, ...],
    folder: Path,
    bigdl_key_file: Path | None,
    bigdl_primary_key_file: Path | None,
    *,
    accept_weak_key: bool,
    skip_empty: bool,
    **under: Any,
) -> None:
    """Make the new dataset FOLDER of .cbc files that BigDL PPML wrote.

    SOURCE is such a file, or a folder of Spark output with them.  Every file's MAC is checked before anything is made, and once more
    while it is encrypted anew; sources are left as they are.  The files keep their names without .cbc (part-00000-….csv).

    The MAC does not cover the beginning of a file nor its name (docs/guides/migrating-from-bigdl.md).  The other options are those of
    `confide data encrypt`.
    """
    from confide.data.bigdl_import import check_files

    place = NewDataset.of(folder, **under)
    key_of = _key_of(bigdl_key_file, bigdl_primary_key_file)
    with counted("bytes checked") as told:
        checked = check_files(sources, key_of, accept_weak=accept_weak_key, skip_empty=skip_empty, told=told)
    with counted("bytes imported") as told:
        made = place.make(context, checked.sources(told))
    value = {
        **made.facts(folder),
        "imported": sum(file.size for _, file in checked.files),
        "left_out": list(checked.left_out),
        "weaknesses": list(checked.weaknesses),
        "not_authenticated": _NOT_AUTHENTICATED,
    }

    def text() -> None:
        print_facts({name: item for name, item in value.items() if item not in (None, [])})
        say(f"not authenticated by BigDL's format: {_NOT_AUTHENTICATED}", err=True)

    context.answer(value, text)


def _key_of(data_key: Path | None, primary_key: Path | None) -> KeyOf:
    from confide.crypto.sign import read_private_file
    from confide.data.bigdl_keys import DataKey, PrimaryKey

    if data_key is not None and primary_key is None:
        given = DataKey.parse(read_private_file(data_key))
        return lambda _: given
    if primary_key is not None and data_key is None:
        primary = PrimaryKey.parse(read_private_file(primary_key))
        return lambda header: primary.unwrap(header.wrapped)
    raise UsageError("BigDL's data is under one key", hint="give --bigdl-key-file FILE or --bigdl-primary-key-file FILE")

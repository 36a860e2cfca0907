"""A dataset's snapshots: ``confide data log`` and ``confide data clean``.  Neither needs a key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.dataset_keys import DATASET, place_of
from confide.cli.output import Context, answers, print_table, say
from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.data.manifest import Manifest


@click.command("log")
@click.argument("folder", type=DATASET)
@answers
def log(context: Context, folder: Path | str) -> None:
    """Show the snapshots of the dataset in FOLDER that are kept, newest first, and what each changed.

    Who signed the newest is not checked here (`confide data verify` does that); the older ones are those that it vouches for.
    """
    from confide.data.snapshots import history, load_manifest

    newest = load_manifest(place_of(folder))
    chain = [newest.unverified, *(one.unverified for one in history(newest))]
    rows = [_row(one, before) for one, before in zip(chain, [*chain[1:], None], strict=True)]

    def text() -> None:
        print_table(
            ("snapshot", "created", "files", "rows", "bytes", "added", "removed"),
            [[_cell(row[name]) for name in ("snapshot", "created", "files", "rows", "bytes", "added", "removed")] for row in rows],
        )

    context.answer({"folder": str(folder), "dataset": newest.unverified.dataset, "verified": False, "snapshots": rows}, text)


@click.command("clean")
@click.argument("folder", type=DATASET)
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Drop all snapshots but the newest N [default: keep all].")
@click.option("--older-than", type=click.FloatRange(min=0), default=24.0, show_default=True, metavar="HOURS",
              help="Leave alone what is younger: it may be a writer's who is at work, or in use.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@answers
def clean(context: Context, folder: Path | str, keep: int | None, older_than: float, *, dry_run: bool) -> None:
    """Remove from FOLDER what no snapshot lists (left by writers that were stopped), and with --keep old snapshots.

    At a URL without a dataset, that is what runs and `confide data encrypt` have sent there before they were stopped.  Where a storage does
    not say when a file was written, none is taken for left behind.

    Let no writer be at work that takes longer than --older-than.  What is removed cannot be read again.
    """
    from confide.data.cleaning import clean as clean_folder
    from confide.data.remote_cleaning import clean_remote

    try:
        before = datetime.now(UTC) - timedelta(hours=older_than)
    except (OverflowError, ValueError) as cause:
        raise UsageError(f"{older_than} hours ago was never", hint="give hours such as 24 or 0.5") from cause
    place = place_of(folder)
    if isinstance(place, Path):
        found = clean_folder(place, keep=keep, before=before, remove=not dry_run)
    else:
        journals = context.settings.uploads_dir
        found = clean_remote(place, keep=keep, before=before, remove=not dry_run, journals=journals)

    def text() -> None:
        for path in found.files:
            say(f"{'would remove' if dry_run else 'removed'} {path}")
        if found.young:
            say(f"left {found.young} younger than {older_than:g} hours")
        dropped = f", {len(found.snapshots)} snapshots" if found.snapshots else ""
        say(f"{len(found.files)} files, {found.size:,} bytes{dropped}{' (nothing was removed)' if dry_run else ''}")

    facts = {"removed": not dry_run, "files": found.files, "bytes": found.size, "snapshots": found.snapshots, "young": found.young}
    context.answer({"folder": str(folder), **facts}, text)


def _row(one: Manifest, before: Manifest | None) -> Json:
    """A snapshot; what it added and removed only where the one before is kept (or there was none)."""
    now, then = {file.path for file in one.files}, {file.path for file in before.files} if before else set()
    known = before is not None or one.parent is None
    return {
        "snapshot": one.snapshot,
        "created": one.created,
        "files": len(one.files),
        "rows": one.rows,
        "bytes": one.size,
        "added": len(now - then) if known else None,
        "removed": len(then - now) if known else None,
        "manifest": one.digest,
    }


def _cell(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)

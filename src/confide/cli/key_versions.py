"""Versions of a key: ``confide keys versions``, ``rotate``, ``retire``, ``destroy`` and ``rewrap``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from confide.cli.output import SAY_EVERY_S, Context, answers, print_table, say, wants_colour
from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.ids import KeyRef
    from confide.keys.key_client import KeyInfo, RewrapProgress


def own_key(key: str) -> KeyRef:
    """The key (not one version of it) that an argument names.

    Raises:
        UsageError: it names a version, or nothing.
    """
    from confide.ids import KeyRef

    ref = KeyRef.parse(key)
    if ref.version:
        raise UsageError("this command is about a key, not one version of it", hint=f"write {ref.id}")
    return ref


@click.command("rotate")
@click.argument("key")
@answers
def rotate(context: Context, key: str) -> None:
    """Make a new version of KEY: new datasets use it.

    What is under older versions stays readable; `confide keys rewrap` puts it under the new one.
    """
    from confide.cli.owners import client_of

    ref = own_key(key)
    with client_of(context.settings, ref.owner) as client:
        made = client.rotate_key(ref.name)
    context.answer({"key": made.id, "version": made.version})


@click.command("versions")
@click.argument("key")
@answers
def versions(context: Context, key: str) -> None:
    """Show KEY's versions: their states, and how many datasets are under each."""
    from confide.cli.owners import client_of

    ref = own_key(key)
    with client_of(context.settings, ref.owner) as client:
        known = client.keys()
    found = next((info for info in known if info.key.id == ref.id), None)
    if found is None:
        raise UsageError(f"there is no key {ref.id}", hint="`confide keys ls` shows the keys that there are")
    _show(context, found)


@click.command("retire")
@click.argument("key")
@click.option("--version", type=click.IntRange(min=1), required=True, help="The active version.")
@answers
def retire(context: Context, key: str, version: int) -> None:
    """Let the active version of KEY take no new datasets: it opens those that it has."""
    from confide.cli.owners import client_of

    ref = own_key(key)
    with client_of(context.settings, ref.owner) as client:
        _show(context, client.retire_key(ref.name, version))


@click.command("destroy")
@click.argument("key")
@click.option("--version", type=click.IntRange(min=1), required=True, help="A retired version.")
@click.option("--lose-datasets", is_flag=True, help="Even if datasets are under it, which can never be opened again.")
@click.option("--yes", is_flag=True, help="Do not ask for the key's name.")
@answers
def destroy(context: Context, key: str, version: int, *, lose_datasets: bool, yes: bool) -> None:
    """Destroy a retired version of KEY: the broker keeps nothing of it, and nobody can bring it back.

    Copies of the broker's database that were made before still hold it, wrapped under the master key.
    """
    from confide.cli.owners import client_of

    ref = own_key(key)
    if not yes:
        _confirm(ref, version)
    with client_of(context.settings, ref.owner) as client:
        _show(context, client.destroy_key(ref.name, version, lose_datasets=lose_datasets))


def _confirm(ref: KeyRef, version: int) -> None:
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask at", hint="add --yes to destroy the version without being asked")
    typed = click.prompt(f"destroy version {version} of {ref.id}: type the key's name to go on", err=True)
    if typed != ref.id:
        raise UsageError("that is not the key's name: nothing was destroyed", expected=ref.id)


def _show(context: Context, info: KeyInfo) -> None:
    rows = [(v.version, v.state.value, f"{v.since:%Y-%m-%d %H:%M}", v.datasets) for v in info.versions]
    value: Json = {
        "key": info.key.id,
        "datasets": info.datasets,
        "versions": [
            {"version": v.version, "state": v.state.value, "since": v.since.isoformat(), "datasets": v.datasets} for v in info.versions
        ],
    }
    context.answer(value, lambda: print_table(("version", "state", "since", "datasets"), rows))


@click.command("rewrap")
@click.argument("key")
@answers
def rewrap(context: Context, key: str) -> None:
    """Put the keys of all datasets under KEY's newest version.  No data is touched.

    Can be stopped and called again at any time: it goes on where it was.  Jobs run on meanwhile.
    """
    from confide.cli.owners import client_of

    ref = own_key(key)
    with client_of(context.settings, ref.owner) as client:
        began = time.monotonic()
        last = first = None
        for progress in _shown(client.rewrap(ref.name)):
            first, last = first or progress, progress
    if last is None or first is None:
        raise UsageError("the broker said nothing of a re-wrap")
    took = time.monotonic() - began
    value = {"key": last.key.id, "version": last.key.version, "done": last.done}
    context.answer(value, lambda: say(f"{last.done:,} datasets are under {last.key} ({took:.1f} s)"))


def _shown(steps: Iterable[RewrapProgress]) -> Iterator[RewrapProgress]:
    """The steps, with a bar and the rate on a terminal, and a line now and then without one."""
    if not wants_colour(sys.stderr):
        yield from _said(steps)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("re-wrapping"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    rate = _Rate()
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=None, rate="")
        for step in steps:
            bar.update(task, completed=step.done, total=step.done + step.left, rate=rate.text(step))
            yield step


def _said(steps: Iterable[RewrapProgress]) -> Iterator[RewrapProgress]:
    said, rate = time.monotonic(), _Rate()
    for step in steps:
        text = rate.text(step, left=True)
        if time.monotonic() - said >= SAY_EVERY_S:
            said = time.monotonic()
            say(f"{step.done:,} of {step.done + step.left:,} datasets {text}".rstrip(), err=True)
        yield step


class _Rate:
    """Datasets a second since the first step that was seen."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first: int | None = None

    def text(self, step: RewrapProgress, *, left: bool = False) -> str:
        """The rate so far, and if wanted about how long it takes yet; nothing before there is one."""
        if self._first is None:
            self._began, self._first = time.monotonic(), step.done
            return ""
        took = time.monotonic() - self._began
        rate = (step.done - self._first) / took if took > 0 else 0.0
        if rate <= 0:
            return ""
        return f"{rate:,.0f}/s" + (f", about {timedelta(seconds=round(step.left / rate))} left" if left else "")

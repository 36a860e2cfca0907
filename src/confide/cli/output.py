"""How commands speak: answers on standard output (text or JSON), the story and errors on standard error.

Colour only on a terminal and never with ``NO_COLOR`` set.  Knows nothing of what it prints, so nothing in a text can steer a terminal:
names, logs and errors come from hosts and peers, and a control character in one could hide a line or forge another.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from confide.errors import ConfideError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from confide.canonical import Json
    from confide.config import Settings

_PROCESS_BEGAN = time.monotonic()
"""When the command began: all stories of one process, of a demo and the runs in it, share one clock."""
_LONG_HEX = re.compile(r"[0-9a-f]{40,}")
SAY_EVERY_S = 10.0
"""Without a terminal, a line of progress comes so often at most."""
SIMULATED = "simulated"
"""Stands before every line of a story that a simulated TEE tells: it protects nothing."""


@dataclass
class Context:
    """What every command gets: the settings (read when first asked for) and how to answer."""

    home: Path | None = None
    debug: bool = False
    as_json: bool = False

    @cached_property
    def settings(self) -> Settings:
        """The settings of this process."""
        from confide.config import Settings

        return Settings.load(home=self.home)

    def answer(self, value: Json, show: Callable[[], None] | None = None) -> None:
        """Print the result: as JSON if asked for, else by ``show``, else as ``name: value`` lines."""
        if self.as_json:
            click.echo(json.dumps(value, indent=2, sort_keys=True))
        elif show is not None:
            show()
        else:
            print_facts(value)


def _want_json(ctx: click.Context, _param: click.Parameter, value: object) -> None:
    if value:
        ctx.ensure_object(Context).as_json = True


def answers(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command its :class:`Context` as first argument and the ``--json`` option."""
    option = click.option("--json", is_flag=True, expose_value=False, callback=_want_json, help="Print the answer as JSON.")
    return option(click.make_pass_decorator(Context, ensure=True)(function))


def plain(text: str) -> str:
    """``text`` with everything escaped that does not print: control characters, ends of lines, changes of writing direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(text: str = "", *, err: bool = False) -> None:
    """Print one line on standard output, or with ``err`` on standard error, :func:`plain`."""
    click.echo(plain(text), err=err)


def print_error(error: ConfideError, *, as_json: bool) -> int:
    """Print an error (``error[code]: message``, facts, hint) and return its exit status.

    With ``--json`` the error is the answer: ``{"error": {...}}`` on standard output.
    """
    if as_json:
        click.echo(json.dumps({"error": error.to_json()}, indent=2, sort_keys=True))
        return error.exit_status
    colour = wants_colour(sys.stderr)
    mark = click.style(f"error[{error.code}]:", fg="red", bold=True) if colour else f"error[{error.code}]:"
    click.echo(f"{mark} {plain(error.message)}", err=True, color=colour)
    for name, value in error.facts.items():
        if value is not None and str(value) not in error.message:
            say(f"  {name.replace('_', ' ')}: {value}", err=True)
    if error.hint:
        say(f"  hint: {error.hint}", err=True)
    return error.exit_status


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour ``stream``: a terminal, and neither ``NO_COLOR`` nor a dumb terminal."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_facts(value: Json) -> None:
    """Print ``name: value`` lines, names aligned."""
    width = max((len(name) for name in value), default=0)
    for name, item in value.items():
        text = json.dumps(item) if isinstance(item, dict | list) else "" if item is None else str(item)
        say(f"{name.replace('_', ' ') + ':':<{width + 1}} {text}".rstrip())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "nothing to show") -> None:
    """Print rows under headings; numbers to the right.  What a terminal is too narrow for goes on in the next line: nothing is cut."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    lines = [list(row) for row in rows]
    if not lines:
        say(empty, err=True)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold" if wants_colour(sys.stdout) else "none")
    for number, column in enumerate(columns):
        numeric = all(isinstance(line[number], int | float) for line in lines)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=number == 0, overflow="fold")
    for line in lines:
        table.add_row(*(Text(_cell(item)) for item in line))
    console = _console(sys.stdout)
    if not sys.stdout.isatty():
        console.width = 400  # a pipe has no width: nothing is folded
    with console.capture() as text:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in text.get().splitlines()))


def _cell(item: object) -> str:
    if item is None:
        return ""
    return f"{item:,.2f}" if isinstance(item, float) else plain(str(item))


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False, no_color=not wants_colour(stream), soft_wrap=False)


@dataclass
class Story:
    """Tells on standard error what happens: one line a step, and a spinner for what is under way on a terminal.

    Every line of a simulated run begins with ``simulated``.
    """

    simulated: bool = False
    _started: float = _PROCESS_BEGAN
    _status: Status | None = None

    def say(self, text: str, *, mark: str = "  ") -> None:
        """Tell one step.  ``mark`` is two characters: what kind of line this is."""
        styles = {"ok": "green", "no": "yellow", "!!": "red", "->": "cyan"}
        style = styles.get(mark) if wants_colour(sys.stderr) else None
        label = click.style(mark, fg=style, bold=True) if style else mark
        prefix = f"{SIMULATED} " if self.simulated else ""
        line = f"{prefix}{time.monotonic() - self._started:5.1f}s {label} {plain(text)}".rstrip()
        if self._status is not None:
            from rich.text import Text

            self._status.console.print(Text.from_ansi(line), soft_wrap=True)
        else:
            click.echo(line, err=True)

    def ok(self, text: str) -> None:
        """Something that was checked or done."""
        self.say(text, mark="ok")

    def refused(self, text: str) -> None:
        """Something that was refused, as it should be."""
        self.say(text, mark="no")

    def failed(self, text: str) -> None:
        """Something that went wrong."""
        self.say(text, mark="!!")

    def begin(self, text: str) -> None:
        """Something that starts now."""
        self.say(text, mark="->")

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Show that ``text`` is under way while the block runs (a spinner; nothing without a terminal)."""
        if not wants_colour(sys.stderr) or self._status is not None:
            yield
            return
        with _console(sys.stderr).status(text, spinner="line") as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None


@contextmanager
def counted(what: str) -> Iterator[Callable[[int], None]]:
    """A count of ``what`` that grows on standard error while the block works; nothing where that is no terminal."""
    console = _console(sys.stderr)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(f"0 {what}") as status:
        yield lambda count: status.update(f"{count:,} {what}")


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int, int | None], None]]:
    """How far it is: called with bytes and rows (``None``: there are none) that were done, of ``total`` bytes, if that is known.

    On a terminal a bar on standard error; else a line now and then, so that a log shows that work goes on.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    done = [0, 0]
    console, said = _console(sys.stderr), time.monotonic()

    def rows() -> str:
        return f"{done[1]:,} rows" if done[1] else ""

    bytes_done = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    columns = (TextColumn(what), *bytes_done, TextColumn("{task.fields[rows]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total, rows="")

        def tell(size: int, count: int | None) -> None:
            nonlocal said
            done[0], done[1] = done[0] + size, done[1] + (count or 0)
            bar.update(task, completed=done[0], rows=rows())
            if bar.disable and time.monotonic() - said >= SAY_EVERY_S:
                said = time.monotonic()
                of = f" of {total:,}" if total is not None else ""
                say(f"{what}: {done[0]:,}{of} bytes {rows()}".rstrip(), err=True)

        yield tell


def shorten(text: str) -> str:
    """``text`` with every long digest cut to its beginning, for people."""
    return _LONG_HEX.sub(lambda found: short(found[0]), text)


def short(digest: Any, length: int = 16) -> str:
    """The beginning of a digest, for people; JSON always has the whole."""
    text = str(digest)
    return text if len(text) <= length else text[:length] + "..."

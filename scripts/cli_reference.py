"""Writes docs/reference/cli.md from the commands themselves; with ``--check``, says whether the page is current."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from confide.cli.main import cli

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "cli.md"

_HEAD = """# The command line

Written by `scripts/cli_reference.py` from the commands themselves.

Standard output is the answer, standard error the story. Every command takes `--json`: the answer is then one JSON object, and an error is
`{"error": {"code", "message", "hint", "facts", "exit_status"}}`. Colour is for terminals only and never with `NO_COLOR` set. Ctrl-C
ends what was started and exits with 130. Exit statuses are listed with the [errors](../errors/README.md).

Secrets are never arguments or environment variables: passphrases are asked for at the terminal or read from a file.
"""


def _commands(command: click.Command, ctx: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    yield command, ctx
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            if child is not None:
                yield from _commands(child, click.Context(child, info_name=name, parent=ctx))


def _options(command: click.Command, ctx: click.Context) -> Iterator[str]:
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None and isinstance(parameter, click.Option) and parameter.name not in {"help", "json"}:
            yield f"| `{record[0].replace('|', chr(92) + '|')}` | {record[1].replace('|', chr(92) + '|')} |"


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for command, ctx in _commands(cli, click.Context(cli, info_name="confide", **cli.context_settings)):
        usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
        parts.append(f"## {ctx.command_path}\n\n`{usage}`\n\n{_text(command)}\n")
        options = list(_options(command, ctx))
        if options:
            parts.append("\n".join(["| option | meaning |", "| --- | --- |", *options]) + "\n")
    return "\n".join(parts)


def _text(command: click.Command) -> str:
    paragraphs = (command.help or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def main() -> int:
    """Write the page, or check it."""
    if "--check" in sys.argv[1:]:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
        print("docs/reference/cli.md is current" if current else "docs/reference/cli.md is old: run scripts/cli_reference.py")
        return 0 if current else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

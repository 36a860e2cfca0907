"""Entry point: finds the command, runs it, and turns how it ended into text and an exit status.

Commands are imported when they are called, so that ``confide --help`` needs nothing but click.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from confide import __version__
from confide.cli.output import Context, print_error
from confide.crypto import core_dumps
from confide.errors import ConfideError, InterruptedRunError, UnavailableError, UsageError

INTERNAL_ERROR_STATUS = 70
"""Exit status of a bug in Confide itself (sysexits.h: EX_SOFTWARE)."""
_PIPE_CLOSED_STATUS = 141

# name -> one line of help, in the order of a first use.  A test holds them against the commands' own docstrings.
COMMANDS = {
    "demo": "Show the whole story on real data, on this machine.",
    "run": "Run a job and follow it to its receipt.",
    "job": "Sign jobs, for owners who grant by signer; say what a job's guests are started with.",
    "spark": "Let `spark-submit` or the Spark Operator start a run.",
    "runs": "List, show, follow and stop runs.",
    "verify": "Re-check the receipt of a run from files alone.",
    "attest": "Show and verify evidence, of a run's nodes or from a file.",
    "keys": "Create keys and say which jobs may use them.",
    "data": "Encrypt, decrypt, import, look at, verify, re-wrap and clean datasets.",
    "broker": "Serve keys to attested nodes, and enrol owners.",
    "kbs": "Keep resources for confidential guests, and take one as a guest.",
    "image": "Build, sign and check images of nodes.",
    "audit": "Read and check the broker's audit log.",
    "doctor": "Check that this machine, or a cluster, has what Confide needs.",
}


class LazyGroup(click.Group):
    """A group whose commands live in ``confide.cli.<name>`` as ``command`` and are imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of a first use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or ``None`` if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"confide.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="confide", message="%(prog)s %(version)s")
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="Settings, credentials and runs [default: ~/.confide].")
@click.option("--debug", is_flag=True, help="Show where in the code an error came from.")
@click.pass_context
def cli(ctx: click.Context, home: Path | None, *, debug: bool) -> None:
    """Run Spark jobs on encrypted data, on machines you do not trust, and keep the proof of what ran."""
    ctx.obj = Context(home=home, debug=debug)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line and exit: 0, or the status of the error's class (``docs/reference/cli.md``)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character must not end a run
    if arguments is None:  # this is a program, and not a part of another one
        core_dumps.forbid()
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run(words))


def _run(words: list[str]) -> int:
    as_json, debug = "--json" in words, "--debug" in words
    try:
        status = cli.main(args=words, prog_name="confide", standalone_mode=False)
        sys.stdout.flush()
    except ConfideError as error:
        if debug:
            traceback.print_exc()
        return print_error(error, as_json=as_json)
    except click.exceptions.NoArgsIsHelpError as shown:
        click.echo(shown.format_message(), err=True)
        return UsageError.exit_status
    except click.ClickException as error:
        ctx = getattr(error, "ctx", None)
        hint = f"see `{ctx.command_path} --help`" if ctx else "see `confide --help`"
        return print_error(UsageError(error.format_message(), hint=hint), as_json=as_json)
    except (click.Abort, KeyboardInterrupt):
        return print_error(InterruptedRunError("stopped by Ctrl-C"), as_json=as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes at exit
        return _PIPE_CLOSED_STATUS
    except OSError as error:  # a disk that is full, a folder that is not ours: the machine's state, no bug
        if debug:
            traceback.print_exc()
        why = f"the system refused: {error.strerror or type(error).__name__}"
        return print_error(UnavailableError(why, path=error.filename), as_json=as_json)
    except Exception as error:  # noqa: BLE001  # the outermost edge of the process
        return _bug(error, as_json=as_json, debug=debug)
    return status if isinstance(status, int) else 0


def _bug(error: Exception, *, as_json: bool, debug: bool) -> int:
    # The message of a foreign exception may quote data or keys: name the type and the place, no more, unless asked.
    if debug:
        traceback.print_exception(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}"
    hint = "this is a bug in Confide; run again with `confide --debug ...` and report the trace"
    if as_json:
        answer = {"code": "internal", "message": message, "hint": hint, "facts": {}, "exit_status": INTERNAL_ERROR_STATUS}
        click.echo(json.dumps({"error": answer}, indent=2, sort_keys=True))
    else:
        click.echo(f"error[internal]: {message}\n  hint: {hint}", err=True)
    return INTERNAL_ERROR_STATUS


if __name__ == "__main__":
    main()

"""``confide verify``: is a run's receipt true, judged from files alone?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.output import Context, answers, plain, say, wants_colour
from confide.errors import ReceiptError, RunNotFoundError

if TYPE_CHECKING:
    from confide.jobs.receipt import Verification


@click.command("verify")
@click.argument("run")
@click.option("--policy", "policy_file", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="Judge the nodes by this policy instead of the job's own.")  # fmt: skip
@click.option("--job", metavar="HEX", help="Digest of the job that must have run [default for a run's id: the job that was submitted].")
@answers
def command(context: Context, run: str, policy_file: Path | None, job: str | None) -> None:
    """Re-check the receipt of a run from files alone.

    RUN is a run's id (or the beginning of it), a run's folder, or a receipt file.  Nothing is asked of the network.  Prints one line
    a check; the exit status is 3 if one fails.

    A receipt shows that the job in it ran, with the policy and the broker that this job names.  Which job it had to be, only you can say:
    give --job when the receipt comes from somebody else (`confide run --check` prints a job's digest).
    """
    from confide.attest.policy import Policy
    from confide.jobs.receipt import examine

    policy = Policy.load(policy_file) if policy_file else None
    source = source_of(context, run)
    found = examine(source, settings=context.settings, policy=policy, job=job or _submitted(run, source))
    context.answer(found.to_json(), lambda: _show(found))
    if not found.accepted:
        raise click.exceptions.Exit(ReceiptError.exit_status)


def source_of(context: Context, run: str) -> Path:
    """The folder or file that ``run`` names: a path that exists, else a run of the store.

    Raises:
        RunNotFoundError: neither.
    """
    from confide.jobs.store import RunStore

    path = Path(run)
    if path.exists():
        return path
    if len(path.parts) > 1:
        raise RunNotFoundError(f"there is no file or folder {run}", hint="name a run's folder, its receipt.json, or a run's id", path=run)
    return RunStore(context.settings.runs_dir).open(run).path


def _submitted(run: str, source: Path) -> str | None:
    """The digest of the job that this client submitted as ``run``; None if ``run`` is a path, whose folder may be anybody's."""
    from confide.jobs.store import RunDir

    return None if Path(run).exists() else RunDir(source).summary().digest


def _show(found: Verification) -> None:
    width = max(len(check.name) for check in found.checks)
    colour = wants_colour(sys.stdout)
    for check in found.checks:
        mark = "ok  " if check.ok else "FAIL"
        mark = click.style(mark, fg="green" if check.ok else "red") if colour else mark
        wanted = "" if check.ok else f" (expected {check.expected})"
        click.echo(f"{mark} {plain(f'{check.name:<{width}}  {check.got}{wanted}')}")
    failed = sum(not check.ok for check in found.checks)
    if failed:
        say(f"refused: {failed} of {len(found.checks)} checks failed")
        return
    say(f"accepted: {len(found.checks)} checks")
    if not found.job_given:
        say("not checked: that this is the job you mean (give --job)")
    if found.statement is not None and found.statement.simulated:
        say("simulated: the nodes' TEEs were simulated, which protects nothing")

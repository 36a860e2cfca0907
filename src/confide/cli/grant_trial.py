"""The dry run of ``confide keys grant``: what a grant would do to the nodes of stored evidence, line by line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from confide.cli.evidence import check_rows, collateral_for
from confide.cli.output import print_table, say
from confide.errors import GrantError, ParseError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from confide.attest.policy_lint import Finding
    from confide.canonical import Json
    from confide.cli.output import Context
    from confide.jobs.grant_trial import Trial
    from confide.keys.approvals import ApprovalRule


def try_out(context: Context, rule: ApprovalRule, terms: dict[str, Any], findings: Sequence[Finding], *, evidence: Sequence[Path],
            sets: Sequence[Path], signatures: Sequence[Path]) -> None:  # fmt: skip
    """Say what would happen.  The exit status is 4 if something would be refused.

    Raises:
        UsageError: a file holds no evidence with its context.
    """
    from confide.attest.collateral_files import load_sets
    from confide.jobs.grant_trial import Proposal, read_stored
    from confide.jobs.receipt import default_roots
    from confide.keys.grants import Grant

    now = datetime.now(UTC)
    grant = Grant.new(rule.key, **terms, now=now)
    shown = tuple(_object(path) for path in signatures)
    source = collateral_for(context, load_sets(tuple(sets)), kept_only=True)
    proposal = Proposal(grant, rule.threshold, default_roots(context.settings), source, shown)
    trials = proposal.tried([stored for path in evidence for stored in read_stored(path)], now)
    untried = sorted(set(grant.roles) - {trial.stored.record.role for trial in trials})
    value = {
        "grant": {**grant.to_json(), "id": None},
        "lint": [finding.to_json() for finding in findings],
        "needed": rule.threshold,
        "roles_without_evidence": untried,
        "trials": [trial.to_json() for trial in trials],
    }
    context.answer(value, lambda: _show(trials, untried, findings))
    if findings or any(trial.outcome == "refused" for trial in trials):
        raise click.exceptions.Exit(GrantError.exit_status)


def _show(trials: Sequence[Trial], untried: Sequence[str], findings: Sequence[Finding]) -> None:
    for number, trial in enumerate(trials):
        record = trial.stored.record
        mark = {"released": "released", "waits": "WAITS", "refused": "REFUSED"}[trial.outcome]
        say(f"{trial.stored.label}: {record.role} asks for {trial.key} to {trial.purpose}: {mark}: {trial.why}")
        if trial.checks and all(trial.stored is not other.stored for other in trials[:number]):
            print_table(("ok", "check", "got", "expected"), check_rows(trial.checks))
    for role in untried:
        say(f"no evidence of a {role} was given: nothing is known of it")
    if findings:
        say("the grant itself would be refused: its policy asks too little")
    say("nothing was granted: this was a dry run")


def _object(path: Path) -> Json:
    from confide.canonical import parse_object

    try:
        return parse_object(path.read_bytes())
    except ParseError as cause:
        raise GrantError(f"{path.name} is not a signature of a job", hint="`confide job sign` makes one", path=str(path)) from cause

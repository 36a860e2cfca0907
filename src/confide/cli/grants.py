"""``confide keys grant``, ``grants`` and ``revoke``: which jobs may use a key, for what, how often and how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from confide.cli.evidence import time_of
from confide.cli.key_versions import own_key
from confide.cli.output import Context, answers, print_facts, print_table, say, short
from confide.errors import PolicyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from confide.attest.policy import Policy
    from confide.attest.policy_lint import Finding
    from confide.canonical import Json
    from confide.ids import JobDigest, SpkiDigest
    from confide.job import Job
    from confide.keys.grant_client import GrantView
    from confide.keys.grants import Grant

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
AS = click.option("--as", "who", metavar="NAME", help="Whose credential to use [default: the only one there is].")


@click.command("grant")
@click.argument("key")
@click.option("--job", "job_file", type=_FILE, help="Job file that may use the key.")
@click.option("--digest", help="Digest of that job instead (from `confide run --check`).")
@click.option("--signer", metavar="HEX|FILE",
              help="Every job that this key has signed instead: SHA-256 of the key, or its PEM file.")  # fmt: skip
@click.option("--policy", "policy_file", type=_FILE, help="Which nodes may get the key.")
@click.option("--accept-job-policy", is_flag=True, help="Use the policy in the job file: you have read it and it is yours too.")
@click.option("--role", "roles", multiple=True, help="Nodes of this role only (repeat) [default: driver and worker].")
@click.option("--purpose", "purposes", multiple=True, help="For reading or for writing only (repeat) [default: both].")
@click.option("--recipient", "recipients", multiple=True, metavar="NAME", help="Who may open outputs made from this key (repeat).")
@click.option("--runs", "max_runs", type=click.IntRange(1), help="For so many runs [default: any number].")
@click.option("--not-before", metavar="TIME", help="The grant begins then, ISO 8601 [default: at once].")
@click.option("--until", metavar="TIME", help="The grant ends then, ISO 8601 [default: no end].")
@click.option("--days", type=click.IntRange(1, 3650), help="The grant ends so many days after it begins, instead of --until.")
@click.option("--dry-run", is_flag=True, help="Only say what the grant would do to the nodes of --evidence; change nothing.")
@click.option("--evidence", "evidence", type=click.Path(path_type=Path, exists=True), multiple=True,
              help="With --dry-run: a run's folder, receipt or evidence record (repeat).")  # fmt: skip
@click.option("--collateral", "sets", type=_FILE, multiple=True, help="With --dry-run: collateral for records that have none beside them.")
@click.option("--signature", "signatures", type=_FILE, multiple=True, help="With --dry-run and --signer: signatures that the job shows.")
@answers
def grant(context: Context, key: str, *, dry_run: bool, evidence: tuple[Path, ...], sets: tuple[Path, ...],
          signatures: tuple[Path, ...], **said: Any) -> None:  # fmt: skip
    """Let one job, or what one reviewer signs, use KEY on the nodes that a policy accepts.

    A job's digest is over code, arguments, inputs, outputs and policy: a job that differs in any of them needs another grant.
    A policy that asks too little is refused.  Where the key has approvers, the grant waits for them.
    """
    from confide.cli.owners import client_of

    if dry_run != bool(evidence) or ((sets or signatures) and not dry_run):
        raise UsageError("a dry run is on evidence, and evidence is for a dry run", hint="give --dry-run --evidence FILE, or neither")
    ref, terms = own_key(key), _terms(**said)
    findings = _lint(terms["policy"], refuse=not dry_run)
    with client_of(context.settings, ref.owner) as client:
        if dry_run:
            from confide.cli.grant_trial import try_out

            try_out(context, client.grant_list().rule(ref.id), terms, findings, evidence=evidence, sets=sets, signatures=signatures)
            return
        made = client.grant(ref.name, **terms)
        view = client.grant_list().find(made.id)
    context.answer(view.to_json(), lambda: _show(made, view.standing.needed))


def _terms(*, job_file: Path | None, digest: str | None, signer: str | None, policy_file: Path | None, accept_job_policy: bool,
           not_before: str | None, until: str | None, days: int | None, **lists: Any) -> dict[str, Any]:  # fmt: skip
    """What the grant says, as ``OwnerClient.grant`` takes it."""
    if sum(choice is not None for choice in (job_file, digest, signer)) != 1:
        raise UsageError(
            "a grant is for one job, or for the jobs of one signer", hint="give one of --job FILE, --digest HEX and --signer HEX"
        )
    job = _load(job_file) if job_file else None
    begin = time_of(not_before) if not_before else None
    if until and days:
        raise UsageError("a grant has one end", hint="give either --until or --days")
    end = time_of(until) if until else _after(begin, days) if days else None
    return {
        "job": job.digest if job else _digest(digest) if digest is not None else None,
        "signer": None if signer is None else _signer(signer),
        "policy": _policy(policy_file, job if accept_job_policy else None),
        "roles": _among(lists["roles"], ("driver", "worker"), "role"),
        "purposes": _among(lists["purposes"], ("read", "write"), "purpose"),
        "recipients": lists["recipients"],
        "not_before": begin,
        "not_after": end,
        "max_runs": lists["max_runs"],
    }


def _after(begin: datetime | None, days: int) -> datetime:
    try:
        return (begin or datetime.now(UTC)) + timedelta(days=days)
    except OverflowError as cause:
        raise UsageError("the grant would end after the year 9999", hint="give fewer --days, or none: then it has no end") from cause


def _among(chosen: tuple[str, ...], known: tuple[str, ...], what: str) -> list[Any]:
    from confide.ids import Purpose, Role

    for one in chosen:
        if one not in known:
            raise UsageError(f"there is no {what} {one[:40]!r} to grant to", hint=f"{what}s: {', '.join(known)}")
    kind = Role if what == "role" else Purpose
    return [kind(one) for one in chosen or known]


def _lint(policy: Policy, *, refuse: bool) -> tuple[Finding, ...]:
    """Show what the policy asks too little of.

    Raises:
        PolicyError: it should not decide about real data, and does not say itself that it protects nothing.
    """
    from confide.attest.policy_lint import lint, refusing

    found = lint(policy, datetime.now(UTC).date())
    wrong = refusing(policy, found)
    for switch, nodes in (("simulated", "simulated nodes"), ("debug", "nodes whose memory the host can read")):
        if switch in policy.allow:
            say(f"warning: this policy accepts {nodes}, which protect nothing", err=True)
    for finding in found:
        if finding.severity == "warning" or finding in wrong:
            say(f"{finding.severity}[{finding.code}]: {finding.message} ({finding.policy})", err=True)
    if wrong and refuse:
        hint = f"{wrong[0].hint}; `confide attest policy lint` explains"
        raise PolicyError(f"the policy asks too little to guard a key: {wrong[0].message}", hint=hint, finding=wrong[0].code)
    return wrong


def _show(made: Grant, needed: int) -> None:
    print_facts({**shown(made), "approvals": f"waits for {needed}: `confide keys approve {made.id}`" if needed else "none needed"})


def shown(made: Grant) -> Json:
    """A grant's terms, for people."""
    return {
        "grant": made.id,
        "key": made.key,
        **({"job": made.job} if made.job else {"signer": made.signer}),
        "policy": made.policy.name,
        "policy_digest": made.policy.digest,
        "roles": ", ".join(made.roles),
        "purposes": ", ".join(made.purposes),
        "recipients": ", ".join(made.recipients) or "none",
        "runs": made.max_runs or "any number",
        "from": made.not_before.isoformat() if made.not_before else "at once",
        "until": made.not_after.isoformat() if made.not_after else "no end",
    }


@click.command("grants")
@AS
@answers
def grants(context: Context, who: str | None) -> None:
    """List grants of your keys and of keys that you approve for, and what waits for approval."""
    from confide.cli.owners import client_of

    with client_of(context.settings, who) as client:
        listed = client.grant_list()

    def text() -> None:
        print_grants(listed.grants)
        if listed.changes:
            rows = [
                (c.change.id, c.change.key, rule_text(c.change.rule.threshold, c.change.rule.names), c.standing.votes)
                for c in listed.changes
            ]
            print_table(("new rule", "key", "approvals it asks for", "approved"), rows)
        if listed.departures:
            leaving = [(d.departure.id, d.departure.key, d.departure.way, d.standing.votes) for d in listed.departures]
            print_table(("leaving", "key", "as", "approved"), leaving)
        if listed.rules:
            print_table(("key", "approvals"), [(rule.key, rule_text(rule.threshold, rule.names)) for rule in listed.rules])

    value = {
        "grants": [view.to_json() for view in listed.grants],
        "changes": [view.to_json() for view in listed.changes],
        "departures": [view.to_json() for view in listed.departures],
        "rules": [rule.to_json() for rule in listed.rules],
    }
    context.answer(value, text)


def print_grants(views: Sequence[GrantView]) -> None:
    """Print grants and how they stand."""
    columns = ("grant", "key", "for", "recipients", "runs", "until", "state", "digest")
    print_table(columns, [_row(view) for view in views], empty="no grants yet: `confide keys grant OWNER/NAME`")


def _row(view: GrantView) -> tuple[object, ...]:
    made, standing = view.grant, view.standing
    target = short(made.job) if made.job else f"signed by {short(made.signer)}"
    runs = f"{standing.runs} of {made.max_runs}" if made.max_runs else "any"
    until = f"{made.not_after:%Y-%m-%d %H:%M}" if made.not_after else "no end"
    return (made.id, made.key, target, ", ".join(made.recipients), runs, until, view.state(datetime.now(UTC)), short(made.digest))


def rule_text(threshold: int, names: Sequence[str]) -> str:
    """An approval rule, for people."""
    return f"{threshold} of {', '.join(names)}" if threshold else "none"


@click.command("revoke")
@click.argument("grant_id", metavar="GRANT")
@AS
@answers
def revoke(context: Context, grant_id: str, who: str | None) -> None:
    """End a grant now: the broker releases nothing more under it, and nodes that hold a key by it wipe it within seconds."""
    from confide.cli.owners import client_of

    with client_of(context.settings, who) as client:
        ended = client.revoke(grant_id)
    context.answer(ended.to_json(), lambda: say(f"revoked: {ended.id} ({ended.key})"))


def _load(path: Path) -> Job:
    from confide.job import Job
    from confide.jobs.submit import pin_datasets

    return pin_datasets(Job.load(path))


def _digest(text: str) -> JobDigest:
    from confide.ids import JobDigest

    if len(text) != 96 or any(c not in "0123456789abcdef" for c in text):
        raise UsageError("a job digest is 96 lower-case hex characters", hint="`confide run --check JOB` prints it")
    return JobDigest(text)


def _signer(text: str) -> SpkiDigest:
    from confide.crypto.sign import PublicKey
    from confide.ids import SpkiDigest

    if len(text) == 64 and all(c in "0123456789abcdef" for c in text):
        return SpkiDigest(text)
    path = Path(text)
    if not path.is_file():
        raise UsageError("a signer is 64 lower-case hex characters, or the PEM file of a public key", hint="`confide job sign` prints it")
    return PublicKey.from_pem(path.read_bytes()).digest


def _policy(file: Path | None, job: Job | None) -> Policy:
    from confide.attest.policy import Policy

    if file is not None:
        return Policy.load(file)
    if job is None:
        raise UsageError("a grant needs a policy", hint="give --policy FILE, or --accept-job-policy with --job")
    return Policy.from_json(job.policy)


COMMANDS = (grant, grants, revoke)

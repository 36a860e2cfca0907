"""``confide keys``: an owner's credential, keys and grants.  The keys themselves never leave the broker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.key_transfer import export, import_, wrapping_key
from confide.cli.key_versions import destroy, own_key, retire, rewrap, rotate, versions
from confide.cli.output import Context, answers, print_facts, print_table, say, short
from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.attest.policy import Policy
    from confide.canonical import Json
    from confide.ids import JobDigest
    from confide.job import Job
    from confide.keys.grants import Grant

_AS = click.option("--as", "who", metavar="NAME", help="Whose credential to use [default: the only one there is].")


@click.group("keys")
def command() -> None:
    """Create keys and say which jobs may use them."""


for _about_keys in (rotate, versions, retire, destroy, rewrap, wrapping_key, export, import_):
    command.add_command(_about_keys)


@command.command("init")
@click.argument("name")
@click.option("--enrolment", type=click.Path(path_type=Path, dir_okay=False, exists=True), required=True,
              help="File from the broker's operator (`confide broker enrol`); used up and removed.")  # fmt: skip
@answers
def init(context: Context, name: str, enrolment: Path) -> None:
    """Make the credential of owner or recipient NAME and enrol it at a broker."""
    from confide.cli.owners import Enrolment, remember
    from confide.keys.client import OwnerClient
    from confide.keys.credentials import Credential

    ticket = Enrolment.load(enrolment)
    if ticket.owner != name:
        raise UsageError(f"the enrolment file is for {ticket.owner}", hint=f"run `confide keys init {ticket.owner} ...`")
    folder = context.settings.credentials_dir
    # An earlier try may have made the credential and failed to reach the broker: go on with it.
    known = Credential.path(folder, name).exists()
    credential = Credential.load(folder, name) if known else Credential.create(folder, name)
    with OwnerClient(ticket.broker.url, ticket.broker.spki, credential) as client:
        client.enrol(ticket.token)
    remember(context.settings, name, ticket.broker)
    enrolment.unlink()
    context.answer({"name": name, "credential": credential.spki, "broker": ticket.broker.url, "file": str(Credential.path(folder, name))})


@command.command("ls")
@_AS
@answers
def ls(context: Context, who: str | None) -> None:
    """List an owner's keys and grants."""
    from confide.cli.owners import client_of

    with client_of(context.settings, who) as client:
        keys, grants = client.keys(), client.grants()
    value = {
        "keys": [{"key": str(k.key), "created": k.created.isoformat(), "datasets": k.datasets} for k in keys],
        "grants": [grant.to_json() for grant in grants],
    }

    def text() -> None:
        rows = [(str(k.key), k.datasets, f"{k.created:%Y-%m-%d %H:%M}") for k in keys]
        print_table(("key", "datasets", "created"), rows, empty="no keys yet: `confide keys create OWNER/NAME`")
        if grants:
            print_table(("grant", "key", "job", "recipients", "until"), [_grant_row(grant) for grant in grants])

    context.answer(value, text)


def _grant_row(grant: Grant) -> tuple[object, ...]:
    until = f"{grant.not_after:%Y-%m-%d %H:%M}" if grant.not_after else "no end"
    if grant.revoked:
        until = "revoked"
    return (grant.id, grant.key, short(grant.job), ", ".join(grant.recipients), until)


@command.command("create")
@click.argument("key")
@answers
def create(context: Context, key: str) -> None:
    """Create the key-encryption key KEY, written as owner/name.  It stays in the broker."""
    from confide.cli.owners import client_of

    ref = own_key(key)
    with client_of(context.settings, ref.owner) as client:
        made = client.create_key(ref.name)
    context.answer({"key": made.id, "version": made.version})


@command.command("grant")
@click.argument("key")
@click.option("--job", "job_file", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Job file that may use the key.")
@click.option("--digest", help="Digest of that job instead (from `confide run --check`).")
@click.option("--policy", "policy_file", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Which nodes may get the key.")
@click.option("--accept-job-policy", is_flag=True, help="Use the policy in the job file: you have read it and it is yours too.")
@click.option("--recipient", "recipients", multiple=True, metavar="NAME", help="Who may open outputs made from this key (repeat).")
@click.option("--days", type=click.IntRange(1, 3650), help="The grant ends after so many days [default: no end].")
@answers
def grant(
    context: Context,
    key: str,
    job_file: Path | None,
    digest: str | None,
    policy_file: Path | None,
    recipients: tuple[str, ...],
    days: int | None,
    *,
    accept_job_policy: bool,
) -> None:
    """Let one job use KEY on the nodes that a policy accepts.

    The grant is for the job's digest: code, arguments, inputs, outputs and policy.  A job that differs in any of them needs another grant.
    """
    from confide.cli.owners import client_of

    ref = own_key(key)
    job = _load(job_file) if job_file else None
    policy = _policy(policy_file, job if accept_job_policy else None)
    if "simulated" in policy.allow:
        say("warning: this policy accepts simulated nodes, which protect nothing", err=True)
    end = datetime.now(UTC) + timedelta(days=days) if days else None
    with client_of(context.settings, ref.owner) as client:
        made = client.grant(ref.name, job=_digest(job, digest), policy=policy, recipients=recipients, not_after=end)
    value = made.to_json()
    context.answer(value, lambda: print_facts(_shown(made)))


def _shown(made: Grant) -> Json:
    return {
        "grant": made.id,
        "key": made.key,
        "job": made.job,
        "policy": made.policy.name,
        "roles": ", ".join(made.roles),
        "purposes": ", ".join(made.purposes),
        "recipients": ", ".join(made.recipients) or "none",
        "until": made.not_after.isoformat() if made.not_after else "no end",
    }


def _load(path: Path) -> Job:
    from confide.job import Job
    from confide.jobs.submit import pin_inputs

    return pin_inputs(Job.load(path))


def _digest(job: Job | None, digest: str | None) -> JobDigest:
    from confide.ids import JobDigest

    if (job is None) == (digest is None):
        raise UsageError("a grant is for one job", hint="give either --job FILE or --digest HEX")
    if job is not None:
        return job.digest
    text = str(digest)
    if len(text) != 96 or any(c not in "0123456789abcdef" for c in text):
        raise UsageError("a job digest is 96 lower-case hex characters", hint="`confide run --check JOB` prints it")
    return JobDigest(text)


def _policy(file: Path | None, job: Job | None) -> Policy:
    from confide.attest.policy import Policy

    if file is not None:
        return Policy.load(file)
    if job is None:
        raise UsageError("a grant needs a policy", hint="give --policy FILE, or --accept-job-policy with --job")
    return Policy.from_json(job.policy)


@command.command("revoke")
@click.argument("grant_id", metavar="GRANT")
@_AS
@answers
def revoke(context: Context, grant_id: str, who: str | None) -> None:
    """End a grant now: the broker releases nothing more under it, and runs that hold a key by it end within seconds."""
    from confide.cli.owners import client_of

    with client_of(context.settings, who) as client:
        ended = client.revoke(grant_id)
    context.answer(ended.to_json(), lambda: say(f"revoked: {ended.id} ({ended.key})"))

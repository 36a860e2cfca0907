"""``confide keys``: an owner's credential, keys and grants.  The keys themselves leave the broker only as an export or an escrow."""

from __future__ import annotations

from pathlib import Path

import click

from confide.cli import approvals, grants, owner_tokens
from confide.cli.grants import AS
from confide.cli.key_escrow import adopt, escrow
from confide.cli.key_transfer import export, import_, wrapping_key
from confide.cli.key_versions import destroy, own_key, retire, rewrap, rotate, versions
from confide.cli.output import Context, answers, print_table
from confide.cli.page import page
from confide.errors import UsageError


@click.group("keys")
def command() -> None:
    """Create keys and say which jobs may use them."""


for _about_keys in (rotate, versions, retire, destroy, rewrap, wrapping_key, export, import_, escrow, adopt):
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
@AS
@answers
def ls(context: Context, who: str | None) -> None:
    """List an owner's keys and grants."""
    from confide.cli.owners import client_of

    with client_of(context.settings, who) as client:
        keys, listed = client.keys(), client.grant_list()
    value = {
        "keys": [{"key": str(k.key), "created": k.created.isoformat(), "datasets": k.datasets} for k in keys],
        "grants": [view.to_json() for view in listed.grants],
    }

    def text() -> None:
        rows = [(str(k.key), k.datasets, f"{k.created:%Y-%m-%d %H:%M}") for k in keys]
        print_table(("key", "datasets", "created"), rows, empty="no keys yet: `confide keys create OWNER/NAME`")
        if listed.grants:
            grants.print_grants(listed.grants)

    context.answer(value, text)


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


for _command in (*grants.COMMANDS, *approvals.COMMANDS, *owner_tokens.COMMANDS, page):
    command.add_command(_command)

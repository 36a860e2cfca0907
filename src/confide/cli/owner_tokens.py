"""``confide keys tokens`` and ``confide keys certificate``: being known by an issuer's tokens instead of the credential's key."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

import click

from confide.cli.grants import AS
from confide.cli.output import Context, answers, print_table
from confide.errors import UsageError

_VALID: Final = timedelta(days=365)


@click.group("tokens")
def tokens() -> None:
    """Be known to the broker by tokens of an identity provider (OpenID Connect)."""


@tokens.command("link")
@AS
@answers
def link(context: Context, who: str | None) -> None:
    """Tie the subject of the token that `token_file` or `token_command` gives (see settings) to this credential.

    The broker has to know the issuer.  The credential's key is used this once; votes and exports are signed with it in any case.
    """
    from confide.cli.owners import client_of
    from confide.cli.token_source import token_source

    source = token_source(context.settings)
    if source is None:
        raise UsageError("there is no token to link", hint="set token_file or token_command in config.toml")
    with client_of(context.settings, who, by_key=True) as client:
        context.answer(client.link_token(source()))


@tokens.command("ls")
@AS
@answers
def ls(context: Context, who: str | None) -> None:
    """Show whose tokens count as this credential."""
    from confide.cli.owners import client_of

    with client_of(context.settings, who, by_key=True) as client:
        found = client.token_links()
    rows = [(one["issuer"], one["subject"]) for one in found]
    context.answer({"links": found}, lambda: print_table(("issuer", "subject"), rows, empty="no tokens count as this credential"))


@tokens.command("unlink")
@click.argument("issuer")
@click.argument("subject")
@AS
@answers
def unlink(context: Context, issuer: str, subject: str, who: str | None) -> None:
    """Let tokens of SUBJECT at ISSUER count no more."""
    from confide.cli.owners import client_of

    with client_of(context.settings, who, by_key=True) as client:
        client.unlink_token(issuer, subject)
    context.answer({"issuer": issuer, "subject": subject})


@click.command("certificate")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@AS
@answers
def certificate(context: Context, out: Path, who: str | None) -> None:
    """Write a certificate for the credential's key, valid for a year, that an issuer can bind tokens to (RFC 8705).

    Register it at the issuer, and name it as `token_certificate_file` in the settings.
    """
    from confide.cli.owners import credential_of
    from confide.crypto.identity import Identity

    credential = credential_of(context.settings, who)
    made = Identity.generate(credential.name, key=credential.key, valid_for=_VALID)
    try:
        with out.open("xb") as file:
            file.write(made.certificate_pem)
    except OSError as cause:
        raise UsageError(f"cannot write {out}: {cause.strerror}", path=str(out)) from cause
    context.answer({"name": credential.name, "file": str(out)})


COMMANDS = (tokens, certificate)

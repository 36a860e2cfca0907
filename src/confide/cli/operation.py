"""``confide broker enrol``, ``withdraw`` and ``tenants``: who may use the broker.  For its operator, on its machine or from afar.

On the machine, the store is opened with its master key, or (with shares) the broker that serves is asked over its socket.  From afar, with
``--as``, the operator is an enrolled one, who has no more than these commands.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from confide.cli.opening import Opening, opening_options, refuse_missing, unlock_of
from confide.cli.output import Context, answers, print_table
from confide.cli.owners import BrokerAddress, Enrolment, address_of, operator_of, serving_url
from confide.cli.shares import ask_broker, operate_in
from confide.cli.storage import location_of
from confide.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from confide.canonical import Json
    from confide.config import Settings

AS = click.option("--as", "who", metavar="NAME", help="Ask the broker from afar, as this enrolled operator.")


def operate(settings: Settings, opening: Opening, who: str | None, op: str, **fields: object) -> Json:
    """Take one of an operator's steps, in the way that was chosen.

    Raises:
        UsageError: two ways were chosen.
    """
    if who is not None:
        if opening != Opening(None, None, None, shares=False):
            raise UsageError("an operator from afar opens no store", hint="give either --as or how the store is opened")
        with operator_of(settings, who) as client:
            return client.operate(op, **fields)
    if opening.shares:
        return ask_broker(settings, op, **fields)
    from confide.keys.store import Store

    location = location_of(settings)
    with closing(Store.open(location, unlock_of(location, opening, make=False))) as store:
        return operate_in(store, op, fields)


@click.command("enrol")
@click.argument("owner")
@click.option("--role", type=click.Choice(["owner", "auditor", "operator"]), default="owner", show_default=True,
              help="Owners have keys or receive outputs; auditors only see; operators run the broker and see nothing.")  # fmt: skip
@click.option("--tenant", default="default", show_default=True, help="Of which tenant: see `confide broker tenants`.")
@click.option("--all-tenants", is_flag=True, help="For an auditor: of the whole broker.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write [default: OWNER.enrolment.json].")
@click.option("--url", help="The broker's address as the owner reaches it [default: where it serves now].")
@AS
@opening_options
@answers
def enrol(context: Context, owner: str, role: str, tenant: str, out: Path | None, url: str | None, who: str | None, opening: Opening,
          *, all_tenants: bool) -> None:  # fmt: skip
    """Make the enrolment file with which somebody becomes OWNER, or a recipient, auditor or operator of that name.

    It holds the broker's address and key, and a token that works once and for 24 hours.  Whoever has it can become OWNER: hand it over
    safely.  With --shares the broker that serves is asked to make it.
    """
    from confide.ids import SpkiDigest

    target = out if out is not None else Path(f"{owner}.enrolment.json")
    if target.exists():
        raise UsageError(f"{target} exists", hint="choose another file with --out")
    if who is None and not opening.shares:
        refuse_missing(location_of(context.settings))
    where = url or (address_of(context.settings, who).url if who is not None else serving_url(context.settings))
    made = operate(context.settings, opening, who, "enrol", owner=owner, tenant="*" if all_tenants else tenant, role=role)
    address = BrokerAddress(where, SpkiDigest(str(made.get("spki"))))
    Enrolment(owner, address, str(made.get("token"))).save(target)
    context.answer({"owner": owner, "file": str(target), "broker": address.url})


@click.command("cancel-enrolment")
@click.argument("owner")
@AS
@opening_options
@answers
def cancel_enrolment(context: Context, owner: str, who: str | None, opening: Opening) -> None:
    """Let nobody become OWNER by an enrolment file that was made and not redeemed: one that was lost, or given to the wrong person."""
    context.answer(operate(context.settings, opening, who, "cancel-enrolment", owner=owner))


@click.command("withdraw")
@click.argument("owner")
@click.option("--strand-rules", is_flag=True, help="Although keys would have too few approvers left to meet or change their rules.")
@AS
@opening_options
@answers
def withdraw(context: Context, owner: str, who: str | None, opening: Opening, *, strand_rules: bool) -> None:
    """Let the credential of OWNER do nothing any more.  There is no way back: somebody who was withdrawn enrols under a new name.

    Grants of that owner end, and nodes that hold a key by them wipe it; approvals count no more; guests get none of that owner's resources;
    tokens of an identity provider count for nobody.  Keys and datasets stay in the store.
    """
    context.answer(operate(context.settings, opening, who, "withdraw", owner=owner, strand_rules=strand_rules))


@click.group("tenants")
def tenants() -> None:
    """Make tenants, and show who is of which."""


@tenants.command("add")
@click.argument("tenant")
@AS
@opening_options
@answers
def add(context: Context, tenant: str, who: str | None, opening: Opening) -> None:
    """Make TENANT: owners of it neither see nor reach what is another tenant's."""
    context.answer(operate(context.settings, opening, who, "add-tenant", tenant=tenant))


@tenants.command("ls")
@AS
@opening_options
@answers
def ls(context: Context, who: str | None, opening: Opening) -> None:
    """Show every tenant and its people; of what they own, nothing."""
    found = operate(context.settings, opening, who, "tenants")
    context.answer(
        found, lambda: print_table(("tenant", "name", "role", "enrolled", "withdrawn"), _rows(found), empty="nobody is enrolled")
    )


_LIMITS = (
    ("rate", click.FloatRange(0, min_open=True), "Requests a second, on average."),
    ("burst", click.IntRange(1), "Requests at once [default: those of one second]."),
    ("owners", click.IntRange(0), "People."),
    ("keys", click.IntRange(0), "Keys."),
    ("datasets", click.IntRange(0), "Datasets that owners make or import."),
    ("grants", click.IntRange(0), "Grants, revoked ones too."),
    ("resources", click.IntRange(0), "Resources for guests."),
    ("resource-bytes", click.IntRange(0), "Bytes of these."),
    ("sessions", click.IntRange(0), "Connections of nodes that hold keys, at each broker."),
    ("releases-a-day", click.IntRange(0), "Keys and resources given out in a day (UTC)."),
)


def _limit_options(function: Callable[..., None]) -> Callable[..., None]:
    for name, kind, text in reversed(_LIMITS):
        function = click.option(f"--{name}", type=kind, help=text)(function)
    return function


@tenants.command("limit")
@click.argument("tenant", required=False)
@click.option("--each-client", is_flag=True, help="Instead of a tenant's: the --rate of each single client.")
@_limit_options
@AS
@opening_options
@answers
def limit(context: Context, tenant: str | None, who: str | None, opening: Opening, *, each_client: bool, **said: Any) -> None:
    """Set all limits of TENANT; those that are not given end.  What is over a limit already stays.

    Requests over a rate are refused with status 429 and the time after which to ask again; clients do so.
    """
    if each_client == (tenant is not None):
        raise UsageError("limits are of one tenant, or of each client", hint="give TENANT or --each-client")
    limits = {name.replace("_", "-"): value for name, value in said.items() if value is not None}
    context.answer(operate(context.settings, opening, who, "limits", tenant=tenant or "*", limits=limits))


def _rows(found: Json) -> Sequence[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for one in found["tenants"]:
        rows += [
            (str(one["tenant"]), str(who["name"]), str(who["role"]), str(who["enrolled"])[:10], str(who["withdrawn"] or "")[:10])
            for who in one["people"]
        ]
        if not one["people"] and one["tenant"] != "*":
            rows.append((str(one["tenant"]), "(nobody)", "", "", ""))  # a tenant that was just made must be seen
    return rows


COMMANDS = (enrol, cancel_enrolment, withdraw, tenants)

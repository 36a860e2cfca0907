"""``confide keys approvers``, ``approve``, ``reject`` and ``withdraw``: several people agree before a grant counts; one ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from confide.cli.grants import AS, rule_text, shown
from confide.cli.key_versions import own_key
from confide.cli.output import Context, answers, print_facts, say
from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.keys.approvals import Verdict
    from confide.keys.grant_client import View

_DIGEST = click.option("--digest", help="What it must be, if you were told by another way than the broker (`confide keys grants --json`).")


@click.command("approvers")
@click.argument("key")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--threshold", type=click.IntRange(1), help="How many of them have to approve each grant.")
@click.option("--none", "nobody", is_flag=True, help="Ask nobody any more.")
@answers
def approvers(context: Context, key: str, names: tuple[str, ...], threshold: int | None, *, nobody: bool) -> None:
    """Say who approves grants of KEY, or show it if nobody is named.

    Grants that there are need the approvals too.  A key that has approvers gets others only when these have approved that.
    """
    from confide.cli.owners import client_of

    if nobody == bool(names) and (nobody or threshold is not None):
        raise UsageError("a rule has approvers and a threshold, or there is none", hint="give --threshold M NAME..., or --none")
    if names and threshold is None:
        raise UsageError("how many have to approve?", hint="give --threshold")
    ref = own_key(key)
    with client_of(context.settings, ref.owner) as client:
        waiting = client.set_approvers(ref.name, threshold or 0, names) if names or nobody else None
        rule = client.grant_list().rule(ref.id)
    value = {"key": ref.id, "threshold": rule.threshold, "approvers": rule.names, "waits": waiting.to_json() if waiting else None}

    def text() -> None:
        print_facts({"key": ref.id, "approvals": rule_text(rule.threshold, rule.names)})
        if waiting is not None:
            wanted = rule_text(waiting.change.rule.threshold, waiting.change.rule.names)
            say(f"to be {wanted}: waits for {rule.threshold} of the approvers now, `confide keys approve {waiting.change.id}`")

    context.answer(value, text)


@click.command("approve")
@click.argument("subject", metavar="ID")
@_DIGEST
@AS
@answers
def approve(context: Context, subject: str, digest: str | None, who: str | None) -> None:
    """Approve a grant, a new rule or a key that is to leave its broker, as one of its key's approvers: sign exactly what is shown."""
    _vote(context, subject, "approve", digest, who)


@click.command("reject")
@click.argument("subject", metavar="ID")
@_DIGEST
@AS
@answers
def reject(context: Context, subject: str, digest: str | None, who: str | None) -> None:
    """Reject a grant, a new rule or a key that is to leave: your approval, if you gave it, counts no more.

    To end a grant for all, `withdraw`.
    """
    _vote(context, subject, "reject", digest, who)


def _vote(context: Context, subject: str, verdict: Verdict, digest: str | None, who: str | None) -> None:
    from confide.cli.owners import client_of

    with client_of(context.settings, who) as client:
        view = client.vote(subject, verdict, digest=digest)
    state = "waits" if view.standing.pending else "approved"
    said = {"approved": ", ".join(view.standing.approved) or "nobody", "rejected": ", ".join(view.standing.rejected) or "nobody"}
    count = f"{len(view.standing.approved)} of {view.standing.needed}"
    context.answer({**view.to_json(), "state": state}, lambda: print_facts({**_facts(view), **said, "state": f"{state}: {count}"}))


def _facts(view: View) -> Json:
    from confide.keys.grant_client import ChangeView, GrantView

    match view:
        case GrantView(grant):
            return {**shown(grant), "digest": grant.digest}
        case ChangeView(change):
            wanted = rule_text(change.rule.threshold, change.rule.names)
            return {"rule": change.id, "key": change.key, "approvals": wanted, "digest": change.digest}
    leaves = view.departure
    return {leaves.way: leaves.id, "key": leaves.key, **leaves.told(), "digest": leaves.digest}


@click.command("withdraw")
@click.argument("subject", metavar="ID")
@click.option("--approval", "only_own", is_flag=True, help="Take back your own word only: it waits again, if too few approvals are left.")
@AS
@answers
def withdraw(context: Context, subject: str, who: str | None, *, only_own: bool) -> None:
    """End a grant at once and for good, as any one of its key's approvers."""
    from confide.cli.owners import client_of

    with client_of(context.settings, who) as client:
        if only_own:
            standing = client.take_back(subject)
            count = f"{len(standing.approved)} of {standing.needed}"
            context.answer({"id": subject, "standing": standing.to_json()}, lambda: say(f"taken back: {subject} has {count} approvals"))
            return
        ended = client.revoke(subject)
    context.answer(ended.to_json(), lambda: say(f"withdrawn: {ended.id} ({ended.key})"))


COMMANDS = (approvers, approve, reject, withdraw)

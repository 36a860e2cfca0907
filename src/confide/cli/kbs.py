"""``confide kbs``: resources for confidential guests, by KBS protocol 0.4.0: what owners keep, and what a guest takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.output import Context, Story, answers, print_table, say
from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.attest.collect import Attester
    from confide.config import Settings
    from confide.keys.kbs.owner_client import KbsOwnerClient
    from confide.keys.kbs.transport import KbsTrust

_AS = click.option("--as", "who", metavar="NAME", help="Whose credential to use [default: the only one there is].")
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group("kbs")
def command() -> None:
    """Keep resources for confidential guests, and take one as a guest."""


@command.command("get")
@click.argument("uri")
@click.option("--spki", help="SHA-256 of the server's public key, in hex: `confide broker serve` prints ours.")
@click.option("--ca", "ca_file", type=_FILE, help="Certificates (PEM) that the server's has to go back to, instead of --spki.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), required=True,
              help="New file of mode 0600 for the resource, or - for standard output.")  # fmt: skip
@click.option("--init-data", "init_data_file", type=_FILE, help="Init-data (TOML) that this guest was started with.")
@click.option("--key", "kind", type=click.Choice(["P-256", "P-521", "RSA"]), default="P-256", show_default=True, help="Kind of its key.")
@click.option("--simulate", is_flag=True, help="Show evidence of this installation's simulated TEE, which protects nothing.")
@answers
def get(
    context: Context,
    uri: str,
    spki: str | None,
    ca_file: Path | None,
    out: Path,
    init_data_file: Path | None,
    kind: str,
    *,
    simulate: bool,
) -> None:
    """Take the resource URI (kbs://HOST:PORT/repository/type/tag) from a key broker service, as the guest that this process runs in."""
    from confide.attest.init_data import InitData
    from confide.crypto.sign import write_private_file
    from confide.keys.kbs.client import KbsClient, resource_of_uri
    from confide.keys.kbs.tee_key import KeyKind

    url, name = resource_of_uri(uri)
    if url is None:
        raise UsageError("the URI names no server", hint="write kbs://HOST:PORT/repository/type/tag")
    if out != Path("-") and out.exists():
        raise UsageError(f"{out} exists", hint="choose another file with --out")
    init_data = InitData.parse(init_data_file.read_text(encoding="utf-8")) if init_data_file else None
    Story(simulated=simulate).say(f"attesting to {url}")
    attester = _attester(context.settings, simulate=simulate)
    with KbsClient(url, _trust(spki, ca_file), attester=attester, kind=KeyKind(kind), init_data=init_data) as client:
        secret = client.resource(name)
    if out == Path("-"):
        sys.stdout.buffer.write(secret.reveal())
        return
    write_private_file(out, secret.reveal())
    context.answer({"resource": name.path, "file": str(out), "bytes": len(secret)})


def _attester(settings: Settings, *, simulate: bool) -> Attester:
    from confide.attest.collect import find_attester
    from confide.ids import Tee

    if not simulate:
        return find_attester()
    from confide.jobs.local.simulation import SimulatedTee

    return SimulatedTee.at(settings.simulation_dir).guest(Tee.TDX)


def _trust(spki: str | None, ca_file: Path | None) -> KbsTrust:
    from confide.crypto.tls import PinnedSpki
    from confide.ids import SpkiDigest
    from confide.keys.kbs.transport import PinnedCa

    if (spki is None) == (ca_file is None):
        raise UsageError("whom to trust is said by one of --spki and --ca", hint="nothing is sent to a server that nobody has checked")
    return PinnedSpki(SpkiDigest(spki)) if spki is not None else PinnedCa(ca_file.read_text(encoding="ascii") if ca_file else "")


# --- owners ------------------------------------------------------------------------------------------------------------


def _owner(context: Context, who: str | None) -> KbsOwnerClient:
    from confide.cli.owners import address_of, credential_of
    from confide.keys.kbs.owner_client import KbsOwnerClient

    credential = credential_of(context.settings, who)
    address = address_of(context.settings, credential.name)
    return KbsOwnerClient(address.url, address.spki, credential)


@command.command("put")
@click.argument("name")
@click.argument("file", type=_FILE)
@_AS
@answers
def put(context: Context, name: str, file: Path, who: str | None) -> None:
    """Keep FILE as resource NAME (repository/type/tag).  No guest gets it without a rule.

    A repository is of who keeps its first resource.
    """
    from confide.keys.kbs.resources import ResourceName

    found = ResourceName.parse(name)
    with _owner(context, who) as client:
        version = client.put(found, _content(file))
    context.answer({"resource": found.path, "version": version})


def _content(file: Path) -> bytes:
    """What is to be kept; from a pipe too, so that it need not lie in a file.  No more is read than a resource may have."""
    from confide.keys.kbs.resources import MAX_RESOURCE_BYTES

    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_RESOURCE_BYTES + 1)
    except OSError as cause:
        raise UsageError(f"cannot read {file}: {cause.strerror}", path=str(file)) from cause
    if len(content) > MAX_RESOURCE_BYTES:
        hint = "keep the data as a dataset, and its key as the resource"
        raise UsageError(f"a resource has at most {MAX_RESOURCE_BYTES} bytes", hint=hint, path=str(file))
    return content


@command.command("rm")
@click.argument("name")
@_AS
@answers
def rm(context: Context, name: str, who: str | None) -> None:
    """Forget resource NAME."""
    from confide.keys.kbs.resources import ResourceName

    found = ResourceName.parse(name)
    with _owner(context, who) as client:
        client.delete(found)
    context.answer({"resource": found.path, "deleted": True})


@command.group("policy")
def policy() -> None:
    """Say which guests may have which resources."""


@policy.command("set")
@click.argument("name")
@click.argument("policy_file", type=_FILE)
@_AS
@answers
def policy_set(context: Context, name: str, policy_file: Path, who: str | None) -> None:
    """Keep the appraisal policy in a file under NAME, for rules (docs/reference/policy.md)."""
    from confide.attest.policy import Policy

    found = Policy.load(policy_file)
    if "simulated" in found.allow:
        say("warning: this policy accepts simulated guests, which protect nothing", err=True)
    with _owner(context, who) as client:
        digest = client.set_policy(name, found)
    context.answer({"policy": name, "digest": digest})


@policy.command("allow")
@click.argument("resource")
@click.argument("name")
@click.option("--init-data", "digests", multiple=True, metavar="HEX", help="Only guests bound to init-data of this digest (repeat).")
@_AS
@answers
def policy_allow(context: Context, resource: str, name: str, digests: tuple[str, ...], who: str | None) -> None:
    """Let guests that policy NAME accepts have RESOURCE (repository/type/tag, * for any type or tag).  Adds a rule to yours."""
    from confide.keys.kbs.resources import SAMPLE_POLICY, Rule

    rule = Rule.from_json({"resource": resource, "policy": name, "init_data": list(digests)})
    if rule.policy == SAMPLE_POLICY:
        say("warning: `sample` accepts guests that prove nothing: whoever can reach the broker", err=True)
    with _owner(context, who) as client:
        client.set_rules((*(one for one in client.rules() if one != rule), rule))
    context.answer(rule.to_json())


@policy.command("deny")
@click.argument("resource")
@_AS
@answers
def policy_deny(context: Context, resource: str, who: str | None) -> None:
    """Take back every rule for RESOURCE, as it was written."""
    with _owner(context, who) as client:
        rules = client.rules()
        kept = tuple(rule for rule in rules if str(rule.resource) != resource)
        if len(kept) == len(rules):
            raise UsageError(f"there is no rule for {resource}", hint="`confide kbs policy ls` lists them")
        client.set_rules(kept)
    context.answer({"resource": resource, "removed": len(rules) - len(kept)})


@policy.command("ls")
@_AS
@answers
def policy_ls(context: Context, who: str | None) -> None:
    """List your rules, and your policies by name."""
    with _owner(context, who) as client:
        rules, names = client.rules(), sorted(client.policies())

    def text() -> None:
        rows = [(rule.resource, rule.policy, ", ".join(rule.init_data) or "any") for rule in rules]
        print_table(("resource", "policy", "init-data"), rows, empty="no rules: no guest gets anything")
        say(f"policies: {', '.join(names) or 'none'}")

    context.answer({"rules": [rule.to_json() for rule in rules], "policies": names}, text)

"""``confide attest``: what nodes proved, and what this machine's nodes would prove."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.output import Context, answers, print_facts, print_table, say, short
from confide.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from confide.attest.claims import Claims
    from confide.attest.policy import Check, Policy
    from confide.attest.roots import TrustRoots
    from confide.canonical import Json
    from confide.jobs.statement import ReceiptBundle
    from confide.node.record import EvidenceRecord


@click.group("attest")
def command() -> None:
    """Show what a run's nodes proved."""


@command.command("show")
@click.argument("run")
@click.option("--node", help="Only this node (driver, worker-1, ...).")
@click.option("--policy", "policy_file", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="Explain by this policy instead of the job's own.")  # fmt: skip
@answers
def show(context: Context, run: str, node: str | None, policy_file: Path | None) -> None:
    """Show the evidence of a run's nodes, checked again now, and each check of the policy as expected and got.

    RUN is a run's id (or the beginning of it) or a run's folder.  Evidence is judged as of the time in its record, with the collateral
    that was kept then.
    """
    from confide.attest.policy import Policy
    from confide.cli.verify import source_of
    from confide.jobs.receipt import default_roots, load_bundle

    bundle = load_bundle(source_of(context, run))
    if node is not None and node not in bundle.evidence:
        raise UsageError(f"the run has no evidence of a node {node!r}", hint=f"nodes: {', '.join(sorted(bundle.evidence)) or 'none'}")
    policy = Policy.load(policy_file) if policy_file else _policy_of(bundle)
    shown = _explain(bundle, default_roots(context.settings), policy)
    chosen = [entry for entry in shown if node in (None, entry.node)]

    def text() -> None:
        for entry in chosen:
            entry.show()

    context.answer({"nodes": [entry.to_json() for entry in chosen]}, text)


@dataclass(frozen=True)
class NodeShown:
    """One node's evidence as shown: what it claims, and what the policy makes of it."""

    node: str
    record: EvidenceRecord
    claims: Claims
    checks: Sequence[Check]

    def to_json(self) -> Json:
        """The node as JSON."""
        rows = [{"name": c.name, "expected": c.expected, "got": c.got, "ok": c.ok} for c in self.checks]
        record = self.record
        return {
            "node": self.node,
            "role": record.role.value,
            "job": record.context.job,
            "run": record.context.run,
            "at": record.at.isoformat(),
            "record": record.digest,
            "claims": self.claims.to_json(),
            "checks": rows,
        }

    def show(self) -> None:
        """Print the node for people."""
        claims = self.claims
        say(f"node {self.node} ({self.record.role.value}){': SIMULATED, protects nothing' if claims.simulated else ''}")
        at = self.record.at.isoformat(timespec="seconds")
        print_facts({"tee": claims.tee.value, "measurement": claims.measurement, "judged as of": at})
        rows = [("yes" if c.ok else "NO", c.name, short(c.got, 48), short(c.expected, 48)) for c in self.checks]
        print_table(("ok", "check", "got", "expected"), rows)
        say()


def _policy_of(bundle: ReceiptBundle) -> Policy:
    from confide.attest.policy import Policy
    from confide.crypto.sign import unverified_payload
    from confide.jobs.statement import Statement

    return Policy.from_json(Statement.from_bytes(unverified_payload(bundle.receipt)).form.get("policy"))


def _explain(bundle: ReceiptBundle, roots: TrustRoots, policy: Policy) -> list[NodeShown]:
    from confide.attest.collateral_sources import FixedCollateral, read_collateral
    from confide.attest.verify import Verifier
    from confide.node.record import EvidenceRecord

    verifier = Verifier(roots, FixedCollateral(*map(read_collateral, bundle.collateral.values())))
    shown = []
    for node, data in sorted(bundle.evidence.items()):
        record = EvidenceRecord.from_json(data)
        verified = verifier.verify(record.evidence, record.at)
        shown.append(NodeShown(node, record, verified.claims, policy.explain(verified, role=record.role, now=record.at)))
    return shown


@command.command("measure")
@click.option("--simulate", is_flag=True, required=True, help="Needed: only simulated nodes can be measured from outside.")
@click.option("--policy-out", type=click.Path(path_type=Path, dir_okay=False), help="Also write a policy that accepts exactly these nodes.")
@answers
def measure(context: Context, policy_out: Path | None, *, simulate: bool) -> None:
    """Print what simulated nodes of this installation measure, for use in a policy.

    The measurement covers interpreter, standard library, installed packages and Confide itself: one changed line changes it.
    """
    del simulate  # required on the command line, so that nobody takes this for a real measurement
    from confide.jobs.local.simulation import SimulatedTee

    values = SimulatedTee.at(context.settings.simulation_dir).reference_values()
    if policy_out is not None:
        _write_policy(policy_out, values)

    def text() -> None:
        print_facts({tee: ", ".join(digests) for tee, digests in values.items()})
        if policy_out is not None:
            say(f"policy written: {policy_out}", err=True)

    context.answer({"simulated": True, "measurements": values}, text)


def _write_policy(path: Path, measurements: dict[str, list[str]]) -> None:
    lines = [
        "# Accepts simulated nodes of one installation.  They protect nothing.",
        'name = "simulated"',
        'allow = ["simulated"]',
        "",
        "[measurements]",
        *(f"{tee} = {json.dumps(digests)}" for tee, digests in measurements.items()),
    ]
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except OSError as cause:
        raise UsageError(f"cannot write {path}: {cause.strerror}", path=str(path)) from cause

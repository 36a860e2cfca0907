"""``confide attest``: what nodes proved, what any evidence says, and what this machine's nodes would prove."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.collateral import command as collateral
from confide.cli.evidence import Judging, check_rows, checks_json, judge, judging_options
from confide.cli.measure import command as measure
from confide.cli.output import Context, answers, print_facts, print_table, say, short
from confide.cli.policies import command as policies
from confide.cli.tokens import command as token
from confide.cli.tpm import command as tpm
from confide.errors import AppraisalError, UsageError

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
    """Show and verify evidence, of a run's nodes or from a file."""


command.add_command(collateral)
command.add_command(measure)
command.add_command(policies)
command.add_command(token)
command.add_command(tpm)


@command.command("show")
@click.argument("run", metavar="RUN|FILE")
@click.option("--node", help="Only this node (driver, worker-1, ...).")
@click.option("--policy", "policy_file", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="Explain by this policy instead of the job's own.")  # fmt: skip
@answers
def show(context: Context, run: str, node: str | None, policy_file: Path | None) -> None:
    """Show the evidence of a run's nodes, checked again now, and each check of the policy as expected and got.

    RUN is a run's id (or the beginning of it) or a run's folder.  Evidence is judged as of the time in its record, with the collateral
    that was kept then.

    FILE is any quote, report, certificate, SIGSTRUCT, TPM evidence, or event log of a TD or TPM: each field is shown with its offset,
    value and meaning, and nothing is verified (`confide attest verify` does that; `confide attest measure sgx` for a SIGSTRUCT).
    """
    file = Path(run)
    if file.is_file() and file.name != "receipt.json":
        if node is not None or policy_file is not None:
            raise UsageError("--node and --policy are for runs", hint="`confide attest verify FILE --policy ...` judges a file")
        _show_file(context, file)
        return
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


def _show_file(context: Context, file: Path) -> None:
    from confide.attest.annotate import annotate, annotate_evidence
    from confide.attest.evidence_files import load_evidence, read_file

    data = read_file(file)
    found = annotate_evidence(load_evidence(file)) if data.lstrip().startswith(b"{") else annotate(data)

    def text() -> None:
        say(f"{found.kind}; nothing is verified here")
        say()
        rows = [("" if f.offset is None else f"{f.offset:#06x}", f.name, short(f.value, 48), f.meaning) for f in found.fields]
        print_table(("offset", "field", "value", "meaning"), rows)

    context.answer(found.to_json(), text)


@command.command("collect")
@click.option("--report-data", metavar="HEX", help="The 64 bytes to attest [default: zeros, which bind the evidence to nothing].")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write, JSON.")
@answers
def collect(context: Context, report_data: str | None, out: Path) -> None:
    """Get evidence of this machine, from the source that a node would take: a TEE, else the TPM if the settings name a key of it."""
    from confide.attest.collect import find_attester
    from confide.attest.tpm_device import configured
    from confide.ids import ReportData

    try:
        data = ReportData(bytes.fromhex(report_data) if report_data is not None else bytes(64))
    except ValueError as cause:
        raise UsageError("--report-data is not hex") from cause
    evidence = find_attester(tpm=configured(context.settings)).quote(data)
    try:
        with out.open("x", encoding="utf-8") as file:
            json.dump(evidence.to_json(), file)
    except OSError as cause:
        raise UsageError(f"cannot write {out}: {cause.strerror}", path=str(out)) from cause
    context.answer({"tee": evidence.tee.value, "file": str(out), "bytes": len(evidence.quote)})


@command.command("verify")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@judging_options
@click.option("--policy", "by", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Also appraise by this policy.")
@answers
def verify(context: Context, file: Path, judging: Judging, by: Path | None) -> None:
    """Verify a quote or report: is it genuine, and with --policy, is it acceptable?

    FILE holds it raw, in hex, in base64, as an evidence record of a run, or in JSON under "quote".  Collateral that is neither given nor
    kept is fetched from the vendor, who learns which kind of platform (for a VCEK: which chip) is asked for.  An Intel quote is verified
    twice, by our own verifier and by the reference (dcap-qvl): they have to agree.  The exit status is 3 if the evidence is refused.

    Whom the evidence was made for (its report data) is shown and not judged.
    """
    from confide.attest.policy import Policy
    from confide.ids import Tee

    now = judging.now
    verified, agreed = judge(context, file, judging, now)
    checks = Policy.load(by).explain(verified, now=now) if by else []
    claims, accepted = verified.claims, all(check.ok for check in checks)
    value: Json = {"genuine": True, "accepted": accepted if checks else None, "verifiers": agreed, "at": now.isoformat()}
    value |= {"claims": claims.to_json(), "checks": checks_json(checks)}

    def text() -> None:
        say(f"genuine: as of {now.isoformat(timespec='seconds')}, by {' and '.join(agreed)}")
        if claims.simulated:
            say("SIMULATED, protects nothing")
        if claims.tee is Tee.TPM:
            say("a TPM: says what was started, protects no memory in use")
        facts = {"tee": claims.tee.value, "platform": claims.platform, "measurement": claims.measurement, "tcb_status": claims.tcb_status}
        if claims.tcb:
            facts["tcb"] = ", ".join(f"{name} {number}" for name, number in claims.tcb.items())
        more = {"advisories": ", ".join(claims.advisory_ids) or "none", "debug": "yes" if claims.debug else "no"}
        print_facts({**facts, **more, "report_data": claims.report_data.hex(), "collateral_until": claims.epoch.earliest_next_update})
        if checks:
            say()
            print_table(("ok", "check", "got", "expected"), check_rows(checks))

    context.answer(value, text)
    if not accepted:
        raise click.exceptions.Exit(AppraisalError.exit_status)


@dataclass(frozen=True)
class NodeShown:
    """One node's evidence as shown: what it claims, and what the policy makes of it."""

    node: str
    record: EvidenceRecord
    claims: Claims
    checks: Sequence[Check]

    def to_json(self) -> Json:
        """The node as JSON."""
        record = self.record
        return {
            "node": self.node,
            "role": record.role.value,
            "job": record.context.job,
            "run": record.context.run,
            "at": record.at.isoformat(),
            "record": record.digest,
            "claims": self.claims.to_json(),
            "checks": checks_json(self.checks),
        }

    def show(self) -> None:
        """Print the node for people."""
        claims = self.claims
        say(f"node {self.node} ({self.record.role.value}){': SIMULATED, protects nothing' if claims.simulated else ''}")
        at = self.record.at.isoformat(timespec="seconds")
        print_facts({"tee": claims.tee.value, "measurement": claims.measurement, "judged as of": at})
        print_table(("ok", "check", "got", "expected"), check_rows(self.checks))
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
        checks = policy.explain(verified, role=record.role, job=record.context.job, now=record.at)
        shown.append(NodeShown(node, record, verified.claims, checks))
    return shown

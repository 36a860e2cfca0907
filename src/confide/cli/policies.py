"""``confide attest policy``: write, lint, check and compare appraisal policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from confide.cli.evidence import Judging, check_rows, checks_json, judge, judging_options, load, time_of
from confide.cli.output import answers, print_table, say, short
from confide.errors import AppraisalError, PolicyError, UsageError
from confide.regular_file import read_regular

if TYPE_CHECKING:
    from confide.attest.policy import Policy
    from confide.canonical import Json
    from confide.cli.output import Context

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group("policy")
def command() -> None:
    """Write, lint, check and compare appraisal policies."""


@command.command("new")
@click.argument("file", type=_FILE, required=False)
@click.option("--build", type=_FILE, help="Write it from reference values of a build (JSON of `confide attest measure`) instead.")
@click.option("--unverified", is_flag=True, help="Believe FILE: take what it claims without verifying it.")
@click.option("--name", default="new-policy", show_default=True, help="The policy's name.")
@click.option("--role", "roles", multiple=True, help="A role that nodes may have [default: driver and worker].")
@click.option("--min-tcb-eval", type=click.IntRange(min=1), help="Least TCB evaluation number (Intel).")
@click.option("--min-tcb-date", metavar="DATE", help="Earliest date of the TCB level (Intel).")
@click.option("--min-tcb", metavar="PRODUCT:PART=N,...", multiple=True, help="Least version of each part of an AMD product.")
@click.option("--init-data", type=_FILE, help="Accept only guests that were started with this init-data: a document, or that of one job.")
@click.option("--job-init-data", type=_FILE, help="Accept only guests that were started with their own job's, of which this is an example.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write a new file, TOML or .json [default: print TOML].")
@judging_options
@answers
def new(context: Context, file: Path | None, build: Path | None, judging: Judging, name: str, init_data: Path | None,
        job_init_data: Path | None, out: Path | None, *, unverified: bool, **bounds: Any) -> None:  # fmt: skip
    """Write a policy that accepts the software of a piece of evidence, on platforms that are at least as new.

    FILE is a quote or report as `confide attest verify` takes it, and is verified first.  Weaknesses of its platform (an old TCB, debug,
    advisories) are not carried over: `confide attest policy check` then says which line refuses it.

    Init-data is what `confide job init-data --json` prints, or the document itself.
    """
    from confide.attest.policy import Policy

    if (file is None) == (build is None) or (unverified and file is None):
        raise UsageError("a policy is written from one thing", hint="give FILE, with --unverified if need be, or --build BUILD.json")
    draft, origin = _draft(context, file or build or Path(), judging, build=build is not None, unverified=unverified)
    policy = Policy.from_json({**draft, "name": name, **_bounds(**bounds), **_told(draft, init_data, job_init_data)})
    if out is not None:
        write_policy(out, policy)
    if unverified:
        say("warning: nothing of this was verified; whoever made FILE chose what the policy accepts", err=True)
    allowed = draft.get("allow", ())
    if "simulated" in allowed:
        say("warning: the evidence is simulated and protects nothing; so does the policy", err=True)
    if "tpm-no-memory-protection" in allowed:
        say("warning: a TPM says what was started; whoever operates a machine that the policy accepts can read what runs there", err=True)

    def text() -> None:
        from confide.attest.policy_draft import to_toml

        if out is None:
            say_lines(to_toml(policy))
        else:
            say(f"policy written: {out}")

    context.answer({"policy": policy.to_json(), "digest": policy.digest, "from": origin, "path": str(out) if out else None}, text)


_MAX_FILE = 16 * 1024 * 1024
"""Cap on a Rego policy, its reference values, or a build's, in bytes."""


def _draft(context: Context, source: Path, judging: Judging, *, build: bool, unverified: bool) -> tuple[Json, str]:
    from confide.attest import policy_draft
    from confide.canonical import parse_object

    if build:
        try:
            return policy_draft.of_reference(parse_object(read_regular(source, _MAX_FILE))), "build"
        except OSError as cause:
            raise UsageError(f"cannot read {source}: {cause.strerror}", path=str(source)) from cause
    if unverified:
        return policy_draft.of_reference(policy_draft.unverified_reference(load(source, judging))), "unverified evidence"
    verified, _ = judge(context, source, judging, judging.now)
    return policy_draft.of_claims(verified.claims), "verified evidence"


def _told(draft: Json, document: Path | None, of_a_job: Path | None) -> Json:
    """The field that says what guests have to be started with."""
    from confide.attest.init_data import InitData
    from confide.attest.policy_draft import of_init_data, of_job_init_data
    from confide.canonical import parse_object
    from confide.ids import Tee

    source = document or of_a_job
    if source is None:
        return {}
    if document is not None and of_a_job is not None:
        raise UsageError("a guest is started with one document", hint="give --init-data or --job-init-data")
    try:
        body = read_regular(source, _MAX_FILE).decode("utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise UsageError(f"cannot read {source}", path=str(source)) from cause
    if body.startswith("{"):
        body = str(parse_object(body).get("document", body))
    (tee,) = draft["measurements"]
    found = InitData.parse(body)
    return of_init_data(found, Tee(tee)) if document is not None else of_job_init_data(found, Tee(tee))


def _bounds(roles: tuple[str, ...], min_tcb_eval: int | None, min_tcb_date: str | None, min_tcb: tuple[str, ...]) -> Json:
    """The fields that options set; they come before what the evidence says."""
    found: Json = {"roles": list(roles) or None, "min_tcb_eval": min_tcb_eval, "min_tcb_date": min_tcb_date}
    products: dict[str, dict[str, int]] = {}
    for text in min_tcb:
        product, _, parts = text.partition(":")
        pairs = [pair.partition("=") for pair in parts.split(",")]
        if product in products or not all(number.isdecimal() and len(number) <= 3 for _, _, number in pairs):
            hint = "write Milan:bootloader=4,tee=0,snp=22,microcode=213"
            raise UsageError("not the least version of an AMD product", got=text[:80], hint=hint)
        products[product] = {part: int(number) for part, _, number in pairs}
    return {name: value for name, value in {**found, "min_tcb": products or None}.items() if value is not None}


def write_policy(path: Path, policy: Policy) -> None:
    """Write a new policy file: JSON if its name ends so, TOML otherwise.

    Raises:
        UsageError: the file exists, or cannot be written.
    """
    from confide.attest.policy_draft import to_toml

    head = "# Accepts simulated nodes.  They protect nothing.\n" if "simulated" in policy.allow else ""
    text = json.dumps(policy.to_json(), indent=2) + "\n" if path.suffix == ".json" else head + to_toml(policy)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as cause:
        raise UsageError(f"cannot write {path}: {cause.strerror}", path=str(path)) from cause


@command.command("lint")
@click.argument("file", type=_FILE)
@click.option("--at", "at", metavar="TIME", help="Judge grace periods as of this time [default: now].")
@answers
def lint(context: Context, file: Path, at: str | None) -> None:
    """Say what a policy asks too little of.  The exit status is 2 if it should not decide about real data."""
    from confide.attest.policy import Policy
    from confide.attest.policy_lint import lint as findings_of

    policy = Policy.load(file)
    found = findings_of(policy, time_of(at).date())
    too_little = any(finding.severity == "error" for finding in found)

    def text() -> None:
        for finding in found:
            where = "" if finding.policy == policy.name else f" ({finding.policy})"
            say(f"{finding.severity}[{finding.code}]: {finding.message}{where}")
            say(f"  hint: {finding.hint}")
        say(f"{policy.name}: {'asks too little' if too_little else 'asks enough'}")

    value = {"policy": policy.name, "digest": policy.digest, "ok": not too_little, "findings": [finding.to_json() for finding in found]}
    context.answer(value, text)
    if too_little:
        raise click.exceptions.Exit(PolicyError.exit_status)


@command.command("check")
@click.argument("file", type=_FILE)
@click.argument("evidence", type=_FILE)
@click.option("--role", help="Judge as a node of this role [default: the role is not judged].")
@click.option("--job", "job", metavar="DIGEST", help="Judge as a node of this job, for policies that name jobs.")
@judging_options
@answers
def check(context: Context, file: Path, evidence: Path, role: str | None, job: str | None, judging: Judging) -> None:
    """Verify evidence and hold it against a policy: each line as expected and got.  The exit status is 3 if it is refused.

    Role and job are what you say that they are: only a session binds them to evidence.
    """
    from confide.attest.policy import Policy
    from confide.ids import JobDigest, Role

    policy, now = Policy.load(file), judging.now
    if role is not None and role not in set(Role):
        raise UsageError("there is no such role", got=role[:40], hint=f"roles: {', '.join(Role)}")
    verified, _ = judge(context, evidence, judging, now)
    checks = policy.explain(verified, role=Role(role) if role else None, job=JobDigest(job) if job else None, now=now)
    accepted = all(one.ok for one in checks)

    def text() -> None:
        print_table(("ok", "check", "got", "expected"), check_rows(checks))
        say(f"{policy.name}: {'accepted' if accepted else 'REFUSED'}, as of {now.isoformat(timespec='seconds')}")

    context.answer({"policy": policy.name, "digest": policy.digest, "accepted": accepted, "checks": checks_json(checks)}, text)
    if not accepted:
        raise click.exceptions.Exit(AppraisalError.exit_status)


@command.command("rego")
@click.argument("file", type=_FILE)
@click.argument("evidence", type=_FILE)
@click.option("--reference", type=_FILE, help="Reference values: a JSON object, what query_reference_value(name) answers by name.")
@judging_options
@answers
def rego(context: Context, file: Path, evidence: Path, reference: Path | None, judging: Judging) -> None:
    """Verify evidence and say what a Rego policy of Trustee's makes of it.  The exit status is 3 unless all of it is affirmed.

    Needs the extra `rego`.
    """
    from confide.attest.rego import evaluate
    from confide.canonical import parse_object

    try:
        text = read_regular(file, _MAX_FILE).decode("utf-8")
        values = parse_object(read_regular(reference, _MAX_FILE)) if reference else {}
    except (OSError, UnicodeDecodeError) as cause:
        raise UsageError("cannot read the Rego policy or its reference values", path=str(file)) from cause
    now = judging.now
    verified, _ = judge(context, evidence, judging, now)
    vector = evaluate(text, verified, values, now)
    checks = vector.checks()
    accepted = all(one.ok for one in checks)

    def text_of() -> None:
        print_table(("ok", "trust claim", "got", "expected"), check_rows(checks))
        say(f"{file.name}: {'affirmed' if accepted else 'REFUSED'}, as of {now.isoformat(timespec='seconds')}")

    context.answer({"accepted": accepted, "trust_claims": dict(vector.claims), "checks": checks_json(checks)}, text_of)
    if not accepted:
        raise click.exceptions.Exit(AppraisalError.exit_status)


@command.command("diff")
@click.argument("old", type=_FILE)
@click.argument("new", type=_FILE)
@answers
def diff(context: Context, old: Path, new: Path) -> None:
    """Say which fields of a policy got laxer, and which stricter, from OLD to NEW."""
    from confide.attest.policy import Policy
    from confide.attest.policy_diff import diff as changes_of

    before, after = Policy.load(old), Policy.load(new)
    changes = changes_of(before, after)
    laxer = any(change.direction == "laxer" for change in changes)

    def text() -> None:
        rows = [(change.direction, change.field, short(change.old, 48), short(change.new, 48)) for change in changes]
        print_table(("change", "field", "old", "new"), rows, empty="the policies ask the same")

    value = {"old": before.digest, "new": after.digest, "laxer": laxer, "changes": [change.to_json() for change in changes]}
    context.answer(value, text)


@command.command("schema")
@answers
def schema(context: Context) -> None:
    """Print the JSON Schema of policy files (docs/reference/policy.schema.json)."""
    from confide.attest.policy import json_schema

    found = json_schema()
    context.answer(found, lambda: say_lines(json.dumps(found, indent=2, sort_keys=True)))


def say_lines(text: str) -> None:
    """Print a text, each line :func:`plain`."""
    for line in text.splitlines():
        say(line)

"""``confide run``: run a job and follow it to its verified receipt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from confide.cli.on_cluster import at_priority, chosen_target, on_cluster, print_objects
from confide.cli.output import Context, Story, answers, print_facts, say, short, shorten
from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.job import Job
    from confide.jobs.kubernetes.target import KubernetesTarget
    from confide.jobs.result import RunEvent, RunResult


signatures = click.option(
    "--signature",
    "signature_files",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    multiple=True,
    help="Signature of the job, for owners who grant by signer (repeat) [default: JOB.*.sig beside it].",
)


@click.command("run")
@click.argument("job_file", metavar="JOB", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@on_cluster
@at_priority
@click.option("--dry-run", is_flag=True, help="With --on: print the objects that would be created, as YAML; create nothing.")
@click.option("--fault", "faults", multiple=True, metavar="NODE=FAULT",
              help="Let a simulated node show a fault (`worker-2=tampered`), to see it refused (repeat).")  # fmt: skip
@signatures
@click.option("--check", is_flag=True, help="Only check the job and print its digest; start nothing.")
@click.option("--detach", is_flag=True, help="With --on: leave once the attested driver has the job; see `confide runs attach`.")
@answers
def command(
    context: Context,
    job_file: Path,
    faults: tuple[str, ...],
    signature_files: tuple[Path, ...],
    place: str | None,
    profile_file: Path | None,
    priority: str | None,
    *,
    simulate: bool,
    check: bool,
    dry_run: bool,
    detach: bool,
) -> None:
    """Run a job and follow it to its receipt.

    JOB is a job file (TOML).  This client attests the driver before it hands over the job, follows the run, and verifies the receipt.
    Ctrl-C ends the run and everything that it started.
    """
    from confide.job import Job
    from confide.jobs.submit import pin_datasets, submit

    if place is None and (dry_run or detach):
        raise UsageError("--dry-run and --detach are for clusters", hint="add --on k8s:CONTEXT")
    target = chosen_target(place, profile_file, priority)
    job = signed(pin_datasets(Job.load(job_file), shares_files=target is None), job_file, signature_files)
    if check:
        _answer_check(context, job)
        return
    if dry_run and target is not None:
        print_objects(context, job, target, simulate=simulate, faults=_faults(faults))
        return
    teller = Teller(Story(simulated=simulate))
    if detach and target is not None:
        _detached(context, job, target, teller, simulate=simulate)
        return
    with teller.story.working(f"running {job.name}"):
        result = submit(job, simulate=simulate, settings=context.settings, on=target, on_event=teller, faults=_faults(faults))
    context.answer(result.to_json(), lambda: show_result(result))


def _detached(context: Context, job: Job, target: KubernetesTarget, teller: Teller, *, simulate: bool) -> None:
    from confide.jobs.attach import launch

    with teller.story.working(f"starting {job.name}"):
        folder = launch(job, target, simulate=simulate, settings=context.settings, on_event=teller)
    value = {"run": folder.run, "on": target.place, "client_key": str(folder.client_key)}
    context.answer(value, lambda: say(f"run {folder.run} goes on by itself: `confide runs attach {folder.run} JOB` comes back to it"))


def signed(job: Job, job_file: Path, given: tuple[Path, ...]) -> Job:
    """The job with the signatures that are given, or that lie beside its file and are of it."""
    from confide.jobs.signatures import beside, load_signature, with_signatures

    if given:
        return with_signatures(job, [load_signature(path, job) for path in given])
    found, others = beside(job_file, job)
    for path in others:
        say(f"warning: {path.name} is no signature of this job as it is now, and is left out", err=True)
    return with_signatures(job, found)


def _faults(texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        node, separator, fault = text.partition("=")
        if not node or not separator or not fault:
            raise UsageError(f"not a fault: {text[:80]!r}", hint="write NODE=FAULT, for instance worker-2=tampered")
        found[node] = fault
    return found


def _answer_check(context: Context, job: Job) -> None:
    from confide.attest.policy import Policy
    from confide.keys.job_signatures import verify_all

    policy = Policy.from_json(job.policy)
    signers = [signature.signer_digest for signature in verify_all(job.signatures, job.digest)]
    value = {"job": job.name, "digest": job.digest, "signers": signers, "policy": policy.name, "policy_digest": policy.digest}
    inputs = {name: spec.canonical_form() for name, spec in job.inputs.items()}
    outputs = {name: {"path": spec.path, **spec.canonical_form()} for name, spec in job.outputs.items()}
    context.answer({**value, "inputs": inputs, "outputs": outputs}, lambda: print_facts({**value, "inputs": inputs, "outputs": outputs}))


def show_result(result: RunResult) -> None:
    """Print a run that succeeded."""
    print_facts({"run": result.run, "job": short(result.job), "seconds": f"{result.seconds:.1f}", "receipt": str(result.receipt)})
    for output in result.outputs:
        say(f"output {output.name}: {output.path}")
    if result.simulated:
        say("simulated: the nodes' TEEs were simulated, which protects nothing")


class Teller:
    """Turns a run's events into the story.  Unknown events are told by their name: drivers may be newer than this client."""

    def __init__(self, story: Story) -> None:
        self.story = story

    def __call__(self, event: RunEvent) -> None:
        """Tell one event."""
        if event.type in _TOLD:  # types are the nodes' words: only known ones may name a method
            getattr(self, "_" + event.type.replace("-", "_"))(event.node or "", event.fields)
        else:
            self.story.say(f"{event.node or 'run'}: {event.type}")

    def _run_created(self, _node: str, fields: Mapping[str, Any]) -> None:
        self.story.begin(f"run {fields['run']}, job {short(fields['digest'])}")

    def _node_started(self, node: str, fields: Mapping[str, Any]) -> None:
        kind = f"{fields['tee']}, " if "tee" in fields else ""
        self.story.say(f"{node} starts ({kind}{fields.get('process')})")

    def _driver_attested(self, node: str, fields: Mapping[str, Any]) -> None:
        self.story.ok(
            f"{node} attested by this client, gets the job: {fields.get('tee')} {short(fields.get('measurement'))}, "
            f"TCB {fields.get('tcb_status')}"
        )

    def _driver_ready(self, _node: str, _fields: Mapping[str, Any]) -> None:
        """Nothing that a user needs to hear."""

    def _job_accepted(self, node: str, fields: Mapping[str, Any]) -> None:
        self.story.say(f"{node} checked the job against its digest{' and asks for workers' if fields.get('workers', 1) else ''}")

    def _worker_accepted(self, node: str, fields: Mapping[str, Any]) -> None:
        self.story.ok(f"{node} and the driver attested each other: {short(fields.get('measurement'))}; it gets a certificate")

    def _worker_refused(self, node: str, fields: Mapping[str, Any]) -> None:
        why = shorten(str(fields.get("message", "")))
        self.story.refused(f"{node} refused, gets no certificate and no key: error[{fields.get('code')}]: {why}")

    def _key_opened(self, node: str, fields: Mapping[str, Any]) -> None:
        if "source" in fields:
            self.story.ok(f"{node} attested to the key broker service of {fields['source']} and got the key for {fields.get('name')}")
            return
        self.story.ok(f"{node} attested to the broker and got key {fields.get('key')} for {fields.get('name')}")

    def _worker_started(self, node: str, _fields: Mapping[str, Any]) -> None:
        self.story.say(f"{node} runs its engine")

    def _worker_failed(self, node: str, fields: Mapping[str, Any]) -> None:
        self.story.failed(f"{node} failed: error[{fields.get('code')}]: {fields.get('message', '')}")

    def _worker_lost(self, node: str, fields: Mapping[str, Any]) -> None:
        self.story.failed(f"{node} was lost: {fields.get('message', '')}")

    def _program_started(self, _node: str, fields: Mapping[str, Any]) -> None:
        workers = fields.get("workers", "its")
        self.story.begin(f"the job's program runs {f'on {workers} workers' if workers else 'in the driver'}")

    def _program_ended(self, _node: str, _fields: Mapping[str, Any]) -> None:
        self.story.ok("the job's program has ended; outputs are encrypted")

    def _node_waiting(self, node: str, fields: Mapping[str, Any]) -> None:
        self.story.say(f"{node} waits: {shorten(str(fields.get('message', '')))}")

    def _node_ended(self, _node: str, _fields: Mapping[str, Any]) -> None:
        """Told by what came before it."""

    def _receipt_verified(self, _node: str, fields: Mapping[str, Any]) -> None:
        self.story.ok(f"receipt verified: {fields.get('checks')} checks")

    def _run_ended(self, _node: str, fields: Mapping[str, Any]) -> None:
        status = fields.get("status")
        self.story.say(f"run {status}", mark="ok" if status == "succeeded" else "!!")


_TOLD = frozenset(name[1:].replace("_", "-") for name in vars(Teller) if name.startswith("_") and not name.startswith("__"))
"""Types of events that :class:`Teller` has a method for."""

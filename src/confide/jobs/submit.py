"""Runs a job from the client: starts the driver, attests it, hands it the job, follows it to a verified receipt, cleans up.

Nothing that this module starts outlives it: whatever ends a run (success, failure, Ctrl-C, SIGTERM), every node is ended and
everything staged is removed before :func:`submit` returns or raises.  The job's code leaves this process only over the attested channel.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from confide.config import Settings
from confide.data.places import is_url, remote_folder
from confide.data.snapshots import load_manifest, snapshot_numbered
from confide.errors import (
    ConfideError,
    InterruptedRunError,
    ManifestError,
    OutputExistsError,
    RunNotFoundError,
    UnavailableError,
    UsageError,
)
from confide.ids import RunId, new_run_id
from confide.job import InputSpec, Job, OutputSpec
from confide.jobs.backend import Backend
from confide.jobs.follow import Follower
from confide.jobs.local.backend import LocalBackend
from confide.jobs.local.simulation import FAULTS, SimulatedTee
from confide.jobs.plan import Site, make_plan
from confide.jobs.result import ClientEvent, OnEvent, OutputResult, RunEvent, RunResult
from confide.jobs.staging import check_free, discard, discard_abandoned, withdraw
from confide.jobs.store import RunDir, RunStore
from confide.node.remains import Remains


def submit(
    job: Job,
    *,
    simulate: bool = False,
    settings: Settings | None = None,
    on_event: OnEvent | None = None,
    faults: Mapping[str, str] | None = None,
) -> RunResult:
    """Run ``job`` to its end and return its verified result.

    ``simulate`` must be asked for: nodes are then processes of this machine with simulated TEEs, **which protect nothing**.
    ``faults`` (simulation only) makes single nodes show a fault: node id to its name, for demonstrations and tests.

    Raises:
        UsageError: the job cannot be started as asked; nothing was started.
        AttestationError: the driver is not what the job's policy asks for.
        JobFailedError: the program ended with an error.
        ConfideError: what else ended the run.  In every case nothing runs any more and no output of the run is visible.
    """
    begun = time.monotonic()
    settings = Settings.load() if settings is None else settings
    if not simulate:
        raise UsageError(
            "this version starts nodes on this machine only, where there is no TEE",
            hint="add --simulate (simulate=True) to run with simulated TEEs, which protect nothing",
        )
    _check_faults(faults or {})
    job = pin_datasets(job)
    outputs = {name: Path(spec.path) for name, spec in job.outputs.items()}
    further = {name for name, spec in job.outputs.items() if spec.dataset}
    check_free(outputs, [Path(spec.path) for spec in job.inputs.values() if not is_url(spec.path)], going_on=further)
    store = RunStore(settings.runs_dir)
    discard_abandoned(outputs, _ended_in(store))
    store.clear_lost()
    tee = SimulatedTee.at(settings.simulation_dir)
    run = new_run_id(job.name)
    site = Site.of_run(store.path / run, settings)
    plan = make_plan(job, run=run, site=site, settings=settings, simulate=True, faults=faults)
    folder = store.create(run, plan.to_json())
    report = _Report(folder, on_event)
    report(RunEvent(ClientEvent.RUN_CREATED, fields={"run": run, "job": job.name, "digest": job.digest, "simulated": True}))
    backend: Backend = LocalBackend(folder.path)
    verifier = tee.verifier(settings.intel_service, settings.service_ca_file)
    follower = Follower(job, plan, folder, backend, verifier=verifier, roots=tee.roots, settings=settings, on_event=report)
    with _termination_is_interruption():
        _drive(follower, folder, outputs, report, further=further)
    return _result(follower, folder, outputs, time.monotonic() - begun)


def pin_datasets(job: Job) -> Job:
    """Fix each input that names only a folder to the dataset and signer of the manifest there now; and outputs to what they go on with.

    An input at an older snapshot is pinned to that one's signer: runs sign what they make, each with a key of its own.
    The manifest's signature is not checked here: every node checks it against the pin, and the broker knows each dataset's signer.

    Raises:
        ManifestError: a folder has no manifest, or another dataset than the job pins.
        OutputExistsError: an output is to go on with an owner's own dataset.
        UsageError: there is no snapshot of the number that an input names.
    """
    pinned: dict[str, InputSpec] = {}
    for name, spec in job.inputs.items():
        if is_url(spec.path) and spec.dataset and spec.signer:  # nodes may read what this client cannot
            pinned[name] = spec
            continue
        found = load_manifest(remote_folder(spec.path) if is_url(spec.path) else Path(spec.path))
        if spec.dataset and spec.dataset != found.unverified.dataset:
            raise ManifestError(
                f"input {name!r} is another dataset than the job pins", name=name, expected=spec.dataset, got=found.unverified.dataset
            )
        read = found if spec.signer or spec.snapshot is None else snapshot_numbered(found, spec.snapshot)
        signer = spec.signer or read.signer.digest
        pinned[name] = spec.model_copy(update={"dataset": found.unverified.dataset, "signer": signer})
    outputs = {name: _pinned_output(name, spec) for name, spec in job.outputs.items()}
    return Job.build({**job.model_dump(), "inputs": pinned, "outputs": outputs})


def _pinned_output(name: str, spec: OutputSpec) -> OutputSpec:
    """The output with the dataset that it goes on with; where there is none yet, it is a new one."""
    place = Path(spec.path)
    if spec.mode == "error" or not (spec.dataset or os.path.lexists(place)):
        return spec
    there = load_manifest(place).unverified
    if spec.dataset not in {"", there.dataset}:
        message = f"output {name!r} is another dataset than the job pins"
        raise ManifestError(message, name=name, expected=spec.dataset, got=there.dataset)
    if there.run is None:
        raise OutputExistsError(
            f"output {name!r} is a dataset of {there.owner}: a run goes on with outputs of earlier runs only",
            hint="its owner adds to it with `confide data encrypt --mode append`; name another place for the output",
            name=name,
            path=spec.path,
        )
    return spec.model_copy(update={"dataset": there.dataset})


def _check_faults(faults: Mapping[str, str]) -> None:
    for fault in faults.values():
        if fault not in FAULTS:
            raise UsageError(f"there is no fault {fault[:40]!r}", hint=f"faults: {', '.join(FAULTS)}")


class _Report:
    """Keeps each event and passes it on.  Listeners do not end runs: what one raises is theirs, after the run is cleaned up."""

    def __init__(self, folder: RunDir, on_event: OnEvent | None) -> None:
        self._folder = folder
        self._on_event = on_event

    def __call__(self, event: RunEvent) -> None:
        self._folder.add_event(event.to_json())
        if self._on_event is not None:
            self._on_event(event)

    def end(self, event: RunEvent) -> None:
        """Pass on how the run ended, also if it cannot be kept: the run's result says it, or could not be kept either."""
        with suppress(UnavailableError):
            self._folder.add_event(event.to_json())
        if self._on_event is not None:
            self._on_event(event)


def _drive(
    follower: Follower, folder: RunDir, outputs: Mapping[str, Path], report: _Report, *, further: Collection[str] = frozenset()
) -> None:
    """Follow the run; whatever happens, end everything, then say how it ended."""
    error: ConfideError | None = None
    try:
        follower.follow()
        error = follower.error
    except KeyboardInterrupt:
        error = InterruptedRunError("the run was interrupted")
    except ConfideError as failure:
        error = failure
    finally:
        with _uninterrupted():
            follower.end()
            new = {name: path for name, path in outputs.items() if name not in further}
            error, last = _conclude(folder, outputs, error, succeeded=follower.succeeded, remains=follower.remains(), new=new)
    report.end(last)
    if error is not None:
        error.facts.setdefault("run", folder.run)
        raise error


def _conclude(
    folder: RunDir,
    outputs: Mapping[str, Path],
    error: ConfideError | None,
    *,
    succeeded: bool,
    remains: Remains,
    new: Mapping[str, Path],
) -> tuple[ConfideError | None, RunEvent]:
    """Keep in the run's folder how the run ended; one that cannot has failed.  New outputs of a failed run are taken out of view."""
    if error is not None or not succeeded:
        _take_back(outputs, new, folder.run, error)
        if not folder.receipt.exists():
            with suppress(UnavailableError):  # what ended the run is more than what is left of it
                folder.keep(remains)
    discard(outputs, folder.run)
    folder.drop_scratch()
    status = _status(error, succeeded=succeeded)
    last = RunEvent(ClientEvent.RUN_ENDED, fields={"status": status, "error": error.to_json() if error else None})
    written = {name: str(path) for name, path in outputs.items()} if status == "succeeded" else {}
    try:
        folder.write("result.json", {"status": status, "ended": last.at, "outputs": written, "error": last.fields["error"]})
    except UnavailableError as failure:
        error = error or failure
        _take_back(outputs, new, folder.run, error)
        last = RunEvent(ClientEvent.RUN_ENDED, fields={"status": "failed", "error": error.to_json()})
    return error, last


def _take_back(outputs: Mapping[str, Path], new: Mapping[str, Path], run: RunId, error: ConfideError | None) -> None:
    """Take the new outputs of a run that failed out of view, and say in ``error`` what stays.

    That is a snapshot of an earlier dataset, if the run had committed it: others may have read it, and the broker refuses the one before.
    """
    withdraw(new, run, _maker)
    committed = [name for name, path in outputs.items() if name not in new and _maker(path) == run]
    if error is not None and committed:
        error.facts["committed"] = ", ".join(committed)


def _status(error: ConfideError | None, *, succeeded: bool) -> str:
    if succeeded and error is None:
        return "succeeded"
    return "interrupted" if isinstance(error, InterruptedRunError) else "failed"


def _result(follower: Follower, folder: RunDir, outputs: Mapping[str, Path], seconds: float) -> RunResult:
    verification = follower.verification
    statement = verification.require()
    rows = tuple(OutputResult(o.name, outputs[o.name], o.dataset, o.manifest) for o in statement.outputs)
    return RunResult(folder.run, statement.job, folder.path, rows, verification, follower.summary, seconds)


def _ended_in(store: RunStore) -> Callable[[RunId], bool]:
    def ended(run: RunId) -> bool:
        try:
            return store.open(run).summary().status != "running"
        except RunNotFoundError:
            return False  # another installation's: not ours to judge

    return ended


def _maker(folder: Path) -> str | None:
    try:
        return load_manifest(folder).unverified.run
    except ConfideError:
        return None


@contextmanager
def _termination_is_interruption() -> Iterator[None]:
    """Let SIGTERM end the run in order, as Ctrl-C does.  Only the main thread can set handlers; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Keep impatient second Ctrl-Cs out of the clean-up, which is quick and must be whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(TypeError):  # a handler that was not set from Python cannot be put back
                signal.signal(number, handler)

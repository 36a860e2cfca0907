"""Runs a job from the client: starts the driver, attests it, hands it the job, follows it to a verified receipt, cleans up.

Nothing that this module starts outlives it: whatever ends a run (success, failure, Ctrl-C, SIGTERM), every node is ended and
everything staged is removed before :func:`submit` returns or raises.  The job's code leaves this process only over the attested channel.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from confide.attest.roots import TrustRoots
from confide.attest.vendor_verifier import vendor_verifier
from confide.attest.verify import Verifier
from confide.config import Settings
from confide.crypto.identity import Identity
from confide.crypto.sign import SigningKey
from confide.data.manifest import MANIFEST_NAME
from confide.data.places import is_there, is_url, remote_folder
from confide.data.snapshots import SignedManifest, load_manifest, snapshot_numbered
from confide.errors import (
    ExtraMissingError,
    ManifestError,
    OutputExistsError,
    RunNotFoundError,
    UnavailableError,
    UsageError,
)
from confide.ids import RunId, new_run_id
from confide.job import InputSpec, Job, OutputSpec
from confide.jobs.backend import Backend
from confide.jobs.drive import Report, drive
from confide.jobs.follow import Follower
from confide.jobs.local.simulation import FAULTS, SimulatedTee
from confide.jobs.plan import Plan, make_plan
from confide.jobs.result import ClientEvent, OnEvent, OutputResult, RunEvent, RunResult
from confide.jobs.staging import SentPlace, check_free, discard_abandoned
from confide.jobs.store import RunDir, RunStore
from confide.jobs.target import Target, ThisMachine

_NAME_IT: Final = "give its `dataset` in the job file (see `confide data inspect`); without `mode`, the run makes a new one"


def submit(
    job: Job,
    *,
    simulate: bool = False,
    settings: Settings | None = None,
    on: Target | None = None,
    on_event: OnEvent | None = None,
    faults: Mapping[str, str] | None = None,
) -> RunResult:
    """Run ``job`` to its end and return its verified result.

    ``simulate`` must be asked for: nodes then have simulated TEEs, **which protect nothing**.  ``on``: where the nodes are started, this
    machine by default; elsewhere the job's paths are the nodes' own.
    ``faults`` (simulation only) makes single nodes show a fault: node id to its name, for demonstrations and tests.

    Raises:
        UsageError: the job cannot be started as asked; nothing was started.
        AttestationError: the driver is not what the job's policy asks for.
        JobFailedError: the program ended with an error.
        ConfideError: what else ended the run.  In every case nothing runs any more and no output of the run is visible, except at a URL
            where a driver whose receipt does not hold has made it: this client has no credential to remove it.
    """
    begun = time.monotonic()
    settings = Settings.load() if settings is None else settings
    if on is None and not simulate:
        raise UsageError(
            "nodes of this machine have no TEE",
            hint="add --simulate (simulate=True) to run with simulated TEEs, which protect nothing, or --on to run elsewhere",
        )
    target = ThisMachine() if on is None else on
    _check_faults(faults or {})
    job = pin_datasets(job, shares_files=target.shares_files)
    shared = job.outputs if target.shares_files else {}
    outputs = {name: Path(spec.path) for name, spec in shared.items() if not spec.remote}
    sent = {name: SentPlace(spec.path, spec.folder(name)) for name, spec in shared.items() if spec.remote}
    further = {name for name, spec in job.outputs.items() if spec.dataset}
    if target.shares_files:
        check_free(outputs, [Path(spec.path) for spec in job.inputs.values() if not is_url(spec.path)], going_on=further)
    store = RunStore(settings.runs_dir)
    discard_abandoned({**outputs, **{name: place.folder for name, place in sent.items()}}, _ended_in(store))
    store.clear_lost()
    tee = SimulatedTee.at(settings.simulation_dir) if simulate else None
    plan, backend = planned(job, target, store, tee, run=new_run_id(job.name), settings=settings, faults=faults)
    folder = store.create(plan.run, {**plan.to_json(), "on": target.place})
    report = Report(folder, on_event)
    report(RunEvent(ClientEvent.RUN_CREATED, fields={"run": plan.run, "job": job.name, "digest": job.digest, "simulated": simulate}))
    verifier, roots = trusted(tee, settings)
    identity = client_identity(folder) if target.goes_on_alone else None
    follower = Follower(job, plan, folder, backend, verifier=verifier, roots=roots, on_event=report, identity=identity)
    drive(follower.follow, follower, folder, outputs, report, further=further, sent=sent)
    return result_of(follower, folder, job, time.monotonic() - begun)


def rehearse(job: Job, on: Target, *, simulate: bool, settings: Settings, faults: Mapping[str, str] | None = None) -> Backend:
    """The backend of a run of ``job`` that could start now.  Nothing is started, and nothing kept of the run.

    Raises:
        ConfideError: the run could not be started.
    """
    _check_faults(faults or {})
    tee = SimulatedTee.at(settings.simulation_dir) if simulate else None
    run = new_run_id(job.name)
    return planned(job, on, RunStore(settings.runs_dir), tee, run=run, settings=settings, faults=faults)[1]


def planned(
    job: Job,
    target: Target,
    store: RunStore,
    tee: SimulatedTee | None,
    *,
    run: RunId,
    settings: Settings,
    faults: Mapping[str, str] | None = None,
) -> tuple[Plan, Backend]:
    """The plan and the backend of one run.

    Raises:
        ConfideError: the run cannot be started there.
    """
    folder = RunDir(store.path / run)
    plan = make_plan(job, run=run, site=target.site(folder, settings), settings=settings, simulate=tee is not None, faults=faults)
    return plan, target.backend(plan, folder, tee.packed() if tee is not None else None)


def client_identity(folder: RunDir) -> Identity:
    """The key by which a run that goes on alone knows its client: kept in the run's folder, for this user only."""
    key = SigningKey.load_private(folder.client_key) if folder.client_key.exists() else SigningKey.generate()
    if not folder.client_key.exists():
        key.save_private(folder.client_key)
    return Identity.generate("client", key=key)


def trusted(tee: SimulatedTee | None, settings: Settings) -> tuple[Verifier, TrustRoots]:
    """Who judges the nodes' evidence: the vendors, and the simulated TEE where it was asked for."""
    if tee is not None:
        return tee.verifier(settings.intel_service, settings.service_ca_file), tee.roots
    intel, amd, authorities = settings.intel_service, settings.amd_service, settings.service_ca_file
    return vendor_verifier(settings.collateral_dir, intel=intel, amd=amd, ca_file=authorities), TrustRoots()


def pin_datasets(job: Job, *, shares_files: bool = True) -> Job:
    """Fix each input that names only a folder to the dataset and signer of the manifest there now; and outputs to what they go on with.

    An input at an older snapshot is pinned to that one's signer: runs sign what they make, each with a key of its own.
    The manifest's signature is not checked here: every node checks it against the pin, and the broker knows each dataset's signer.
    Where nodes do not share files with this client, what the job pins itself is not looked at, and outputs not at all.  At URLs neither is,
    wherever the nodes are: what the job does not pin itself is looked at there with this client's own credentials.

    Raises:
        ManifestError: a folder has no manifest, or another dataset than the job pins.
        OutputExistsError: an output is to go on with an owner's own dataset.
        UsageError: there is no snapshot of the number that an input names; or an output goes on with what this client cannot see.
        UnavailableError: a storage refuses, or does not answer.
    """
    pinned: dict[str, InputSpec] = {}
    for name, spec in job.inputs.items():
        if (is_url(spec.path) or not shares_files) and spec.dataset and spec.signer:  # nodes may read what this client cannot
            pinned[name] = spec
            continue
        if not (is_url(spec.path) or shares_files or os.path.lexists(spec.path)):
            hint = "give its `dataset` and `signer` in the job file: `confide data inspect` shows them where the dataset is"
            raise ManifestError(f"input {name!r} is not on this machine, so it cannot be pinned here", hint=hint, path=spec.path)
        found = load_manifest(remote_folder(spec.path) if is_url(spec.path) else Path(spec.path))
        if spec.dataset and spec.dataset != found.unverified.dataset:
            raise ManifestError(
                f"input {name!r} is another dataset than the job pins", name=name, expected=spec.dataset, got=found.unverified.dataset
            )
        read = found if spec.signer or spec.snapshot is None else snapshot_numbered(found, spec.snapshot)
        signer = spec.signer or read.signer.digest
        pinned[name] = spec.model_copy(update={"dataset": found.unverified.dataset, "signer": signer})
    outputs = {name: _pinned_output(name, spec) if shares_files else _own_pin(name, spec) for name, spec in job.outputs.items()}
    return Job.build({**job.model_dump(), "inputs": pinned, "outputs": outputs})


def _pinned_output(name: str, spec: OutputSpec) -> OutputSpec:
    """The output with the dataset that it goes on with; where there is none yet, it is a new one."""
    if spec.mode == "error" or (spec.remote and spec.dataset):  # the driver may read what this client cannot
        return spec
    if spec.remote:
        found = _seen_at(spec.path, name)
    else:
        found = load_manifest(Path(spec.path)) if spec.dataset or os.path.lexists(spec.path) else None
    if found is None:
        return spec
    there = found.unverified
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


def _seen_at(url: str, name: str) -> SignedManifest | None:
    """What an output at a URL goes on with, as this client sees it; ``None`` if there is no dataset."""
    try:
        folder = remote_folder(url)
        return load_manifest(folder) if is_there(folder / MANIFEST_NAME) else None
    except (UnavailableError, ExtraMissingError) as error:
        error.hint = _NAME_IT
        error.facts["name"] = name
        raise


def _own_pin(name: str, spec: OutputSpec) -> OutputSpec:
    """An output at a place that this client does not see: which dataset it goes on with, the job has to say."""
    if spec.mode != "error" and not spec.dataset:
        raise UsageError(f"output {name!r} goes on with a dataset that is not on this machine", hint=_NAME_IT)
    return spec


def _check_faults(faults: Mapping[str, str]) -> None:
    for fault in faults.values():
        if fault not in FAULTS:
            raise UsageError(f"there is no fault {fault[:40]!r}", hint=f"faults: {', '.join(FAULTS)}")


def result_of(follower: Follower, folder: RunDir, job: Job, seconds: float) -> RunResult:
    """What a run that succeeded gives its caller."""
    verification = follower.verification
    statement = verification.require()
    rows = tuple(OutputResult(o.name, _path(job.outputs[o.name]), o.dataset, o.manifest) for o in statement.outputs)
    return RunResult(folder.run, statement.job, folder.path, rows, verification, follower.summary, seconds)


def _path(spec: OutputSpec) -> Path | str:
    return spec.path if spec.remote else Path(spec.path)


def _ended_in(store: RunStore) -> Callable[[RunId], bool]:
    def ended(run: RunId) -> bool:
        try:
            return store.open(run).summary().status != "running"
        except RunNotFoundError:
            return False  # another installation's: not ours to judge

    return ended

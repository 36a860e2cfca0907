"""Runs that go on without their client: left after the driver was attested, and come back to, from this machine or another one.

Who has the client's key can come back (:attr:`~confide.jobs.store.RunDir.client_key`).  A run that has ended meanwhile left its result with
its backend; whoever keeps it there is not trusted: it is signed by the driver, which has to be the one that this client has attested, or
whose evidence it accepts now.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from confide.config import Settings
from confide.crypto.sign import SigningKey
from confide.errors import NodeLostError, RunNotFoundError, UsageError
from confide.ids import RunId, check_name, new_run_id
from confide.jobs.backend import Backend, LastingBackend
from confide.jobs.drive import Report, drive
from confide.jobs.follow import Follower
from confide.jobs.local.simulation import SimulatedTee
from confide.jobs.result import ClientEvent, OnEvent, RunEvent, RunResult
from confide.jobs.state import Phase
from confide.jobs.store import RunDir, RunStore
from confide.jobs.submit import client_identity, pin_datasets, planned, result_of, trusted

if TYPE_CHECKING:
    from pathlib import Path

    from confide.canonical import Json
    from confide.job import Job
    from confide.jobs.target import Target


def launch(job: Job, on: Target, *, simulate: bool = False, settings: Settings | None = None, on_event: OnEvent | None = None) -> RunDir:
    """Start a run, attest its driver, hand it the job, and leave it to itself: :func:`attach` comes back to it.

    Raises:
        UsageError: runs there end with their client.
        ConfideError: as ``submit`` raises, before the driver had the job; nothing runs any more then.
    """
    settings = Settings.load() if settings is None else settings
    job = pin_datasets(job, shares_files=on.shares_files)
    store, tee = RunStore(settings.runs_dir), SimulatedTee.at(settings.simulation_dir) if simulate else None
    plan, backend = planned(job, on, store, tee, run=new_run_id(job.name), settings=settings)
    lasting = _lasting(backend)
    folder = store.create(plan.run, {**plan.to_json(), "on": on.place})
    report = Report(folder, on_event)
    report(RunEvent(ClientEvent.RUN_CREATED, fields={"run": plan.run, "job": job.name, "digest": job.digest, "simulated": simulate}))
    verifier, roots = trusted(tee, settings)
    identity = client_identity(folder)
    follower = Follower(job, plan, folder, lasting, verifier=verifier, roots=roots, on_event=report, identity=identity)

    def start() -> None:
        follower.follow(to=Phase.RUNNING)
        follower.leave()

    drive(start, follower, folder, {}, report)
    lasting.leave()
    folder.release()
    return folder


def attach(
    run: str,
    job: Job,
    on: Target,
    *,
    simulate: bool = False,
    client_key: Path | None = None,
    settings: Settings | None = None,
    on_event: OnEvent | None = None,
) -> RunResult:
    """Come back to a run of ``job`` and follow it to its end, or take the result that it left.  Ctrl-C ends the run.

    ``client_key``: the key of the client that started it on another machine; this one keeps the run in its own store from now on.

    Raises:
        RunNotFoundError: there is no such run, here or there.
        UsageError: it is a run of another job, or this client has no key for it.
        ConfideError: as ``submit`` raises.
    """
    begun = time.monotonic()
    settings = Settings.load() if settings is None else settings
    job = pin_datasets(job, shares_files=on.shares_files)
    store, tee = RunStore(settings.runs_dir), SimulatedTee.at(settings.simulation_dir) if simulate else None
    name = RunId(check_name(run, "run id")) if client_key is not None else store.open(run).run
    plan, backend = planned(job, on, store, tee, run=name, settings=settings)
    lasting = _lasting(backend)
    folder = _own_folder(store, name, {**plan.to_json(), "on": on.place}, client_key)
    _require_started(folder, lasting)
    report = Report(folder, on_event)
    verifier, roots = trusted(tee, settings)
    identity = client_identity(folder)
    follower = Follower(job, plan, folder, lasting, verifier=verifier, roots=roots, on_event=report, identity=identity)

    def rejoin() -> None:
        kept = lasting.kept()
        driver = lasting.find()
        if kept is not None:
            follower.take_kept(kept, driver)
        elif driver is not None:
            status = lasting.poll(driver)
            if not status.running:
                hint = f"its log: {lasting.log_path(driver)}"
                raise NodeLostError(f"the run's driver has ended and left no result: {status.condition}", hint=hint, run=name)
            follower.rejoin(driver)
        else:
            raise NodeLostError("the run's driver is gone, and left no result", run=name)

    drive(rejoin, follower, folder, {}, report)
    return result_of(follower, folder, job, time.monotonic() - begun)


def _lasting(backend: Backend) -> LastingBackend:
    if not isinstance(backend, LastingBackend):
        raise UsageError("a run on this machine ends with its client", hint="add --on k8s:CONTEXT")
    return backend


def _require_started(folder: RunDir, backend: LastingBackend) -> None:
    """A run that was prepared for somebody else to start may not have begun yet: that is no end of it."""
    if folder.read("plan.json").get("left") is True and backend.kept() is None and backend.find() is None:
        folder.release()
        raise RunNotFoundError(f"nobody has started run {folder.run} yet, or its driver was removed", run=str(folder.run))


def _own_folder(store: RunStore, run: RunId, plan: Json, client_key: Path | None) -> RunDir:
    """This client's folder of the run: the one that is here, or a new one with the given key."""
    folder = RunDir(store.path / run)
    if client_key is not None and not folder.path.exists():
        key = SigningKey.load_private(client_key)
        folder = store.create(run, plan)
        key.save_private(folder.client_key)
    if not folder.client_key.exists():
        raise UsageError("this run ended with its client", run=run)
    known = folder.read("plan.json")
    if known.get("digest") != plan["digest"]:
        raise UsageError("the run is of another job", hint="give the job file that it was started with", run=run)
    match folder.summary().status:
        case "detached":
            folder.claim()
        case "running":
            if folder.driving_process() != os.getpid():
                raise UsageError("another process follows this run", hint="see `confide runs logs --follow`", run=run)
        case _:
            raise RunNotFoundError(f"run {run} has ended", hint="see `confide runs show`", run=run)
    return folder

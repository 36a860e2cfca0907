"""Prepares a run that somebody else starts: its plan, and the key by which its client comes to it, are kept as those of any run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confide.crypto.sign import SigningKey
from confide.ids import new_run_id
from confide.jobs.drive import Report
from confide.jobs.local.simulation import SimulatedTee
from confide.jobs.result import ClientEvent, RunEvent
from confide.jobs.store import RunStore
from confide.jobs.submit import pin_datasets, planned
from confide.node.left_job import LeftJob

if TYPE_CHECKING:
    from confide.config import Settings
    from confide.job import Job
    from confide.jobs.kubernetes.submitted import SubmittedRun
    from confide.jobs.kubernetes.target import KubernetesTarget
    from confide.jobs.store import RunDir


def prepare(job: Job, on: KubernetesTarget, *, simulate: bool, settings: Settings) -> tuple[RunDir, SubmittedRun]:
    """The folder of a new run of ``job``, and what Spark's own tools are given to start it.  Nothing is started.

    Raises:
        ConfideError: the run could not be started there.
    """
    job = pin_datasets(job, shares_files=on.shares_files)
    store, tee = RunStore(settings.runs_dir), SimulatedTee.at(settings.simulation_dir) if simulate else None
    plan, _ = planned(job, on, store, tee, run=new_run_id(job.name), settings=settings)
    key = SigningKey.generate()
    made = on.submitted(plan, LeftJob(job, key.public.spki_der), tee.packed() if tee is not None else None)
    folder = store.create(plan.run, {**plan.to_json(), "on": on.place, "left": True})
    key.save_private(folder.client_key)
    created = {"run": plan.run, "job": job.name, "digest": job.digest, "simulated": simulate}
    Report(folder, None)(RunEvent(ClientEvent.RUN_CREATED, fields=created))
    folder.release()
    return folder, made

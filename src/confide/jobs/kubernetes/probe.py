"""A driver's pod such as runs have, of no run: for asking whether a cluster would take it.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from confide.ids import JobDigest, Role, RunId, Tee
from confide.jobs.kubernetes.pods import STATE_DIR, pod_template
from confide.jobs.kubernetes.profile import ClusterProfile, Shape
from confide.jobs.kubernetes.shapes import SIMULATION_DIR
from confide.jobs.plan import DRIVER, Plan
from confide.node.spec import NodeSpec

if TYPE_CHECKING:
    from confide.canonical import Json

_NO_JOB: Final = JobDigest("0" * 96)
_TEES: Final = {Shape.SGX: Tee.SGX, Shape.TDX: Tee.TDX, Shape.SNP: Tee.SNP, Shape.TDX_VM: Tee.TDX, Shape.SNP_VM: Tee.SNP}


def probe_pod(profile: ClusterProfile, run: RunId) -> Json:
    """The pod of a driver of no job.  It is under the namespace's own service account, because a dry run makes none.

    Raises:
        ConfigError: the profile's init-data is none.
    """
    fields = {
        "run_id": run,
        "node_id": DRIVER,
        "role": Role.DRIVER,
        "job_digest": _NO_JOB,
        "tee": _TEES.get(profile.shape, Tee.SGX),
        "announce_path": f"{STATE_DIR}/announce.json",
        "log_path": f"{STATE_DIR}/driver.log",
        "work_dir": STATE_DIR,
        "simulation": {"dir": SIMULATION_DIR} if profile.shape is Shape.SIMULATED else None,
    }
    driver = NodeSpec.model_validate(fields)
    template = pod_template(Plan(run, "probe", _NO_JOB, driver, ()), driver, profile, ports={})
    spec = {**template["spec"], "serviceAccountName": "default", "automountServiceAccountToken": False}
    about = {"name": run, "namespace": profile.namespace, **template["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}

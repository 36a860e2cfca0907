"""Plans and profiles of runs on Kubernetes, one for each shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from confide.canonical import Json
from confide.config import Settings
from confide.ids import RunId
from confide.job import Job
from confide.jobs.kubernetes.objects import RunObjects, render
from confide.jobs.kubernetes.profile import ClusterProfile, Shape
from confide.jobs.plan import Plan, Site, make_plan

IMAGE: Final = "registry.example/confide/node@sha256:" + "12" * 32
RUN: Final = RunId("demo-0123456789ab")
_TCB: Final = {"bootloader": 3, "tee": 0, "snp": 20, "microcode": 200}
_POLICIES: Final[dict[Shape, Json]] = {
    Shape.SGX: {"measurements": {"sgx": ["ab" * 32]}},
    Shape.TDX: {"measurements": {"tdx": ["cd" * 48]}, "registers": {"rtmr1": ["aa" * 48], "rtmr2": ["aa" * 48]}},
    Shape.SNP: {"measurements": {"snp": ["ef" * 48]}, "min_tcb": {"Milan": _TCB}},
    Shape.SIMULATED: {"measurements": {"sgx": ["ab" * 32]}, "allow": ["simulated"]},
}
_POLICIES[Shape.TDX_VM], _POLICIES[Shape.SNP_VM] = _POLICIES[Shape.TDX], _POLICIES[Shape.SNP]


def plan_for(
    shape: Shape, *, run: str = RUN, workers: int = 2, settings: Settings | None = None, simulate: bool | None = None, **resources: Any
) -> Plan:
    """A plan that the shape can run."""
    simulated = shape is Shape.SIMULATED if simulate is None else simulate
    known = settings or Settings(home=Path("/home/ann/.confide"))
    job = job_for(shape, workers=workers, **resources)
    return make_plan(job, run=RunId(run), site=Site.of_pods(300.0), settings=known, simulate=simulated)


def job_for(shape: Shape, *, workers: int = 2, **resources: Any) -> Job:
    """The job of such a plan."""
    return Job.build({
        "name": "demo", "program": "main.py", "files": {"main.py": b"pass"}, "policy": {"name": "p", **_POLICIES[shape]},
        "broker": {"url": "https://127.0.0.1:1", "spki": "ab" * 32},
        "resources": {"workers": workers, "cores": 2, "memory_mb": 2048, **resources},
    })  # fmt: skip


def profile_for(shape: Shape, **fields: Any) -> ClusterProfile:
    """A profile that says what has to be said, and ``fields``."""
    return ClusterProfile.from_json({"image": IMAGE, "shape": str(shape), **fields})


def rendered(shape: Shape, *, workers: int = 2, **fields: Any) -> RunObjects:
    """The objects of such a run."""
    return render(plan_for(shape, workers=workers), profile_for(shape, **fields), simulated_tee=tee_of(shape))


def tee_of(shape: Shape) -> Json | None:
    """What stands for the simulated TEE's installation, of runs that have one."""
    return {"format": "confide-simulated-tee-v1", "files": {}} if shape is Shape.SIMULATED else None


def pods_of(made: RunObjects) -> list[Json]:
    """The specs of the driver's pod and the workers'."""
    return [made.driver_job["spec"]["template"]["spec"], *(pod["spec"] for pod in made.workers.values())]


def found(made: RunObjects, kind: str, suffix: str = "") -> Json:
    """The one object of that kind and name among those that the client creates."""
    (only,) = [item for item in made.applied if item["kind"] == kind and item["metadata"]["name"] == f"{made.name}{suffix}"]
    return only

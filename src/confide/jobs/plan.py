"""From a job to the nodes of one run.  Pure: reads no file, starts nothing; what is in a plan is public.

The driver is node ``driver``, workers are ``worker-1`` and up.  Nodes take the policy's kinds of TEE in turn, so that a policy that
names two kinds is run on both.  Under simulation, single nodes can be asked to show a fault.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from confide.attest.policy import Policy
from confide.canonical import Json
from confide.config import Settings
from confide.errors import UsageError
from confide.ids import JobDigest, NodeId, Role, RunId
from confide.job import Job
from confide.node.spec import NodeSpec, Services, Simulation, Timing

DRIVER = NodeId("driver")
POD_FOLDER = Path("/var/confide")
"""Where a node that has a container to itself keeps what is not secret."""
AGENT_PORT = 7443
"""Where such a driver takes its client and its workers."""
ANY_ADDRESS = "0.0.0.0"  # noqa: S104  a container's own addresses: its loopback, where port forwarding ends, and the one others use


@dataclass(frozen=True, slots=True)
class Plan:
    """The nodes of one run.  Workers are templates until the driver has said where it listens: :meth:`worker_specs`."""

    run: RunId
    job: str
    digest: JobDigest
    driver: NodeSpec
    workers: tuple[Json, ...]

    @property
    def simulated(self) -> bool:
        """Whether the nodes' TEEs are simulated, which protects nothing."""
        return self.driver.simulation is not None

    @property
    def worker_ids(self) -> tuple[NodeId, ...]:
        """The workers' ids."""
        return tuple(NodeId(worker["node_id"]) for worker in self.workers)

    def worker_specs(self, host: str, port: int, nodes: Collection[NodeId]) -> tuple[NodeSpec, ...]:
        """Specs of these workers, to come to the driver at ``host:port``."""
        wanted = [worker for worker in self.workers if worker["node_id"] in nodes]
        return tuple(NodeSpec.from_json({**worker, "driver_host": host, "driver_port": port}) for worker in wanted)

    def to_json(self) -> Json:
        """The plan as ``plan.json`` of the run store."""
        return {
            "format": "confide-plan-v1",
            "run": self.run,
            "job": self.job,
            "digest": self.digest,
            "simulated": self.simulated,
            "driver": self.driver.to_json(),
            "workers": list(self.workers),
        }


@dataclass(frozen=True, slots=True)
class Site:
    """What of nodes' specs depends on where they run: their folders, and where a driver listens.

    ``logs``, ``nodes`` (a folder a node) and ``simulation`` are paths as the nodes see them; ``own_host``: each node has a host to itself,
    and says its address when it starts.  ``start_timeout_s``: how long a node may take to start.
    """

    logs: Path
    nodes: Path
    simulation: Path
    start_timeout_s: float
    own_host: bool = False

    @classmethod
    def of_run(cls, folder: Path, settings: Settings) -> Site:
        """Processes of this machine, with everything of the run under ``folder``."""
        return cls(folder / "logs", folder / "nodes", settings.simulation_dir, settings.node_start_timeout_s)

    @classmethod
    def of_pods(cls, start_timeout_s: float) -> Site:
        """Containers that each have the same folders to themselves, and may wait for a machine and their image."""
        return cls(POD_FOLDER / "logs", POD_FOLDER / "nodes", POD_FOLDER / "simulated", start_timeout_s, own_host=True)

    def spec(self, node: NodeId) -> Json:
        """The part of a node's spec that depends on the site."""
        fields: Json = {"log_path": self.logs / f"{node}.log", "work_dir": self.nodes / node / "scratch"}
        if self.own_host:
            fields |= {"listen_host": ANY_ADDRESS, "listen_port": AGENT_PORT if node == DRIVER else 0}
        return fields


def make_plan(job: Job, *, run: RunId, site: Site, settings: Settings, simulate: bool, faults: Mapping[str, str] | None = None) -> Plan:
    """Plan one run of ``job`` at ``site``.  ``faults``: node id to the fault that it shall show.

    Raises:
        PolicyError: the job's policy is not one.
        UsageError: faults were asked for outside simulation, or of a node that is not in the plan.
    """
    given = dict(faults or {})
    if given and not simulate:
        raise UsageError("faults can be asked for under simulation only", hint="add --simulate")
    tees = Policy.from_json(job.policy).tees
    nodes = [DRIVER, *(NodeId(f"worker-{index}") for index in range(1, job.resources.workers + 1))]
    unknown = sorted(set(given) - set(nodes))
    if unknown:
        raise UsageError(f"there is no node {unknown[0]!r} in this run", hint=f"nodes: {', '.join(nodes)}")

    def common(index: int) -> Json:
        node = nodes[index]
        return {
            "run_id": run,
            "job_digest": job.digest,
            "timing": _timing(settings, site),
            "services": Services(intel=settings.intel_service, amd=settings.amd_service, ca_file=settings.service_ca_file),
            "node_id": node,
            "index": index,
            "tee": tees[index % len(tees)],
            "simulation": Simulation(dir=site.simulation, fault=given.get(node)) if simulate else None,
            **site.spec(node),
        }

    announce = site.nodes / DRIVER / "announce.json"
    driver = {**common(0), "role": Role.DRIVER, "announce_path": announce, "memory_mb": job.resources.driver_memory_mb}
    size = {"role": Role.WORKER, "cores": job.resources.cores, "memory_mb": job.resources.memory_mb}
    workers = tuple(_template({**common(index), **size}) for index in range(1, len(nodes)))
    return Plan(run, job.name, job.digest, NodeSpec.model_validate(driver), workers)


def _template(worker: Json) -> Json:
    """A worker's spec as JSON without the driver's address: any address will do to check the rest."""
    whole = NodeSpec.model_validate({**worker, "driver_host": "127.0.0.1", "driver_port": 1}).to_json()
    return {name: value for name, value in whole.items() if name not in {"driver_host", "driver_port"}}


def _timing(settings: Settings, site: Site) -> Timing:
    return Timing(
        start_timeout_s=site.start_timeout_s,
        heartbeat_s=settings.heartbeat_s,
        lost_after_s=settings.node_lost_after_s,
        nonce_ttl_s=settings.nonce_ttl_s,
        reattest_every_s=settings.reattest_every_s,
        reattest_grace_s=settings.reattest_grace_s,
    )

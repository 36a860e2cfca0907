"""The two agents, in one place for whoever starts a node: ``DriverAgent(spec, workload, attester=..., verifier=...).run()``."""

from __future__ import annotations

from confide.node.driver import DriverAgent
from confide.node.worker import WorkerAgent
from confide.node.workload import DriverWorkload, JobCertificate, NodeReport, NodeServices, Refusal, WorkerWorkload, Workload

__all__ = [
    "DriverAgent",
    "DriverWorkload",
    "JobCertificate",
    "NodeReport",
    "NodeServices",
    "Refusal",
    "WorkerAgent",
    "WorkerWorkload",
    "Workload",
]

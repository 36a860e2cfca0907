"""The driver's share of a Polars run, which is all of it: the program, and its files' keys at the agent's socket."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from confide.jobs.engines.polars import program_command, require_polars
from confide.jobs.node_processes import NodeProcesses, interpreter, python_path

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.jobs.engines.launch import Launch
    from confide.node.local_socket import Operation
    from confide.node.workload import NodeServices


class PolarsDriverEngine(NodeProcesses):
    """Nothing but the program runs (``confide.jobs.workload.DriverEngine``)."""

    reads_data = True

    def __init__(self, services: NodeServices) -> None:
        require_polars()
        super().__init__(services)

    def operations(self) -> Mapping[str, Operation]:
        """None of its own."""
        return {}

    def begin(self) -> None:
        """Nothing runs beside the program."""

    def joining(self) -> Json:
        """Nobody joins."""
        return {}

    def program(self, program: Path, code: Path) -> Launch:
        """The user's program: ``program`` among the job's files in ``code``."""
        job = self._services.job
        return program_command(
            interpreter(),
            program,
            job.arguments,
            agent_socket=self.agent_socket,
            work_dir=self.work_dir,
            python_path=(str(code), *python_path()),
            cores=job.resources.cores,
        )

    def check(self) -> None:
        """There is nothing that could have ended."""

    def info(self, _code: Path) -> Json:
        """The program needs its data only."""
        return {}

"""Where a run's nodes are started: on this machine, or wherever a backend of its own reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from confide.jobs.local.backend import LocalBackend
from confide.jobs.plan import Site

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.config import Settings
    from confide.jobs.backend import Backend
    from confide.jobs.plan import Plan
    from confide.jobs.store import RunDir


class Target(Protocol):
    """``shares_files``: nodes see the files of the client's machine; else a job's paths are theirs alone, and the client touches none.

    ``goes_on_alone``: a run outlives its client, who may come back to it.  ``place``: where that is, for ``confide runs``.
    """

    shares_files: bool
    goes_on_alone: bool
    place: str

    def site(self, folder: RunDir, settings: Settings) -> Site:
        """What of the nodes' specs depends on the target."""
        ...

    def backend(self, plan: Plan, folder: RunDir, simulated_tee: Json | None) -> Backend:
        """The backend of one run.  ``simulated_tee``: the packed installation whose evidence simulated nodes make, which protects nothing.

        Raises:
            ConfideError: the run cannot be started there.
        """
        ...


class ThisMachine:
    """Processes of this machine, with simulated TEEs."""

    shares_files = True
    goes_on_alone = False
    place = "local"

    def site(self, folder: RunDir, settings: Settings) -> Site:
        """Everything of a run is in its folder."""
        return Site.of_run(folder.path, settings)

    def backend(self, plan: Plan, folder: RunDir, simulated_tee: Json | None) -> Backend:
        """Child processes; they find the simulated TEE where the plan says."""
        del plan, simulated_tee
        return LocalBackend(folder.path)

"""Runs in a cluster: what of a run depends on the cluster's profile, and the backend that starts it there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confide.jobs.kubernetes.backend import KubernetesBackend
from confide.jobs.kubernetes.objects import render
from confide.jobs.kubernetes.submitted import render_submitted
from confide.jobs.plan import Site

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.config import Settings
    from confide.jobs.kubernetes.api import Api
    from confide.jobs.kubernetes.profile import ClusterProfile
    from confide.jobs.kubernetes.submitted import SubmittedRun
    from confide.jobs.plan import Plan
    from confide.jobs.store import RunDir
    from confide.node.left_job import LeftJob


class KubernetesTarget:
    """One namespace of one cluster (``confide.jobs.target.Target``)."""

    shares_files = False
    goes_on_alone = True

    def __init__(self, api: Api, profile: ClusterProfile, *, context: str) -> None:
        self.place = f"k8s:{context}/{profile.namespace}"
        self.context = context
        self.server = api.server
        self._api = api
        self._profile = profile

    def site(self, folder: RunDir, settings: Settings) -> Site:
        """Each node has a container to itself."""
        del folder
        return Site.of_pods(max(self._profile.start_timeout_s, settings.node_start_timeout_s))

    def backend(self, plan: Plan, folder: RunDir, simulated_tee: Json | None) -> KubernetesBackend:
        """The backend of one run.

        Raises:
            ConfigError: the run's objects cannot be rendered with this profile.
        """
        objects = render(plan, self._profile, simulated_tee=simulated_tee)
        return KubernetesBackend(self._api, plan.run, objects, folder.logs, simulated=plan.simulated)

    def submitted(self, plan: Plan, left: LeftJob, simulated_tee: Json | None) -> SubmittedRun:
        """What Spark's own tools are given to start the plan's run there.

        Raises:
            ConfideError: the run's objects cannot be rendered with this profile.
        """
        return render_submitted(plan, self._profile, left, simulated_tee=simulated_tee)

"""``--on k8s:CONTEXT`` and ``--cluster PROFILE`` of commands that run in a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from confide.cli.output import say
from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.cli.output import Context
    from confide.job import Job
    from confide.jobs.kubernetes.client import Cluster
    from confide.jobs.kubernetes.target import KubernetesTarget

_SCHEME = "k8s:"
_OPTIONS = (
    click.option("--simulate", is_flag=True, help="Nodes are simulated.  They protect nothing."),
    click.option("--on", "place", metavar="k8s:CONTEXT", help="In the Kubernetes cluster of this context of your kubeconfig."),
    click.option(
        "--cluster",
        "profile_file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="The cluster's profile (TOML): image, shape of TEE, namespace, queue.",
    ),
)
_PRIORITY = click.option("--priority", metavar="NAME", help="With --on: a priority of the cluster's profile, such as interactive or batch.")


def on_cluster(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where nodes run."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def at_priority(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that says which of the profile's priorities a run has."""
    return _PRIORITY(command)


def chosen_target(place: str | None, profile_file: Path | None, priority: str | None = None) -> KubernetesTarget | None:
    """The cluster that the options name; ``None`` for this machine.  ``priority``: of the run, as the profile calls it.

    Raises:
        UsageError: they do not fit together.
        ConfigError: the kubeconfig has no such context, or the profile is none.
    """
    if place is None:
        if profile_file is not None:
            raise UsageError("--cluster describes a cluster", hint="name it with --on k8s:CONTEXT")
        if priority is not None:
            raise UsageError("--priority is for clusters", hint="add --on k8s:CONTEXT")
        return None
    if not place.startswith(_SCHEME) or place == _SCHEME:
        raise UsageError(f"there is no such place: {place[:80]!r}", hint="write --on k8s:CONTEXT, with a context of your kubeconfig")
    if profile_file is None:
        raise UsageError("a cluster needs its profile: image and shape of TEE at least", hint="add --cluster PROFILE.toml")
    from confide.jobs.kubernetes.client import Cluster
    from confide.jobs.kubernetes.profile import ClusterProfile
    from confide.jobs.kubernetes.target import KubernetesTarget

    profile = ClusterProfile.load(profile_file)
    if priority is not None:
        profile = profile.at_priority(priority)
    context = place.removeprefix(_SCHEME)
    return KubernetesTarget(Cluster.connect(context, namespace=profile.namespace), profile, context=context)


def cluster_of(place: str) -> Cluster:
    """The cluster that a run's plan names: ``k8s:CONTEXT/NAMESPACE``.

    Raises:
        UsageError: it names none.
        ConfigError: the kubeconfig has no such context.
    """
    from confide.jobs.kubernetes.client import Cluster

    context, separator, namespace = place.removeprefix(_SCHEME).rpartition("/")
    if not place.startswith(_SCHEME) or not separator:
        raise UsageError(f"the run is in no cluster: {place[:80]!r}")
    return Cluster.connect(context, namespace=namespace)


def print_objects(context: Context, job: Job, target: KubernetesTarget, *, simulate: bool, faults: Mapping[str, str]) -> None:
    """Print the objects of a run of ``job`` that is not started."""
    from confide.jobs.kubernetes.backend import KubernetesBackend
    from confide.jobs.kubernetes.yaml_text import as_yaml
    from confide.jobs.submit import rehearse

    backend = rehearse(job, target, simulate=simulate, settings=context.settings, faults=faults)
    if isinstance(backend, KubernetesBackend):
        objects = backend.objects.applied

        def text() -> None:
            for line in as_yaml(objects).splitlines():
                say(line)

        context.answer({"objects": list(objects)}, text)

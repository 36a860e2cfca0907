"""``confide doctor --on k8s:CONTEXT``: has a cluster what runs need, and can what runs ask be reached from here?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from confide.config import Settings
from confide.errors import CollateralError, ConfideError, UsageError
from confide.jobs.findings import Finding

if TYPE_CHECKING:
    from confide.cli.owners import BrokerAddress
    from confide.jobs.kubernetes.client import Cluster
    from confide.jobs.kubernetes.profile import ClusterProfile

_SCHEME = "k8s:"
_INTEL_SHAPES = {"", "sgx", "tdx", "tdx-vm"}
_AMD_SHAPES = {"", "snp", "snp-vm"}
_PATIENCE_S = 5.0


def context_of(place: str) -> str:
    """The kubeconfig's context that ``--on`` names.

    Raises:
        UsageError: it names none.
    """
    context = place.removeprefix(_SCHEME)
    if not context or context == place:
        raise UsageError(f"no cluster: {place[:80]!r}", hint="write --on k8s:CONTEXT, with a context of your kubeconfig")
    return context


def cluster_findings(
    settings: Settings, place: str, namespace: str | None, profile_file: Path | None, *, start: bool = False
) -> list[Finding]:
    """All findings of a cluster and of the services that runs in it ask.  ``start``: start a node, too, and ask it for evidence.

    Raises:
        UsageError: ``place`` is no cluster, or the profile is none, or missing where a node is to be started.
    """
    from confide.jobs.kubernetes.client import Cluster
    from confide.jobs.kubernetes.profile import ClusterProfile

    context = context_of(place)
    if start and profile_file is None:
        raise UsageError("a node is started from a profile's image, in its shape", hint="add --cluster PROFILE.toml")
    profile = ClusterProfile.load(profile_file) if profile_file is not None else None
    shape = str(profile.shape) if profile is not None else ""
    services = [*_collateral(settings, shape), *_brokers(settings)]
    try:
        cluster = Cluster.connect(context, namespace=namespace or (profile.namespace if profile is not None else None))
    except ConfideError as error:
        return [Finding("kubeconfig", ok=False, found=error.message, hint=error.hint or ""), *services]
    with cluster:
        found = _examined(cluster, profile, settings)
        if start and profile is not None and all(each.ok or not each.needed for each in found):
            found += _started(cluster, profile, settings)
        return [*found, *services]


def _started(cluster: Cluster, profile: ClusterProfile, settings: Settings) -> list[Finding]:
    import tempfile

    from confide.ids import RunId
    from confide.jobs.kubernetes.probe import probe, probe_plan
    from confide.jobs.kubernetes.target import KubernetesTarget
    from confide.jobs.local.simulation import SimulatedTee
    from confide.jobs.store import RunDir
    from confide.jobs.submit import trusted

    there = profile.model_copy(update={"namespace": cluster.namespace})
    job, plan = probe_plan(there, settings)
    tee = SimulatedTee.at(settings.simulation_dir) if plan.simulated else None
    with tempfile.TemporaryDirectory(prefix="confide-probe-") as folder:
        (Path(folder) / RunId(plan.run) / "logs").mkdir(parents=True)
        target = KubernetesTarget(cluster, there, context="probe")
        backend = target.backend(plan, RunDir(Path(folder) / plan.run), tee.packed() if tee is not None else None)
        return probe(backend, job, plan, trusted(tee, settings)[0])


def _examined(cluster: Cluster, profile: ClusterProfile | None, settings: Settings) -> list[Finding]:
    from datetime import UTC, datetime

    from confide.jobs.kubernetes.doctor import Wanted, examine
    from confide.jobs.kubernetes.probe import probe_pod
    from confide.jobs.kubernetes.profile import ClusterProfile

    bare = {"image": "confide-node", "allow_tag": True, "shape": "simulated"}
    chosen = ClusterProfile.from_json(bare) if profile is None else profile
    pod = probe_pod(chosen.model_copy(update={"namespace": cluster.namespace}), settings)
    wanted = Wanted(
        cluster.namespace,
        str(profile.shape) if profile is not None else "",
        runtime_class=chosen.runtime_class,
        node_selector=chosen.node_selector,
        priority_classes=chosen.priority_classes,
        queue=chosen.queue,
        queue_priorities=chosen.queue_priorities,
        pull_secrets=chosen.image_pull_secrets,
        claims=tuple(volume.claim for volume in chosen.volumes if volume.claim is not None),
        quotes_itself=chosen.sgx_quote == "in-process",
    )
    return examine(cluster, wanted, pod, lambda: datetime.now(UTC))


def _collateral(settings: Settings, shape: str) -> list[Finding]:
    """Whether what vendors signed can be had, from here; what was kept counts for a while without."""
    from confide.attest.vendor_services import AMD_KDS, INTEL_PCS

    found = []
    if shape in _INTEL_SHAPES:
        url = settings.intel_service or INTEL_PCS
        found.append(_service("intel collateral", url, "sgx/certification/v4/qe/identity", "intel_service", settings))
    if shape in _AMD_SHAPES:
        url = settings.amd_service or AMD_KDS
        found.append(_service("amd collateral", url, "vcek/v1/Milan/cert_chain", "amd_service", settings))
    return found


def _service(check: str, url: str, path: str, setting: str, settings: Settings) -> Finding:
    from confide.attest.vendor_http import Http

    http = Http(ca_file=settings.service_ca_file, timeout_s=_PATIENCE_S, total_s=2 * _PATIENCE_S, retries=0)
    hint = f"see that it can be reached, name another with the setting {setting}; or `confide attest collateral import` what it would say"
    try:
        there = http.get(f"{url.rstrip('/')}/{path}") is not None
    except CollateralError as error:
        reason = error.facts.get("reason")
        return Finding(check, ok=False, found=f"{url}: {error.message}" + (f" ({reason})" if reason else ""), hint=hint, needed=False)
    return Finding(check, there, f"{url} answers" if there else f"{url} does not know {path}", hint, needed=False)


def _brokers(settings: Settings) -> list[Finding]:
    """Whether each broker that a credential of this home is enrolled at is there, with the key that it had."""
    from confide.cli.owners import address_of

    names = sorted(path.name.removesuffix(".broker.json") for path in settings.credentials_dir.glob("*.broker.json"))
    addresses: dict[BrokerAddress, None] = {}
    found = []
    for name in names:
        try:
            addresses[address_of(settings, name)] = None
        except ConfideError as error:
            found.append(Finding(f"broker of {name}", ok=False, found=error.message, hint=error.hint or "", needed=False))
    return [*found, *(_broker(address) for address in addresses)]


def _broker(address: BrokerAddress) -> Finding:
    from confide.crypto.identity import Identity
    from confide.crypto.tls import PinnedSpki, connect
    from confide.keys.connection import https_address

    try:
        host, port = https_address(address.url)
        connect(host, port, Identity.generate("doctor"), trust=PinnedSpki(address.spki), timeout=_PATIENCE_S).close()
    except ConfideError as error:
        hint = "see that it runs (`confide broker serve`) and can be reached; nodes in the cluster must reach it too"
        return Finding(f"broker {address.url}", ok=False, found=error.message, hint=hint, needed=False)
    return Finding(f"broker {address.url}", ok=True, found="answers with the key that was enrolled at")

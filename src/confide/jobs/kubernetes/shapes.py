"""What each shape adds to a pod.  Pure.

Nothing here protects anything by itself: a control plane that leaves it out, or gives something else, gets nodes whose evidence is
refused.  It is what an honest cluster needs to put a pod where it can give evidence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from confide.attest.init_data import InitData
from confide.canonical import Json
from confide.errors import UsageError
from confide.ids import JobDigest, RunId, Tee
from confide.jobs.kubernetes.agent_policy import POLICY_NAME, agent_policy
from confide.jobs.kubernetes.init_data import annotation, render_init_data
from confide.jobs.kubernetes.profile import INIT_DATA_KEY, KATA, ClusterProfile, Shape

SIMULATION_SUFFIX: Final = "simulation"
"""Of the name of the config map with the simulated TEE's installation, which protects nothing."""
SIMULATION_FILE: Final = "installation.json"
SIMULATION_DIR: Final = "/etc/confide/simulation"
_TEES: Final = {Shape.SGX: Tee.SGX, Shape.TDX: Tee.TDX, Shape.SNP: Tee.SNP, Shape.TDX_VM: Tee.TDX, Shape.SNP_VM: Tee.SNP}
RUNTIME_CLASSES: Final = {Shape.TDX: "kata-qemu-tdx", Shape.SNP: "kata-qemu-snp"}
"""Names that the Helm charts of Kata Containers and Confidential Containers give them."""
_AESM: Final = "/var/run/aesmd"
"""Folder of the socket of Intel's AESM service (``aesm.socket``), where the SGX runtime looks for it."""
VM_LABELS: Final = {
    Shape.TDX_VM: (
        ("confide.dev/tee", "tdx"),
        ("feature.node.kubernetes.io/cpu-security.tdx.protected", "true"),
        ("cloud.google.com/gke-confidential-nodes-instance-type", "TDX"),
    ),
    Shape.SNP_VM: (
        ("confide.dev/tee", "snp"),
        ("cloud.google.com/gke-confidential-nodes-instance-type", "SEV_SNP"),
    ),
}
"""Labels that cluster nodes in confidential machines have, any one of them: ours, Node Feature Discovery's, Google's."""


@dataclass(frozen=True, slots=True)
class Additions:
    """What one shape adds to one pod."""

    limits: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    volumes: tuple[Json, ...] = ()
    mounts: tuple[Json, ...] = ()
    runtime_class: str | None = None
    affinity: Json | None = None
    memory_volumes: bool = False
    """Whether the pod has no disk of its own, so that its scratch volumes are memory too."""


def additions(profile: ClusterProfile, run: RunId, tee: Tee, digest: JobDigest, memory_mb: int) -> Additions:
    """What the profile's shape adds to a pod of ``memory_mb`` in all, for a node of that kind of TEE.

    Raises:
        UsageError: the node is of another kind of TEE than the shape.
        ConfigError: the profile's init-data is none.
    """
    shape, runtime_class = profile.shape, profile.runtime_class or RUNTIME_CLASSES.get(profile.shape)
    if shape is Shape.SIMULATED:
        volume = {"name": "simulation", "configMap": {"name": f"{run}-{SIMULATION_SUFFIX}", "defaultMode": 0o444}}
        mount = {"name": "simulation", "mountPath": SIMULATION_DIR, "readOnly": True}
        return Additions(volumes=(volume,), mounts=(mount,), runtime_class=runtime_class)
    if _TEES[shape] is not tee:
        hint = "measurements of one kind of TEE in the job's policy, and a profile of that shape"
        raise UsageError(f"a node of this run is to be in {tee}, and the profile's shape is {shape}", hint=hint)
    if shape is Shape.SGX:
        return _sgx(profile, memory_mb)
    document = init_data_of(profile, tee, digest)
    if document is not None:
        return Additions(annotations={INIT_DATA_KEY: annotation(document)}, runtime_class=runtime_class, memory_volumes=True)
    limits = {profile.tee_resource: "1"} if profile.tee_resource else {}
    return Additions(limits=limits, runtime_class=runtime_class, affinity=_on_nodes_labelled(VM_LABELS[shape]))


def tee_of(shape: Shape) -> Tee | None:
    """The kind of TEE that nodes of a shape are in; ``None`` of a simulated one, which may be any."""
    return _TEES.get(shape)


def init_data_of(profile: ClusterProfile, tee: Tee, digest: JobDigest) -> InitData | None:
    """The init-data of a run's guests: of the shapes whose guests get one.  The agent's policy is ours, unless the profile has its own.

    Raises:
        ConfigError: the profile's init-data is none, or its image has no digest.
    """
    if profile.shape not in KATA:
        return None
    own = {} if POLICY_NAME in profile.init_data else {POLICY_NAME: agent_policy(profile)}
    return render_init_data(digest, tee, {**profile.init_data, **own})


def _sgx(profile: ClusterProfile, memory_mb: int) -> Additions:
    """Intel's device plugin gives out the devices; pages of the enclave are counted as ``epc``."""
    limits = {"sgx.intel.com/enclave": "1", "sgx.intel.com/epc": profile.sgx_epc or f"{memory_mb}Mi"}
    if profile.sgx_quote == "in-process":
        return Additions(limits={**limits, "sgx.intel.com/provision": "1"}, runtime_class=profile.runtime_class)
    volume = {"name": "aesm", "hostPath": {"path": _AESM, "type": "Directory"}}
    mount = {"name": "aesm", "mountPath": _AESM, "readOnly": True}
    return Additions(limits=limits, volumes=(volume,), mounts=(mount,), runtime_class=profile.runtime_class)


def _on_nodes_labelled(labels: tuple[tuple[str, str], ...]) -> Json:
    # Terms are alternatives: a node with any one of the labels will do.
    terms = [{"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]} for key, value in labels]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}

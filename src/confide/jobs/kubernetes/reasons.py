"""The reasons for which a pod waits or has ended, and what to do about each.  Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Code(StrEnum):
    """The reasons, a closed list."""

    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    UNSCHEDULABLE = "unschedulable"
    QUEUED = "queued"
    IMAGE_PULL = "image-pull"
    CONFIG_MAP_MISSING = "config-map-missing"
    VOLUME_UNAVAILABLE = "volume-unavailable"
    RUNTIME_MISSING = "runtime-missing"
    START_REFUSED = "start-refused"
    QUOTA_EXCEEDED = "quota-exceeded"
    FORBIDDEN = "forbidden"
    INVALID = "invalid"
    REFUSED_BY_NODE = "refused-by-node"
    EXITED = "exited"
    SIGNALLED = "signalled"
    OUT_OF_MEMORY = "out-of-memory"
    EVICTED = "evicted"
    DRAINED = "drained"
    PREEMPTED = "preempted"
    NODE_LOST = "node-lost"
    NODE_SHUTDOWN = "node-shutdown"
    DELETED = "deleted"
    TOO_LONG = "too-long"
    UNKNOWN = "unknown"


_HINTS: Final[Mapping[Code, str]] = {
    Code.UNSCHEDULABLE: "the pod starts once a cluster node has room; else ask for fewer or smaller workers",
    Code.QUEUED: "it starts when the queue admits it; `kubectl get workloads` shows Kueue's",
    Code.IMAGE_PULL: "check the profile's image and image_pull_secrets, and that cluster nodes reach the registry",
    Code.CONFIG_MAP_MISSING: "it was removed, or never made: stop the run and start it anew",
    Code.VOLUME_UNAVAILABLE: "check that the claims of the profile's volumes are there, bound, and can be mounted on this cluster node",
    Code.RUNTIME_MISSING: "install the runtime on the cluster's nodes, or name the right one as runtime_class in the profile",
    Code.START_REFUSED: "the container runtime does not start it: check that the image is one of `confide image build`",
    Code.QUOTA_EXCEEDED: "ask for fewer or smaller workers, wait for other runs to end, or have the namespace's quota raised",
    Code.FORBIDDEN: "ask the cluster's operator for the rights that a run needs: docs/guides/kubernetes.md",
    Code.INVALID: "the cluster does not take the object as it is: compare with `confide run --dry-run -o yaml`",
    Code.REFUSED_BY_NODE: "the cluster node took the pod back when it came: start the run anew",
    Code.EXITED: "its log says why",
    Code.SIGNALLED: "see its log, and whether somebody stopped it",
    Code.OUT_OF_MEMORY: "raise memory_mb of the job's resources (driver_memory_mb for the driver), or shm_mb of the profile",
    Code.EVICTED: "its cluster node ran short of something: start the run anew, with a priority_class if this happens often",
    Code.DRAINED: "somebody emptied its cluster node: start the run anew",
    Code.PREEMPTED: "a pod of higher priority took its place: start the run anew, or use a priority_class",
    Code.NODE_LOST: "its cluster node is down or cut off: start the run anew, or wait until it is back",
    Code.NODE_SHUTDOWN: "its cluster node was shut down: start the run anew",
    Code.DELETED: "somebody removed it: the namespace's events may say who",
    Code.TOO_LONG: "somebody gave it a time limit, which runs of Confide do not have",
}
"""Codes without a hint need none, or nothing is known that would help."""

_BY_WORDS: Final = (
    (Code.UNSCHEDULABLE, r"Insufficient sgx\.intel\.com",
     "ask for less sgx_epc or fewer workers, or see that Intel's device plugin runs on the SGX nodes"),
    (Code.UNSCHEDULABLE, r"taint", "add a toleration to the profile, if the pods are meant to run there"),
    (Code.UNSCHEDULABLE, r"node affinity|node selector|node\(s\) didn't match",
     "no cluster node has the labels that the shape or node_selector asks for"),
    (Code.UNSCHEDULABLE, r"(?i)persistentvolumeclaim", "check that the claims of the profile's volumes are there and bound"),
    (Code.IMAGE_PULL, r"(?i)unauthorized|authentication required|denied|authorization failed",
     "give the registry's credentials: image_pull_secrets of the profile"),
    (Code.IMAGE_PULL, r"(?i)manifest unknown|not found", "there is no such image: check the name and the digest in the profile"),
    (Code.START_REFUSED, r"runAsNonRoot|run as root", "the image runs as root: build it with `confide image build`"),
    (Code.REFUSED_BY_NODE, r"(?i)device|sgx",
     "its TEE device is not healthy or is in use: see the device plugin's log on that cluster node"),
    (Code.EVICTED, r'EmptyDir volume "shm"', "give the pods a larger memory folder: shm_mb of the profile"),
    (Code.EVICTED, r"EmptyDir volume|storage usage exceeds",
     "it wrote more to its cluster node's disk than it may: its log says what it did"),
)  # fmt: skip
"""Better hints where the message has certain words."""


def hint_for(code: Code, said: str) -> str | None:
    """What to do about it, given what the cluster said."""
    better = (hint for known, words, hint in _BY_WORDS if known is code and re.search(words, said))
    return next(better, _HINTS.get(code))

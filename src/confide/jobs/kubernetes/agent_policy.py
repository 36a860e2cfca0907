"""The policy of a Kata guest's agent: it makes exactly the pod that the profile describes, and nothing else of what a host may ask.  Pure.

The host's half of Kata Containers asks the agent inside the guest for everything; the agent evaluates this policy (rego) on each request.
It is part of the init-data, whose digest the evidence holds, so that a guest that runs another image, other arguments or another command
has other evidence.  The same for all nodes of all runs of a profile.  Requests are those of ``genpolicy`` of Kata Containers
(``rules.rego``, ``genpolicy-settings.json`` and its test data).
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from confide.errors import ConfigError
from confide.jobs.images.layout import ARGUMENTS, ENVIRONMENT
from confide.jobs.kubernetes.pod_places import CONTAINER, NODE_DIR, SHM_DIR, STATE_DIR, TMP_DIR, USER

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.jobs.kubernetes.profile import ClusterProfile

POLICY_NAME: Final = "policy.rego"
"""Name of the agent's policy within init-data (Kata Containers, Confidential Containers)."""
_TOKEN_DIR: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105  a folder
_USUAL: Final = {
    "/proc": "proc", "/dev": "tmpfs", "/dev/pts": "devpts", "/dev/mqueue": "mqueue", "/sys": "sysfs", "/sys/fs/cgroup": "cgroup",
}  # fmt: skip
"""File systems of the kernel that each container gets, by destination; source and type have the same name."""
_USUAL_FILES: Final = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log")
"""Files that a kubelet gives each container."""


def agent_policy(profile: ClusterProfile) -> str:
    """The policy for nodes of the profile.

    Raises:
        ConfigError: the profile names its image by a tag.
    """
    _, at, digest = profile.image.rpartition("@")
    if not at:
        hint = "name the image by its digest, or give init_data a policy.rego of your own"
        raise ConfigError("the guest's agent cannot know an image by its tag", hint=hint, field="image")
    copied = (NODE_DIR, _TOKEN_DIR)
    pod: Json = {
        "args": list(ARGUMENTS),
        "container": CONTAINER,
        "copied": [_pattern(path) for path in (*_USUAL_FILES, *copied)],
        "cwd": STATE_DIR,
        "data": [volume.mount for volume in profile.volumes],
        "files": [_file(path) for path in copied],
        "groups": sorted({USER, *profile.supplemental_groups}),
        "image": digest,
        "logs": profile.guest_logs,
        "memory": [SHM_DIR, TMP_DIR, STATE_DIR],
        "namespace": profile.namespace,
        "user": USER,
        "usual": [{"destination": path, "source": kind, "type": kind} for path, kind in _USUAL.items()],
        "usual_files": [_file(path) for path in _USUAL_FILES],
        "variables": [f"{name}={value}" for name, value in ENVIRONMENT.items()],
    }
    return f"{_rules()}pod := {json.dumps(pod, sort_keys=True, separators=(',', ':'))}\n"


@cache
def _rules() -> str:
    """The rules without what is for readers: each worker's pod carries them, and all workers' pods have to fit into one config map."""
    text = files("confide.jobs.kubernetes").joinpath("agent_policy.rego").read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("#"))


def _file(path: str) -> Json:
    return {"destination": path, "name": _pattern(path)}


def _pattern(path: str) -> str:
    return PurePosixPath(path).name.replace(".", "\\.")

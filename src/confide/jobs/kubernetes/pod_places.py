"""What is where in a node's pod, and as whom it runs: of the pod that is rendered, and of the policy of the guest that makes it."""

from __future__ import annotations

from typing import Final

CONTAINER: Final = "node"
USER: Final = 10001
"""User and group of the container, as the image has them (``confide image build``)."""
NODE_DIR: Final = "/etc/confide/node"
STATE_DIR: Final = "/var/confide"
TMP_DIR: Final = "/tmp"  # noqa: S108  a path within the pod
SHM_DIR: Final = "/dev/shm"  # noqa: S108  a path within the pod

"""A server that answers like an API server, and the client that asks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.api_server import ApiServer

from confide.jobs.kubernetes.client import Cluster


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    found = ApiServer(tmp_path)
    yield found
    found.stop()


@pytest.fixture
def cluster(api: ApiServer) -> Cluster:
    return Cluster.connect("test", kubeconfig=api.kubeconfig())

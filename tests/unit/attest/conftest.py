from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from confide.attest.evidence import Evidence, NodeContext
from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import b64url
from confide.ids import JobDigest, NodeId, ReportData, RunId, Tee

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MEASUREMENTS = {Tee.SGX: "5a" * 32, Tee.TDX: "5a" * 48}


@pytest.fixture(scope="session")
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def measurements() -> dict[Tee, str]:
    return MEASUREMENTS


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder: Path = tmp_path_factory.mktemp("simulated") / "tee"
    return Installation.create(folder, now=NOW)


@pytest.fixture(scope="session")
def verifier(installation: Installation) -> Verifier:
    return Verifier(TrustRoots(simulated=installation.root_der), installation.collateral_source())


@pytest.fixture(scope="session")
def context() -> NodeContext:
    seal = {"kty": "EC", "crv": "P-256", "x": b64url(bytes(range(32))), "y": b64url(bytes(range(32, 64)))}
    return NodeContext(JobDigest("ab" * 48), RunId("demo-0123456789ab"), NodeId("worker-1"), seal)


@pytest.fixture(scope="session")
def make_evidence(installation: Installation) -> Callable[..., Evidence]:
    def make(tee: Tee = Tee.TDX, *, report_data: bytes = bytes(64), fault: Fault | None = None) -> Evidence:
        return InsecureAttester(installation, tee, MEASUREMENTS[tee], fault=fault).quote(ReportData(report_data))

    return make

from __future__ import annotations

from datetime import datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from confide.attest.binding import SessionBinding
from confide.attest.evidence import NodeContext
from confide.attest.insecure import InsecureAttester, Installation
from confide.attest.policy import AttestationResult, Rules, appraise
from confide.attest.verify import Verifier
from confide.ids import Nonce, Role, Tee

SPKI = b"peer's public key"


@pytest.fixture(scope="session")
def binding(context: NodeContext) -> SessionBinding:
    return SessionBinding(Role.WORKER, bytes(range(32)), Nonce(bytes(range(32, 64))), SPKI, context)


@pytest.fixture(scope="session")
def result(
    installation: Installation, verifier: Verifier, measurements: dict[Tee, str], binding: SessionBinding, now: datetime
) -> AttestationResult:
    policy = Rules(name="simulated", measurements={Tee.TDX: (measurements[Tee.TDX],)}, allow=("simulated",))
    evidence = InsecureAttester(installation, Tee.TDX, measurements[Tee.TDX]).quote(binding.report_data)
    return appraise(verifier.verify(evidence, now), policy, binding, now=now)


@pytest.fixture(scope="session")
def signing_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())



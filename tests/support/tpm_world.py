"""A machine with a real software TPM whose key is enrolled, its verifier and its policy: what attacks on TPM evidence need."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from support.attested_session import World
from support.tpm import Swtpm, fingerprint, log_of

from confide.attest.collateral_sources import FixedCollateral
from confide.attest.evidence import Evidence
from confide.attest.policy import Policy
from confide.attest.policy_draft import of_claims
from confide.attest.roots import TrustRoots
from confide.attest.tpm_device import TpmAttester
from confide.attest.tpm_enrol import challenge
from confide.attest.tpm_format import Public, TpmEvidence
from confide.attest.tpm_trust import EnrolledKey, TpmTrust
from confide.attest.verify import VerifiedEvidence, Verifier
from confide.ids import ReportData, Tee
from confide.job import Job

DATA = ReportData(bytes(range(64)))
EVENTS = ((0, b"firmware"), (4, b"boot loader"), (4, b"kernel"))
PCRS = (0, 4, 7)
HANDLE = "0x81010002"


@dataclass
class TpmWorld:
    """One machine as its owner knows it: ``ek`` is the chain of its endorsement key, ``key`` the enrolled attestation key."""

    tpm: Swtpm
    ek: list[x509.Certificate]
    key: Public
    now: datetime

    @property
    def manufacturers(self) -> frozenset[str]:
        return frozenset({fingerprint(self.ek[-1])})

    def record(self, public: Public) -> EnrolledKey:
        return EnrolledKey(
            public.name.hex(), "node-7", fingerprint(self.ek[0]), self.now - timedelta(days=1), self.now + timedelta(days=30)
        )

    def trust(self, *more: Public) -> TpmTrust:
        """What the owner trusts: the enrolled key; and ``more``, of an owner who was careless."""
        return TpmTrust(keys={public.name.hex(): self.record(public) for public in (self.key, *more)}, manufacturers=self.manufacturers)

    def verifier(self, trust: TpmTrust | None = None) -> Verifier:
        return Verifier(TrustRoots(tpm=trust or self.trust()), FixedCollateral())

    def verify(self, evidence: Evidence, trust: TpmTrust | None = None) -> VerifiedEvidence:
        return self.verifier(trust).verify(evidence, self.now)

    def attester(self, key: str = HANDLE) -> TpmAttester:
        name = key if key == HANDLE else str(self.tpm.path(f"{key}.ctx"))
        return TpmAttester(name, b"", PCRS, log=self.tpm.path("log"), tcti=self.tpm.tcti)

    def quote(self, data: ReportData = DATA, key: str = HANDLE) -> Evidence:
        try:
            return self.attester(key).quote(data)
        finally:
            self.tpm.flush()

    def policy(self) -> Policy:
        """What accepts this machine as it was started."""
        return Policy.from_json({"name": "machines", **of_claims(self.verify(self.quote()).claims)})

    def accepted(self, verified: VerifiedEvidence, policy: Policy) -> bool:
        return all(check.ok for check in policy.explain(verified, now=self.now))

    def measure(self, pcr: int, text: bytes) -> None:
        """Something else is started; the log says so."""
        self.tpm.extend(pcr, hashlib.sha256(text).digest())
        self.tpm.path("log").write_bytes(log_of(*EVENTS, (pcr, text)))


def remade(evidence: Evidence, **changes: Any) -> Evidence:
    """Evidence with other parts in its container."""
    return Evidence(Tee.TPM, dataclasses.replace(TpmEvidence.parse(evidence.quote), **changes).to_bytes(), evidence.chain)


def enrolled(folder: Path) -> TpmWorld:
    """A machine that was started as :data:`EVENTS` say, and whose key answered its owner's challenge."""
    tpm = Swtpm(folder)
    ek = tpm.make_ek()
    public = tpm.make_ak("one")
    tpm.tool("tpm2_evictcontrol", "-C", "o", "-c", "one.ctx", HANDLE)
    tpm.flush()
    now = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1)
    world = TpmWorld(tpm, ek, public, now)
    asked = challenge(ek, public, world.manufacturers, now)
    answer = tpm.activate("one", asked.credential, asked.encrypted_secret)
    assert asked.enrol(answer, "node-7", fingerprint(ek[0]), now=now, valid=timedelta(days=30)).name == public.name.hex()
    tpm.start(*EVENTS)
    return world


@pytest.fixture(scope="module", name="machine")
def make_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TpmWorld]:
    world = enrolled(tmp_path_factory.mktemp("tpm"))
    try:
        yield world
    finally:
        world.tpm.stop()


class TpmSession(World):
    """The attested session of a machine with a TPM."""

    machine: TpmWorld

    def attester(self, fault: object = None) -> TpmAttester:  # type: ignore[override]
        return self.machine.attester()


@pytest.fixture
def tpm_session(world: World, machine: TpmWorld) -> TpmSession:
    parts: dict[str, Any] = {"name": "attacked", "program": "main.py", "files": {"main.py": b"pass\n"}}
    job = Job.build({**parts, "policy": machine.policy().to_json(), "broker": {"url": "https://127.0.0.1:1", "spki": "cd" * 32}})
    found = TpmSession(world.installation, machine.verifier(), job)
    object.__setattr__(found, "machine", machine)
    return found

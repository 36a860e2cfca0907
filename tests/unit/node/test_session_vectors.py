"""Every scenario of tests/vectors/session gets its verdict (docs/formats/session-protocol.md, section 8)."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from confide.attest import binding
from confide.attest.collateral import Collateral
from confide.attest.collateral_sources import FixedCollateral
from confide.attest.policy import Rules
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.errors import ConfideError
from confide.ids import JobDigest, NodeId, Nonce, Role, RunId
from confide.node.session import Expected, VerifierSide, judge, parse_challenge, parse_evidence

FOLDER = Path(__file__).parents[2] / "vectors" / "session"
SCENARIOS = sorted(path for path in FOLDER.glob("*.json") if path.stem != "vendor")
VERDICTS = {"accepted", "appraisal-refused", "binding-mismatch", "evidence-invalid", "nonce-refused", "parse", "protocol-violation"}


def test_all_scenarios_are_here() -> None:
    assert len(SCENARIOS) == 30
    assert {json.loads(path.read_text())["expect"] for path in SCENARIOS} == VERDICTS


@pytest.fixture(scope="module")
def vendor() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "vendor.json").read_text())
    return found


def verdict(vector: dict[str, Any], vendor: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    try:
        if vector["type"] == "challenge":
            parse_challenge(vector["frame"], role=Role(vector["role"]))
        else:
            judged(vector, vendor, monkeypatch)
    except ConfideError as error:
        return error.code
    return "accepted"


def judged(vector: dict[str, Any], vendor: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    now, session, wanted = datetime.fromisoformat(vendor["now"]), vector["session"], vector["expected"]
    verifier = Verifier(
        TrustRoots(simulated=bytes.fromhex(vendor["root"])), FixedCollateral(*(Collateral.from_json(c) for c in vendor["collateral"]))
    )
    policy = Rules(name="vectors", measurements={tee: [value] for tee, value in vendor["measurements"].items()}, allow=["simulated"])
    side = VerifierSide(verifier, policy, clock=lambda: now, nonce_ttl=timedelta(seconds=session["ttl_s"]))
    monkeypatch.setattr(binding.secrets, "token_bytes", lambda _: bytes.fromhex(session["nonce"]))
    nonce = side.nonces.issue(now - timedelta(seconds=session["age_s"]))
    nodes = None if wanted["nodes"] is None else frozenset(map(NodeId, wanted["nodes"]))
    judge(
        parse_evidence(vector["frame"]),
        side=side,
        nonce=Nonce(nonce),
        exporter=bytes.fromhex(session["exporter"]),
        peer_spki=bytes.fromhex(session["peer_spki"]),
        own_spki=bytes.fromhex(session["own_spki"]),
        expected=Expected(Role(wanted["role"]), JobDigest(wanted["job"]), RunId(wanted["run"]), nodes),
    )


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_gets_its_verdict(path: Path, vendor: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    vector = json.loads(path.read_text())
    assert verdict(vector, vendor, monkeypatch) == vector["expect"]

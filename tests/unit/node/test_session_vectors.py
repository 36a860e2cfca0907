"""Every scenario of tests/vectors/session gets its verdict (docs/formats/session-protocol.md, section 8)."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from confide.attest import binding
from confide.attest.binding import NonceBook
from confide.attest.collateral import Collateral
from confide.attest.collateral_sources import FixedCollateral
from confide.attest.evidence import NodeContext
from confide.attest.policy import Rules
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.errors import ConfideError
from confide.ids import JobDigest, NodeId, Nonce, Role, RunId
from confide.node.reattest import Pace, Watch
from confide.node.session import Expected, VerifierSide, judge, parse_challenge, parse_evidence

FOLDER = Path(__file__).parents[2] / "vectors" / "session"
SCENARIOS = sorted(path for path in FOLDER.glob("*.json") if path.stem != "vendor")
VERDICTS = {"accepted", "appraisal-refused", "binding-mismatch", "evidence-invalid", "nonce-refused", "parse", "protocol-violation"}


def test_all_scenarios_are_here() -> None:
    assert len(SCENARIOS) == 37
    assert {json.loads(path.read_text())["expect"] for path in SCENARIOS} == VERDICTS


@pytest.fixture(scope="module")
def vendor() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "vendor.json").read_text())
    return found


def verdict(vector: dict[str, Any], vendor: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    try:
        if vector["type"] == "challenge":
            parse_challenge(vector["frame"], role=Role(vector["role"]))
        elif vector["type"] == "reattest":
            judged_again(vector, vendor, monkeypatch)
        else:
            judged(vector, vendor, monkeypatch)
    except ConfideError as error:
        return error.code
    return "accepted"


def side_of(vendor: dict[str, Any], now: datetime, ttl_s: float) -> VerifierSide:
    verifier = Verifier(
        TrustRoots(simulated=bytes.fromhex(vendor["root"])), FixedCollateral(*(Collateral.from_json(c) for c in vendor["collateral"]))
    )
    policy = Rules(name="vectors", measurements={tee: [value] for tee, value in vendor["measurements"].items()}, allow=["simulated"])
    return VerifierSide(verifier, policy, clock=lambda: now, nonces=NonceBook(timedelta(seconds=ttl_s)))


def judged(vector: dict[str, Any], vendor: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    now, session, wanted = datetime.fromisoformat(vendor["now"]), vector["session"], vector["expected"]
    side = side_of(vendor, now, session["ttl_s"])
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


def judged_again(vector: dict[str, Any], vendor: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Section 9: a watch that has sent ``sent`` challenges to the peer that was accepted as ``first``."""
    now, session, first = datetime.fromisoformat(vendor["now"]), vector["session"], vector["first"]
    exporter, peer_spki = bytes.fromhex(session["exporter"]), bytes.fromhex(session["peer_spki"])
    channel = SimpleNamespace(exporter=lambda: exporter, peer_spki=peer_spki, own_spki=b"")
    claims = SimpleNamespace(tee=first["tee"], measurement=first["measurement"])
    spki = bytes.fromhex(first["spki"])
    peer = SimpleNamespace(
        context=NodeContext.from_json(first["context"]),
        spki=hashlib.sha256(spki).hexdigest(),
        record=SimpleNamespace(role=Role.WORKER, spki=spki),
        result=SimpleNamespace(claims=claims),
    )
    monkeypatch.setattr(binding.secrets, "token_bytes", lambda _: bytes.fromhex(session["nonce"]))
    seconds, refusals = iter(range(0, 100_000, 300)), []
    watch = Watch(
        peer,  # type: ignore[arg-type]
        channel,  # type: ignore[arg-type]
        side=side_of(vendor, now, session["ttl_s"]),
        pace=Pace(300, 10_000, 300),
        now=lambda: next(seconds),
        send=lambda *_args, **_fields: None,
        aside=lambda work: work()(),
        on_refused=lambda error, _: refusals.append(error),
    )
    for _ in range(vector["sent"]):
        watch.tick()
    watch.answered(vector["frame"])
    for error in refusals:
        raise error


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_gets_its_verdict(path: Path, vendor: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    vector = json.loads(path.read_text())
    assert verdict(vector, vendor, monkeypatch) == vector["expect"]

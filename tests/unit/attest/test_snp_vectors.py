"""Every real AMD report gets its verdict through the one verifier, and policies decide about it."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from confide.attest.amd_collateral import AmdCollateral
from confide.attest.binding import SessionBinding
from confide.attest.collateral_sources import FixedCollateral
from confide.attest.evidence import Evidence, NodeContext
from confide.attest.policy import Policy, appraise
from confide.attest.roots import TrustRoots
from confide.attest.verify import VerifiedEvidence, Verifier
from confide.errors import BindingError, CollateralError, EvidenceInvalidError
from confide.ids import Nonce, Role, Tee

VECTORS = Path(__file__).parents[2] / "vectors"
ENTRIES = json.loads((VECTORS / "snp" / "manifest.json").read_text())
NOW = datetime(2025, 6, 1, tzinfo=UTC)
SWITCH = "snp-no-revocation-list"
OTHERS = ["milan-azure-container", "genoa-azure", "genoa-v5", "turin-v5"]
GENUINE = ["milan-vcek-valid", "milan-vlek-valid", "milan-azure", "milan-debug-policy", *OTHERS]
PARTS = {"bootloader", "tee", "snp", "microcode"}


def _collateral() -> FixedCollateral:
    blocks = (VECTORS / "snp" / "certs" / "milan_ask_ark_asvk.pem").read_text().split("-----BEGIN CERTIFICATE-----")[1:]
    ask, ark, asvk = ("-----BEGIN CERTIFICATE-----" + block for block in blocks)
    folder = VECTORS / "snp" / "certs"
    genoa, turin = (AmdCollateral(p, "vcek", (folder / f"{p.lower()}_ask_ark.pem").read_text(), b"") for p in ("Genoa", "Turin"))
    return FixedCollateral(AmdCollateral("Milan", "vcek", ask + ark, b""), AmdCollateral("Milan", "vlek", asvk + ark, b""), genoa, turin)


def _entry(name: str) -> Any:
    return next(entry for entry in ENTRIES if entry["id"] == name)


def _evidence(name: str) -> Evidence:
    entry = _entry(name)
    raw = (VECTORS / entry["report"]).read_bytes()
    assert hashlib.sha256(raw).hexdigest() == entry["sha256"]
    return Evidence(Tee.SNP, raw, (VECTORS / entry["leaf"]).read_bytes())


def _when(name: str) -> datetime:
    """``NOW``, or the first day of a certificate that is younger."""
    return max(NOW, datetime.fromisoformat(_entry(name)["leaf_not_before"]))


def _verify(name: str, now: datetime | None = None) -> VerifiedEvidence:
    return Verifier(TrustRoots(), _collateral()).verify(_evidence(name), now or _when(name))


def _policy(verified: VerifiedEvidence, **changes: Any) -> Policy:
    claims = verified.claims
    vmpl = claims.vendor["vmpl"]
    data = {"measurements": {"snp": [claims.measurement]}, "min_tcb": {claims.platform: claims.tcb}, "vmpls": [vmpl], "allow": [SWITCH]}
    return Policy.from_json({"name": "milan", **data, **changes})


def _refusals(verified: VerifiedEvidence, policy: Policy, now: datetime = NOW) -> list[str]:
    return [check.name for check in policy.explain(verified, now=now) if not check.ok]


def test_all_vectors_are_here_with_a_known_outcome() -> None:
    assert len(ENTRIES) == 9
    assert {entry["id"] for entry in ENTRIES} == {*GENUINE, "milan-vcek-wrong-chip"}


@pytest.mark.parametrize("name", GENUINE)
def test_real_report_is_genuine(name: str) -> None:
    entry, verified = _entry(name), _verify(name)
    claims = verified.claims
    assert (claims.tee, claims.platform.lower(), claims.simulated) == (Tee.SNP, name.split("-", maxsplit=1)[0], False)
    assert claims.vendor["report_version"] == entry["version"]
    assert claims.vendor["signing_key"] == entry["signing_key"].lower()
    assert claims.debug is entry["debug_allowed"]
    assert set(claims.tcb) == (PARTS | {"fmc"} if claims.platform == "Turin" else PARTS)
    assert len(claims.measurement) == 96
    assert json.loads(json.dumps(claims.to_json()))["platform"] == claims.platform


@pytest.mark.parametrize("name", ["milan-vcek-valid", "milan-vlek-valid", "milan-azure", *OTHERS])
def test_policy_for_a_real_report_accepts_it(name: str) -> None:
    verified = _verify(name)
    assert _refusals(verified, _policy(verified)) == []


def test_report_whose_guest_may_be_debugged_is_refused() -> None:
    verified = _verify("milan-debug-policy")
    assert _refusals(verified, _policy(verified)) == ["debug"]


def test_report_with_the_certificate_of_another_chip_is_refused() -> None:
    with pytest.raises(EvidenceInvalidError):
        _verify("milan-vcek-wrong-chip")


def test_real_numbers_of_each_product_are_read_in_their_own_layout() -> None:
    """Turin's TCB begins with FMC, and its chips have ids of 8 bytes; 219 is a DER integer of two bytes."""
    read = {name: _verify(name).claims.tcb for name in OTHERS}
    assert read["turin-v5"] == {"fmc": 0, "bootloader": 1, "tee": 0, "snp": 2, "microcode": 71}
    assert read["genoa-v5"] == {"bootloader": 10, "tee": 0, "snp": 27, "microcode": 88}
    assert read["genoa-azure"] == {"bootloader": 10, "tee": 0, "snp": 23, "microcode": 84}
    assert read["milan-azure-container"] == {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219}


def test_report_of_one_chip_with_the_genuine_certificate_of_another_is_refused() -> None:
    mixed = Evidence(Tee.SNP, _evidence("milan-vcek-valid").quote, _evidence("milan-azure").chain)
    with pytest.raises(EvidenceInvalidError):
        Verifier(TrustRoots(), _collateral()).verify(mixed, NOW)


def test_vlek_that_has_ended_is_refused() -> None:
    with pytest.raises(EvidenceInvalidError, match="not valid at this time"):
        _verify("milan-vlek-valid", datetime(2026, 1, 1, tzinfo=UTC))


def test_real_report_without_a_revocation_list_needs_the_policys_switch() -> None:
    verified = _verify("milan-vcek-valid")
    assert _refusals(verified, _policy(verified, allow=[])) == ["revocation-list-missing"]


def test_provider_that_attests_from_a_higher_vmpl_has_to_be_named() -> None:
    """With a paravisor, the guest runs at VMPL 1 or above: what is measured at 0 is the provider's."""
    verified = _verify("milan-vlek-valid")
    assert verified.claims.vendor["vmpl"] == 1
    assert _refusals(verified, _policy(verified, vmpls=[0])) == ["vmpl"]


@pytest.mark.parametrize("component", ["bootloader", "tee", "snp", "microcode"])
def test_each_component_of_the_tcb_has_a_minimum(component: str) -> None:
    verified = _verify("milan-vcek-valid")
    more = {**verified.claims.tcb, component: verified.claims.tcb[component] + 1}
    assert _refusals(verified, _policy(verified, min_tcb={"Milan": more})) == ["tcb"]


def test_product_that_is_not_named_is_refused() -> None:
    verified = _verify("milan-vcek-valid")
    assert _refusals(verified, _policy(verified, min_tcb={"Genoa": verified.claims.tcb})) == ["product", "tcb"]


def test_real_report_is_bound_to_nobodys_session() -> None:
    verified = _verify("milan-vcek-valid")
    seal = {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}
    context = NodeContext("ab" * 48, "run-1", "worker-1", seal)  # type: ignore[arg-type]
    binding = SessionBinding(Role.WORKER, bytes(32), Nonce(bytes(32)), b"spki", context)
    with pytest.raises(BindingError):
        appraise(verified, _policy(verified), binding, now=NOW)


@pytest.mark.parametrize("roots", [{}, {"00" * 32: "Milan"}], ids=["none", "another"])
def test_real_report_is_refused_where_amds_root_is_not_pinned(roots: Any) -> None:
    with pytest.raises(EvidenceInvalidError, match="root"):
        Verifier(TrustRoots(amd=roots), _collateral()).verify(_evidence("milan-vcek-valid"), NOW)


@pytest.mark.parametrize("name", ["milan-vcek-valid", "genoa-v5", "turin-v5"])
def test_every_byte_of_a_real_report_counts(name: str) -> None:
    evidence = _evidence(name)
    verifier, now = Verifier(TrustRoots(), _collateral()), _when(name)
    verifier.verify(evidence, now)
    for at in range(len(evidence.quote)):
        changed = bytearray(evidence.quote)
        changed[at] ^= 1 << at % 8
        with pytest.raises(EvidenceInvalidError):
            verifier.verify(Evidence(Tee.SNP, bytes(changed), evidence.chain), now)


def test_every_byte_of_a_real_certificate_counts() -> None:
    evidence = _evidence("milan-vcek-valid")
    verifier = Verifier(TrustRoots(), _collateral())
    for at in range(len(evidence.chain)):
        changed = bytearray(evidence.chain)
        changed[at] ^= 1 << at % 8
        with pytest.raises((EvidenceInvalidError, CollateralError)):
            verifier.verify(Evidence(Tee.SNP, evidence.quote, bytes(changed)), NOW)


def test_chain_that_was_remembered_still_ends_and_counts_for_its_own_reports_only() -> None:
    """The verifier remembers a chip's chain, never a verdict: time, chip and signature are checked for each report."""
    verifier = Verifier(TrustRoots(), _collateral())
    evidence = _evidence("milan-vlek-valid")
    assert verifier.verify(evidence, NOW).claims == verifier.verify(evidence, NOW).claims
    with pytest.raises(EvidenceInvalidError, match="not valid at this time"):
        verifier.verify(evidence, datetime(2026, 1, 1, tzinfo=UTC))
    changed = bytearray(evidence.quote)
    changed[0x50] ^= 1  # report data
    with pytest.raises(EvidenceInvalidError, match="signature does not verify"):
        verifier.verify(Evidence(Tee.SNP, bytes(changed), evidence.chain), NOW)
    verifier.verify(_evidence("milan-vcek-valid"), NOW)
    with pytest.raises(EvidenceInvalidError, match=r"another chip|another TCB"):
        verifier.verify(Evidence(Tee.SNP, _evidence("milan-azure").quote, _evidence("milan-vcek-valid").chain), NOW)


def test_chain_that_was_refused_is_not_remembered() -> None:
    verifier = Verifier(TrustRoots(amd={"00" * 32: "Milan"}), _collateral())
    for _ in range(2):
        with pytest.raises(EvidenceInvalidError, match="root"):
            verifier.verify(_evidence("milan-vcek-valid"), NOW)

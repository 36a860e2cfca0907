"""The reference verifier, and that our own has to agree with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.simulated_evidence import td

from confide.attest import dcap, verify
from confide.attest.collateral_sources import FixedCollateral, load_collateral
from confide.attest.dcap import reference_rating, require_agreement
from confide.attest.evidence import Evidence
from confide.attest.insecure import Fault, Installation
from confide.attest.roots import INTEL_SGX_ROOT, TrustRoots
from confide.attest.verify import VerifiedEvidence, Verifier
from confide.errors import EvidenceInvalidError
from confide.ids import Tee

VECTORS = Path(__file__).parents[2] / "vectors"
ENTRIES = {entry["id"]: entry for entry in json.loads((VECTORS / "intel" / "manifest.json").read_text())}
Simulated = Callable[..., VerifiedEvidence]
READ_BY_US = [name for name in ENTRIES if name not in {"sgx-v3-eppid-no-pck", "tdx-v4-below-all-levels"}]


def _verified(name: str) -> VerifiedEvidence:
    entry = ENTRIES[name]
    verifier = Verifier(TrustRoots(), FixedCollateral(load_collateral(VECTORS / entry["collateral"])))
    evidence = Evidence.from_device(Tee(entry["tee"].lower()), (VECTORS / entry["quote"]).read_bytes())
    return verifier.verify(evidence, datetime.fromtimestamp(entry["now"], UTC))


def _changed(verified: VerifiedEvidence, **changes: Any) -> VerifiedEvidence:
    claims = dataclasses.replace(verified.claims, **changes)
    return VerifiedEvidence(claims, verified.evidence, verified.collateral, verified.verified_at, token=verify._TOKEN)


@pytest.mark.parametrize("name", READ_BY_US)
def test_both_verifiers_agree_on_real_quotes(name: str) -> None:
    require_agreement(_verified(name), INTEL_SGX_ROOT)


@pytest.fixture
def simulated(verifier: Verifier, make_evidence: Callable[..., Evidence], now: datetime) -> Callable[..., VerifiedEvidence]:
    return lambda *args, **options: verifier.verify(make_evidence(*args, **options), now)


@pytest.mark.parametrize("tee", [Tee.SGX, Tee.TDX])
@pytest.mark.parametrize("fault", [None, Fault.DEBUG, Fault.OUT_OF_DATE, Fault.WRONG_MEASUREMENT, Fault.REPLAY])
def test_both_verifiers_agree_on_simulated_quotes(installation: Installation, simulated: Simulated, tee: Tee, fault: Fault | None) -> None:
    require_agreement(simulated(tee, fault=fault), installation.root_der)


def test_another_rating_is_a_disagreement() -> None:
    verified = _verified("tdx-v4-uptodate-then-outofdate")
    for changes in ({"tcb_status": "UpToDate"}, {"advisory_ids": ()}):
        with pytest.raises(EvidenceInvalidError, match="disagree"):
            require_agreement(_changed(verified, **changes), INTEL_SGX_ROOT)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("sgx-v3-debug", {"debug": False}),
        ("tdx-v4-azure-sept-ve", {"vendor": {"sept_ve_disable": True}}),
        ("tdx-v5-servicetd", {"vendor": {"service_td": False}}),
    ],
)
def test_refusal_that_our_claims_do_not_explain_is_a_disagreement(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(EvidenceInvalidError, match="disagree"):
        require_agreement(_changed(_verified(name), **changes), INTEL_SGX_ROOT)


def test_refusal_for_another_reason_than_what_our_claims_say_is_a_disagreement(simulated: Simulated) -> None:
    with pytest.raises(EvidenceInvalidError, match="disagree"):
        require_agreement(simulated(fault=Fault.DEBUG), INTEL_SGX_ROOT)


@pytest.mark.parametrize(
    ("flags", "name", "ours"),
    [
        (0, "sept_ve_disable", False), (1 << 28 | 1 << 29, "migratable", True), (1 << 28 | 1, "debug", True),
        (1 << 28 | 1 << 4, "debug", True),
    ],
)  # fmt: skip
def test_what_a_policy_may_accept_is_no_disagreement_if_our_claims_say_it(
    installation: Installation, verifier: Verifier, now: datetime, flags: int, name: str, *, ours: bool
) -> None:
    verified = verifier.verify(td(installation, flags), now)
    with pytest.raises(EvidenceInvalidError):
        reference_rating(verified.evidence.quote, verified.collateral, installation.root_der, now)
    require_agreement(verified, installation.root_der)
    vendor = {key: value for key, value in verified.claims.vendor.items() if key != name}
    for changes in ({"vendor": {**vendor, name: not ours}}, {"vendor": vendor}) if name != "debug" else ({"debug": False},):
        with pytest.raises(EvidenceInvalidError, match="disagree"):
            require_agreement(_changed(verified, **changes), installation.root_der)


def test_reserved_attributes_are_a_disagreement(installation: Installation, verifier: Verifier, now: datetime) -> None:
    for flags in (1 << 28 | 1 << 1, 1 << 28 | 1 << 29 | 1 << 1):
        with pytest.raises(EvidenceInvalidError, match=r"two verifiers disagree: .*Reserved bits"):
            require_agreement(verifier.verify(td(installation, flags), now), installation.root_der)


@pytest.mark.parametrize(
    "field",
    [(Tee.SGX, "SgxEnclave", name) for name in ("mr_enclave", "mr_signer", "report_data", "attributes")]
    + [(Tee.TDX, "TD10", name) for name in ("mr_td", "report_data", "td_attributes", "rt_mr0", "rt_mr3")],
    ids=lambda field: field[2],
)
def test_quote_that_two_parsers_read_differently_is_refused(
    installation: Installation, simulated: Simulated, monkeypatch: pytest.MonkeyPatch, field: tuple[Tee, str, str]
) -> None:
    tee, kind, name = field
    real = dcap._verify

    def patched(*args: Any) -> Any:
        report = real(*args)
        assert name in report["report"][kind]
        report["report"][kind][name] = "00"
        return report

    monkeypatch.setattr(dcap, "_verify", patched)
    with pytest.raises(EvidenceInvalidError, match="two ways"):
        require_agreement(simulated(tee), installation.root_der)


def test_quote_that_only_the_reference_can_read_is_refused(simulated: Simulated, installation: Installation, now: datetime) -> None:
    verified = simulated()
    arguments = (verified.collateral, installation.root_der, now)
    assert reference_rating(verified.evidence.quote, *arguments).status == "UpToDate"
    with pytest.raises(EvidenceInvalidError, match="two ways"):
        reference_rating(verified.evidence.quote + b"\1", *arguments)


def test_panic_of_the_library_is_a_refusal_and_other_exits_pass(
    installation: Installation, simulated: Simulated, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = simulated()
    panic = type("PanicException", (BaseException,), {})
    for raised, expected in ((panic, EvidenceInvalidError), (KeyboardInterrupt, KeyboardInterrupt)):

        def fail(*_: object, kind: type[BaseException] = raised) -> None:
            raise kind

        monkeypatch.setattr(dcap.dcap_qvl, "verify_with_root_ca", fail)
        with pytest.raises(expected):
            reference_rating(verified.evidence.quote, verified.collateral, installation.root_der, now)

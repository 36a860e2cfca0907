import pytest
from cryptography.x509.oid import NameOID

from confide.attest import certs, verify
from confide.attest.roots import INTEL_SGX_ROOT, INTEL_SGX_ROOT_SHA256, TrustRoots
from confide.canonical import sha256_hex
from confide.errors import EvidenceInvalidError, UsageError
from confide.ids import Tee


def test_pinned_root_is_intels() -> None:
    assert sha256_hex(INTEL_SGX_ROOT) == INTEL_SGX_ROOT_SHA256


@pytest.mark.parametrize("simulated", [b"", INTEL_SGX_ROOT])
def test_simulated_root_must_be_its_own(simulated) -> None:
    with pytest.raises(UsageError):
        TrustRoots(simulated=simulated)


def _with_report(monkeypatch, change) -> None:
    real = verify._dcap_verify

    def patched(*args: object) -> object:
        report = real(*args)
        change(report)
        return report

    monkeypatch.setattr(verify, "_dcap_verify", patched)


@pytest.mark.parametrize(
    "field",
    [(Tee.SGX, "SgxEnclave", name) for name in ("mr_enclave", "mr_signer", "report_data", "attributes")]
    + [(Tee.TDX, "TD10", name) for name in ("mr_td", "report_data", "td_attributes", "rt_mr0", "rt_mr3")],
    ids=lambda field: field[2],
)
def test_quote_that_two_parsers_read_differently_is_refused(verifier, make_evidence, now, monkeypatch, field) -> None:
    tee, kind, name = field

    def change(report) -> None:
        assert name in report["report"][kind]
        report["report"][kind][name] = "00"

    _with_report(monkeypatch, change)
    with pytest.raises(EvidenceInvalidError, match="two ways"):
        verifier.verify(make_evidence(tee), now)


def test_field_that_the_other_parser_does_not_give_is_refused(verifier, make_evidence, now, monkeypatch) -> None:
    _with_report(monkeypatch, lambda report: report["report"]["TD10"].pop("mr_td"))
    with pytest.raises(EvidenceInvalidError, match="two ways"):
        verifier.verify(make_evidence(Tee.TDX), now)


def test_revoked_platform_is_refused_here_too(verifier, make_evidence, now, monkeypatch) -> None:
    _with_report(monkeypatch, lambda report: report.update(status="Revoked"))
    with pytest.raises(EvidenceInvalidError, match="revoked"):
        verifier.verify(make_evidence(), now)


def test_panic_of_the_library_is_a_refusal_and_other_exits_pass(verifier, make_evidence, now, monkeypatch) -> None:
    panic = type("PanicException", (BaseException,), {})
    for raised, expected in ((panic, EvidenceInvalidError), (KeyboardInterrupt, KeyboardInterrupt)):

        def fail(*_: object, kind: type[BaseException] = raised) -> None:
            raise kind

        monkeypatch.setattr(verify.dcap_qvl, "verify_with_root_ca", fail)
        with pytest.raises(expected):
            verifier.verify(make_evidence(), now)


def test_right_signatures_are_checked_once_a_set_and_the_memory_is_bounded(verifier, make_evidence, now, monkeypatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(verify, "check_signers", lambda *args: calls.append(args))
    monkeypatch.setattr(verify, "_MAX_KNOWN", 1)
    verifier._known_signed.clear()
    for tee in (Tee.SGX, Tee.SGX, Tee.TDX, Tee.SGX):
        verifier.verify(make_evidence(tee), now)
    assert len(calls) == 3
    verifier._known_signed.clear()


def test_claims_are_json(verifier, make_evidence, now) -> None:
    for tee in (Tee.SGX, Tee.TDX):
        claims = verifier.verify(make_evidence(tee), now).claims.to_json()
        assert claims["tee"] == tee.value
        assert set(claims["registers"]) == (set() if tee is Tee.SGX else {"rtmr0", "rtmr1", "rtmr2", "rtmr3"})
        assert len(claims["evidence_digest"]) == 96


def test_name_without_a_common_name_has_an_empty_one(installation) -> None:
    name = installation._root.subject
    rest = [attribute for attribute in name if attribute.oid != NameOID.COMMON_NAME]
    assert certs.common_name(type(name)(rest)) == ""
    assert certs.common_name(name) == "Confide simulated SGX Root CA"

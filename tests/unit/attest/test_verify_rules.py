import dataclasses
from datetime import timedelta
from types import SimpleNamespace

import pytest
from cryptography.x509.oid import NameOID

from confide.attest import certs, intel
from confide.attest.insecure import InsecureAttester
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.errors import CollateralError, EvidenceInvalidError
from confide.ids import ReportData, Tee


def _counted(monkeypatch, name) -> list[object]:
    calls: list[object] = []
    real = getattr(intel, name)

    def counted(*args: object) -> object:
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(intel, name, counted)
    return calls


def test_what_is_the_same_in_every_quote_is_checked_once(installation, now, monkeypatch) -> None:
    chains, signers, lists = (_counted(monkeypatch, name) for name in ("_vouch", "check_signers", "_check_platform"))
    verifier = Verifier(TrustRoots(simulated=installation.root_der), installation.collateral_source())
    attesters = [InsecureAttester(installation, tee, "5a" * (32 if tee is Tee.SGX else 48)) for tee in (Tee.SGX, Tee.TDX)]
    for number in range(3):
        for attester in attesters:
            verifier.verify(attester.quote(ReportData(bytes([number]) * 64)), now)
    assert (len(chains), len(signers), len(lists)) == (2, 2, 2)
    other = InsecureAttester(installation, Tee.SGX, "5a" * 32)  # another quoting enclave of the same kind of platform
    verifier.verify(other.quote(ReportData(bytes(64))), now)
    assert (len(chains), len(signers), len(lists)) == (3, 2, 3)


def test_what_is_remembered_is_bounded_and_only_what_is_genuine(installation, make_evidence, now, monkeypatch) -> None:
    monkeypatch.setattr(intel, "_MAX_KNOWN", 2)
    verifier = Verifier(TrustRoots(simulated=installation.root_der), installation.collateral_source())
    for _ in range(5):
        verifier.verify(make_evidence(Tee.SGX), now)
        assert 0 < len(verifier._intel._vouched) <= 2
        assert 0 < len(verifier._intel._standings) <= 2
        assert 0 < len(verifier._intel._genuine) <= 2
    foreign = Verifier(TrustRoots(), installation.collateral_source())
    with pytest.raises(EvidenceInvalidError):
        foreign.verify(make_evidence(Tee.SGX), now)
    assert foreign._intel._vouched == {}
    assert foreign._intel._genuine == {}


def test_a_thousand_are_remembered_and_the_next_begins_anew() -> None:
    table = dict.fromkeys(range(999), "kept")
    assert intel._remember(table, 999, "last") == "last"
    assert len(table) == 1000
    assert intel._remember(table, 1000, "next") == "next"
    assert table == {1000: "next"}


def test_the_same_quote_again_is_held_against_time_and_collateral_and_its_signature_counts_for_it_alone(installation, now) -> None:
    """What a broker does at each release of a session."""
    good = installation.collateral(Tee.TDX)
    sets = [good]
    verifier = Verifier(TrustRoots(simulated=installation.root_der), SimpleNamespace(get=lambda *_: sets[-1]))
    quote = InsecureAttester(installation, Tee.TDX, "5a" * 48).quote(ReportData(bytes(64)))
    first = verifier.verify(quote, now)
    assert verifier.verify(quote, now).claims is first.claims
    for days in (31, 4000):
        with pytest.raises((CollateralError, EvidenceInvalidError), match=r"stale|valid"):
            verifier.verify(quote, now + timedelta(days=days))
    sets.append(dataclasses.replace(good, tcb_info=good.tcb_info.replace("OutOfDate", "UpToDate")))
    with pytest.raises(CollateralError, match="signature"):
        verifier.verify(quote, now)
    sets.pop()
    assert verifier.verify(quote, now).claims.to_json() == first.claims.to_json()
    at = quote.quote.index(bytes(64))
    other = dataclasses.replace(quote, quote=quote.quote[:at] + b"\1" + quote.quote[at + 1 :])
    with pytest.raises(EvidenceInvalidError):
        verifier.verify(other, now)


def test_what_was_remembered_does_not_outlive_its_time(installation, now) -> None:
    """A quote of a platform that was fine before: certificates and collateral are held against the clock each time."""
    verifier = Verifier(TrustRoots(simulated=installation.root_der), installation.collateral_source())
    attester = InsecureAttester(installation, Tee.SGX, "5a" * 32)
    verifier.verify(attester.quote(ReportData(bytes(64))), now)
    for days in (31, 4000):
        with pytest.raises((CollateralError, EvidenceInvalidError), match=r"stale|valid"):
            verifier.verify(attester.quote(ReportData(bytes(64))), now + timedelta(days=days))


def test_new_collateral_is_judged_anew(installation, now) -> None:
    """What was found under one set of collateral does not count under the next."""
    good = installation.collateral(Tee.SGX)
    forged = dataclasses.replace(good, tcb_info=good.tcb_info.replace("OutOfDate", "UpToDate"))
    sets = [good, forged]
    verifier = Verifier(TrustRoots(simulated=installation.root_der), SimpleNamespace(get=lambda *_: sets[0]))
    attester = InsecureAttester(installation, Tee.SGX, "5a" * 32)
    verifier.verify(attester.quote(ReportData(bytes(64))), now)
    sets.pop(0)
    with pytest.raises(CollateralError, match="signature"):
        verifier.verify(attester.quote(ReportData(bytes(64))), now)


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

"""A real software TPM, from its manufacturer's certificate to the verdict."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.tpm import Owner, Swtpm, fingerprint, log_event, log_of

from confide.attest.claims import Claims
from confide.attest.collateral_sources import FixedCollateral
from confide.attest.evidence import MAX_TPM_EVIDENCE_BYTES, Evidence
from confide.attest.roots import TrustRoots
from confide.attest.tpm_device import TpmAttester
from confide.attest.tpm_enrol import challenge
from confide.attest.tpm_trust import TpmTrust
from confide.attest.verify import Verifier
from confide.errors import AttesterError, EvidenceInvalidError
from confide.ids import ReportData, Tee

DATA = ReportData(bytes(range(64)))
EVENTS = ((0, b"firmware"), (4, b"boot loader"), (4, b"kernel"))
PCRS = (0, 4, 16)
_HANDLE = "0x81010002"


@pytest.fixture(scope="module")
def tpm(tmp_path_factory) -> Iterator[Swtpm]:
    tpm = Swtpm(tmp_path_factory.mktemp("tpm"))
    try:
        tpm.start(*EVENTS)
        yield tpm
    finally:
        tpm.stop()


@pytest.fixture(scope="module")
def owner() -> Owner:
    return Owner()


@pytest.fixture(scope="module")
def ek(tpm) -> list[x509.Certificate]:
    return tpm.make_ek()


@pytest.fixture(scope="module", params=[("ecc", "ecdsa"), ("rsa", "rsassa"), ("rsa", "rsapss")], ids=lambda kind: kind[1])
def ak(tpm, ek, owner, request) -> tuple[str, bytes]:
    name = request.param[1]
    return f"{name}.ctx", tpm.enrol(name, tpm.make_ak(name, *request.param), owner, ek)


@pytest.fixture(scope="module")
def ecc(tpm, ek, owner) -> tuple[str, bytes]:
    """Kept in the TPM, as on a real node: tools that load a key from a file use up the few places that a TPM has for them."""
    chain = tpm.enrol("one", tpm.make_ak("one"), owner, ek)
    tpm.tool("tpm2_evictcontrol", "-C", "o", "-c", "one.ctx", _HANDLE)
    tpm.flush()
    return _HANDLE, chain


def attester(tpm: Swtpm, ak: tuple[str, bytes], pcrs: tuple[int, ...] = PCRS) -> TpmAttester:
    key = ak[0] if ak[0] == _HANDLE else str(tpm.path(ak[0]))
    return TpmAttester(key, ak[1], pcrs, log=tpm.path("log"), tcti=tpm.tcti)


def verify(evidence: Evidence, owner: Owner, **later: int) -> Claims:
    return Verifier(TrustRoots(tpm=TpmTrust(issuers=owner.pins)), FixedCollateral()).verify(evidence, owner.now + timedelta(**later)).claims


def quote(tpm: Swtpm, ak: tuple[str, bytes]) -> Evidence:
    try:
        return attester(tpm, ak).quote(DATA)
    finally:
        tpm.flush()


def test_enrolled_tpms_quote_and_log_are_genuine(tpm, ak, owner) -> None:
    claims = verify(quote(tpm, ak), owner)
    assert (claims.tee, claims.simulated, claims.report_data) == (Tee.TPM, False, DATA)
    assert set(claims.registers) == {"pcr0", "pcr4", "pcr16"}
    assert claims.registers["pcr0"] == hashlib.sha256(bytes(32) + hashlib.sha256(b"firmware").digest()).hexdigest()
    assert claims.vendor["protects_memory"] is False
    assert claims.vendor["log_events"] == 3


def test_nothing_is_trusted_by_default(tpm, ecc, owner) -> None:
    with pytest.raises(EvidenceInvalidError, match="no root that is trusted"):
        Verifier(TrustRoots(), FixedCollateral()).verify(quote(tpm, ecc), owner.now)


def test_certificate_does_not_outlive_its_time(tpm, ecc, owner) -> None:
    with pytest.raises(EvidenceInvalidError, match="not valid at this time"):
        verify(quote(tpm, ecc), owner, days=31)


def test_certificate_of_the_wrong_use_is_refused(tpm, ek, ecc) -> None:
    """The manufacturer's root vouches for EKs, and an EK's certificate is none for an AK."""
    chain = b"".join(each.public_bytes(Encoding.PEM) for each in ek)
    evidence = dataclasses.replace(quote(tpm, ecc), chain=chain)
    with pytest.raises(EvidenceInvalidError, match="for another use"):
        Verifier(TrustRoots(tpm=TpmTrust(issuers=frozenset({fingerprint(ek[-1])}))), FixedCollateral()).verify(evidence, Owner().now)


def test_certificate_for_an_attestation_key_is_short_lived(ek, tpm, owner) -> None:
    public = tpm.make_ak("long")
    asked = challenge(ek, public, {fingerprint(ek[-1])}, owner.now)
    answer = tpm.activate("long", asked.credential, asked.encrypted_secret)
    with pytest.raises(ValueError, match="short-lived"):
        asked.certify(answer, owner.root, owner.key, now=owner.now, valid=timedelta(days=91))


def test_pcr_that_changed_after_the_log_is_refused(tpm, ecc, owner) -> None:
    evidence = attester(tpm, ecc, (0, 4, 9)).quote(DATA)
    tpm.flush()
    verify(evidence, owner)
    tpm.path("log").write_bytes(log_of(*EVENTS, (9, b"said")))
    try:
        tpm.extend(9, hashlib.sha256(b"done").digest())
        changed = attester(tpm, ecc, (0, 4, 9)).quote(DATA)
    finally:
        tpm.path("log").write_bytes(log_of(*EVENTS))
        tpm.flush()
    with pytest.raises(EvidenceInvalidError, match="does not lead"):
        verify(changed, owner)


def test_pcr_that_changes_between_reading_and_quoting_is_read_again(tpm, ecc, owner, monkeypatch) -> None:
    source = attester(tpm, ecc)
    run, left = source._tools.run, [b"race"]

    def racing(*command: str) -> None:
        if command[0] == "tpm2_quote" and left:
            tpm.extend(16, hashlib.sha256(left.pop()).digest())
        run(*command)

    monkeypatch.setattr(source._tools, "run", racing)
    verify(source.quote(DATA), owner)
    left.extend([b"1", b"2", b"3"])
    with pytest.raises(AttesterError, match="kept changing"):
        source.quote(DATA)


def test_tpm_that_cannot_be_had_is_reported(tpm, ecc, monkeypatch) -> None:
    with pytest.raises(AttesterError, match="tpm2_readpublic failed"):
        TpmAttester(str(tpm.path("nothing.ctx")), ecc[1], PCRS, log=None, tcti=tpm.tcti).quote(DATA)
    with pytest.raises(AttesterError, match="from 0 to 23"):
        attester(tpm, ecc, (24,))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(AttesterError, match="not installed"):
        attester(tpm, ecc).quote(DATA)


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (log_of(*EVENTS) + log_event(0, bytes(32), bytes(MAX_TPM_EVIDENCE_BYTES - 600), kind=3), "too large"),
        (log_of(*EVENTS)[:-1], "none that verifiers take"),
        (log_of(*EVENTS, (14, b"of a boot loader")), "not quoted"),
    ],
    ids=["too long", "cut", "of another PCR"],
)
def test_log_that_no_verifier_would_take_is_told_on_the_machine(tpm, ecc, log, says) -> None:
    tpm.path("bad-log").write_bytes(log)
    with pytest.raises(AttesterError, match=says) as caught:
        TpmAttester(ecc[0], ecc[1], PCRS, log=tpm.path("bad-log"), tcti=tpm.tcti).quote(DATA)
    tpm.flush()
    assert 'tpm_log = "none"' in (caught.value.hint or "")

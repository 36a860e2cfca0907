"""Oversized, padded and nested evidence."""

from __future__ import annotations

import dataclasses
import json
import struct

import pytest
from support.attested_session import NODE, Connect, World, aside
from support.simulated_evidence import BOTH, NOW, fresh
from support.tpm import log_event, log_of
from support.tpm_world import EVENTS, TpmSession, TpmWorld, remade

from confide.attest import evidence, intel, quote
from confide.attest.evidence import Evidence
from confide.attest.quote import Signature, parse_quote
from confide.canonical import b64url, parse_object
from confide.errors import AppraisalError, EvidenceInvalidError, ParseError, ProtocolError
from confide.ids import ReportData, Role, Tee
from confide.node import session
from confide.node.session import VerifierSide, present


@BOTH
@pytest.mark.parametrize("extra", [b"\0", b"junk", bytes(70)], ids=["zero", "junk", "zeros"])
def test_trailing_bytes_are_refused(vendor, evidence_of, monkeypatch, tee, extra) -> None:
    padded = Evidence(tee, evidence_of(tee).quote + extra)
    with pytest.raises(EvidenceInvalidError, match="after the quote"):
        fresh(vendor).verify(padded, NOW)
    monkeypatch.setattr(intel, "split_quote", lambda raw: quote._split(raw)[0])
    assert fresh(vendor).verify(padded, NOW)


def test_second_chain_beside_the_quote_is_refused(vendor, evidence_of, monkeypatch) -> None:
    two = dataclasses.replace(evidence_of(Tee.SGX), chain=b"x")
    with pytest.raises(EvidenceInvalidError, match="second one"):
        fresh(vendor).verify(two, NOW)
    monkeypatch.setattr(intel, "_pck_chain", lambda signature, given: signature.cert_data)
    assert fresh(vendor).verify(two, NOW)


def test_evidence_over_the_cap_is_refused_before_it_is_read(evidence_of, monkeypatch) -> None:
    small = evidence_of(Tee.SGX)
    large = {**small.to_json(), "quote": b64url(small.quote + bytes(evidence.MAX_EVIDENCE_BYTES))}
    with pytest.raises(ParseError, match="too large"):
        Evidence.from_json(large)
    with pytest.raises(ParseError, match="too large"):
        Evidence.from_json({**small.to_json(), "chain": large["quote"]})
    monkeypatch.setattr(evidence, "MAX_EVIDENCE_BYTES", 2**30)
    assert len(Evidence.from_json(large).quote) > 2**15


def with_log_of(length: int, good: Evidence) -> Evidence:
    """A TPM's evidence of exactly this length: an event that extends nothing has as many bytes as it takes."""
    log = log_of(*EVENTS) + log_event(0, bytes(32), b"", kind=3)
    empty = remade(good, log=log)
    return remade(good, log=log_of(*EVENTS) + log_event(0, bytes(32), bytes(length - len(empty.quote)), kind=3))


def test_tpms_evidence_has_a_cap_of_its_own_just_above_the_largest_that_is_read(machine: TpmWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    good = machine.quote()
    largest = with_log_of(evidence.MAX_TPM_EVIDENCE_BYTES, good)
    assert len(largest.quote) == evidence.MAX_TPM_EVIDENCE_BYTES
    assert machine.verify(Evidence.from_json(largest.to_json())).claims.vendor["log_events"] == len(EVENTS) + 1
    with pytest.raises(ParseError, match="too large"):
        with_log_of(evidence.MAX_TPM_EVIDENCE_BYTES + 1, good)
    for tee in (Tee.SGX, Tee.TDX, Tee.SNP):
        Evidence(tee, bytes(evidence.MAX_EVIDENCE_BYTES))
        with pytest.raises(ParseError, match="too large"):
            Evidence(tee, bytes(evidence.MAX_EVIDENCE_BYTES + 1))
    with pytest.raises(ParseError, match="too large"):
        Evidence(Tee.TPM, good.quote, bytes(evidence.MAX_EVIDENCE_BYTES + 1))
    monkeypatch.setattr(evidence, "MAX_TPM_EVIDENCE_BYTES", 2**30)
    assert machine.verify(with_log_of(2**21, good)).claims.vendor["log_events"] == len(EVENTS) + 1


@dataclasses.dataclass
class LongLog:
    """An attester whose evidence is as long as it may be."""

    machine: TpmWorld
    tee = Tee.TPM
    simulated = False

    def quote(self, report_data: ReportData) -> Evidence:
        return with_log_of(evidence.MAX_TPM_EVIDENCE_BYTES, self.machine.quote(report_data))


def test_session_takes_the_longest_evidence_only_where_the_policy_names_tpms(
    tpm_session: TpmSession, world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(**options: VerifierSide) -> session.AttestedPeer:
        near, far = linked()
        node = aside(lambda: present(near, attester=LongLog(tpm_session.machine), role=Role.WORKER, context=tpm_session.context()))
        try:
            return tpm_session.attest(far, **options)
        finally:
            node.join()

    assert show().context.node == NODE
    for_tees = VerifierSide(tpm_session.machine.verifier(), world.side.policy)
    with pytest.raises(ProtocolError, match="longer than allowed"):
        show(side=for_tees)
    # The weakened verifier reads it whole from anybody, and only then asks whether it wants a TPM.
    monkeypatch.setattr(session, "evidence_cap", lambda policy: session._MAX_TPM_FRAME)
    with pytest.raises(AppraisalError):
        show(side=for_tees)


@pytest.mark.parametrize("text", ['{"a":' * 100_000, '{"a":' + "[" * 100_000, '{"a":' + "[" * 50_000 + "]" * 50_000 + "}"])
def test_json_nested_too_deep_is_refused_and_ends_nothing(text: str) -> None:
    with pytest.raises(ParseError):
        parse_object(text)
    # The weakened variant, a JSON parser alone, fails with what no caller expects from bytes.
    with pytest.raises(RecursionError):
        json.loads(text)


def _following(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakened reader: certification data of type 6 is opened wherever it is, however often."""
    parse = Signature.parse.__func__

    def follow(cls: type[Signature], data: bytes, *, base: int, nested: bool) -> Signature:
        found = parse(cls, data, base=base, nested=nested)
        while found.cert_type == 6:
            found = parse(cls, found.signature + found.attestation_key + found.cert_data, base=base, nested=False)
        return found

    monkeypatch.setattr(Signature, "parse", classmethod(follow))


@pytest.mark.parametrize("depth", [1, 30])
def test_certification_data_nested_in_itself_is_refused(vendor, evidence_of, monkeypatch, depth) -> None:
    """Version 4 nests one structure of type 6; a quote that goes on nesting is refused at the second, not followed."""
    genuine = parse_quote(evidence_of(Tee.TDX).quote)
    signature = genuine.signature
    auth = signature.auth_data
    inner = signature.qe_report.to_bytes() + signature.qe_report_signature + struct.pack("<H", len(auth)) + auth
    kind, data = signature.cert_type, signature.cert_data
    for _ in range(depth):
        kind, data = 6, inner + struct.pack("<HI", kind, len(data)) + data
    nested = dataclasses.replace(genuine, signature=dataclasses.replace(signature, cert_type=kind, cert_data=data))
    evidence = Evidence(Tee.TDX, nested.to_bytes())
    with pytest.raises(EvidenceInvalidError):
        fresh(vendor).verify(evidence, NOW)
    _following(monkeypatch)
    assert fresh(vendor).verify(evidence, NOW).claims.tee is Tee.TDX

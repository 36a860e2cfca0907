"""A TPM's old quote is shown again: its frame in a later session, or the quote itself under the new session's report data."""

from __future__ import annotations

import dataclasses

import pytest
from support.attested_session import NODE, Connect, aside, replay, without
from support.tpm_world import TpmSession, remade

from confide.attest import tpm
from confide.attest.evidence import Evidence
from confide.attest.tpm_format import Attest, TpmEvidence
from confide.errors import BindingError, EvidenceInvalidError
from confide.ids import ReportData, Role, Tee
from confide.node.session import AttestedPeer, present


def test_genuine_machine_is_accepted(tpm_session: TpmSession, linked: Connect) -> None:
    near, far = linked()
    aside(lambda: present(near, attester=tpm_session.attester(), role=Role.WORKER, context=tpm_session.context()))  # type: ignore[arg-type]
    assert tpm_session.attest(far).context.node == NODE


def test_replayed_frame_is_refused(tpm_session: TpmSession, linked: Connect) -> None:
    with pytest.raises(BindingError):
        replay(tpm_session, linked)


def test_replayed_frame_works_without_nonce_and_exporter(tpm_session: TpmSession, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "nonce", "exporter")
    assert replay(tpm_session, linked).context.node == NODE


@dataclasses.dataclass
class Replayer:
    """Has a quote of when the machine was in order, and writes each session's report data in front of it."""

    old: Evidence
    tee = Tee.TPM
    simulated = False

    def quote(self, report_data: ReportData) -> Evidence:
        return remade(self.old, report_data=bytes(report_data))


def show_old_quote(tpm_session: TpmSession, linked: Connect, old: Evidence) -> AttestedPeer:
    near, far = linked()
    aside(lambda: present(near, attester=Replayer(old), role=Role.WORKER, context=tpm_session.context()))
    return tpm_session.attest(far)


def test_old_quote_under_new_report_data_is_refused(tpm_session: TpmSession, linked: Connect) -> None:
    with pytest.raises(EvidenceInvalidError, match="other report data"):
        show_old_quote(tpm_session, linked, tpm_session.machine.quote())


def test_old_quote_works_against_a_verifier_that_does_not_compare_the_quotes_nonce(
    tpm_session: TpmSession, linked: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tpm_session.machine.quote()
    said = Attest.parse(TpmEvidence.parse(old.quote).attest).extra_data
    monkeypatch.setattr(tpm, "qualifying_data", lambda _: said)
    assert show_old_quote(tpm_session, linked, old).context.node == NODE

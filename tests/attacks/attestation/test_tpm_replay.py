"""A TPM's old quote is shown again: its frame in a later session, or the quote itself under the new session's report data."""

from __future__ import annotations

import dataclasses

import pytest
from support.attested_session import NODE, Connect, World, aside, replay, without
from support.tpm_world import TpmWorld, remade

from confide.attest import tpm
from confide.attest.evidence import Evidence
from confide.attest.tpm_format import Attest, TpmEvidence
from confide.errors import BindingError, EvidenceInvalidError
from confide.ids import ReportData, Role, Tee
from confide.job import Job
from confide.node.session import AttestedPeer, present


class TpmSession(World):
    """The attested session of a machine with a TPM."""

    machine: TpmWorld

    def attester(self, fault: object = None) -> object:  # type: ignore[override]
        return self.machine.attester()


@pytest.fixture
def session(world: World, machine: TpmWorld) -> TpmSession:
    job = Job.build(
        {
            "name": "attacked",
            "program": "main.py",
            "files": {"main.py": b"pass\n"},
            "policy": machine.policy().to_json(),
            "broker": {"url": "https://127.0.0.1:1", "spki": "cd" * 32},
        }
    )
    found = TpmSession(world.installation, machine.verifier(), job)
    object.__setattr__(found, "machine", machine)
    return found


def test_genuine_machine_is_accepted(session: TpmSession, linked: Connect) -> None:
    near, far = linked()
    aside(lambda: present(near, attester=session.attester(), role=Role.WORKER, context=session.context()))  # type: ignore[arg-type]
    assert session.attest(far).context.node == NODE


def test_replayed_frame_is_refused(session: TpmSession, linked: Connect) -> None:
    with pytest.raises(BindingError):
        replay(session, linked)


def test_replayed_frame_works_without_nonce_and_exporter(session: TpmSession, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "nonce", "exporter")
    assert replay(session, linked).context.node == NODE


@dataclasses.dataclass
class Replayer:
    """Has a quote of when the machine was in order, and writes each session's report data in front of it."""

    old: Evidence
    tee = Tee.TPM
    simulated = False

    def quote(self, report_data: ReportData) -> Evidence:
        return remade(self.old, report_data=bytes(report_data))


def show_old_quote(session: TpmSession, linked: Connect, old: Evidence) -> AttestedPeer:
    near, far = linked()
    aside(lambda: present(near, attester=Replayer(old), role=Role.WORKER, context=session.context()))
    return session.attest(far)


def test_old_quote_under_new_report_data_is_refused(session: TpmSession, linked: Connect) -> None:
    with pytest.raises(EvidenceInvalidError, match="other report data"):
        show_old_quote(session, linked, session.machine.quote())


def test_old_quote_works_against_a_verifier_that_does_not_compare_the_quotes_nonce(
    session: TpmSession, linked: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = session.machine.quote()
    said = Attest.parse(TpmEvidence.parse(old.quote).attest).extra_data
    monkeypatch.setattr(tpm, "qualifying_data", lambda _: said)
    assert show_old_quote(session, linked, old).context.node == NODE

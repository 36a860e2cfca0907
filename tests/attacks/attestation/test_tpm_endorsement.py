"""The certificate of a genuine TPM's endorsement key is shown for a key that is elsewhere, to get that key enrolled."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from support.tpm import Swtpm, fingerprint
from support.tpm_world import TpmWorld

from confide.attest import tpm_enrol
from confide.attest.tpm_enrol import Challenge, challenge, make_credential
from confide.attest.tpm_format import Public
from confide.errors import EvidenceInvalidError


@pytest.fixture(scope="module")
def attacker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swtpm]:
    """A TPM of no known manufacturer: software on the attacker's machine, whose memory and keys the attacker can read."""
    tpm = Swtpm(tmp_path_factory.mktemp("attacker"))
    try:
        tpm.make_ek()
        yield tpm
    finally:
        tpm.stop()


@pytest.fixture(scope="module")
def foreign(attacker: Swtpm) -> Public:
    return attacker.make_ak("foreign")


def enrol(asked: Challenge, answer: bytes, machine: TpmWorld) -> str:
    return asked.enrol(answer, "node-8", fingerprint(machine.ek[0]), now=machine.now, valid=timedelta(days=1)).name


def test_own_certificate_of_a_false_tpm_is_refused(machine: TpmWorld, attacker: Swtpm, foreign: Public) -> None:
    with pytest.raises(EvidenceInvalidError, match="no root that is trusted"):
        challenge(attacker.make_ek(), foreign, machine.manufacturers, machine.now)


def test_borrowed_certificate_gets_a_challenge_that_neither_tpm_answers(machine: TpmWorld, attacker: Swtpm, foreign: Public) -> None:
    asked = challenge(machine.ek, foreign, machine.manufacturers, machine.now)
    with pytest.raises(RuntimeError, match="activatecredential"):
        attacker.activate("foreign", asked.credential, asked.encrypted_secret)
    machine.tpm.make_ak("any")
    with pytest.raises(RuntimeError, match="activatecredential"):
        machine.tpm.activate("any", asked.credential, asked.encrypted_secret)
    with pytest.raises(EvidenceInvalidError, match="not in the TPM"):
        enrol(asked, bytes(32), machine)


def test_borrowed_certificate_is_enough_for_an_owner_who_does_not_compare_the_answer(
    machine: TpmWorld, foreign: Public, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Challenge, "_check", lambda self, answer: None)
    asked = challenge(machine.ek, foreign, machine.manufacturers, machine.now)
    assert enrol(asked, b"", machine) == foreign.name.hex()


def test_borrowed_tpm_answers_where_the_challenge_names_another_key_than_the_one_enrolled(
    machine: TpmWorld, foreign: Public, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weakened owner believes the name that comes with the request: the attacker may use the genuine TPM, and gives a key of it."""

    def of_given_name(ek: rsa.RSAPublicKey, name: bytes, secret: bytes) -> tuple[bytes, bytes]:
        assert name == foreign.name
        return make_credential(ek, machine.key.name, secret)

    monkeypatch.setattr(tpm_enrol, "make_credential", of_given_name)
    asked = challenge(machine.ek, foreign, machine.manufacturers, machine.now)
    assert enrol(asked, machine.tpm.activate("one", asked.credential, asked.encrypted_secret), machine) == foreign.name.hex()


def test_challenge_of_one_key_is_no_answer_for_another(machine: TpmWorld) -> None:
    one, other = (challenge(machine.ek, machine.key, machine.manufacturers, machine.now) for _ in range(2))
    answer = machine.tpm.activate("one", one.credential, one.encrypted_secret)
    assert enrol(one, answer, machine) == machine.key.name.hex()
    with pytest.raises(EvidenceInvalidError, match="not in the TPM"):
        enrol(other, answer, machine)

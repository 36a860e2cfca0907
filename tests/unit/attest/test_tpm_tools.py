"""The programs that speak to a TPM: how they are called, what they are given, and how they fail.  With a real TPM: test_tpm_swtpm."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from support.tpm_stand_in import StandIn, make_programs

from confide.attest.tpm_device import TpmAttester
from confide.attest.tpm_tools import TpmTools
from confide.errors import AttesterError

__all__ = ["make_programs"]

TOOLS = TpmTools("device:/dev/none")


def certificate(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    name, hashed = x509.Name([]), None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(datetime(2026, 1, 1, tzinfo=UTC)).not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
    return made.sign(key, hashed).public_bytes(Encoding.DER)


LONG = certificate(rsa.generate_private_key(65537, 2048))
SHORT = certificate(ed25519.Ed25519PrivateKey.generate())
CURVE = certificate(ec.generate_private_key(ec.SECP256R1()))
UNKNOWN = CURVE.replace(bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d0205"))
"""The key is of an algorithm that there is not."""


# --- one program -----------------------------------------------------------------------------------------------------


def test_program_is_given_where_the_tpm_is_and_nothing_of_this_processs_environment(
    programs: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFIDE_SECRET", "x")
    TOOLS.run("tpm2_flushcontext", "-t")
    assert programs.calls() == ["tpm2_flushcontext -t"]
    assert programs.environment()["TPM2TOOLS_TCTI"] == "device:/dev/none"
    assert set(programs.environment()) <= {"PATH", "TPM2TOOLS_TCTI", "PWD", "OLDPWD", "SHLVL", "_"}


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("exit 3", "it does not say why"),
        ("printf 'ERROR: no such handle\\n' >&2; exit 1", "ERROR: no such handle"),
        ("printf 'ERROR: no such handle\\nERROR: Unable to run tpm2_quote\\n' >&2; exit 1", "ERROR: no such handle"),
        ("printf 'first\\nlast\\n\\n' >&2; exit 1", "last"),
        ("printf 'ERROR: Unable to run tpm2_quote\\n' >&2; exit 1", "it does not say why"),
        ("printf 'not UTF-8: \\377\\n' >&2; exit 1", "not UTF-8: \ufffd"),
        (f"printf '%s\\n' {'a' * 201} >&2; exit 1", "a" * 200),
        ("printf 'said aloud\\n'; exit 1", "it does not say why"),
    ],
    ids=["nothing", "one line", "why and that", "the last line", "that only", "other bytes", "long", "to standard output"],
)  # fmt: skip
def test_program_that_fails_says_why(programs: StandIn, capfd: pytest.CaptureFixture[str], script: str, says: str) -> None:
    programs.then("tpm2_quote", script)
    with pytest.raises(AttesterError) as caught:
        TOOLS.run("tpm2_quote")
    assert caught.value.message == f"tpm2_quote failed: {says}"
    assert capfd.readouterr() == ("", "")


def test_program_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(AttesterError, match="tpm2_quote is not installed") as caught:
        TOOLS.run("tpm2_quote")
    assert caught.value.hint == "install tpm2-tools"


def test_tpm_that_does_not_answer_is_waited_for_no_longer_than_said(programs: StandIn) -> None:
    programs.then("tpm2_quote", "exec sleep 60")
    with pytest.raises(AttesterError, match="did not answer tpm2_quote") as caught:
        TpmTools("device:/dev/none", timeout_s=0.3).run("tpm2_quote")
    assert caught.value.facts == {"seconds": 0.3}


@pytest.mark.parametrize(("tools", "seconds"), [(TOOLS, 120), (TpmAttester("key", b"", (0,), log=None)._tools, 30)], ids=["enrol", "quote"])
def test_tpm_has_minutes_to_make_a_key_and_seconds_to_quote(monkeypatch: pytest.MonkeyPatch, tools: TpmTools, seconds: int) -> None:
    """A TPM of its own chip may take most of a minute to make the RSA key that its EK is."""

    def late(*command: object, timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired("tpm2_createek", timeout)

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(AttesterError, match="did not answer") as caught:
        tools.run("tpm2_createek")
    assert caught.value.facts == {"seconds": seconds}


def test_public_area_is_read_from_the_file_that_the_program_wrote(programs: StandIn) -> None:
    programs.answer("tpm2_readpublic", "-o", b"public")
    assert TOOLS.public("0x81010002") == b"public"
    assert programs.calls()[0].startswith("tpm2_readpublic -c 0x81010002 -f tpmt -o ")


# --- the endorsement key's certificate -------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [b"", b"\0", b"\xff" * 700], ids=["whole", "a byte", "the rest of its space"])
def test_certificate_ends_where_it_says(programs: StandIn, after: bytes) -> None:
    """TCG EK Credential Profile, section 2.2.1.4: the space may be larger than the certificate."""
    assert LONG.startswith(b"\x30\x82")
    programs.answer("tpm2_nvread", "-o", LONG + after)
    assert TOOLS.ek_certificate().public_bytes(Encoding.DER) == LONG
    assert programs.calls()[0].startswith("tpm2_nvread 0x1c00002 -o ")


def test_certificate_whose_length_is_one_byte_is_read_whole(programs: StandIn) -> None:
    assert SHORT.startswith(b"\x30\x81")
    programs.answer("tpm2_nvread", "-o", SHORT)
    assert TOOLS.ek_certificate().public_bytes(Encoding.DER) == SHORT


@pytest.mark.parametrize("raw", [b"", b"\xff" * 700, LONG[:-1], b"\x30\x82\0", SHORT + b"\xff", UNKNOWN], ids=range(6))
def test_what_is_no_certificate_is_told(programs: StandIn, raw: bytes) -> None:
    programs.answer("tpm2_nvread", "-o", raw)
    with pytest.raises(AttesterError, match="something else than its endorsement key's certificate"):
        TOOLS.ek_certificate()


# --- keys and credentials --------------------------------------------------------------------------------------------


def names(calls: list[str]) -> list[str]:
    return [call.partition(" ")[0].removeprefix("tpm2_") for call in calls]


def test_places_of_keys_are_given_back_after_each_program_that_loads_one(programs: StandIn) -> None:
    TOOLS.make_attestation_key("0x81010002")
    assert names(programs.calls()) == ["createek", "flushcontext", "createak", "flushcontext", "evictcontrol", "flushcontext"]
    assert {call for call in programs.calls() if "flush" in call} == {"tpm2_flushcontext -t"}
    assert " -G ecc -g sha256 -s ecdsa" in programs.calls()[2]
    assert programs.calls()[4].endswith(" 0x81010002")


def test_places_of_keys_are_given_back_even_if_the_program_fails(programs: StandIn) -> None:
    programs.then("tpm2_createak", "exit 1")
    with pytest.raises(AttesterError, match="tpm2_createak failed"):
        TOOLS.make_attestation_key("0x81010002")
    assert names(programs.calls()) == ["createek", "flushcontext", "createak", "flushcontext"]


def test_secret_is_what_the_tpm_gave_out_for_the_credential(programs: StandIn) -> None:
    programs.answer("tpm2_activatecredential", "-o", b"secret")
    assert TOOLS.activate("0x81010002", b"credential", b"encrypted") == b"secret"
    assert programs.given("tpm2_activatecredential") == bytes.fromhex("badcc0de00000001") + b"credential" + b"encrypted"
    ek, _, started, policy, activated, loaded, ended = programs.calls()
    session = started.split()[-1]
    assert ek.endswith(" -G rsa")
    assert policy == f"tpm2_policysecret -S {session} -c e"
    assert activated.startswith("tpm2_activatecredential -c 0x81010002 -C ")
    assert activated.endswith(f" -P session:{session}")
    assert (loaded, ended) == ("tpm2_flushcontext -t", f"tpm2_flushcontext {session}")


@pytest.mark.parametrize("failing", ["tpm2_policysecret", "tpm2_activatecredential"])
def test_session_ends_even_if_the_tpm_refuses(programs: StandIn, failing: str) -> None:
    programs.then(failing, "exit 1")
    with pytest.raises(AttesterError, match=f"{failing} failed"):
        TOOLS.activate("0x81010002", b"credential", b"encrypted")
    assert programs.calls()[-1].endswith("/session")
    assert names(programs.calls())[-1] == "flushcontext"

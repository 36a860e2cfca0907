"""Quotes of this machine's TPM: what is asked of it, and what is done when it answers something else.  The real one: test_tpm_swtpm."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from support.tpm import log_event, log_of
from support.tpm_stand_in import StandIn, make_programs

from confide.attest import tpm_device
from confide.attest.evidence import MAX_TPM_EVIDENCE_BYTES
from confide.attest.tpm_device import TpmAttester, configured
from confide.attest.tpm_format import TpmEvidence, qualifying_data
from confide.canonical import from_b64url
from confide.config import Settings
from confide.errors import AttesterError, ConfigError
from confide.ids import ReportData, Tee

__all__ = ["make_programs"]

VECTORS = Path(__file__).parents[2] / "vectors/tpm"
DATA = ReportData(bytes(range(64)))
QUOTE = from_b64url(json.loads((VECTORS / "genuine-ecdsa.json").read_text())["evidence"]["quote"])
PARTS = TpmEvidence.parse(QUOTE)


@pytest.fixture
def recorded(programs: StandIn, tmp_path: Path) -> StandIn:
    """Answers what a TPM once said of PCRs 0, 4 and 16 over :data:`DATA`."""
    programs.answer("tpm2_readpublic", "-o", PARTS.public)
    programs.answer("tpm2_pcrread", "-o", b"".join(PARTS.pcrs))
    programs.answer("tpm2_quote", "-m", PARTS.attest)
    programs.answer("tpm2_quote", "-s", PARTS.signature)
    (tmp_path / "log").write_bytes(PARTS.log)
    return programs


@pytest.fixture
def attester(recorded: StandIn, tmp_path: Path) -> TpmAttester:
    return TpmAttester("0x81010002", b"chain", (16, 0, 4, 4), log=tmp_path / "log", tcti="device:/dev/none")


def test_evidence_is_what_the_tpm_said(recorded: StandIn, attester: TpmAttester) -> None:
    evidence = attester.quote(DATA)
    assert (evidence.tee, evidence.quote, evidence.chain) == (Tee.TPM, QUOTE, b"chain")
    public, pcrs, quote = recorded.calls()
    assert public.startswith("tpm2_readpublic -c 0x81010002 -f tpmt -o ")
    assert pcrs.startswith("tpm2_pcrread sha256:0,4,16 -o ")
    said = qualifying_data(DATA).hex()
    assert quote.startswith(f"tpm2_quote -c 0x81010002 --scheme ecdsa -l sha256:0,4,16 -q {said} -m ")


def test_attester_says_what_it_is(attester: TpmAttester) -> None:
    assert (attester.tee, attester.simulated) == (Tee.TPM, False)


def test_key_is_asked_for_a_quote_by_its_own_scheme(recorded: StandIn, attester: TpmAttester) -> None:
    other = TpmEvidence.parse(from_b64url(json.loads((VECTORS / "genuine-rsapss.json").read_text())["evidence"]["quote"]))
    recorded.answer("tpm2_readpublic", "-o", other.public)
    attester.quote(DATA)
    assert "--scheme rsapss" in recorded.calls()[-1]


@pytest.mark.parametrize(
    ("program", "option", "answer"),
    [("tpm2_quote", "-m", b"no quote"), ("tpm2_quote", "-m", PARTS.attest + b"\0"), ("tpm2_readpublic", "-o", b"no key")],
    ids=["no quote", "a byte more", "no key"],
)
def test_answer_that_is_no_quote_is_told(recorded: StandIn, attester: TpmAttester, program: str, option: str, answer: bytes) -> None:
    recorded.answer(program, option, answer)
    with pytest.raises(AttesterError, match="something that is not a quote"):
        attester.quote(DATA)


@pytest.mark.parametrize("values", [b"".join(PARTS.pcrs[:-1]), b"".join(PARTS.pcrs) + b"\0", bytes(96)])
def test_values_that_are_not_those_of_the_quote_are_read_three_times(recorded: StandIn, attester: TpmAttester, values: bytes) -> None:
    recorded.answer("tpm2_pcrread", "-o", values)
    with pytest.raises(AttesterError, match="kept changing") as caught:
        attester.quote(DATA)
    assert caught.value.facts == {"tries": 3}
    assert [call.split()[0] for call in recorded.calls()] == ["tpm2_readpublic", "tpm2_pcrread", "tpm2_quote"] * 3


def test_values_that_agree_the_third_time_are_taken(recorded: StandIn, attester: TpmAttester) -> None:
    recorded.answer("tpm2_pcrread", "-o", bytes(96))
    (recorded.folder / "good").write_bytes(b"".join(PARTS.pcrs))
    recorded.then(
        "tpm2_quote", 'if [ "$(grep -c tpm2_quote "$here/calls")" = 2 ]; then cp "$here/good" "$here/tpm2_pcrread.answer-o"; fi\n'
    )
    assert attester.quote(DATA).quote == QUOTE


@pytest.mark.parametrize("pcrs", [(), (24,), (-1,), (0, 24), (-1, 0)], ids=str)
def test_registers_that_there_are_not_are_refused(pcrs: tuple[int, ...]) -> None:
    with pytest.raises(AttesterError, match="from 0 to 23"):
        TpmAttester("0x81010002", b"", pcrs)


@pytest.mark.parametrize("pcrs", [(0,), (23,), tuple(range(24))], ids=str)
def test_registers_that_there_are_can_be_quoted(recorded: StandIn, pcrs: tuple[int, ...]) -> None:
    TpmAttester("0x81010002", b"", pcrs, log=None).quote(DATA)
    assert f"-l sha256:{','.join(map(str, pcrs))} " in recorded.calls()[-1]


# --- the log ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (PARTS.log[:-1], "none that verifiers take"), (b"x", "none that verifiers take"),
        (log_of((0, b"firmware"), (7, b"keys"), (5, b"disk"), (4, b"loader")), "of PCRs that are not quoted"),
    ],
    ids=["cut", "no log", "of other PCRs"],
)  # fmt: skip
def test_log_that_no_verifier_takes_is_told_before_the_tpm_is_asked(
    recorded: StandIn, attester: TpmAttester, log: bytes, says: str
) -> None:
    (recorded.folder.parent / "log").write_bytes(log)
    with pytest.raises(AttesterError, match=says) as caught:
        attester.quote(DATA)
    assert 'set tpm_log = "none"' in (caught.value.hint or "")
    assert caught.value.facts == ({"pcrs": "5, 7"} if "quoted" in says else {})
    assert recorded.calls() == []


def test_log_that_is_not_there_is_told_and_none_is_sent_if_none_is_wanted(recorded: StandIn, tmp_path: Path) -> None:
    with pytest.raises(AttesterError, match="cannot read"):
        TpmAttester("0x81010002", b"", (0, 4, 16), log=tmp_path / "none").quote(DATA)
    (tmp_path / "empty").write_bytes(b"")
    for log in (None, tmp_path / "empty"):
        assert TpmEvidence.parse(TpmAttester("0x81010002", b"", (0, 4, 16), log=log).quote(DATA).quote).log == b""
    assert recorded.calls()


def test_evidence_is_as_large_as_verifiers_take(recorded: StandIn, attester: TpmAttester) -> None:
    room = MAX_TPM_EVIDENCE_BYTES - len(QUOTE) - len(log_event(0, bytes(32), b"", kind=3))
    log = recorded.folder.parent / "log"
    log.write_bytes(PARTS.log + log_event(0, bytes(32), bytes(room), kind=3))
    assert len(attester.quote(DATA).quote) == MAX_TPM_EVIDENCE_BYTES
    log.write_bytes(PARTS.log + log_event(0, bytes(32), bytes(room + 1), kind=3))
    with pytest.raises(AttesterError, match="too large to send") as caught:
        attester.quote(DATA)
    assert caught.value.facts == {"length": MAX_TPM_EVIDENCE_BYTES + 1, "limit": MAX_TPM_EVIDENCE_BYTES}


# --- settings --------------------------------------------------------------------------------------------------------


def test_nothing_is_configured_without_a_key() -> None:
    assert configured(Settings()) is None
    assert configured(Settings(tpm_pcrs="0", tpm_log="none")) is None


def test_settings_say_which_registers_are_quoted_and_by_whom(recorded: StandIn, tmp_path: Path) -> None:
    (tmp_path / "chain.pem").write_bytes(b"a chain")
    found = configured(
        Settings(tpm_key="key.ctx", tpm_pcrs=" 4, 0,16", tpm_log="none", tpm_chain_file=tmp_path / "chain.pem", tpm_tcti="x")
    )
    assert found is not None
    evidence = found.quote(DATA)
    assert (evidence.chain, TpmEvidence.parse(evidence.quote).log) == (b"a chain", b"")
    assert "-c key.ctx " in recorded.calls()[-1]
    assert "-l sha256:0,4,16 " in recorded.calls()[-1]
    assert recorded.environment()["TPM2TOOLS_TCTI"] == "x"


@pytest.mark.parametrize("named", [True, False], ids=["named", "where the kernel has it"])
def test_log_is_read_from_where_it_is(recorded: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, named: bool) -> None:
    monkeypatch.setattr(tpm_device, "EVENT_LOG", tmp_path / ("none" if named else "log"))
    found = configured(Settings(tpm_key="key.ctx", tpm_pcrs="0,4,16", tpm_log=str(tmp_path / "log") if named else ""))
    assert found is not None
    assert TpmEvidence.parse(found.quote(DATA).quote).log == PARTS.log
    assert recorded.calls()


@pytest.mark.parametrize("pcrs", ["", "0-7", "0,,4", "0,100", "0,007", "-1", "0x7", "²", "9" * 5000], ids=lambda text: text[:8])
def test_setting_that_is_no_list_of_registers_is_told(pcrs: str) -> None:
    with pytest.raises(ConfigError, match="tpm_pcrs is not a list of PCRs"):
        configured(Settings(tpm_key="key.ctx", tpm_pcrs=pcrs))


def test_chain_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read") as caught:
        configured(Settings(tpm_key="key.ctx", tpm_chain_file=tmp_path / "none.pem"))
    assert caught.value.facts == {"setting": "tpm_chain_file"}


def test_register_that_there_is_not_is_told_where_it_is_configured() -> None:
    with pytest.raises(AttesterError, match="from 0 to 23"):
        configured(Settings(tpm_key="key.ctx", tpm_pcrs="24"))


def test_digest_of_the_values_is_the_quotes() -> None:
    """What the recorded answers rest on."""
    assert hashlib.sha256(b"".join(PARTS.pcrs)).digest() in PARTS.attest

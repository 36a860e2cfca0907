"""Files of an enrolment are read as they were written, and an open challenge is given out once and in time."""

from __future__ import annotations

import hashlib
import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from confide.attest.tpm_enrol import Challenge
from confide.attest.tpm_exchange import Answer, Open, OpenChallenges, Request, Sent, read
from confide.attest.tpm_format import Public, TpmEvidence
from confide.canonical import b64url, from_b64url
from confide.errors import CredentialError, NonceError, ParseError, UsageError

NOW, WEEK = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=7)
VECTOR = json.loads((Path(__file__).parents[2] / "vectors/tpm/genuine-ecdsa.json").read_text())["evidence"]
REQUEST = Request("node-7", from_b64url(VECTOR["chain"]), TpmEvidence.parse(from_b64url(VECTOR["quote"])).public)
ASKED = Challenge(b"c", b"s", Public.parse(REQUEST.key), bytes(range(32)))
FILES = [REQUEST, Sent("ab" * 16, bytes(68), bytes(258)), Answer("ab" * 16, bytes(32))]
each_file = pytest.mark.parametrize("one", FILES, ids=lambda one: type(one).__name__)


@each_file
def test_files_are_read_as_they_were_written_and_no_other_form_is(one: Request | Sent | Answer) -> None:
    data = one.to_json()
    assert type(one).from_json(data) == one
    for bad in ({**data, "format": "x"}, {**data, "more": ""}, {**data, "id": "../../x", "machine": "../x"}, {"format": data["format"]}):
        with pytest.raises(ParseError):
            type(one).from_json(bad)


@each_file
@pytest.mark.parametrize("value", [None, 7, ["x"]], ids=str)
def test_files_have_text_fields_only(one: Request | Sent | Answer, value: Any) -> None:
    data = one.to_json()
    for name in set(data) - {"format"}:
        with pytest.raises(ParseError, match="exactly these text fields"):
            type(one).from_json({**data, name: value})
        with pytest.raises(ParseError, match="exactly these text fields"):
            type(one).from_json({other: kept for other, kept in data.items() if other != name})


@pytest.mark.parametrize(
    "data", [{}, {"format": None}, {"format": ["confide-tpm-answer-v1"]}, {"format": "confide-tpm-challenge-v1"}], ids=str
)
def test_file_of_another_format_is_told_by_its_own_name(data: dict[str, Any]) -> None:
    with pytest.raises(ParseError, match="not a file of format confide-tpm-answer-v1") as caught:
        Answer.from_json({"id": "ab" * 16, "secret": "", **data})
    assert caught.value.facts == {"got": str(data.get("format"))}


@pytest.mark.parametrize("name", ["ab" * 15 + "a", "ab" * 16 + "a", "AB" * 16, "ab" * 16 + "\n", "../" + "a" * 29, ""])
def test_id_of_a_challenge_is_32_hex_characters(name: str) -> None:
    with pytest.raises(ParseError, match="32 hex characters"):
        Answer.from_json({**FILES[2].to_json(), "id": name})


@pytest.mark.parametrize("changes", [{"machine": "../x"}, {"ek_chain": ""}, {"key": "AAAA"}], ids=str)
def test_request_without_a_machine_a_chain_or_a_key_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ParseError):
        Request.from_json({**REQUEST.to_json(), **changes})


def test_endorsement_key_is_the_first_of_its_chain() -> None:
    first, *rest = x509.load_pem_x509_certificates(REQUEST.ek_chain)
    assert rest
    assert REQUEST.ek == hashlib.sha256(first.public_bytes(Encoding.DER)).hexdigest()


def test_secret_of_an_answer_is_not_shown() -> None:
    assert repr(Answer("ab" * 16, b"x" * 32)) == f"Answer(id='{'ab' * 16}')"
    assert repr(REQUEST) == "Request(machine='node-7')"


def test_file_that_is_too_long_or_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b" " * (128 * 1024 + 1))
    (tmp_path / "full").write_bytes(b"{}" + b" " * (128 * 1024 - 2))
    assert read(tmp_path / "full") == {}
    for name, says in (("long", "too large"), ("none", "cannot read")):
        with pytest.raises(UsageError, match=says):
            read(tmp_path / name)


# --- open challenges -------------------------------------------------------------------------------------------------


def test_challenge_is_given_out_as_it_was_kept(tmp_path: Path) -> None:
    store = OpenChallenges(tmp_path / "open")
    sent, other = store.put(ASKED, REQUEST, NOW), store.put(ASKED, REQUEST, NOW)
    assert (sent.credential, sent.encrypted_secret, sent.id == other.id) == (b"c", b"s", False)
    found = store.take(sent.id, NOW)
    assert found == Open(Challenge(b"", b"", found.challenge.public, bytes(range(32))), "node-7", REQUEST.ek)
    assert found.challenge.public.name == ASKED.public.name
    assert store.take(other.id, NOW).machine == "node-7"


def test_challenge_is_given_out_once_even_to_two_at_once(tmp_path: Path) -> None:
    store = OpenChallenges(tmp_path / "open")
    sent = store.put(ASKED, REQUEST, NOW)
    found: list[str] = []

    def take() -> None:
        try:
            found.append(store.take(sent.id, NOW).machine)
        except NonceError as error:
            found.append(error.code)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["node-7", *["nonce-refused"] * 7]


def test_challenge_is_open_for_a_week_less_a_moment(tmp_path: Path) -> None:
    store = OpenChallenges(tmp_path)
    assert store.take(store.put(ASKED, REQUEST, NOW).id, NOW + WEEK - timedelta(microseconds=1)).machine == "node-7"
    late = store.put(ASKED, REQUEST, NOW).id
    with pytest.raises(NonceError, match="too long") as caught:
        store.take(late, NOW + WEEK)
    assert caught.value.facts == {"until": (NOW + WEEK).isoformat()}
    with pytest.raises(NonceError, match="no open challenge"):
        store.take(late, NOW)


def test_nothing_of_the_answer_is_kept_with_an_open_challenge(tmp_path: Path) -> None:
    store = OpenChallenges(tmp_path)
    sent = store.put(ASKED, REQUEST, NOW)
    (kept,) = tmp_path.glob("*.json")
    assert kept.stat().st_mode & 0o077 == 0
    assert set(json.loads(kept.read_text())) == {"format", "until", "machine", "ek", "key", "answer"}
    with pytest.raises(ParseError, match="32 hex"):
        store.take("../" + sent.id[3:], NOW)


def test_folder_of_open_challenges_is_made_and_is_the_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "one" / "open"
    OpenChallenges(folder).put(ASKED, REQUEST, NOW)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_folder_of_open_challenges_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "open"):
        with pytest.raises(CredentialError, match="cannot write") as caught:
            OpenChallenges(folder).put(ASKED, REQUEST, NOW)
        assert caught.value.facts == {"path": str(folder)}


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "confide-tpm-challenge-v1"}, {"key": b64url(b"x")}, {"more": ""}, {"until": "soon"}, {"until": "2026-01-02T00:00:00"},
        {"answer": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_file_of_an_open_challenge_of_another_form_is_refused(tmp_path: Path, changes: dict[str, str]) -> None:
    store = OpenChallenges(tmp_path)
    sent = store.put(ASKED, REQUEST, NOW)
    (kept,) = tmp_path.glob("*.json")
    kept.write_text(json.dumps({**json.loads(kept.read_text()), **changes}))
    with pytest.raises(ParseError):
        store.take(sent.id, NOW)

"""What is trusted in TPMs is read whole or not at all, and changes one at a time; files of an enrolment are read as they were written."""

from __future__ import annotations

import dataclasses
import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from confide.attest.roots import TrustRoots
from confide.attest.tpm_enrol import MAX_ENROLMENT, Challenge
from confide.attest.tpm_exchange import Answer, OpenChallenges, Request, Sent, read
from confide.attest.tpm_format import Public, TpmEvidence
from confide.attest.tpm_trust import EnrolledKey, TpmTrust
from confide.canonical import from_b64url
from confide.errors import ConfigError, EvidenceInvalidError, NonceError, ParseError, UsageError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAME = "000b" + "5a" * 32
KEY = EnrolledKey(NAME, "node-7", "cd" * 32, NOW, NOW + timedelta(days=1))
TRUST = TpmTrust(frozenset({"ab" * 32}), frozenset({"cd" * 32}), {NAME: KEY}, frozenset({"000b" + "a5" * 32}))
VECTOR = json.loads((Path(__file__).parents[2] / "vectors/tpm/genuine-ecdsa.json").read_text())["evidence"]
REQUEST = Request("node-7", from_b64url(VECTOR["chain"]), TpmEvidence.parse(from_b64url(VECTOR["quote"])).public)


def test_nothing_is_trusted_by_default(tmp_path: Path) -> None:
    for trust in (TpmTrust(), TpmTrust.load(tmp_path), TrustRoots().tpm):
        assert (trust.issuers, trust.manufacturers, dict(trust.keys)) == (frozenset(), frozenset(), {})


def test_trust_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert TpmTrust.update(tmp_path / "tpm", lambda _: TRUST) == TRUST
    assert TpmTrust.load(tmp_path / "tpm") == TRUST


def change(**changes: Any) -> dict[str, Any]:
    return {**TRUST.to_json(), **changes}


@pytest.mark.parametrize(
    "data",
    [
        change(format="confide-tpm-trust-v2"), change(more=[]), {"format": "confide-tpm-trust-v1"}, change(issuers="ab"),
        change(issuers={"ab" * 32: 1}),
        change(issuers=["AB" * 32]), change(manufacturers=["ab" * 31]), change(revoked=["5a" * 32]), change(revoked=[7]), change(keys={}),
        change(keys=[KEY.to_json(), KEY.to_json()]), change(keys=[{**KEY.to_json(), "more": ""}]), change(keys=["x"]),
        change(keys=[{**KEY.to_json(), "name": "5a" * 34}]), change(keys=[{**KEY.to_json(), "until": "soon"}]),
        change(keys=[{**KEY.to_json(), "until": "2026-01-01T00:00:00"}]), change(keys=[{**KEY.to_json(), "since": "2026-01-01T00:00:00"}]),
        change(keys=[{**KEY.to_json(), "machine": "../x"}]),
        change(keys=[{**KEY.to_json(), "ek": "cd"}]),
    ],
)  # fmt: skip
def test_trust_of_another_form_is_refused_and_never_read_as_less(tmp_path: Path, data: dict[str, Any]) -> None:
    """A list of revoked keys that is not understood must not be taken for none."""
    with pytest.raises(ParseError):
        TpmTrust.from_json(data)
    (tmp_path / "trust.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError):
        TpmTrust.load(tmp_path)
    with pytest.raises(ConfigError):
        TpmTrust.update(tmp_path, lambda before: before)


@pytest.mark.parametrize("data", [None, "text", list(KEY.to_json()), {**KEY.to_json(), "ek": 7}, {**KEY.to_json(), "since": None}], ids=str)
def test_record_of_a_key_has_text_fields_only(data: Any) -> None:
    assert EnrolledKey.from_json(KEY.to_json()) == KEY
    with pytest.raises(ParseError, match="exactly these text fields"):
        EnrolledKey.from_json(data)


def test_trust_that_cannot_be_read_or_written_is_not_none(tmp_path: Path) -> None:
    (tmp_path / "trust.json").mkdir()
    with pytest.raises(ConfigError, match="cannot read"):
        TpmTrust.load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        TpmTrust.update(tmp_path / "file", lambda before: before)


def test_two_who_revoke_at_once_both_do(tmp_path: Path) -> None:
    names = [f"000b{number:064x}" for number in range(20)]
    threads = [threading.Thread(target=lambda n=name: TpmTrust.update(tmp_path, lambda before: before.without_key(n))) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert TpmTrust.load(tmp_path).revoked == frozenset(names)


def test_revocation_is_for_good() -> None:
    revoked = TRUST.without_key(NAME)
    with pytest.raises(EvidenceInvalidError, match="revoked"):
        revoked.check_not_revoked(NAME)
    with pytest.raises(EvidenceInvalidError, match="revoked"):
        revoked.with_key(KEY)
    with pytest.raises(UsageError, match="not the name"):
        TRUST.without_key("node-7")


def test_machines_keys_are_found_by_its_name_and_by_its_tpm() -> None:
    other = dataclasses.replace(KEY, name="000b" + "6b" * 32, machine="node-8", ek="ef" * 32)
    trust = TRUST.with_key(other)
    assert (trust.keys_of("node-7"), trust.keys_of("node-8"), trust.keys_of("node-9")) == ((NAME,), (other.name,), ())
    assert not trust.has_revoked_key_of(KEY.ek)
    revoked = trust.without_key(NAME)
    assert (revoked.has_revoked_key_of(KEY.ek), revoked.has_revoked_key_of(other.ek)) == (True, False)


def test_root_is_trusted_for_what_was_said_and_not_at_all_afterwards() -> None:
    new = "ef" * 32
    assert TRUST.with_root("manufacturer", new) == dataclasses.replace(TRUST, manufacturers=frozenset({"cd" * 32, new}))
    assert TRUST.with_root("issuer", new) == dataclasses.replace(TRUST, issuers=frozenset({"ab" * 32, new}))
    both = TRUST.with_root("manufacturer", new).with_root("issuer", new)
    assert both.without_root(new) == TRUST
    assert TRUST.without_root("ab" * 32).issuers == frozenset()
    assert TRUST.without_root("cd" * 32).manufacturers == frozenset()
    with pytest.raises(UsageError, match="no such root"):
        TRUST.without_root(new)


def test_folder_of_what_is_trusted_is_the_owners_alone(tmp_path: Path) -> None:
    TpmTrust.update(tmp_path / "one" / "tpm", lambda _: TRUST)
    TpmTrust.update(tmp_path / "one" / "tpm", lambda before: before)
    assert (tmp_path / "one" / "tpm").stat().st_mode & 0o777 == 0o700


# --- files of an enrolment -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "one", [REQUEST, Sent("ab" * 16, bytes(68), bytes(258)), Answer("ab" * 16, bytes(32))], ids=lambda o: type(o).__name__
)
def test_files_are_read_as_they_were_written_and_no_other_form_is(one: Request | Sent | Answer) -> None:
    data = one.to_json()
    assert type(one).from_json(data) == one
    for bad in ({**data, "format": "x"}, {**data, "more": ""}, {**data, "id": "../../x", "machine": "../x"}, {"format": data["format"]}):
        with pytest.raises(ParseError):
            type(one).from_json(bad)


@pytest.mark.parametrize("changes", [{"machine": "../x"}, {"ek_chain": ""}, {"key": "AAAA"}], ids=str)
def test_request_without_a_machine_a_chain_or_a_key_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ParseError):
        Request.from_json({**REQUEST.to_json(), **changes})


def test_secret_of_an_answer_is_not_shown() -> None:
    assert "secret" not in repr(Answer("ab" * 16, b"x" * 32))


def test_file_that_is_too_long_or_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b" " * (128 * 1024 + 1))
    for name, says in (("long", "too large"), ("none", "cannot read")):
        with pytest.raises(UsageError, match=says):
            read(tmp_path / name)


def test_challenge_is_given_out_once_even_to_two_at_once(tmp_path: Path) -> None:
    store, asked = OpenChallenges(tmp_path / "open"), Challenge(b"c", b"s", Public.parse(REQUEST.key), bytes(32))
    sent = store.put(asked, REQUEST, NOW)
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


def test_nothing_of_the_answer_is_kept_with_an_open_challenge(tmp_path: Path) -> None:
    store, asked = OpenChallenges(tmp_path), Challenge(b"c", b"s", Public.parse(REQUEST.key), bytes(32))
    sent = store.put(asked, REQUEST, NOW)
    (kept,) = tmp_path.glob("*.json")
    assert kept.stat().st_mode & 0o077 == 0
    assert set(json.loads(kept.read_text())) == {"format", "until", "machine", "ek", "key", "answer"}
    with pytest.raises(ParseError, match="32 hex"):
        store.take("../" + sent.id[3:], NOW)


def test_record_is_for_a_year_at_most() -> None:
    import hashlib

    asked = Challenge(b"", b"", Public.parse(REQUEST.key), hashlib.sha256(b"answer").digest())
    for days in (MAX_ENROLMENT + timedelta(seconds=1), timedelta(0)):
        with pytest.raises(ValueError, match="a year"):
            asked.enrol(b"answer", "node-7", "cd" * 32, now=NOW, valid=days)
    assert asked.enrol(b"answer", "node-7", "cd" * 32, now=NOW, valid=MAX_ENROLMENT).until == NOW + MAX_ENROLMENT

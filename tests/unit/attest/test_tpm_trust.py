"""What is trusted in TPMs is read whole or not at all, and changes one at a time."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from confide.attest.roots import TrustRoots
from confide.attest.tpm_enrol import Challenge
from confide.attest.tpm_format import Public, TpmEvidence
from confide.attest.tpm_trust import EnrolledKey, TpmTrust
from confide.canonical import from_b64url
from confide.errors import ConfigError, EvidenceInvalidError, ParseError, UsageError

NOW, MAX_ENROLMENT = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=366)
NAME = "000b" + "5a" * 32
KEY = EnrolledKey(NAME, "node-7", "cd" * 32, NOW, NOW + timedelta(days=1))
TRUST = TpmTrust(frozenset({"ab" * 32}), frozenset({"cd" * 32}), {NAME: KEY}, frozenset({"000b" + "a5" * 32}))
VECTOR = json.loads((Path(__file__).parents[2] / "vectors/tpm/genuine-ecdsa.json").read_text())["evidence"]


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


def test_record_is_for_a_year_at_most() -> None:
    asked = Challenge(b"", b"", Public.parse(TpmEvidence.parse(from_b64url(VECTOR["quote"])).public), hashlib.sha256(b"answer").digest())
    for days in (MAX_ENROLMENT + timedelta(seconds=1), timedelta(0)):
        with pytest.raises(ValueError, match="a year"):
            asked.enrol(b"answer", "node-7", "cd" * 32, now=NOW, valid=days)
    assert asked.enrol(b"answer", "node-7", "cd" * 32, now=NOW, valid=MAX_ENROLMENT).until == NOW + MAX_ENROLMENT

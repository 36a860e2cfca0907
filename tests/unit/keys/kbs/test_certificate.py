"""The certificate that guests trust: the same after a restart, made anew when it must be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from confide.crypto.identity import Identity, one_certificate
from confide.crypto.sign import SigningKey
from confide.errors import StoreError, UsageError
from confide.keys.kbs.certificate import RENEWED_BEFORE, VALID_FOR, kept_identity
from confide.keys.server import BrokerServer

KEY = SigningKey.generate()
NOW = datetime.now(UTC)
NAMES = ("broker.example", "127.0.0.1")


def test_certificate_is_kept_and_names_what_guests_call(tmp_path: Path) -> None:
    path = tmp_path / "certificate.pem"
    made = kept_identity(path, KEY, NAMES, NOW)
    assert kept_identity(path, KEY, NAMES, NOW).certificate == made.certificate == one_certificate(path.read_bytes())
    assert kept_identity(path, KEY, NAMES[::-1], NOW).certificate == made.certificate


def test_certificate_is_made_anew_for_another_key_other_names_near_its_end_or_when_it_is_none(tmp_path: Path) -> None:
    path = tmp_path / "certificate.pem"
    first = kept_identity(path, KEY, NAMES, NOW).certificate
    assert kept_identity(path, KEY, NAMES, NOW + VALID_FOR - RENEWED_BEFORE + timedelta(days=1)).certificate != first
    assert kept_identity(path, SigningKey.generate(), NAMES, NOW).certificate != first
    assert kept_identity(path, KEY, NAMES[:1], NOW).certificate != first
    path.write_bytes(Identity.generate("no names", key=KEY).certificate_pem)
    assert kept_identity(path, KEY, NAMES, NOW).certificate.subject.rfc4514_string() == "CN=confide-broker"
    path.write_text("not PEM")
    assert kept_identity(path, KEY, NAMES, NOW).key is KEY


def test_name_that_is_none_and_place_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        kept_identity(tmp_path / "c.pem", KEY, ("é",), NOW)
    with pytest.raises(UsageError):
        kept_identity(tmp_path / "none" / "c.pem", KEY, NAMES, NOW)


def test_broker_serves_under_its_stores_key_only(world: Any) -> None:
    with pytest.raises(StoreError):
        BrokerServer(world.broker, identity=Identity.generate("another"))

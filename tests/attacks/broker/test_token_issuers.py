"""Issuers that are away, slow, hostile or somebody else: they cost their own people their tokens, and nobody else anything."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from support.broker_world import World
from support.custody.tls import Tls
from support.oidc_issuer import AUDIENCE, Issuer
from support.token_world import Broker, Hostile

from confide.attest.insecure import Installation
from confide.errors import IssuerError
from confide.keys import token_keys
from confide.keys.token_issuers import OwnerIssuer


@pytest.fixture
def hostile(issuer: Issuer) -> Iterator[Hostile]:
    made = Hostile(issuer.tls)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_keys, "_TIMEOUT_S", 0.5)
    monkeypatch.setattr(token_keys, "_TOTAL_S", 1.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["500", "garbage", "another's metadata", "keys over http", "no keys", "1 GB", "slow"])
def test_issuer_that_misbehaves_costs_its_own_tokens_and_nothing_else(
    tmp_path: Path, tee: Installation, issuer: Issuer, hostile: Hostile, how: str
) -> None:
    plain = Hostile(None)
    plain.says(json.dumps({"keys": [key.export_public(as_dict=True) for key in issuer.keys]}).encode())
    metadata = {"issuer": hostile.url, "jwks_uri": f"{hostile.url}/jwks"}
    {
        "500": lambda: None,
        "garbage": lambda: hostile.says(b"<html>"),
        "another's metadata": lambda: hostile.says(
            json.dumps({**metadata, "issuer": issuer.url, "jwks_uri": f"{issuer.url}/jwks"}).encode()
        ),
        "keys over http": lambda: hostile.says(json.dumps({**metadata, "jwks_uri": f"{plain.url}/jwks"}).encode()),
        "no keys": lambda: hostile.says(json.dumps(metadata).encode()),
        "1 GB": lambda: hostile.says(b"a" * 65536, length=1 << 30),
        "slow": lambda: hostile.says(b"{}", pause=3.0),
    }[how]()
    broker = Broker(tmp_path, tee, issuer, issuer.believed(), issuer.believed(issuer=hostile.url))
    with closing(broker.world):
        begun = time.monotonic()
        error = broker.refused(issuer.forge(iss=hostile.url))
        assert error.code in {"issuer-unavailable", "credential-refused"}
        assert (error.code == "issuer-unavailable") == (how != "no keys")
        assert time.monotonic() - begun < 20
        asked = hostile.asked
        for _ in range(5):
            broker.refused(issuer.forge(iss=hostile.url))
        assert hostile.asked <= asked + 1, "it is asked again and again"
        broker.by_token(issuer.token()).keys()


def test_issuer_under_another_ca_is_not_asked(tmp_path: Path, tee: Installation, issuer: Issuer) -> None:
    world = World(tmp_path, tee, issuers=(issuer.believed(ca_file=Tls(tmp_path / "other").ca),))
    with closing(world), pytest.raises(IssuerError):
        world.owner("clinic").link_token(issuer.token())


def test_rotated_key_counts_soon_and_made_up_ids_are_no_flood(tmp_path: Path, tee: Installation) -> None:
    (tmp_path / "own").mkdir()
    own = Issuer(tmp_path / "own")
    broker = Broker(tmp_path, tee, own)
    try:
        old = own.token()
        own.rotate()
        new = own.token()
        assert "no key" in broker.refused(new).message  # asked less than 30 seconds ago
        broker.world.ahead = timedelta(seconds=31)
        broker.by_token(new).keys()
        broker.world.ahead = timedelta(minutes=5)
        assert "no key" in broker.refused(old).message
        own.stop()
        broker.by_token(new).keys()  # kept for a while
    finally:
        own.stop()
        broker.world.close()


def test_keys_of_a_file_need_no_network(tmp_path: Path, tee: Installation, issuer: Issuer) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [key.export_public(as_dict=True) for key in issuer.keys]}), encoding="utf-8")
    world = World(tmp_path, tee, issuers=(OwnerIssuer(issuer=issuer.url, audience=AUDIENCE, clients=("clinic-app",), jwks_file=file),))
    with closing(world):
        world.owner("clinic").link_token(issuer.token())
        file.unlink()
        with pytest.raises(IssuerError):
            world.owner("bob").link_token(issuer.token("rsa-app"))

"""A broker whose database goes away refuses, says that it is not ready, and goes on by itself when it is back; what it counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker_world import JOB, World, policy
from support.databases import PostgresServer, postgres

from confide.attest.insecure import Installation
from confide.crypto.http import request
from confide.crypto.http_messages import Response
from confide.crypto.tls import Identity, PinnedSpki, connect
from confide.errors import BrokerError, ConfideError, GrantError
from confide.keys.observation import ENDPOINTS, endpoint_of
from confide.keys.roles import ROUTES


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may stop."""
    with postgres() as server:
        yield server


def _ask(world: World, path: str) -> Response:
    host, port = world.server.url.removeprefix("https://").split(":")
    channel = connect(host, int(port), Identity.generate("x"), trust=PinnedSpki(world.server.spki))
    try:
        return request(channel, "GET", path)
    finally:
        channel.close()


def _counts(world: World) -> str:
    return world.server._kbs._counts()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_broker_refuses_while_its_database_is_away_and_goes_on_without_a_restart(
    tmp_path: Path, installation: Installation, own_server: PostgresServer, mode: str
) -> None:
    world = World(tmp_path, installation, place=own_server.new().location)
    try:
        airline = world.owner("airline")
        _, envelope = world.dataset(airline, "airline", "flights")
        airline.grant("flights", job=JOB, policy=policy())
        client = world.client(world.node())
        secret = client.release(envelope).secret.reveal()
        assert _ask(world, "/healthz").status == 200
        own_server.stop(mode)
        try:
            for _ in range(2):
                with pytest.raises(BrokerError) as refused:
                    client.release(envelope)
                assert refused.value.facts["status"] == 503
                answer = _ask(world, "/healthz")
                assert (answer.status, (answer.json or {})["facts"]) == (503, {"reason": "store"})
                assert str(own_server.folder) not in str(answer.json), "where the database is, is nobody's business"
                assert _ask(world, "/livez").status == 200
            assert 'confide_broker_refusals_total{code="store-unavailable"}' in _counts(world)
        finally:
            own_server.start()
        assert client.release(envelope).secret.reveal() == secret, "the session of before"
        assert _ask(world, "/healthz").status == 200
        assert world.store.check() > 0
    finally:
        world.close()


def test_counts_cover_nodes_owners_and_the_store_and_name_nobody(world: World) -> None:
    airline = world.owner("airline")
    minted, envelope = world.dataset(airline, "airline", "flights")
    client = world.client(world.node())
    with pytest.raises(GrantError):
        client.release(envelope)
    airline.grant("flights", job=JOB, policy=policy())
    client.release(envelope)
    with pytest.raises(ConfideError):
        airline._connection.call("GET", "/confide/v0/canary-7f3a/one")
    text = _counts(world)
    for line in (
        'confide_broker_requests_total{endpoint="release",outcome="ok"} 1.0',
        'confide_broker_requests_total{endpoint="release",outcome="refused"} 1.0',
        'confide_broker_requests_total{endpoint="kbs-attest",outcome="ok"} 1.0',
        'confide_broker_requests_total{endpoint="other",outcome="refused"} 1.0',
        'confide_broker_refusals_total{code="grant-missing"} 1.0',
        'confide_broker_request_seconds_count{endpoint="release"} 2.0',
        "confide_broker_sessions 1.0",
        "confide_broker_sealed 0.0",
    ):
        assert line in text
    assert re.search(r'confide_broker_store_commits_total\{outcome="ok"\} [1-9]', text)
    for name in ("airline", "flights", "canary", JOB, minted.dataset, minted.secret.reveal().hex()):
        assert name not in text


def test_labels_of_requests_are_a_closed_list_whatever_is_asked() -> None:
    strange = ("/", "", "/confide/v0/", "/confide/v0/../x", "/kbs/v0/", "/healthzz", "x" * 500, "/confide/v1/keys")
    for path in strange:
        assert endpoint_of(path) == "other"
    assert endpoint_of("/kbs/v0/resource/a/b/c") == "kbs-resource"
    assert endpoint_of("/confide/v0/datasets/ab/manifest") == "datasets"
    assert len(ENDPOINTS) < 40


def test_every_request_that_is_served_has_a_label_of_its_first_word() -> None:
    for route in ROUTES:
        assert endpoint_of(route.path) in ENDPOINTS - {"other"}, route
    assert endpoint_of("/confide/v0/escrow/recover") == "escrow"
    assert endpoint_of("/confide/v0/operator/limits") == "operator"
    assert endpoint_of("/confide/v0/token-links") == "token-links"
    assert endpoint_of("/confide/v0/releases") == "releases"
    assert endpoint_of("/confide/v0/kbs-token-keys") == "kbs-token-keys"
    assert endpoint_of("/page/grants/ab") == "page"

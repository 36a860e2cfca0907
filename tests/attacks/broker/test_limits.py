"""One tenant or client asks for more than its share: it is refused, with the time to come back, and nobody else is slowed or refused."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from support.broker_attacks import Granted
from support.broker_world import JOB, World, manifest, policy
from support.kbs_world import SECRET, Kbs

from confide.crypto.http import request
from confide.crypto.http_messages import Response
from confide.crypto.tls import PinnedSpki, connect
from confide.errors import CredentialError, QuotaError, RateLimitedError, UsageError
from confide.ids import Purpose, Role
from confide.keys.limits import QUOTAS, Limits, RateLimits
from confide.keys.operators import Operation
from confide.keys.quotas import Usage


def _set(world: World, tenant: str, **said: Any) -> None:
    Operation(world.store, world.now).set_limits(tenant, {name.replace("_", "-"): value for name, value in said.items()})
    world.broker.limits._known.clear()  # instead of waiting a second


def _raw(world: World, who: str, method: str, path: str, body: Any = None) -> Response:
    host, port = world.server.url.removeprefix("https://").split(":")
    with connect(host, int(port), world.credential(who).identity(), trust=PinnedSpki(world.server.spki)) as channel:
        return request(channel, method, f"/confide/v0/{path}", body)


@pytest.fixture
def two(world: World) -> tuple[Any, Any]:
    return world.owner("clinic", tenant="health"), world.owner("bank", tenant="finance")


# --- rates -------------------------------------------------------------------------------------------------------------


def test_tenant_over_its_rate_is_refused_with_the_time_to_come_back_and_another_is_not(world: World, two: tuple[Any, Any]) -> None:
    _set(world, "health", rate=0.05, burst=2)
    answers = [_raw(world, "clinic", "GET", "keys") for _ in range(4)]
    assert [one.status for one in answers] == [200, 200, 429, 429]
    refused = answers[-1]
    assert (refused.json or {})["code"] == "rate-limited"
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert [_raw(world, "bank", "GET", "keys").status for _ in range(20)] == [200] * 20
    with pytest.raises(RateLimitedError) as caught:
        two[0].keys()
    assert caught.value.hint
    events = len(world.store.audit())
    for _ in range(5):
        _raw(world, "clinic", "GET", "keys")
    assert len(world.store.audit()) == events, "a flood of requests is no flood of records"


def test_tenant_at_its_rate_does_not_slow_another(world: World, two: tuple[Any, Any]) -> None:
    _set(world, "health", rate=0.01, burst=1)
    _set(world, "finance", rate=1, burst=1000)
    limits = RateLimits(world.store, lambda: 0.0)
    limits.tenants(["health"])
    for _ in range(1000):
        with pytest.raises(RateLimitedError):
            limits.tenants(["health"])
        limits.tenants(["finance"])


def test_release_counts_for_the_tenants_whose_data_it_is(world: World, two: tuple[Any, Any]) -> None:
    clinic, bank = two
    of_clinic, of_bank = (world.dataset(client, name, "k")[1] for client, name in ((clinic, "clinic"), (bank, "bank")))
    for client in two:
        client.grant("k", job=JOB, policy=policy())
    node = world.client(world.node())
    _set(world, "health", rate=0.01, burst=1)
    node.release(of_clinic)
    events = len(world.store.audit())
    with pytest.raises(RateLimitedError):
        node.release(of_clinic)
    assert len(world.store.audit()) == events, "a flood of releases is no flood of records"
    node.release(of_bank)


def test_release_of_several_is_one_request_of_each_tenant(world: World, two: tuple[Any, Any]) -> None:
    """Counted by datasets, more of them than the burst would be refused each time, however long a node waits."""
    clinic, _ = two
    clinic.create_key("k")
    envelopes = []
    for _ in range(3):
        minted = clinic.mint_dataset("k")
        envelopes.append(manifest(minted, world.credential("clinic").key))
        clinic.register_manifest(envelopes[-1])
    clinic.grant("k", job=JOB, policy=policy())
    node = world.client(world.node())
    _set(world, "health", rate=0.01, burst=2)
    for _ in range(2):
        assert len(node.releases(envelopes, Purpose.READ)) == 3
    with pytest.raises(RateLimitedError):
        node.releases(envelopes, Purpose.READ)


def test_client_over_its_rate_is_refused_whatever_it_asks_and_another_is_not(world: World, two: tuple[Any, Any]) -> None:
    _set(world, "*", rate=0.01, burst=3)
    for method, path in (("GET", "keys"), ("POST", "audit-head"), ("GET", "nothing")):
        assert _raw(world, "clinic", method, path, {} if method == "POST" else None).status != 429
    for path in ("keys", "nothing"):
        assert _raw(world, "clinic", "GET", path).status == 429
    host, port = world.server.url.removeprefix("https://").split(":")
    node = world.node()
    with connect(host, int(port), node.identity, trust=PinnedSpki(world.server.spki)) as channel:
        body = {"version": "0.4.0", "tee": "sgx", "extra-params": {}}
        statuses = [request(channel, "POST", "/kbs/v0/auth", body).status for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        assert request(channel, "GET", "/healthz").status == 200
    assert _raw(world, "bank", "GET", "keys").status == 200


def test_guest_is_known_by_its_address(world: World) -> None:
    kbs = Kbs(world)
    _set(world, "*", rate=0.01, burst=2)
    assert [kbs.guest().auth().status for _ in range(4)] == [200, 200, 429, 429]


def test_clients_wait_as_long_as_they_are_asked_to_and_then_get_their_answer(world: World, two: tuple[Any, Any]) -> None:
    _set(world, "health", rate=5, burst=1)
    begun = time.monotonic()
    for _ in range(4):
        two[0].keys()
    assert time.monotonic() - begun >= 0.5


def test_bucket_fills_with_time_and_never_above_its_burst(world: World) -> None:
    now = [0.0]
    limits = RateLimits(world.store, lambda: now[0])
    Operation(world.store, world.now).set_limits("default", {"rate": 2, "burst": 4})

    def taken() -> int:
        for number in range(100):
            try:
                limits.tenants(["default"])
            except RateLimitedError:
                return number
        return 100

    assert taken() == 4
    now[0] = 1.0
    assert taken() == 2
    now[0] = 1000.0
    assert taken() == 4


def test_clients_without_number_take_no_memory_without_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confide.keys.limits._MAX_CLIENTS", 10)
    _set(world, "*", rate=1, burst=1)
    for number in range(100):
        world.broker.limits.client(str(number).encode())
    assert len(world.broker.limits._clients) == 10


# --- quotas ------------------------------------------------------------------------------------------------------------


def test_quota_counts_what_there_was_and_what_comes_for_one_tenant_alone(world: World, two: tuple[Any, Any]) -> None:
    clinic, bank = two
    world.dataset(clinic, "clinic", "records")
    clinic.grant("records", job=JOB, policy=policy())
    _set(world, "health", owners=1, keys=2, datasets=2, grants=2)
    clinic.create_key("more")
    clinic.mint_dataset("records")
    clinic.grant("records", job=JOB, policy=policy())
    for attempt, what in (
        (lambda: clinic.create_key("third"), "keys"),
        (lambda: clinic.mint_dataset("more"), "datasets"),
        (lambda: clinic.grant("records", job=JOB, policy=policy()), "grants"),
        (lambda: world.owner("nurse", tenant="health"), "owners"),
    ):
        with pytest.raises(QuotaError) as caught:
            attempt()
        assert caught.value.facts["quota"] == what
    shown = clinic.keys()
    assert [key.key.name for key in shown] == ["more", "records"]
    for number in range(4):
        world.dataset(bank, "bank", f"k{number}")
    _set(world, "health")
    clinic.create_key("third")


def test_what_did_not_happen_is_not_counted(world: World, two: tuple[Any, Any]) -> None:
    clinic, _ = two
    clinic.create_key("records")
    _set(world, "health", datasets=1, keys=2)
    for _ in range(3):
        with pytest.raises(UsageError):
            clinic.create_key("records")
    with pytest.raises(CredentialError):
        clinic.mint_dataset("bank/x")
    clinic.mint_dataset("records")
    clinic.create_key("second")


def test_quota_of_resources_and_their_bytes(world: World) -> None:
    kbs = Kbs(world)
    _set(world, "default", resources=2, resource_bytes=len(SECRET) + 10)
    assert kbs.post("airline", "resource/airline/key/two", b"x" * 10).status == 200
    answer = kbs.post("airline", "resource/airline/key/three", b"")
    assert answer.status == 400
    answer = kbs.post("airline", "resource/airline/key/two", b"x" * 11)
    assert (answer.status, (answer.json or {})["code"]) == (429, "quota-exceeded")
    assert kbs.post("airline", "resource/airline/key/three", b"x").status == 429
    assert kbs.post("airline", "resource/airline/key/two", b"y" * 9).status == 200
    assert kbs.post("airline", "resource/airline/key/two", None, "DELETE").status == 200  # type: ignore[arg-type]
    assert kbs.post("airline", "resource/airline/key/three", b"x" * 10).status == 200
    told = world.server._kbs.metrics.text(sessions=0, connections=0, nodes=0, sealed=False)
    assert 'confide_broker_limited_total{code="quota-exceeded"} 2.0' in told


def test_quota_of_releases_a_day_begins_anew_at_midnight_and_is_the_stores(world: World) -> None:
    granted = Granted(world)
    _set(world, "default", releases_a_day=2)
    node = world.client(world.node())
    node.release(granted.manifest)
    other = world.client(world.node(name="worker-2"), at=world.second())
    other.release(granted.manifest)
    for client in (node, other):
        with pytest.raises(QuotaError) as caught:
            client.release(granted.manifest)
        assert 0 < float(str(caught.value.facts["retry_after_s"])) <= 86400
    usage = world.store.get(Usage, "default")
    assert usage is not None
    world.store.put(Usage("default", usage.counts, (world.now() - timedelta(days=1)).date().isoformat(), usage.releases))
    node.release(granted.manifest)


def test_quota_of_releases_counts_guests_too(world: World) -> None:
    kbs = Kbs(world)
    guest = kbs.guest().ready()
    _set(world, "default", releases_a_day=1)
    assert guest.get("airline/key/flights").status == 200
    assert guest.get("airline/key/flights").status == 429


def test_quota_of_nodes_that_hold_keys_is_free_again_when_one_leaves(world: World) -> None:
    granted = Granted(world)
    _set(world, "default", sessions=1)
    first, second = world.client(world.node(Role.DRIVER)), world.client(world.node())
    first.release(granted.manifest)
    first.release(granted.manifest)
    with pytest.raises(QuotaError):
        second.release(granted.manifest)
    first.close()
    for _ in range(100):
        if not world.broker.limits._holding["default"]:
            break
        time.sleep(0.02)
    second.release(granted.manifest)


def test_output_counts_for_every_tenant_that_it_derives_from(world: World, two: tuple[Any, Any]) -> None:
    clinic, bank = two
    of_clinic, of_bank = (world.dataset(client, name, "k") for client, name in ((clinic, "clinic"), (bank, "bank")))
    for client in two:
        client.grant("k", job=JOB, policy=policy())
    _set(world, "finance", releases_a_day=1)
    driver = world.client(world.node(Role.DRIVER))
    driver.release(of_clinic[1])
    driver.release(of_bank[1])
    with pytest.raises(QuotaError):
        driver.output("report", inputs=[of_clinic[0].dataset, of_bank[0].dataset], recipients=[])


# --- setting them --------------------------------------------------------------------------------------------------------


def test_operator_sets_limits_and_sees_what_is_used_and_an_owner_does_not(world: World, two: tuple[Any, Any]) -> None:
    operator = world.operator()
    said = operator.operate("limits", tenant="health", limits={"rate": 100, "keys": 3})
    assert said == {"tenant": "health", "rate": 100.0, "burst": 100, "quotas": {"keys": 3}}
    two[0].create_key("records")
    (health,) = [one for one in operator.operate("tenants")["tenants"] if one["tenant"] == "health"]
    assert (health["limits"]["quotas"], health["used"]) == ({"keys": 3}, {"keys": 1})
    with pytest.raises(UsageError):
        operator.operate("limits", tenant="nowhere", limits={"keys": 3})
    assert _raw(world, "clinic", "POST", "operator/limits", {"tenant": "health", "limits": {}}).status == 401


@pytest.mark.parametrize(
    "said",
    [
        {"kyes": 1},
        {"keys": -1},
        {"keys": 1.5},
        {"keys": True},
        {"rate": -1},
        {"rate": 0},
        {"rate": 0.0, "keys": 1},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"keys": 2**51},
        {"rate": "1"},
        {"rate": True},
        {"burst": 5},
        {"rate": 1e9},
        {"": ""},
    ],
)
def test_what_is_no_limit_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Limits.read("health", said)


def test_each_client_has_a_rate_and_no_quota() -> None:
    with pytest.raises(UsageError):
        Limits.read("*", {"keys": 1})
    assert set(Limits.read("health", dict.fromkeys(QUOTAS, 0)).quotas) == set(QUOTAS)

"""A key broker service that asks for a pause is given one, within bounds; and one that asks for too long is said to."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest
from support.false_kbs import CHALLENGE, TOKEN, FalseKbs, encrypting, http

from confide.crypto.secret import SecretBytes
from confide.crypto.tls import PinnedSpki
from confide.errors import ConfideError, CustodyOfflineError, KbsError, RateLimitedError
from confide.keys.kbs.client import PATIENCE_S, KbsClient
from confide.keys.kbs.resources import ResourceName
from confide.keys.kbs.transport import PinnedCa
from confide.keys.kbs.upstream import UpstreamKey
from confide.keys.operators import Operation

NAME = ResourceName.parse("airline/key/flights")
GOOD = {"auth": CHALLENGE, "attest": TOKEN}


def _busy_at(step: str, times: int, status: int, *headers: str, body: object = b"") -> dict[str, Any]:
    """A KBS that answers the first requests of one kind with a status, and then as it must."""
    script: dict[str, Any] = {**GOOD, **encrypting(b"secret")}
    good, left = script[step], [times]

    def answer(*asked: Any) -> bytes:
        left[0] -= 1
        return http(status, body, *headers) if left[0] >= 0 else good(*asked) if callable(good) else good

    return {**script, step: answer}


def _client(server: FalseKbs, attester: Any, slept: list[float], **options: Any) -> KbsClient:
    return KbsClient(server.url, PinnedCa(server.ca_pem), attester=attester, timeout=5.0, sleep=slept.append, **options)


@pytest.mark.parametrize("step", ["auth", "attest", "resource"])
@pytest.mark.parametrize("status", [429, 503])
def test_pause_that_a_service_asks_for_is_kept_at_every_step(attester: Any, step: str, status: int) -> None:
    slept: list[float] = []
    with FalseKbs(_busy_at(step, 1, status, "retry-after: 7")) as server:
        assert _client(server, attester, slept).resource(NAME).reveal() == b"secret"
    assert len(slept) == 1
    assert 7.0 <= slept[0] <= 8.75
    paths = [path.split("/")[3] for _, path, _ in server.asked]
    before = {"auth": ["auth"], "attest": ["auth", "attest"], "resource": ["auth", "attest", "resource"]}[step]
    assert paths == before + (["resource"] if step == "resource" else ["auth", "attest", "resource"]), "a nonce is shown once"


def test_pause_may_be_a_date_and_too_many_requests_need_not_name_one(attester: Any) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=9), usegmt=True)
    for headers, least, most in (((f"retry-after: {until}",), 5.0, 11.25), ((), 0.5, 0.625), (("retry-after: 0",), 0.5, 0.625)):
        slept: list[float] = []
        with FalseKbs(_busy_at("resource", 1, 429, *headers)) as server:
            assert _client(server, attester, slept).resource(NAME).reveal() == b"secret"
        assert len(slept) == 1
        assert least <= slept[0] <= most


@pytest.mark.parametrize(("status", "error"), [(429, RateLimitedError), (503, KbsError)])
def test_service_that_goes_on_asking_for_pauses_is_given_up(attester: Any, status: int, error: type[ConfideError]) -> None:
    slept: list[float] = []
    with FalseKbs(_busy_at("resource", 10_000, status, "retry-after: 0")) as server, pytest.raises(error) as refused:
        _client(server, attester, slept).resource(NAME)
    assert refused.value.facts["retry_after_s"] == 0.0
    assert sum(slept) <= PATIENCE_S
    assert len(slept) < 8
    assert all(later > earlier for earlier, later in pairwise(slept))


@pytest.mark.parametrize("asked", ["21", "86400", "9" * 40])
@pytest.mark.parametrize(("status", "code"), [(429, "rate-limited"), (503, "kbs-unavailable")])
def test_longer_pause_than_a_guests_patience_is_told_at_once(attester: Any, status: int, code: str, asked: str) -> None:
    slept: list[float] = []
    with FalseKbs(_busy_at("auth", 1, status, f"retry-after: {asked}")) as server, pytest.raises(ConfideError) as refused:
        _client(server, attester, slept).resource(NAME)
    assert (refused.value.code, slept, len(server.asked)) == (code, [], 1)
    assert float(str(refused.value.facts["retry_after_s"])) >= 21


@pytest.mark.parametrize("asked", [(), ("retry-after: soon",), ("retry-after: -1",), ("retry-after: 1 Jan 99999999999999999999 00:00:00",)])
def test_failure_that_names_no_time_is_not_waited_for(attester: Any, asked: tuple[str, ...]) -> None:
    slept: list[float] = []
    with FalseKbs(_busy_at("resource", 1, 503, *asked)) as server, pytest.raises(KbsError):
        _client(server, attester, slept).resource(NAME)
    assert slept == []


def test_pause_under_another_status_is_none(attester: Any) -> None:
    slept: list[float] = []
    for status in (403, 404, 500):
        with FalseKbs(_busy_at("resource", 1, status, "retry-after: 1", body={"type": "x", "detail": "no"})) as server:
            with pytest.raises(ConfideError):
                _client(server, attester, slept).resource(NAME)
            assert len(server.asked) == 3
    assert slept == []


def test_resource_of_a_busy_answer_is_none(attester: Any) -> None:
    """What would open is not opened under these statuses either."""
    slept: list[float] = []
    script = encrypting(b"secret")
    for status in (b" 429 ", b" 503 "):
        busy = lambda *asked, status=status: (  # noqa: E731
            script["resource"](*asked).replace(b" 200 ", status, 1).replace(b"\r\n", b"\r\nretry-after: 60\r\n", 1)
        )
        with FalseKbs({**script, "resource": busy}) as server, pytest.raises((RateLimitedError, KbsError)):
            _client(server, attester, slept).resource(NAME)


def test_our_own_brokers_rate_is_waited_for(kbs: Any) -> None:
    """The real server: guests over the rate of each client come back by themselves."""
    Operation(kbs.world.store, kbs.world.now).set_limits("*", {"rate": 2, "burst": 3})
    kbs.world.broker.limits._known.clear()  # instead of waiting a second
    server, slept = kbs.world.server, []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time.sleep(seconds)

    for _ in range(2):
        with KbsClient(server.url, PinnedSpki(server.spki), attester=kbs.attester, sleep=sleep) as client:
            assert client.resource(NAME).reveal()
    assert slept


def test_upstream_that_has_no_time_is_away_and_does_not_refuse(attester: Any, tmp_path: Any) -> None:
    with FalseKbs(_busy_at("auth", 1, 429, "retry-after: 3600")) as server:
        ca = tmp_path / "ca.pem"
        ca.write_text(server.ca_pem)
        with pytest.raises(CustodyOfflineError, match="has no time") as refused:
            UpstreamKey(server.url, NAME, lambda: attester, ca=ca).wrap_key(SecretBytes.random(), b"")
    assert "too often" in str(refused.value.facts["reason"])

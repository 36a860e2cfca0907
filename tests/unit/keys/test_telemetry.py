"""Traces: what a real receiver gets from a real broker, and everything that it must not get."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.broker_world import JOB, World, policy
from support.otlp import Receiver, receiver

from confide.canonical import b64url
from confide.errors import ConfideError, ConfigError, CustodyOfflineError, ExtraMissingError, GrantError
from confide.ids import Role
from confide.keys.observation import Observation, observed
from confide.keys.telemetry import Collector, attributes, name_of, traced

ALLOWED = {"confide.outcome", "confide.endpoint", "confide.code", "http.response.status_code", "confide.steps"}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def _work(world: World) -> list[bytes]:
    """A day at the broker, refusals too; what was secret or somebody's business in it."""
    airline = world.owner("airline-canary")
    minted, envelope = world.dataset(airline, "airline-canary", "flights-canary")
    node = world.node()
    client = world.client(node)
    with pytest.raises(GrantError):
        client.release(envelope)
    airline.grant("flights-canary", job=JOB, policy=policy())
    secret = client.release(envelope).secret.reveal()
    driver = world.client(world.node(Role.DRIVER))
    output = driver.output("output-canary", inputs=[minted.dataset], recipients=["airline-canary"])
    with pytest.raises(ConfideError):
        client._connection.call("POST", "/confide/v0/path-canary", {"body": "body-canary"}, {"cookie": "kbs-session-id=cookie-canary"})
    cookie = client._cookie["cookie"].partition("=")[2]
    texts = [node.name, node.run, JOB, minted.dataset, output.dataset, cookie, world.server.spki, str(world.folder)]
    keys = [secret, output.secret.reveal(), world.store.signing_key.private_pem().reveal()[30:90]]
    forms = [form for key in keys for form in (key, key.hex().encode(), b64url(key).encode(), base64.b64encode(key))]
    return [b"canary", *forms, *(text.encode() for text in texts)]


def _values(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def _told(world: World) -> tuple[Receiver, list[bytes]]:
    with receiver() as found:
        with traced(Collector(found.url)):
            secrets = _work(world)
        return found, secrets


def test_receiver_gets_spans_of_requests_with_the_stores_and_nothing_that_is_anybodys_business(world: World) -> None:
    found, secrets = _told(world)
    spans = found.spans
    names = {"broker kbs-auth", "broker kbs-attest", "broker release", "broker outputs", "broker other", "store-commit"}
    assert names <= {span.name for span in spans}
    released = [span for span in spans if span.name == "broker release"]
    assert sorted(str(_values(span)["confide.outcome"]) for span in released) == ["ok", "refused"]
    assert {_values(span).get("confide.code") for span in released} == {None, "grant-missing"}
    commits = [span for span in spans if span.name == "store-commit" and span.parent_span_id in {s.span_id for s in released}]
    assert commits
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in spans)
    for span in spans:
        assert set(_values(span)) <= ALLOWED
        assert not span.events
        assert not span.links
    assert {frozenset(one) for one in found.resources} == {frozenset({"service.name", "service.version"})}
    everything = b"\n".join(found.bodies) + "\n".join(found.heads).encode()
    for secret in secrets:
        assert secret not in everything, "something secret was exported"


def test_every_value_is_of_a_closed_list_whatever_a_step_holds() -> None:
    step = Observation("request", endpoint="airline/secret", outcome="airline", status=7, code="hvs.token", size=-1)  # type: ignore[arg-type]
    assert attributes(step) == {"confide.endpoint": "other", "confide.code": "other"}
    assert name_of(step) == "broker other"
    assert name_of(Observation("hvs.token")) == "other"  # type: ignore[arg-type]


def test_error_is_in_a_span_by_its_code_alone() -> None:
    with receiver() as found:
        with traced(Collector(found.url)), pytest.raises(CustodyOfflineError), observed("custody-check"):
            raise CustodyOfflineError("https://vault.canary:8200 said hvs.canary", hint="canary")
        (span,) = found.spans
    assert (span.name, _values(span)["confide.code"], span.status.message) == ("custody-check", "custody-offline", "")
    assert b"canary" not in b"".join(found.bodies)


def test_trace_context_of_a_client_is_not_taken(world: World) -> None:
    from confide.crypto.http import request
    from confide.crypto.tls import Identity, PinnedSpki, connect

    host, port = world.server.url.removeprefix("https://").split(":")
    theirs = "0af7651916cd43dd8448eb211c80319c"
    with receiver() as found:
        with traced(Collector(found.url)):
            channel = connect(host, int(port), Identity.generate("x"), trust=PinnedSpki(world.server.spki))
            request(channel, "GET", "/livez", None, {"traceparent": f"00-{theirs}-b7ad6b7169203331-01", "tracestate": "canary=1"})
        assert found.spans
        assert all(span.trace_id.hex() != theirs and not span.parent_span_id for span in found.spans if span.name.startswith("broker"))
        assert b"canary" not in b"".join(found.bodies)


def test_nothing_is_observed_without_a_collector_and_after_the_end(world: World) -> None:
    with receiver() as found:
        with traced(None):
            world.owner("airline")
        with traced(Collector(found.url)):
            pass
        world.owner("weather")
        assert found.bodies == []


def test_share_of_requests_is_traced(world: World) -> None:
    with receiver() as found:
        with traced(Collector(found.url, share=1e-9)):
            world.owner("airline")
        assert found.spans == []


def test_collector_that_is_away_holds_up_nobody(world: World) -> None:
    before = time.monotonic()
    with traced(Collector("http://127.0.0.1:1")):
        world.owner("airline").create_key("flights")
        assert time.monotonic() - before < 5
    assert time.monotonic() - before < 30


@pytest.mark.parametrize(
    ("url", "share"),
    [
        ("", 1), ("collector:4318", 1), ("ftp://collector", 1), ("http://collector:4318", 1), ("http://10.0.0.1:4318", 1), ("https://", 1),
        ("https://user:secret@collector", 1), ("https://collector/?token=secret", 1), ("https://collector:x", 1), ("https://[::", 1),
        ("https://collector", 0), ("https://collector", 1.1), ("https://collector", float("nan")),
    ],
)  # fmt: skip
def test_collector_that_is_none_or_would_get_spans_in_the_clear_is_refused(url: str, share: float) -> None:
    with pytest.raises(ConfigError) as refused:
        Collector(url, share=share)
    assert "secret" not in str(refused.value)


def test_environment_does_not_say_what_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret")
    with pytest.raises(ConfigError) as refused, traced(Collector("http://127.0.0.1:1")):
        pass
    assert "secret" not in str(refused.value)


def test_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ExtraMissingError) as refused, traced(Collector("http://127.0.0.1:1")):
        pass
    assert "confide[telemetry]" in str(refused.value.hint)


def test_library_is_not_loaded_without_a_collector(tmp_path: Path) -> None:
    code = "import sys, confide.keys.server, confide.keys.telemetry as t\nwith t.traced(None): print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

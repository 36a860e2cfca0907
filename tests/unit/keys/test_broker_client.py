"""The clients against servers that answer anything but what they must: never a key, always an error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from support.broker_world import JOB, World, policy

from confide.canonical import Json, b64url, canonical
from confide.crypto.http import serve_connection
from confide.crypto.http_messages import PROBLEM_TYPE, Request, Response
from confide.crypto.sign import SigningKey, dsse_sign
from confide.crypto.tls import AnyClientKey, Channel, Identity, Listener
from confide.errors import (
    AuditError,
    BrokerError,
    ChannelError,
    ConfideError,
    CredentialError,
    GrantError,
    ProtocolError,
    UnwrapError,
    UsageError,
)
from confide.ids import Purpose, Role, SpkiDigest
from confide.keys.client import NodeBrokerClient, OwnerClient
from confide.keys.connection import Connection
from confide.keys.credentials import Credential
from confide.keys.manifest_claims import PAYLOAD_TYPE

OWNER = Credential("airline", SigningKey.generate())


@contextmanager
def answering(handler: Callable[[Request], Response]) -> Iterator[tuple[str, SpkiDigest]]:
    """A server with an identity of its own that answers with ``handler``."""
    identity = Identity.generate("fake")
    listener = Listener("127.0.0.1", 0, identity, trust=AnyClientKey())

    def serve() -> None:
        try:
            while True:
                channel = listener.accept(10)
                channel.handshake()
                serve_connection(channel, handler)
        except ChannelError:
            return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{listener.address[1]}", identity.spki_digest
    listener.close()


def always(status: int, body: Json | None, **headers: str) -> Callable[[Request], Response]:
    return lambda _: Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


DATASET = "ab" * 16
MANIFEST = dsse_sign(OWNER.key, PAYLOAD_TYPE, canonical({"dataset": DATASET}))
KEY = {
    "dataset_key": b64url(bytes(range(32))),
    "dataset": DATASET,
    "key": "airline/flights",
    "version": 1,
    "expires": "2099-01-01T00:00:00+00:00",
}


def test_answer_with_everything_gives_the_key() -> None:
    with answering(always(200, KEY)) as (url, spki), OwnerClient(url, spki, OWNER) as client:
        assert client.open(MANIFEST).secret.reveal() == bytes(range(32))


@pytest.mark.parametrize("status", [201, 202, 204, 302, 404, 418, 500, 503])
def test_key_under_any_other_status_than_200_is_no_key(status: int) -> None:
    body = None if status == 204 else KEY
    with answering(always(status, body)) as (url, spki), OwnerClient(url, spki, OWNER) as client, pytest.raises(BrokerError) as caught:
        client.open(MANIFEST)
    assert caught.value.facts["status"] == status


@pytest.mark.parametrize("kind", ["text/plain", "application/problem+json", "application/octet-stream"])
def test_key_under_another_content_type_is_no_key(kind: str) -> None:
    with answering(always(200, KEY, content_type=kind)) as (url, spki), OwnerClient(url, spki, OWNER) as client, pytest.raises(BrokerError):
        client.open(MANIFEST)


@pytest.mark.parametrize("field", sorted(KEY))
@pytest.mark.parametrize("value", [None, 7.5, "", "no!", [], True], ids=str)
def test_answer_with_a_missing_or_wrong_field_is_no_key(field: str, value: object) -> None:
    with answering(always(200, {**KEY, field: value})) as (url, spki), OwnerClient(url, spki, OWNER) as client, pytest.raises(BrokerError):
        client.open(MANIFEST)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_key_of_another_length_is_no_key(length: int) -> None:
    """The model's mistake: whatever the key service said became the AES key."""
    body = {**KEY, "dataset_key": b64url(bytes(length))}
    with answering(always(200, body)) as (url, spki), OwnerClient(url, spki, OWNER) as client, pytest.raises(BrokerError):
        client.open(MANIFEST)


def test_time_without_a_zone_is_refused() -> None:
    body = {**KEY, "expires": "2099-01-01T00:00:00"}
    with answering(always(200, body)) as (url, spki), OwnerClient(url, spki, OWNER) as client, pytest.raises(BrokerError):
        client.open(MANIFEST)


def _problem(error: ConfideError, status: int, **changes: object) -> Callable[[Request], Response]:
    return always(status, {**error.to_json(), **changes}, content_type=PROBLEM_TYPE)


def test_refusal_is_raised_as_the_leaf_that_the_broker_raised() -> None:
    refusal = _problem(GrantError("no grant", hint="ask", key="airline/flights"), 403)
    with answering(refusal) as (url, spki), OwnerClient(url, spki, OWNER) as client, pytest.raises(GrantError) as caught:
        client.open(MANIFEST)
    assert (caught.value.message, caught.value.hint, caught.value.facts) == ("no grant", "ask", {"key": "airline/flights"})


@pytest.mark.parametrize("changes", [{"code": "no-such-code"}, {"code": None}, {"message": 3}], ids=str)
def test_refusal_that_is_not_one_is_a_broker_error(changes: dict[str, object]) -> None:
    refusal = _problem(GrantError("no grant"), 403, **changes)
    with answering(refusal) as (url, spki), OwnerClient(url, spki, OWNER) as client, pytest.raises(BrokerError):
        client.open(MANIFEST)


def test_request_that_the_broker_does_not_understand_is_told_as_such() -> None:
    refusal = _problem(ProtocolError("a body is not one JSON object"), 400)
    with answering(refusal) as (url, spki), OwnerClient(url, spki, OWNER) as client, pytest.raises(BrokerError) as caught:
        client.open(MANIFEST)
    assert "does not understand the request: a body is not one JSON object" in caught.value.message
    assert "one version" in str(caught.value.hint)


@pytest.mark.parametrize("number", [2**53, -(2**53), 10**30, float("nan"), float("inf")])
def test_number_that_json_does_not_carry_is_not_sent(number: float) -> None:
    def never(_asked: Request) -> Response:
        raise AssertionError("it was sent")

    with answering(never) as (url, spki), OwnerClient(url, spki, OWNER) as client, pytest.raises(UsageError):
        client.open({"payload": [{"x": number}]})


def test_problem_with_a_server_status_is_a_broker_error() -> None:
    refusal = _problem(GrantError("no grant"), 500)
    with answering(refusal) as (url, spki), OwnerClient(url, spki, OWNER) as client, pytest.raises(BrokerError):
        client.open(MANIFEST)


def test_nobody_listening_is_a_broker_error() -> None:
    listener = Listener("127.0.0.1", 0, Identity.generate("x"), trust=AnyClientKey())
    listener.close()
    with OwnerClient(f"https://127.0.0.1:{listener.address[1]}", OWNER.spki, OWNER) as client, pytest.raises(BrokerError, match="reached"):
        client.keys()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:1", "https://", "https://h:x", "https://h:1/path", "https://u@h:1", "https://h:1?q"])
def test_address_that_is_not_https_host_and_port_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        Connection(url, OWNER.spki, OWNER.identity(), 1.0)


@pytest.mark.parametrize("pin", ["", "ab", "AB" * 32, "zz" * 32])
def test_pin_that_is_not_a_digest_is_refused(pin: str) -> None:
    with pytest.raises(UsageError):
        Connection("https://127.0.0.1:1", SpkiDigest(pin), OWNER.identity(), 1.0)


class _ClosedMeanwhile(Connection):
    """Another thread closes it as soon as this one has looked at its channel, and while it makes one."""

    held: Channel | None = None

    @property
    def _channel(self) -> Channel | None:
        found, self.held = self.held, None
        return found

    @_channel.setter
    def _channel(self, channel: Channel | None) -> None:
        self.held = None


def test_connection_that_two_threads_close_is_closed_and_fails_neither(world: World) -> None:
    connection = _ClosedMeanwhile(world.server.url, world.server.spki, OWNER.identity(), 5.0)
    channel, fresh = connection.channel()
    assert fresh
    connection.held = channel
    connection.close()
    assert channel.closed
    connection.close()


def test_context_with_another_seal_key_is_refused_before_anything_is_sent(world: World) -> None:
    one, other = world.node(), world.node()
    with pytest.raises(UsageError):
        NodeBrokerClient(
            world.server.url,
            world.server.spki,
            identity=one.identity,
            attester=one.attester,
            context=one.context,
            seal_key=other.seal_key,
            role=Role.WORKER,
        )


def test_key_that_was_sealed_for_another_purpose_does_not_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    airline = world.owner("airline")
    _, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy())
    client = world.client(world.node())
    honest = world.broker.release
    monkeypatch.setattr(world.broker, "release", lambda *args, **_: honest(*args[:3], Purpose.WRITE))
    with pytest.raises(UnwrapError):
        client.release(envelope)


def test_key_of_another_dataset_than_asked_for_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    airline = world.owner("airline")
    minted, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy())
    client = world.client(world.node())
    honest = world.broker.release
    monkeypatch.setattr(world.broker, "release", lambda *args, **more: {**honest(*args, **more), "dataset": "ff" * 16})
    with pytest.raises(BrokerError, match="another dataset"):
        client.release(envelope)
    assert minted.dataset != "ff" * 16


def _grants(answer: Json, **changes: object) -> Json:
    return {"grants": {key: {**ref, **changes} for key, ref in answer["grants"].items()}}


@pytest.mark.parametrize(
    "lie",
    [
        lambda answer: {"grants": {}},
        lambda answer: {"grants": None},
        lambda answer: {"grants": {"no key": next(iter(answer["grants"].values()))}},
        lambda answer: _grants(answer, grant=3),
        lambda answer: _grants(answer, policy="cd" * 48),
        lambda answer: {"policies": {}},
        lambda answer: {"policies": None},
        lambda answer: {"policies": dict.fromkeys(answer["policies"])},
        lambda answer: {"policies": dict.fromkeys(answer["policies"], policy(name="laxer").to_json())},
    ],
)
def test_release_that_does_not_say_who_granted_it_and_how_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, lie: Callable[[Json], Json]
) -> None:
    """Nodes judge each other by the owners' policies: an answer without them, or with others than it names, is no release."""
    airline = world.owner("airline")
    _, envelope = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy())
    client = world.client(world.node())
    assert [found.digest for found in client.release(envelope).policies] == [policy().digest]
    honest = world.broker.release
    monkeypatch.setattr(world.broker, "release", lambda *args, **more: (answer := honest(*args, **more)) | lie(answer))
    with pytest.raises(BrokerError):
        client.release(envelope)


@pytest.mark.parametrize(
    ("nonce", "cookie"),
    [
        (None, "kbs-session-id=x"),
        ("", "kbs-session-id=x"),
        ("!", "kbs-session-id=x"),
        (b64url(bytes(31)), "kbs-session-id=x"),
        (b64url(bytes(32)), ""),
        (b64url(bytes(32)), "other=x"),
    ],
)
def test_challenge_that_is_none_makes_no_evidence(world: World, nonce: str | None, cookie: str) -> None:
    node = world.node()
    node.attester.quote = None  # type: ignore[method-assign,assignment]  # calling it would be a TypeError
    with answering(always(200, {"nonce": nonce, "extra-params": {}}, set_cookie=cookie)) as (url, spki):
        client = NodeBrokerClient(
            url,
            spki,
            identity=node.identity,
            attester=node.attester,
            context=node.context,
            seal_key=node.seal_key,
            role=node.role,
        )
        with client, pytest.raises(BrokerError):
            client.audit_head()


@pytest.mark.parametrize("wrapped", [{}, None, {"format": "confide-wrapped-key-v1"}], ids=str)
def test_minted_dataset_without_its_wrapped_key_is_refused(wrapped: object) -> None:
    answer = always(200, {**KEY, "wrapped": wrapped})
    with answering(answer) as (url, spki), OwnerClient(url, spki, OWNER) as client, pytest.raises(BrokerError):
        client.mint_dataset("flights")


@pytest.mark.parametrize("answer", [{"grants": [3]}, {"grants": [{}]}, {"grants": {}}, {}], ids=str)
def test_list_of_grants_that_is_none_is_refused(answer: Json) -> None:
    with answering(always(200, answer)) as (url, spki), OwnerClient(url, spki, OWNER) as client, pytest.raises(BrokerError):
        client.grants()


def test_audit_log_that_the_pinned_broker_did_not_sign_is_refused(world: World) -> None:
    airline = world.owner("airline")
    log = airline.audit()
    answer = {"entries": [entry.to_json() for entry in log.entries], "head": log.head}
    with answering(always(200, answer)) as (url, spki), OwnerClient(url, spki, OWNER) as client:
        with pytest.raises(AuditError):
            client.audit()
        with pytest.raises(AuditError):
            client.audit_head()


def test_grant_id_that_is_none_is_not_sent(world: World) -> None:
    with pytest.raises(UsageError):
        world.stranger(OWNER).revoke("../keys")


# --- credentials ----------------------------------------------------------------------------------------------------


def test_credential_that_others_can_read_is_refused(world: World) -> None:
    made = world.credential("airline")
    path = Credential.path(world.folder / "credentials", "airline")
    assert path.stat().st_mode & 0o777 == 0o600
    assert Credential.load(path.parent, "airline").spki == made.spki
    path.chmod(0o644)
    with pytest.raises(CredentialError, match="other users"):
        Credential.load(path.parent, "airline")


def test_credential_is_never_overwritten_or_invented(world: World) -> None:
    world.credential("airline")
    with pytest.raises(CredentialError, match="exists"):
        Credential.create(world.folder / "credentials", "airline")
    with pytest.raises(CredentialError, match="no credential"):
        Credential.load(world.folder / "credentials", "weather")
    with pytest.raises(UsageError):
        Credential.create(world.folder / "credentials", "../airline")


def test_credential_shows_no_key_when_printed() -> None:
    assert "PRIVATE" not in repr(OWNER)
    assert OWNER.spki in repr(OWNER)

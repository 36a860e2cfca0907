"""Two broker processes on one store, a PostgreSQL server's database or one SQLite file: whichever answers, it is one broker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.broker_world import JOB, MEASUREMENT, World, policy
from support.databases import Place
from support.kbs_guest import Guest
from support.kbs_world import NAME, SECRET, Kbs
from support.several_brokers import BrokerProcess, RoundRobin

from confide.attest.insecure import InsecureAttester, Installation
from confide.errors import ConfideError, CredentialError, GrantError, NonceError
from confide.ids import Role, RunId, Tee
from confide.keys.client import OwnerClient
from confide.keys.kbs.session_records import SKEW
from confide.keys.kbs.sessions import GuestSessions

ROUNDS = 20


@dataclass
class Pair:
    """Two brokers, and the world whose store they serve (with a broker of its own, which sets things up)."""

    kbs: Kbs
    a: BrokerProcess
    b: BrokerProcess

    @property
    def world(self) -> World:
        return self.kbs.world  # type: ignore[no-any-return]

    def guest(self, at: Any) -> Guest:
        return Guest(at, InsecureAttester(self.world.installation, Tee.SGX, MEASUREMENT))


def moved(guest: Guest, at: Any) -> Guest:
    """The guest, at another broker: the same key and cookie, another connection."""
    return Guest(at, guest.attester, guest.key, cookie=guest.cookie, nonce=guest.nonce, token=guest.token)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What the calls return, each made in a thread of its own at the same moment."""
    gate, found = threading.Barrier(len(calls)), [None] * len(calls)

    def call(number: int) -> None:
        gate.wait()
        found[number] = calls[number]()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture
def world(tmp_path: Path, installation: Installation, place: Place) -> Iterator[World]:
    (tmp_path / "world").mkdir()
    made = World(tmp_path / "world", installation, place=place.location)
    yield made
    made.close()


@pytest.fixture
def pair(world: World) -> Iterator[Pair]:
    kbs = Kbs(world)
    with BrokerProcess.start(world) as a, BrokerProcess.start(world) as b:
        yield Pair(kbs, a, b)


def test_whole_cycles_succeed_whichever_broker_answers_each_step(pair: Pair) -> None:
    with RoundRobin([pair.a, pair.b]) as proxy:
        for _ in range(6):
            guest = pair.guest(proxy)
            for step in (guest.auth, guest.attest, lambda: guest.get(NAME)):  # noqa: B023  used at once
                guest.channel = None  # each request on a connection of its own, as many clients have it
                answer = step()
                assert answer.status == 200, answer.json
            guest.channel = None
            by_token = guest.get(NAME, authorization=f"Bearer {guest.token}")
            assert guest.key.open(answer.json).reveal() == guest.key.open(by_token.json).reveal() == SECRET
        assert min(proxy.served) >= 6


def test_session_begun_at_one_broker_is_attested_at_another_and_used_at_a_third(pair: Pair) -> None:
    guest = pair.guest(pair.a)
    guest.auth()
    elsewhere = moved(guest, pair.b)
    assert elsewhere.attest().status == 200
    third = moved(elsewhere, pair.world.server)
    assert third.key.open(third.get(NAME).json).reveal() == SECRET


def test_guest_outlives_the_broker_that_it_began_with(pair: Pair) -> None:
    guest, attested = pair.guest(pair.a), pair.guest(pair.a).ready()
    guest.auth()
    pair.a.kill()
    elsewhere = moved(guest, pair.b)
    assert elsewhere.attest().status == 200
    for found in (elsewhere, moved(attested, pair.b)):
        assert found.key.open(found.get(NAME).json).reveal() == SECRET


def race(pair: Pair) -> list[int]:
    """How many of two brokers took one nonce, in each round."""
    won = []
    for _ in range(ROUNDS):
        guest = pair.guest(pair.a)
        guest.auth()
        message = guest.evidence()
        two = [moved(guest, broker) for broker in (pair.a, pair.b)]
        for one in two:
            one.ask("GET", "/healthz")  # the handshake is over before the race
        answers = at_once(*(partial(one.attest, message) for one in two))
        assert {answer.status for answer in answers} <= {200, 401}
        won.append(sum(answer.status == 200 for answer in answers))
    return won


def test_of_two_brokers_that_race_for_one_nonce_one_wins(pair: Pair) -> None:
    assert race(pair) == [1] * ROUNDS


def test_brokers_that_forget_nonces_both_win(world: World) -> None:
    """The control of the test above: without the defence its race shows."""
    kbs = Kbs(world)
    with BrokerProcess.start(world, forgets_nonces=True) as a, BrokerProcess.start(world, forgets_nonces=True) as b:
        assert 2 in race(Pair(kbs, a, b))


def test_nonce_that_failed_at_one_broker_is_used_up_at_the_other(pair: Pair) -> None:
    guest = pair.guest(pair.a)
    guest.auth()
    good = guest.evidence()
    bad = {**good, "runtime-data": {"nonce": guest.nonce, "tee-pubkey": dict(pair.guest(pair.a).key.public.jwk)}}
    assert guest.attest(bad).json["code"] == "binding-mismatch"
    assert moved(guest, pair.b).attest(good).json["code"] == "nonce-refused"


def test_thief_of_a_cookie_gets_ciphertext_only_at_every_broker(pair: Pair) -> None:
    victim = pair.guest(pair.a).ready()
    thief = pair.guest(pair.b)
    thief.cookie, thief.nonce = victim.cookie, victim.nonce
    assert thief.attest().status == 401
    answer = thief.get(NAME)
    with pytest.raises(ConfideError):
        thief.key.open(answer.json)
    assert victim.key.open(answer.json).reveal() == SECRET


# --- what nodes and owners share ---------------------------------------------------------------------------------------


def test_runs_are_counted_and_tokens_taken_once_across_brokers(pair: Pair) -> None:
    world = pair.world
    airline = world.stranger(world.credential("airline"))
    _, manifest = world.dataset(airline, "airline", "flights")
    airline.grant("flights", job=JOB, policy=policy(), max_runs=1)
    nodes = [world.node(run=RunId(f"delays-{number:012d}"), name=f"worker-{number}") for number in (1, 2)]
    clients = [world.client(node, at=broker) for node, broker in zip(nodes, (pair.a, pair.b), strict=True)]

    def release(client: Any) -> str:
        try:
            client.release(manifest)
        except GrantError as error:
            return error.code
        return "ok"

    assert sorted(at_once(*(partial(release, c) for c in clients))) == ["grant-missing", "ok"]
    token = world.broker.owners.create_enrolment("carrier")

    def enrol(broker: BrokerProcess, name: str) -> str:
        with OwnerClient(broker.url, broker.spki, world.credential(name)) as client:  # type: ignore[arg-type]
            try:
                client._call("POST", "enrol", {"owner": "carrier", "token": token})
            except CredentialError as error:
                return error.code
        return "ok"

    assert sorted(at_once(lambda: enrol(pair.a, "carrier"), lambda: enrol(pair.b, "thief"))) == ["credential-refused", "ok"]


def test_cut_off_and_withdrawal_at_one_broker_count_at_the_other(pair: Pair) -> None:
    world = pair.world
    airline = world.stranger(world.credential("airline"))
    minted, manifest = world.dataset(airline, "airline", "flights")
    grant = airline.grant("flights", job=JOB, policy=policy())
    driver, worker, other = world.node(Role.DRIVER), world.node(), world.node(name="worker-2")
    driver_at_a = world.client(driver, at=pair.a)
    driver_at_a.output("result", inputs=[minted.dataset], recipients=[])
    at_b = [world.client(node, at=pair.b) for node in (worker, other)]
    for client in at_b:
        client.release(manifest)
    driver_at_a.cut_off(worker.context.node)
    with pytest.raises(GrantError):
        at_b[0].release(manifest)
    with OwnerClient(pair.a.url, pair.a.spki, world.credential("airline")) as owner:  # type: ignore[arg-type]
        owner.revoke(grant.id)
    with pytest.raises(ConfideError) as heard:
        at_b[1].watch()
    assert heard.value.code == "key-revoked"


def test_nodes_session_counts_at_its_own_broker_only(pair: Pair) -> None:
    """By design: it is bound to the TLS connection, so its nonce is never another broker's to take."""
    node = pair.world.node()
    here, there = (pair.world.client(node, at=broker) for broker in (pair.a, pair.b))
    here._attest_if_needed()
    there._connection.channel()
    with pytest.raises(ConfideError) as refused:
        there._connection.call("POST", "/confide/v0/audit-head", {}, here._cookie)
    assert refused.value.code == "binding-mismatch"


# --- time ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sessions(world: World) -> GuestSessions:
    return GuestSessions(world.store, nonce_ttl=timedelta(seconds=60), session_ttl=timedelta(minutes=15))


def test_nonce_that_was_swept_is_used_whatever_the_clock_says(world: World, sessions: GuestSessions) -> None:
    from confide.ids import ReportData
    from confide.keys.kbs.messages import AttestRequest, GuestTee
    from confide.keys.kbs.session_records import Guest as Kept
    from confide.keys.kbs.tee_evidence import SampleEvidence
    from confide.keys.kbs.tee_key import TeeKey

    now = world.now()
    cookie, nonce = sessions.begin(GuestTee.SAMPLE, now)
    challenge = sessions.open(cookie, nonce, now)
    guest = Kept(AttestRequest(nonce, TeeKey.generate().public, {}), SampleEvidence("1", ReportData(bytes(64))))
    sessions.admit(challenge, "127.0.0.1:1", guest, "t", now)
    world.store.sweep(now + timedelta(hours=1))
    assert len(sessions) == 0
    for again in (lambda: sessions.admit(challenge, "127.0.0.1:1", guest, "t", now), lambda: sessions.spend(challenge, "", now)):
        with pytest.raises(ConfideError) as refused:
            again()
        assert refused.value.code == "nonce-refused"


@pytest.mark.parametrize(
    ("off", "refused"),
    [(-SKEW, False), (-SKEW - timedelta(seconds=1), True), (timedelta(seconds=59), False), (timedelta(seconds=60), True)],
)
def test_challenge_counts_between_clocks_that_differ_by_a_minute_at_most(
    world: World, sessions: GuestSessions, off: timedelta, refused: bool
) -> None:
    from confide.keys.kbs.messages import GuestTee

    now = world.now()
    cookie, nonce = sessions.begin(GuestTee.SGX, now)
    with pytest.raises(NonceError) if refused else nullcontext():
        sessions.open(cookie, nonce, now + off)

"""Nonces: used late, twice, or by two at once."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from support.attested_session import NODE, RUN, Connect, World, aside
from support.simulated_evidence import NOW

from confide.attest.binding import NonceBook
from confide.attest.policy import Policy
from confide.errors import BindingError, NonceError
from confide.ids import Nonce, ReportData, Role, RunId
from confide.node import session
from confide.node.session import VerifierSide, present


def late(world: World, linked: Connect, *, ttl: timedelta) -> session.AttestedPeer:
    """Evidence that comes two minutes after its challenge."""
    times = iter([datetime.now(UTC), datetime.now(UTC) + timedelta(minutes=2)])
    side = VerifierSide(world.verifier, Policy.from_json(world.job.policy), clock=lambda: next(times), nonces=NonceBook(ttl))
    near, far = linked()
    aside(lambda: present(near, attester=world.attester(), role=Role.WORKER, context=world.context()))
    return world.attest(far, side=side)


def test_evidence_for_an_expired_nonce_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(NonceError, match="expired"):
        late(world, linked, ttl=timedelta(seconds=60))


def test_late_evidence_passes_if_nonces_live_longer(world: World, linked: Connect) -> None:
    assert late(world, linked, ttl=timedelta(minutes=3)).context.node == NODE


def test_nonce_is_used_up_by_a_refusal(world: World) -> None:
    side = world.side
    nonce = side.nonces.issue(datetime.now(UTC))
    presented = session.Presented(Role.WORKER, world.context(run=RunId("other")), world.attester().quote(ReportData(bytes(64))))
    expected = session.Expected(Role.WORKER, world.job.digest, RUN)
    facts = {"side": side, "nonce": nonce, "exporter": bytes(32), "peer_spki": b"peer", "own_spki": b"own", "expected": expected}
    with pytest.raises(BindingError):
        session.judge(presented, **facts)  # type: ignore[arg-type]
    with pytest.raises(NonceError):
        session.judge(presented, **facts)  # type: ignore[arg-type]


def test_nonce_is_not_taken_twice_or_late() -> None:
    book = NonceBook(timedelta(seconds=60))
    used, late = book.issue(NOW), book.issue(NOW)
    book.redeem(used, NOW)
    with pytest.raises(NonceError):
        book.redeem(used, NOW)
    with pytest.raises(NonceError):
        book.redeem(late, NOW + timedelta(minutes=2))


class ChecksThenForgets(NonceBook):
    """The weakened book: looking up and using up are two steps, and another thread comes between."""

    def __init__(self, ttl: timedelta, threads: int) -> None:
        super().__init__(ttl)
        self._between = threading.Barrier(threads)

    def redeem(self, nonce: Nonce, now: datetime) -> None:
        known = nonce in self._expiry
        self._between.wait(10)
        if not known:
            raise NonceError("the nonce is unknown or was used before")
        self._expiry.pop(nonce, None)


def race(book: NonceBook, threads: int) -> int:
    """How many of the threads that redeem one nonce at the same moment succeed."""
    nonce, start, won = book.issue(NOW), threading.Barrier(threads), list[bool]()

    def redeem() -> None:
        start.wait(10)
        with suppress(NonceError):
            book.redeem(nonce, NOW)
            won.append(True)

    runners = [threading.Thread(target=redeem) for _ in range(threads)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    return len(won)


def test_one_nonce_for_many_sessions_at_once_is_taken_once() -> None:
    assert {race(NonceBook(timedelta(seconds=60)), 8) for _ in range(20)} == {1}
    assert race(ChecksThenForgets(timedelta(seconds=60), 8), 8) == 8


def test_nonce_of_one_verifier_is_none_of_another() -> None:
    ours, theirs = NonceBook(timedelta(seconds=60)), NonceBook(timedelta(seconds=60))
    with pytest.raises(NonceError, match="unknown"):
        ours.redeem(theirs.issue(NOW), NOW)

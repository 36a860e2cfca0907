"""Re-attestation on one channel: when a peer is asked, what it may answer, and what its answer is refused for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from confide.attest.binding import report_data
from confide.attest.collateral_sources import FixedCollateral
from confide.attest.evidence import NodeContext
from confide.attest.insecure import Fault, InsecureAttester
from confide.attest.policy import Policy
from confide.attest.verify import Verifier
from confide.canonical import Json
from confide.crypto.seal import SealKey
from confide.crypto.tls import Channel
from confide.errors import (
    AppraisalError,
    AttestationError,
    AttesterError,
    BindingError,
    CollateralError,
    ConfideError,
    EvidenceInvalidError,
    OverdueError,
    ParseError,
    ProtocolError,
)
from confide.ids import Nonce, ReportData, Role, RunId, Tee
from confide.node import reattest
from confide.node.control import Kind
from confide.node.reattest import Pace, Presenter, Standing, Watch
from confide.node.record import EvidenceRecord
from confide.node.session import VerifierSide, attest_peer, parse_challenge, present, utc_now
from confide.node.spec import MAX_REATTEST_GRACE_S, MAX_REATTEST_S, Timing

PACE = Pace(every_s=300, grace_s=120, answer_s=40)


# --- when (pure) ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "due"), [(0, False), (299, False), (300, True), (419, True)])
def test_a_peer_is_due_when_its_interval_is_over(age: float, due: bool) -> None:
    assert Standing(PACE, 1000.0).due(1000.0 + age) is due


@pytest.mark.parametrize(("waited", "due"), [(1, False), (39, False), (40, True)])
def test_an_unanswered_challenge_is_followed_by_another(waited: float, due: bool) -> None:
    assert Standing(PACE, 0.0).asked(300.0).due(300.0 + waited) is due


@pytest.mark.parametrize("asked", [0, 1, 3])
def test_a_peer_is_overdue_when_its_grace_is_over_however_often_it_was_asked(asked: int) -> None:
    standing = Standing(PACE, 0.0)
    for number in range(asked):
        standing = standing.asked(300.0 + 40 * number)
    with pytest.raises(OverdueError) as caught:
        standing.due(420.0)
    assert caught.value.facts == {"age_s": 420, "challenges": asked}


def test_accepted_evidence_begins_a_new_interval() -> None:
    standing = Standing(PACE, 0.0).asked(300.0).accepted(310.0)
    assert (standing.count, standing.due(609.0), standing.due(610.0)) == (1, False, True)


def test_a_nodes_starter_cannot_put_re_attestation_off() -> None:
    longest = Pace.of(Timing(reattest_every_s=MAX_REATTEST_S, reattest_grace_s=MAX_REATTEST_GRACE_S))
    assert longest.every_s + longest.grace_s <= 1200
    for field, value in (("reattest_every_s", 901), ("reattest_grace_s", 301), ("reattest_every_s", 0.5), ("reattest_grace_s", 0)):
        with pytest.raises(ValueError, match=field):
            Timing.model_validate({field: value})


def test_a_challenge_does_not_outlive_its_nonce() -> None:
    assert Pace.of(Timing(nonce_ttl_s=10)).answer_s == 10
    assert Pace.of(Timing(nonce_ttl_s=300)).answer_s == 40


# --- what (over a real channel) ---------------------------------------------------------------------------------------


class Pair:
    """A driver that watches a worker over one TLS channel.  Frames go by hand, so that a test can stand between."""

    def __init__(self, world: Any, run: RunId, near: Channel, far: Channel, **side: Any) -> None:
        self.world, self.near, self.far = world, near, far
        self.context = world.context(run, "worker-1")
        self.side = side.get("side", world.side)
        self.seconds = 0.0
        self.challenges: list[Json] = []
        self.verdicts: list[Json] = []
        self.refused: list[tuple[AttestationError, EvidenceRecord | None]] = []
        shown = threading.Thread(target=lambda: present(near, attester=world.attester(), role=Role.WORKER, context=self.context))
        shown.start()
        self.peer = attest_peer(far, side=self.side, role=Role.WORKER, job=world.job.digest, run=run)
        shown.join()
        self.watch = Watch(
            self.peer,
            far,
            side=self.side,
            pace=PACE,
            now=lambda: self.seconds,
            send=self._sent,
            aside=lambda work: work()(),
            on_refused=lambda error, record: self.refused.append((error, record)),
        )

    def _sent(self, kind: Kind, **fields: object) -> None:
        (self.challenges if kind is Kind.REATTEST else self.verdicts).append({"kind": str(kind), **fields})

    def ask(self, after: float = 300.0) -> Json:
        self.seconds += after
        self.watch.tick()
        return self.challenges[-1]

    def answer(self, challenge: Json, **changes: Any) -> Json:
        """What an honest worker answers on this channel, but for ``changes``."""
        context: NodeContext = changes.get("context", self.context)
        channel: Channel = changes.get("channel", self.near)
        bare = {name: value for name, value in challenge.items() if name != "seq"}
        nonce = parse_challenge({**bare, "kind": "challenge"}, role=Role.WORKER)
        spki = channel.own_spki or b""
        data = report_data(role=Role.WORKER, exporter=channel.exporter(), nonce=nonce, spki=spki, context=context.digest)
        evidence = changes.get("attester", self.world.attester()).quote(data)
        shown = {"role": "worker", "context": context.to_json(), "evidence": evidence.to_json()}
        return {"kind": str(Kind.REATTEST_EVIDENCE), "seq": challenge["seq"], **shown}

    @property
    def code(self) -> str:
        """Why the worker was refused; the verdict says the same and no more."""
        ((error, _),) = self.refused
        assert self.verdicts[-1] == {"kind": "reattest-verdict", "seq": self.verdicts[-1]["seq"], "ok": False, "code": error.code}
        return error.code


@pytest.fixture
def pair(world: Any, run_id: RunId, channels: Callable[..., tuple[Channel, Channel]]) -> Pair:
    return Pair(world, run_id, *channels())


def test_fresh_evidence_on_the_same_channel_is_accepted_and_counted(pair: Pair) -> None:
    for count in (1, 2):
        pair.watch.answered(pair.answer(pair.ask()))
        assert (pair.watch.count, pair.verdicts[-1]) == (count, {"kind": "reattest-verdict", "seq": count, "ok": True})
    assert pair.watch.latest is not None
    assert pair.watch.latest.record.nonce != pair.peer.record.nonce
    assert pair.refused == []


def test_evidence_of_the_beginning_is_refused(pair: Pair) -> None:
    first = pair.peer.record
    frame = pair.answer(pair.ask())
    pair.watch.answered({**frame, "evidence": first.evidence.to_json()})
    assert pair.code == "binding-mismatch"
    assert pair.refused[0][1] is not None


def test_evidence_of_an_earlier_challenge_is_refused(pair: Pair) -> None:
    earlier = pair.answer(pair.ask())
    pair.watch.answered(earlier)
    pair.watch.answered({**earlier, "seq": pair.ask()["seq"]})
    assert pair.code == "binding-mismatch"


def test_evidence_of_another_session_is_refused(pair: Pair, channels: Callable[..., tuple[Channel, Channel]]) -> None:
    other, _ = channels()
    pair.watch.answered(pair.answer(pair.ask(), channel=other))
    assert pair.code == "binding-mismatch"


def test_a_worker_that_changed_its_seal_key_is_refused(pair: Pair) -> None:
    """Its evidence is genuine and bound to the channel: only the comparison with what was accepted shows it."""
    pair.watch.answered(pair.answer(pair.ask(), context=replace(pair.context, seal=SealKey.generate().public_jwk())))
    assert pair.code == "binding-mismatch"
    assert pair.refused[0][0].facts["check"] == "context"


def test_a_worker_that_became_another_good_one_is_refused(world: Any, run_id: RunId, channels: Callable[..., Any]) -> None:
    """The policy accepts both measurements; what runs in a TEE does not change while it runs."""
    other = "cd" * 32
    policy = {**world.job.policy, "measurements": {"sgx": ["ab" * 32, other]}}
    pair = Pair(world, run_id, *channels(), side=VerifierSide(world.verifier, Policy.from_json(policy)))
    pair.watch.answered(pair.answer(pair.ask(), attester=InsecureAttester(world.installation, Tee.SGX, other)))
    assert pair.code == "binding-mismatch"
    assert pair.refused[0][0].facts["check"] == "measurement"


@pytest.mark.parametrize(
    ("fault", "leaf"), [(Fault.OUT_OF_DATE, AppraisalError), (Fault.DEBUG, AppraisalError), (Fault.REVOKED_PCK, EvidenceInvalidError)]
)
def test_a_platform_that_lost_its_good_standing_is_refused_at_once(fault: Fault, leaf: type[AttestationError], pair: Pair) -> None:
    pair.watch.answered(pair.answer(pair.ask(), attester=pair.world.attester(fault)))
    ((error, record),) = pair.refused
    assert isinstance(error, leaf)
    assert record is not None
    assert record.context == pair.context
    pair.ask()
    assert len(pair.challenges) == 1, "who was refused is asked no more"


def test_silence_is_refused_when_the_grace_is_over(pair: Pair) -> None:
    for after in (300.0, 40.0, 40.0):
        pair.ask(after)
    assert [frame["seq"] for frame in pair.challenges] == [1, 2, 3]
    assert len({frame["nonce"] for frame in pair.challenges}) == 3
    pair.ask(40.0)
    assert pair.code == "evidence-overdue"


def test_collateral_that_cannot_be_had_is_no_refusal_until_the_grace_is_over(pair: Pair) -> None:
    good = pair.side.verifier
    pair.side.verifier = Verifier(good._roots, FixedCollateral())
    pair.watch.answered(pair.answer(pair.ask()))
    assert (pair.refused, pair.verdicts) == ([], [])
    pair.side.verifier = good
    pair.watch.answered(pair.answer(pair.ask(40.0)))
    assert pair.watch.count == 1
    pair.side.verifier = Verifier(good._roots, FixedCollateral())
    pair.watch.answered(pair.answer(pair.ask()))
    pair.ask(120.0)
    assert isinstance(pair.refused[0][0], CollateralError)


def test_an_answer_that_comes_after_the_next_challenge_is_not_looked_at(pair: Pair) -> None:
    late = pair.answer(pair.ask(), attester=pair.world.attester(Fault.OUT_OF_DATE))
    challenge = pair.ask(40.0)
    pair.watch.answered(late)
    assert (pair.refused, pair.verdicts) == ([], [])
    pair.watch.answered(pair.answer(challenge))
    assert pair.watch.count == 1


def test_an_answer_is_taken_once_and_only_if_it_was_asked_for(pair: Pair) -> None:
    frame = pair.answer(pair.ask())
    with pytest.raises(ProtocolError, match="not given"):
        pair.watch.answered({**frame, "seq": 2})
    pair.watch.answered(frame)
    with pytest.raises(ProtocolError, match="twice"):
        pair.watch.answered(frame)


@pytest.mark.parametrize(
    "change", [{"seq": 0}, {"seq": True}, {"seq": "1"}, {"more": 1}, {"role": "king"}, {"context": {}}, {"evidence": {}}], ids=str
)
def test_an_answer_of_another_form_is_refused(change: Json, pair: Pair) -> None:
    frame = pair.answer(pair.ask())
    with pytest.raises((ProtocolError, ParseError)):
        pair.watch.answered({**frame, **change})


# --- the presenter ----------------------------------------------------------------------------------------------------


class Troubled:
    """An attester that gives nothing while it is in trouble."""

    tee, simulated = Tee.SGX, True

    def __init__(self, world: Any, failures: int) -> None:
        self.world, self.failures = world, failures

    def quote(self, data: ReportData) -> Any:
        if self.failures:
            self.failures -= 1
            raise AttesterError("busy")
        return self.world.attester().quote(data)


def presenter_of(pair: Pair, *, failures: int = 0) -> tuple[Presenter, list[Json], threading.Event]:
    sent: list[Json] = []
    came = threading.Event()

    def send(kind: Kind, **fields: object) -> None:
        sent.append({"kind": str(kind), **fields})
        came.set()

    attester = Troubled(pair.world, failures)
    presenter = Presenter(pair.near, attester=attester, role=Role.WORKER, context=pair.context, send=send, clock=utc_now, retry_s=0.001)
    return presenter, sent, came


def test_presenter_and_watch_understand_each_other_even_if_the_attester_is_busy_at_first(pair: Pair) -> None:
    presenter, sent, came = presenter_of(pair, failures=3)
    presenter.challenged(pair.ask())
    assert came.wait(10)
    pair.watch.answered(sent[0])
    presenter.verdict(pair.verdicts[-1])
    assert (presenter.count, pair.watch.count) == (1, 1)
    assert presenter.latest is not None
    assert presenter.latest.evidence == pair.watch.latest.record.evidence  # type: ignore[union-attr]


def test_a_verdict_on_nothing_is_refused(pair: Pair) -> None:
    presenter, sent, came = presenter_of(pair)
    with pytest.raises(ProtocolError, match="not shown"):
        presenter.verdict({"kind": "reattest-verdict", "seq": 1, "ok": True})
    presenter.challenged(pair.ask())
    assert came.wait(10)
    presenter.verdict({"kind": "reattest-verdict", "seq": sent[0]["seq"], "ok": True})
    with pytest.raises(ProtocolError, match="not shown"):
        presenter.verdict({"kind": "reattest-verdict", "seq": 1, "ok": True})


def test_a_node_that_is_refused_learns_the_reasons_code(pair: Pair) -> None:
    presenter, *_ = presenter_of(pair)
    with pytest.raises(AppraisalError):
        presenter.verdict({"kind": "reattest-verdict", "seq": 1, "ok": False, "code": "appraisal-refused"})


@pytest.mark.parametrize(
    "change", [{"seq": None}, {"seq": -1}, {"nonce": "AAAA"}, {"protocol": "v0"}, {"more": 1}, {"role": "driver"}], ids=str
)
def test_a_challenge_of_another_form_or_for_another_role_gets_no_evidence(change: Json, pair: Pair) -> None:
    presenter, sent, _ = presenter_of(pair)
    with pytest.raises((ProtocolError, BindingError)) as caught:
        presenter.challenged({**pair.ask(), **change})
    assert isinstance(caught.value, BindingError) == ("role" in change)
    assert sent == []


def test_only_the_newest_of_many_challenges_is_kept(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come, one quote is made at a time and one waits."""
    begun: list[Nonce] = []
    monkeypatch.setattr(reattest.threading.Thread, "start", lambda thread: begun.append(thread.name))
    presenter, *_ = presenter_of(pair)
    challenge = pair.ask()
    for seq in range(1, 50):
        presenter.challenged({**challenge, "seq": seq})
    assert len(begun) == 1
    assert presenter._asked is not None
    assert presenter._asked[0] == 49


def test_a_presenter_whose_channel_broke_stops(pair: Pair) -> None:
    ended = threading.Event()

    def broken(_kind: Kind, **_fields: object) -> None:
        ended.set()
        raise ConfideError("gone")

    presenter = Presenter(pair.near, attester=pair.world.attester(), role=Role.WORKER, context=pair.context, send=broken, clock=utc_now)
    presenter.challenged(pair.ask())
    assert ended.wait(10)
    assert presenter._closed.wait(10)

"""One person alone takes a key that stands under m of n approvals out of its broker: as an export, or in trustees' hands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.broker_world import World
from support.escrow_world import TRUSTEES, Trust

from confide.attest.insecure import Installation
from confide.canonical import Json
from confide.errors import CredentialError, GrantError, ParseError, UsageError
from confide.keys.approvals import Vote, sign_vote
from confide.keys.departures import DEPARTURE_TTL, Departure
from confide.keys.grant_client import DepartureView
from confide.keys.operators import Operation

APPROVERS = ("dan", "eve", "fay")


class Guarded(Trust):
    """The key ``flights`` of the airline needs two of three approvals for each of its grants."""

    def __init__(self, folder: Path, installation: Installation) -> None:
        super().__init__(folder, installation, same_credential=True)
        self.a.dataset(self.airline, "airline", "flights")
        self.people = {name: self.a.owner(name) for name in APPROVERS}
        assert self.airline.set_approvers("flights", 2, APPROVERS) is None

    def export(self, to: World | None = None) -> list[str]:
        at = to or self.b
        client = self.here if to is None else to.stranger(to.credential("airline"))
        return list(self.airline.export_key("flights", client.wrapping_key(), at.server.spki))

    def waits(self, take: Callable[[], list[str]]) -> str:
        """The key does not leave; the id of what waits for approval."""
        with pytest.raises(GrantError, match="approvals of its grants") as caught:
            take()
        return str(caught.value.facts["departure"])

    def approve(self, subject: str, *names: str) -> None:
        for name in names:
            self.people[name].vote(subject, "approve")


@pytest.fixture
def guarded(tmp_path: Path, tee: Installation) -> Iterator[Guarded]:
    made = Guarded(tmp_path, tee)
    yield made
    made.close()


WAYS: dict[str, Callable[[Guarded], list[str]]] = {"export": Guarded.export, "escrow": Guarded.made}


@pytest.mark.parametrize("way", WAYS)
def test_owner_alone_takes_no_key_out_that_stands_under_approvals(guarded: Guarded, way: str) -> None:
    def take() -> list[str]:
        return WAYS[way](guarded)

    subject = guarded.waits(take)
    assert guarded.waits(take) == subject  # asked again, it is the same that waits
    guarded.approve(subject, "dan")
    assert guarded.waits(take) == subject
    guarded.approve(subject, "dan")  # one person twice
    assert guarded.waits(take) == subject
    assert [guarded.a.events(action) for action in ("export-key", "escrow-key")] == [[], []]
    (proposed,) = guarded.a.events(f"{way}-key-proposed")
    assert set(APPROVERS) <= set(proposed["owners"])

    guarded.approve(subject, "eve")
    assert len(take()) == 2
    (left,) = guarded.a.events(f"{way}-key")
    assert set(APPROVERS) <= set(left["owners"])


@pytest.mark.parametrize("way", WAYS)
def test_approvals_are_for_one_leaving(guarded: Guarded, way: str) -> None:
    subject = guarded.waits(lambda: WAYS[way](guarded))
    guarded.approve(subject, "dan", "eve")
    WAYS[way](guarded)
    assert guarded.a.store.find(Vote, subject) == []
    assert guarded.waits(lambda: WAYS[way](guarded)) != subject


def test_approval_of_one_broker_is_none_of_another(guarded: Guarded, tmp_path: Path, tee: Installation) -> None:
    (tmp_path / "thief").mkdir()
    thief = World(tmp_path / "thief", tee)
    thief.owner("airline")
    subject = guarded.waits(guarded.export)
    guarded.approve(subject, "dan", "eve")
    assert guarded.waits(lambda: guarded.export(thief)) != subject
    thief.close()


def test_approval_of_some_trustees_is_none_of_others(guarded: Guarded) -> None:
    subject = guarded.waits(guarded.made)
    guarded.approve(subject, "dan", "eve")
    for others in (lambda: guarded.made(TRUSTEES[:2]), lambda: guarded.made(threshold=3)):
        assert guarded.waits(others) != subject


def test_approval_of_an_escrow_is_none_of_an_export_nor_of_another_key(guarded: Guarded) -> None:
    subject = guarded.waits(guarded.made)
    guarded.approve(subject, "dan", "eve")
    assert guarded.waits(guarded.export) != subject
    guarded.airline.create_key("crews")
    guarded.airline.set_approvers("crews", 1, ["fay"])
    assert guarded.waits(lambda: list(guarded.airline.escrow_key("crews", guarded.pins(), 2))) != subject


def test_approvals_count_no_more_once_taken_back_or_after_a_week_or_when_the_approver_is_withdrawn(guarded: Guarded) -> None:
    subject = guarded.waits(guarded.export)
    guarded.approve(subject, "dan", "eve")
    guarded.people["eve"].take_back(subject)
    assert guarded.waits(guarded.export) == subject
    guarded.people["eve"].vote(subject, "approve")
    guarded.people["eve"].vote(subject, "reject")
    assert guarded.waits(guarded.export) == subject
    guarded.approve(subject, "fay")
    Operation(guarded.a.store, guarded.a.now).withdraw("fay")
    assert guarded.waits(guarded.export) == subject
    guarded.approve(subject, "eve")
    guarded.a.ahead = DEPARTURE_TTL + timedelta(seconds=1)
    assert guarded.waits(guarded.export) != subject


def test_only_approvers_of_the_key_see_and_approve_its_leaving(guarded: Guarded) -> None:
    subject = guarded.waits(guarded.export)
    stranger = guarded.a.owner("stranger")
    assert stranger.grant_list().departures == ()
    waiting = guarded.people["dan"].grant_list().find(subject)
    assert isinstance(waiting, DepartureView)
    assert waiting.departure.told()["to the broker"] == guarded.b.server.spki
    envelope: Json = sign_vote(guarded.a.credential("stranger").key, waiting.departure, "approve", guarded.a.server.spki)
    with pytest.raises(CredentialError, match="no such grant to approve"):
        stranger._call("POST", "approvals/vote", {"subject": subject, "verdict": "approve", "envelope": envelope})
    with pytest.raises(CredentialError, match="sees"):
        guarded.airline.vote("0" * 16, "approve")
    with pytest.raises(CredentialError):
        guarded.airline.vote(subject, "approve")


def test_votes_of_a_leaving_are_signatures_over_exactly_its_terms(guarded: Guarded) -> None:
    """As somebody with the store's keys would put another target in the place of the approved one."""
    subject = guarded.waits(guarded.export)
    guarded.approve(subject, "dan", "eve")
    kept = guarded.a.store.get(Departure, subject)
    assert kept is not None
    guarded.a.store.put(Departure(kept.id, kept.key, kept.way, {**kept.terms, "target": "00" * 32}, kept.created))
    assert guarded.people["dan"].grant_list().find(subject).standing.approved == ()


def test_key_without_a_rule_leaves_at_its_owners_word(guarded: Guarded) -> None:
    guarded.airline.create_key("crews")
    assert len(list(guarded.airline.export_key("crews", guarded.here.wrapping_key(), guarded.b.server.spki))) == 1
    assert len(list(guarded.airline.escrow_key("crews", guarded.pins(), 2))) == 1


@pytest.mark.parametrize("change", [{"way": "mail"}, {"terms": {}}, {"created": "now"}, {"more": 1}, {"key": "flights"}], ids=str)
def test_what_is_no_leaving_is_refused(guarded: Guarded, change: Json) -> None:
    guarded.waits(guarded.export)
    (kept,) = guarded.a.store.find(Departure, "airline/flights")
    with pytest.raises((ParseError, UsageError)):
        Departure.from_json({**kept.to_json(), **change})

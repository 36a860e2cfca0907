"""Whether a key may leave its broker without attestation: its approvers, if it has any, have a word in it as in its grants."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from confide.canonical import Json
from confide.keys.approvals import ApprovalRule, Vote
from confide.keys.callers import Callers
from confide.keys.departures import Departure, Way
from confide.keys.key_records import Key
from confide.keys.limits import RateLimits
from confide.keys.records import Owner
from confide.keys.runs import CLEARED
from confide.keys.standing import Standings
from confide.keys.store import Store


class LeavingKeys(Callers):
    """What commands that let a key leave have in common."""

    def __init__(self, store: Store, clock: Callable[[], datetime], limits: RateLimits | None = None) -> None:
        super().__init__(store, clock, limits)
        self._standings = Standings(store)

    def _waits(self, owner: Owner, key: Key, way: Way, terms: Json) -> Json | None:
        """What an own key's leaving waits for, as an answer; nothing if it may leave now.  Inside the transaction in which it would leave.

        The approvals are those of the rule in force, counted anew, of exactly these terms; this leaving uses them up.
        """
        rule = self._standings.rule(key.id)
        if rule.threshold == 0:
            return None
        asked = Departure.new(key.id, way, terms, self._clock())
        waiting = next((one for one in self._store.find(Departure, key.id) if one.is_as(asked) and asked.created < one.expires), None)
        if waiting is None:
            waiting = asked
            self._propose(owner, rule, asked)
        elif len(self._standings.approved_by(rule, waiting)) >= rule.threshold:
            self._drop(waiting)
            return None
        return {"waits": {**waiting.to_json(), "standing": self._standings.shown(waiting)}}

    def _approvers(self, key: Key) -> list[str]:
        """Who is told of what is done with a key."""
        return self._standings.rule(key.id).names

    def _propose(self, owner: Owner, rule: ApprovalRule, asked: Departure) -> None:
        """Let a leaving wait, in the place of what the owner had asked for in the same way before."""
        self._store.sweep(asked.created, limit=CLEARED)
        for older in self._store.find(Departure, asked.key):
            if older.way == asked.way:
                self._drop(older)
        self._store.put(asked, expires=asked.expires)
        facts = {"departure": asked.id, "key": asked.key, "terms": asked.digest}
        self._note(f"{asked.way}-key-proposed", owner, concerned=rule.names, **facts)

    def _drop(self, departure: Departure) -> None:
        for vote in self._store.find(Vote, departure.id):
            self._store.delete(Vote, vote.id)
        self._store.delete(Departure, departure.id)

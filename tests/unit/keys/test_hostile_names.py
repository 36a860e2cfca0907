"""Names that are SQL, paths or markup: no command takes one, and a store keeps one all the same as what it is.  Both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.broker_attacks import Granted, Raw
from support.broker_world import JOB, World, policy
from support.databases import Place

from confide.attest.insecure import Installation
from confide.canonical import Json
from confide.crypto.http import request
from confide.crypto.tls import Channel, PinnedSpki, connect
from confide.errors import ConfideError
from confide.ids import DatasetId, JobDigest, Purpose, Role, RunId
from confide.keys.audit import new_event
from confide.keys.custody.local import KeyFile
from confide.keys.records import Owner, Release, run_ref
from confide.keys.store import Store

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ALWAYS_TRUE = "x' OR '1'='1"
HOSTILE = [
    "'", "''", ALWAYS_TRUE, "'; DROP TABLE records; --", '"', 'x"; DELETE FROM audit; --', "\\'; --", "%", "_", "x%", "$1", "?", ":name",
    "%s", "%(id)s", "{0}", "x--'", "/* */", "x;", "a/../b", "../../etc/passwd", "%27", "é", "\u2019", "a b", "A", "", "x" * 300, "\x00",
    "x\n", "1/1@1",
]  # fmt: skip
STORABLE = [word for word in HOSTILE if "\x00" not in word]
"""PostgreSQL's text has no NUL."""


# --- the store -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, place: Place) -> Iterator[Store]:
    made = Store.create(place.location, KeyFile.create(tmp_path / "master.key"))
    yield made
    made.close()


def test_store_keeps_any_name_as_what_it_is(store: Store) -> None:
    """In every column that holds a name, and in events of the log: by id, by ref, counted, walked, removed."""
    for number, word in enumerate(STORABLE):
        store.put(Owner(word, f"{number}".encode(), NOW))
        store.put(Release(JobDigest(word), RunId(word), DatasetId(word), Role.DRIVER, Purpose.READ))
        store.append_audit(new_event(word, [word], NOW, **{f"field {word}": word}))
    for number, word in enumerate(STORABLE):
        assert store.get(Owner, word) == Owner(word, f"{number}".encode(), NOW)
        (release,) = store.find(Release, run_ref(RunId(word)))
        assert (release.job, release.run, release.dataset) == (word, word, word)
    assert [entry.event and entry.event["action"] for entry in store.audit()] == STORABLE
    assert sum(len(part) for _, part in store.walk(Owner)) == len(STORABLE)
    assert store.check() == 2 * len(STORABLE)
    for word in STORABLE:
        assert store.delete(Owner, word)
    assert store.check() == len(STORABLE)


def test_such_a_name_in_the_text_of_a_statement_does_harm(store: Store, place: Place) -> None:
    """The control: what a store that pastes names into its statements would do."""
    for name in ("airline", "weather"):
        store.put(Owner(name, name.encode(), NOW))
    found = place.run(f"SELECT id FROM records WHERE kind = 'owner' AND id = '{ALWAYS_TRUE}'")
    assert len(found) >= 2


# --- the broker ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path, installation: Installation, place: Place) -> Iterator[World]:
    made = World(tmp_path, installation, place=place.location)
    yield made
    made.close()


def _commands(word: str, granted: Granted) -> list[tuple[str, str, Json]]:
    """Owners' commands with the word in the place of each name."""
    grant = {
        "key": "airline/flights", "job": JOB, "policy": policy().to_json(), "roles": ["worker"], "purposes": ["read"], "recipients": [],
        "not_after": None,
    }  # fmt: skip
    envelope, keys = granted.manifest, [word, f"{word}/flights", f"airline/{word}"]
    return [
        ("POST", "enrol", {"owner": word, "token": "x"}),
        ("POST", "enrol", {"owner": "harbour", "token": word}),
        *(("POST", path, {"key": key}) for path in ("keys", "keys/rotate", "keys/rewrap", "datasets") for key in keys),
        ("POST", "keys/retire", {"key": f"airline/{word}", "version": 1}),
        ("POST", "keys/destroy", {"key": f"airline/{word}", "version": 1, "lose_datasets": True}),
        ("POST", "datasets/export", {"key": f"airline/{word}", "start": 0}),
        *(("POST", "grants", {**grant, field: word}) for field in ("key", "job", "signer", "not_after")),
        *(("POST", "grants", {**grant, field: [word]}) for field in ("roles", "purposes", "recipients")),
        ("POST", "approvers", {"key": f"airline/{word}", "threshold": 1, "approvers": ["airline"]}),
        ("POST", "approvers", {"key": "airline/flights", "threshold": 1, "approvers": [word]}),
        ("POST", "approvals/vote", {"subject": word, "verdict": "approve", "envelope": envelope}),
        ("POST", "approvals/vote", {"subject": granted.grant.id, "verdict": word, "envelope": envelope}),
        ("POST", "approvals/take-back", {"subject": word}),
    ]


@pytest.mark.slow
def test_no_command_takes_a_name_that_is_none(world: World) -> None:
    """Each is refused for what it is - never a failure inside, never done - and everything is there afterwards."""
    granted = Granted(world)
    host, port = world.server.url.removeprefix("https://").split(":")
    done = actions(world)
    with connect(host, int(port), world.credential("airline").identity(), trust=PinnedSpki(world.server.spki)) as channel:
        for word in HOSTILE:
            for method, path, body in _commands(word, granted):
                _refused(channel, method, f"/confide/v0/{path}", body)
    raw = Raw(world)
    assert raw.attest(raw.message(raw.auth())) == "ok"
    for word in HOSTILE:
        for path, body in (
            ("outputs", {"name": word, "inputs": [granted.minted.dataset], "recipients": []}),
            ("outputs", {"name": "result", "inputs": [word], "recipients": []}),
            ("cut-off", {"node": word}),
            ("release", {"manifest": granted.manifest, "purpose": word}),
        ):
            _refused(raw.channel, "POST", f"/confide/v0/{path}", body, **raw.cookie)
    assert actions(world) <= {*done, "refuse", "attest"}
    assert world.client(world.node()).release(granted.manifest).secret.reveal() == granted.minted.secret.reveal()
    assert world.store.check() > 0


@pytest.mark.parametrize("field", ["job", "run", "name"])
def test_no_node_attests_under_a_name_that_is_none(world: World, field: str) -> None:
    for word in HOSTILE:
        raw = Raw(world, world.node(**{field: word}))
        message = _unless_refused(lambda raw=raw: raw.message(raw.auth()))
        if message is not None:
            assert raw.attest(message) not in ("ok", "confide", "store-unavailable"), word
        raw.channel.close()
    assert world.events("attest") == []


def actions(world: World) -> set[str]:
    return {str(entry.event["action"]) for entry in world.store.audit() if entry.event is not None}


def _unless_refused(make: Callable[[], Json]) -> Json | None:
    try:
        return make()
    except ConfideError:
        return None  # such a context cannot even be written down


def _refused(channel: Channel, method: str, path: str, body: Json, **headers: str) -> None:
    answer = request(channel, method, path, body, headers)
    assert 400 <= answer.status < 500, (path, body)
    assert answer.json is not None
    assert answer.json["code"] != "confide"

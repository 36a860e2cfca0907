"""Keys of several datasets in one request: all of them or none, each decided over and recorded by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
from support.broker_world import JOB, RUN, World, manifest, policy

from confide.canonical import Json
from confide.crypto.seal import seal
from confide.crypto.secret import SecretBytes
from confide.errors import BrokerError, GrantError, ManifestError, ParseError, UnwrapError, UsageError
from confide.ids import Purpose
from confide.keys import portions
from confide.keys.broker import Broker
from confide.keys.client import OwnerClient
from confide.keys.connection import Answer
from confide.keys.records import Release, run_ref
from confide.keys.released_keys import MintedDataset
from confide.keys.seal_contexts import joint_seal_context


class Data:
    """Three datasets of one owner under one granted key, and one under another key that nobody has granted."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.airline = world.owner("airline")
        self.airline.create_key("flights")
        self.airline.create_key("crews")
        self.made = [self._dataset(self.airline, key) for key in ("flights", "flights", "flights", "crews")]
        self.grant = self.airline.grant("flights", job=JOB, policy=policy())
        self.manifests = [envelope for _, envelope in self.made[:3]]
        self.ungranted = self.made[3][1]

    def _dataset(self, owner: OwnerClient, key: str) -> tuple[MintedDataset, Json]:
        minted = owner.mint_dataset(key)
        envelope = manifest(minted, self.world.credential("airline").key)
        owner.register_manifest(envelope)
        return minted, envelope

    def given(self) -> list[Release]:
        """What the store says that the run was given."""
        return self.world.store.find(Release, run_ref(RUN))

    def secrets(self) -> list[bytes]:
        return [minted.secret.reveal() for minted, _ in self.made[:3]]


@pytest.fixture
def data(world: World) -> Data:
    return Data(world)


def test_keys_come_in_the_order_of_their_manifests_and_each_is_recorded(data: Data) -> None:
    client = data.world.client(data.world.node())
    found = client.releases(data.manifests)
    assert [key.secret.reveal() for key in found] == data.secrets()
    alone = client.release(data.manifests[1])
    assert (alone.dataset, alone.grants, alone.policies) == (found[1].dataset, found[1].grants, found[1].policies)
    assert client.releases([]) == []
    events = data.world.events("release")
    assert [event["dataset"] for event in events] == [*(key.dataset for key in found), alone.dataset]
    different = {name for name in events[0] if events[0][name] != events[1][name]}
    assert different == {"dataset", "blind"}
    assert len(data.given()) == 3


@pytest.mark.parametrize("place", [0, 1, 3])
def test_one_refusal_gives_none_and_says_of_which(data: Data, place: int) -> None:
    shown = [*data.manifests[:place], data.ungranted, *data.manifests[place:]]
    with pytest.raises(GrantError, match="covers this job") as refusal:
        data.world.client(data.world.node()).releases(shown)
    assert refusal.value.facts["key"] == "airline/crews"
    assert data.world.events("release") == []
    assert data.given() == []
    (event,) = data.world.events("refuse")
    assert (event["dataset"], event["key"], event["owners"]) == (data.made[3][0].dataset, "airline/crews", ["airline"])


def test_manifest_of_an_unknown_dataset_is_refused_and_is_nobodys_business(data: Data) -> None:
    stranger = MintedDataset("f" * 32, data.made[0][0].key, data.made[0][0].secret, data.made[0][0].wrapped)  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match="does not know"):
        data.world.client(data.world.node()).releases([data.manifests[0], manifest(stranger, data.world.credential("airline").key)])
    (event,) = data.world.events("refuse")
    assert event["owners"] == []
    assert "dataset" not in event


def test_custody_is_asked_once_for_each_key_version_and_what_it_opened_is_wiped(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    opened: list[SecretBytes] = []
    honest = type(data.world.store.kms).unwrap

    def unwrap(kms: Any, wrapped: bytes, *, context: Json) -> SecretBytes:
        asked[str(context["key"])] += 1
        opened.append(honest(kms, wrapped, context=context))
        return opened[-1]

    monkeypatch.setattr(type(data.world.store.kms), "unwrap", unwrap)
    data.world.client(data.world.node()).releases(data.manifests)
    assert asked == {"airline/flights": 1}
    assert [len(kek) for kek in opened] == [0]


def test_client_asks_in_portions(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    honest = data.world.broker.releases

    def releases(peer: Any, session: str, manifests: list[Json], *rest: Any, **more: Any) -> Json:
        asked.append(len(manifests))
        return honest(peer, session, manifests, *rest, **more)

    monkeypatch.setattr(data.world.broker, "releases", releases)
    client = data.world.client(data.world.node())
    monkeypatch.setattr(portions, "MAX_MANIFESTS", 2)
    assert [key.secret.reveal() for key in client.releases(data.manifests)] == data.secrets()
    monkeypatch.setattr(portions, "_PORTION_CHARS", 10)
    assert [key.secret.reveal() for key in client.releases(data.manifests)] == data.secrets()
    assert asked == [2, 1, 1, 1, 1]


@pytest.mark.parametrize("manifests", [[], [{}] * 101], ids=len)
def test_none_and_too_many_are_refused_and_recorded(data: Data, manifests: list[Json]) -> None:
    client = data.world.client(data.world.node())
    client.release(data.manifests[0])
    with pytest.raises(UsageError, match="1 to 100"):
        client._ask("POST", "/confide/v0/releases", {"manifests": manifests, "purpose": "read"})
    assert data.world.refusals() == [("release", "usage")]


@pytest.mark.parametrize(
    "body",
    [{"manifests": [1], "purpose": "read"}, {"manifests": {}, "purpose": "read"}, {"manifests": []}, {"manifests": [], "purpose": "use"}],
    ids=str,
)
def test_other_bodies_are_no_request(data: Data, body: Json) -> None:
    with pytest.raises(ParseError, match="several releases"):
        data.world.client(data.world.node())._ask("POST", "/confide/v0/releases", body)


def _as_if_asked(data: Data, monkeypatch: pytest.MonkeyPatch, change: Callable[[list[Json]], list[Json]]) -> None:
    """The broker answers as if it had been asked for other manifests."""
    broker = Broker.releases

    def releases(self: Broker, peer: Any, session: str, manifests: list[Json], *rest: Any, **more: Any) -> Json:
        return broker(self, peer, session, change(manifests), *rest, **more | {"groups": None})

    monkeypatch.setattr(data.world.broker, "releases", MethodType(releases, data.world.broker))


def _as_if_answered(data: Data, monkeypatch: pytest.MonkeyPatch, change: Callable[[Json], Json | None]) -> None:
    """Somebody changes the broker's answer, or answers something else, and nothing else of it is amiss."""

    def releases(self: Broker, *given: Any, **more: Any) -> Json:
        answer = Broker.releases(self, *given, **more)
        return change(answer) or answer

    monkeypatch.setattr(data.world.broker, "releases", MethodType(releases, data.world.broker))


def _reversed(manifests: list[Json]) -> list[Json]:
    return manifests[::-1]


@pytest.mark.parametrize(
    "change", [_reversed, lambda shown: shown[:-1], lambda shown: [*shown, shown[0]]], ids=["in another order", "fewer", "more"]
)
def test_answer_for_others_than_were_asked_for_is_no_key(data: Data, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    client = data.world.client(data.world.node())
    _as_if_asked(data, monkeypatch, change)
    with pytest.raises(BrokerError, match=r"another (dataset.s key|number of datasets)"):
        client.releases(data.manifests)


def test_it_is_by_their_datasets_that_keys_are_told_apart(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answer, "dataset_named", lambda answer, _: answer.dataset())
    _as_if_asked(data, monkeypatch, _reversed)
    found = data.world.client(data.world.node()).releases(data.manifests)
    assert [key.secret.reveal() for key in found] == data.secrets()[::-1], "the check that was taken out"


def test_keys_of_one_request_are_one_jwe_that_another_node_does_not_open(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Json] = []
    _as_if_answered(data, monkeypatch, answers.append)
    node = data.world.node()
    data.world.client(node).releases(data.manifests)
    (answer,) = answers
    assert set(answer) == {"jwe", "releases", "policies"}
    assert [set(one) for one in answer["releases"]] == [{"key", "version", "dataset", "expires", "grants"}] * 3
    context = joint_seal_context(answer["releases"], node.context, Purpose.READ)
    assert node.seal_key.open(answer["jwe"], context=context).reveal() == b"".join(data.secrets())
    with pytest.raises(UnwrapError, match="does not open"):
        data.world.node().seal_key.open(answer["jwe"], context=context)
    with pytest.raises(UnwrapError, match="another use"):
        node.seal_key.open(answer["jwe"], context=joint_seal_context(answer["releases"], node.context, Purpose.WRITE))


@pytest.mark.parametrize(
    ("field", "value"),
    [("version", 2), ("key", "airline/crews"), ("expires", "2999-01-01T00:00:00+00:00")],
)
def test_what_is_told_of_a_key_is_what_it_was_sealed_for(data: Data, monkeypatch: pytest.MonkeyPatch, field: str, value: object) -> None:
    client = data.world.client(data.world.node())
    _as_if_answered(data, monkeypatch, lambda answer: answer["releases"][1].update({field: value}))
    with pytest.raises(UnwrapError, match="another use"):
        client.releases(data.manifests)


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: answer.pop("jwe") and None,
        lambda answer: answer.pop("policies") and None,
        lambda answer: answer.update(policies={}),
        lambda answer: answer["releases"].__setitem__(-1, 1),
        lambda answer: answer["releases"][0].pop("expires") and None,
        lambda answer: answer["releases"][0].update(version=True),
        lambda answer: answer["releases"][0].update(dataset=None),
    ],
)
def test_answer_that_lacks_something_is_no_key(data: Data, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    client = data.world.client(data.world.node())
    _as_if_answered(data, monkeypatch, change)
    with pytest.raises(BrokerError):
        client.releases(data.manifests)


@pytest.mark.parametrize("length", [1, 64, 95, 97, 128])
def test_another_number_of_bytes_is_not_the_keys(data: Data, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    node = data.world.node()

    def change(answer: Json) -> None:
        context = joint_seal_context(answer["releases"], node.context, Purpose.READ)
        answer["jwe"] = seal(SecretBytes.random(length), node.seal_key.public_jwk(), context=context)

    _as_if_answered(data, monkeypatch, change)
    with pytest.raises(BrokerError, match="not the keys") as refused:
        data.world.client(node).releases(data.manifests)
    assert refused.value.facts == {"expected": 96, "got": length}


def test_keys_that_were_sealed_for_an_earlier_request_are_not_those_of_this_one(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier: list[str] = []
    _as_if_answered(data, monkeypatch, lambda answer: earlier.append(answer["jwe"]))
    client = data.world.client(data.world.node())
    client.releases(data.manifests)
    _as_if_answered(data, monkeypatch, lambda answer: answer.update(jwe=earlier[0]))
    with pytest.raises(UnwrapError, match="another use"):
        client.releases(data.manifests[:2])


def test_keys_that_are_told_of_in_another_order_than_they_lie_in_are_not_opened(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def releases(self: Broker, peer: Any, session: str, manifests: list[Json], *rest: Any, **more: Any) -> Json:
        answer = Broker.releases(self, peer, session, manifests[::-1], *rest, **more)
        answer["releases"].reverse()
        return answer

    monkeypatch.setattr(data.world.broker, "releases", MethodType(releases, data.world.broker))
    with pytest.raises(UnwrapError, match="another use"):
        data.world.client(data.world.node()).releases(data.manifests)

"""Replay: evidence of one session is shown in another."""

from __future__ import annotations

import pytest
from support.attested_session import NODE, Connect, World, replay, without

from confide.errors import BindingError


def test_replayed_evidence_is_refused(world: World, linked: Connect) -> None:
    with pytest.raises(BindingError):
        replay(world, linked)


def test_replay_works_without_nonce_and_exporter(world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "nonce", "exporter")
    assert replay(world, linked).context.node == NODE


@pytest.mark.parametrize("part", ["nonce", "exporter"])
def test_nonce_and_exporter_each_stop_replay_alone(part: str, world: World, linked: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, part)
    with pytest.raises(BindingError):
        replay(world, linked)

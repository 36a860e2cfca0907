"""A client whose channel broke finds the run's driver again, and no other node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from confide.errors import BindingError
from confide.jobs.backend import Address
from confide.jobs.follow import Follower


def rejoin(before: str, found: str) -> list[str]:
    """What happens to a node with the key ``found`` that answers where the driver with the key ``before`` was."""
    done: list[str] = []
    node = SimpleNamespace(peer=SimpleNamespace(spki=found), submit=lambda: done.append("job"), close=lambda: done.append("closed"))
    follower = cast(Any, object.__new__(Follower))
    follower._attested = lambda _host, _port: node
    try:
        follower._rejoin(Address("127.0.0.1", 1), SimpleNamespace(peer=SimpleNamespace(spki=before)))
    except BindingError:
        assert done == ["closed"]
        raise
    return done


def test_the_very_same_driver_gets_the_job_again() -> None:
    assert rejoin("a", "a") == ["job"]


def test_another_attested_node_in_the_drivers_place_is_refused_and_gets_no_job() -> None:
    with pytest.raises(BindingError, match="another node"):
        rejoin("a", "b")

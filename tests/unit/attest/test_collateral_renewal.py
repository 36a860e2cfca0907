"""When a kept set of collateral is renewed, to the second, and what is said of one that is not.  The vendor here is in memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.amd import NOW, Vendor

from confide.attest.collateral_service import (
    REFRESH_BEFORE,
    RETRY_AFTER,
    CollateralService,
    bundle,
    check_signed,
    import_bundle,
    read_bundle,
)
from confide.attest.collateral_sources import AnyCollateral, CollateralStore, FixedCollateral, load_collateral
from confide.attest.roots import TrustRoots
from confide.attest.tpm import TpmCollateral
from confide.errors import CollateralError
from confide.ids import Tee

FOLDER = Path(__file__).parents[2] / "vectors" / "intel" / "collateral"
OLD, NEW = (load_collateral(FOLDER / f"tdx-B0C0-{when}.json") for when in ("2025-06", "2026-08"))
GENOA = ("Genoa", "vcek", Tee.SNP)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


@dataclass
class Service:
    """A vendor's service that answers with one set, or is down."""

    found: AnyCollateral | None
    asked: int = 0

    def get(self, platform: str, ca: str, tee: Tee) -> AnyCollateral:
        self.asked += 1
        if self.found is None:
            raise CollateralError("the service is down", platform=platform, ca=ca, tee=tee.value)
        return self.found


@dataclass
class World:
    """A vendor, its service, and a time that a test sets."""

    vendor: Vendor
    service: Service
    folder: Path
    now: datetime
    stale: datetime

    def collateral(self) -> CollateralService:
        store, roots = CollateralStore(self.folder), TrustRoots(amd=self.vendor.roots)
        return CollateralService(store, roots, intel=FixedCollateral(), amd=self.service, clock=lambda: self.now)


@pytest.fixture
def world(tmp_path: Path) -> World:
    vendor = Vendor("Genoa")
    good = vendor.collateral()
    return World(vendor, Service(good), tmp_path / "kept", NOW, good.epoch.stale_from)


def asked_at(world: World, collateral: CollateralService, *times: datetime) -> list[bool]:
    """Whether the service was asked at each of these times."""
    asked = []
    for world.now in times:
        before = world.service.asked
        collateral.get(*GENOA)
        asked.append(world.service.asked > before)
    return asked


def test_new_set_is_asked_for_three_days_before_the_kept_one_goes_stale(world: World) -> None:
    renew = world.stale - REFRESH_BEFORE
    assert timedelta(days=3) == REFRESH_BEFORE
    assert asked_at(world, world.collateral(), NOW, NOW, renew - SECOND, renew) == [True, False, False, True]


def test_service_that_failed_is_left_alone_for_five_minutes(world: World, caplog: pytest.LogCaptureFixture) -> None:
    collateral, begin = world.collateral(), world.stale - HOUR
    collateral.get(*GENOA)
    world.service.found = None
    times = [begin, begin, begin + RETRY_AFTER - SECOND, begin + RETRY_AFTER, begin + RETRY_AFTER + MINUTE]
    assert timedelta(minutes=5) == RETRY_AFTER
    with caplog.at_level(logging.WARNING):
        assert asked_at(world, collateral, *times) == [True, False, False, True, False]
    assert caplog.messages == ["collateral of Genoa is not renewed: the service is down"] * 2


def test_kept_set_does_not_serve_from_the_second_in_which_it_is_stale(world: World) -> None:
    """Not even while a service that has just failed is left alone."""
    collateral = world.collateral()
    collateral.get(*GENOA)
    world.service.found = None
    assert asked_at(world, collateral, world.stale - MINUTE, world.stale - SECOND) == [True, False]
    world.now = world.stale
    with pytest.raises(CollateralError, match="down"):
        collateral.get(*GENOA)


def test_failure_is_of_one_platform(world: World) -> None:
    collateral = world.collateral()
    collateral.get(*GENOA)
    world.service.found = world.vendor.collateral("vlek")
    collateral.get("Genoa", "vlek", Tee.SNP)
    world.service.found = None
    assert asked_at(world, collateral, world.stale - HOUR) == [True]
    world.service.found = world.vendor.collateral("vlek")
    asked = world.service.asked
    collateral.get("Genoa", "vlek", Tee.SNP)
    assert world.service.asked == asked + 1


@pytest.mark.parametrize("times", [{"issued": NOW + SECOND}, {"until": NOW}], ids=["not yet", "no more"])
def test_answer_that_is_not_current_is_not_kept(world: World, times: dict[str, Any]) -> None:
    world.service.found = world.vendor.collateral(crl=world.vendor.crl(**times))
    with pytest.raises(CollateralError, match=r"stale|not valid yet"):
        world.collateral().get(*GENOA)
    assert list(world.folder.glob("*.json")) == []
    world.service.found = world.vendor.collateral(crl=world.vendor.crl(issued=NOW, until=NOW + SECOND))
    assert world.collateral().get(*GENOA) == world.service.found


def test_time_is_this_machines_unless_another_is_given(tmp_path: Path) -> None:
    vendor = Vendor("Genoa", datetime.now(UTC).replace(microsecond=0))
    service, store = Service(vendor.collateral()), CollateralStore(tmp_path)
    collateral = CollateralService(store, TrustRoots(amd=vendor.roots), intel=FixedCollateral(), amd=service)
    for _ in range(2):
        assert collateral.get(*GENOA) == service.found
    assert service.asked == 1


def test_what_tpms_are_judged_by_is_no_collateral_of_a_vendors(world: World) -> None:
    world.service.found = TpmCollateral("ab" * 32, "2031-01-02T03:04:05+00:00")
    with pytest.raises(CollateralError, match="no service has collateral for TPMs"):
        world.collateral().get(*GENOA)
    with pytest.raises(CollateralError, match="no vendor signs collateral for TPMs"):
        check_signed(world.service.found, TrustRoots())
    with pytest.raises(CollateralError, match="no vendor signs collateral for TPMs"):
        import_bundle(CollateralStore(world.folder), bundle([world.service.found]), TrustRoots())


# --- bundles ----------------------------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: {**data, "more": 1},
        lambda data: {"sets": data["sets"]},
        lambda data: {**data, "sets": {}},
        lambda data: {**data, "format": "confide-collateral-v2"},
        lambda data: {**data, "format": ["confide-collateral-v1"]},
    ],
    ids=["one more", "no format", "no list", "another format", "no text"],
)
def test_bundle_is_its_format_and_sets_and_nothing_else(change: Change) -> None:
    data = bundle([NEW])
    assert read_bundle(data) == [NEW]
    with pytest.raises(CollateralError, match="not a bundle of collateral"):
        read_bundle(change(data))


def test_set_that_is_older_than_the_kept_one_is_left_out_with_a_word(world: World, caplog: pytest.LogCaptureFixture) -> None:
    store, roots, amd = CollateralStore(world.folder), TrustRoots(amd=world.vendor.roots), world.vendor.collateral()
    store.put(NEW)
    with caplog.at_level(logging.WARNING):
        assert import_bundle(store, json.loads(json.dumps(bundle([OLD, amd]))), roots) == [amd]
    (said,) = caplog.messages
    assert said.startswith("collateral of b0c06f000000 is left out: collateral is older")
    assert store.get("b0c06f000000", "platform", Tee.TDX) == NEW

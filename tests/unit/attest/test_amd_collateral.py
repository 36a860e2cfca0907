"""AMD's collateral: read totally, kept by product and kind of key, ordered by its revocation list."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.amd import NOW, Vendor

from confide.attest.amd_collateral import AmdCollateral
from confide.attest.collateral_sources import CollateralStore, load_collateral, read_collateral, save_collateral
from confide.errors import CollateralError
from confide.ids import Tee


@pytest.fixture(scope="module")
def good() -> AmdCollateral:
    return Vendor("Genoa").collateral()


def test_collateral_survives_a_file(good: AmdCollateral, tmp_path: Path) -> None:
    save_collateral(good, tmp_path / "c.json")
    assert load_collateral(tmp_path / "c.json") == good
    assert read_collateral(good.to_json()).digest == good.digest


def test_epoch_is_the_revocation_lists(good: AmdCollateral) -> None:
    assert good.epoch.to_json() == {
        "crl_number": 4,
        "crl_issued": "2030-05-22T00:00:00Z",
        "earliest_next_update": "2030-06-21T00:00:00Z",
    }
    assert good.issued == NOW - timedelta(days=10)


def test_set_without_a_list_is_older_than_any_with_one(good: AmdCollateral) -> None:
    bare = Vendor("Genoa").collateral(crl=b"")
    assert bare.epoch.crl_number == -1
    good.epoch.check_not_older_than(bare.epoch)
    with pytest.raises(CollateralError, match="older"):
        bare.epoch.check_not_older_than(good.epoch)


def test_store_keeps_one_set_for_each_product_and_kind_of_key(tmp_path: Path) -> None:
    store = CollateralStore(tmp_path)
    sets = [Vendor(product).collateral(kind) for product in ("Milan", "Turin") for kind in ("vcek", "vlek")]
    for one in sets:
        store.put(one)
    assert {path.name for path in tmp_path.glob("*.json")} == {f"snp-{p}-{k}.json" for p in ("milan", "turin") for k in ("vcek", "vlek")}
    assert [store.get(one.product, one.key, Tee.SNP) for one in sets] == sets
    (tmp_path / "snp-turin-vcek.json").write_bytes((tmp_path / "snp-milan-vcek.json").read_bytes())
    with pytest.raises(CollateralError, match="another platform"):
        store.get("Turin", "vcek", Tee.SNP)


@pytest.mark.parametrize(("product", "key"), [("Rome", "vcek"), ("milan", "vcek"), ("../Milan", "vcek"), ("Milan", "platform"), ("", "")])
def test_store_has_nothing_for_other_names(tmp_path: Path, product: str, key: str) -> None:
    with pytest.raises(CollateralError):
        CollateralStore(tmp_path).get(product, key, Tee.SNP)


@pytest.mark.parametrize(
    "change",
    [
        {"product": "Rome"},
        {"key": "pek"},
        {"chain": ""},
        {"chain": "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"},
        {"crl": "zz"},
        {"crl": "00"},
        {"crl": 5},
        {"chain": "x" * 70_000},
        {"more": ""},
    ],
    ids=str,
)
def test_collateral_that_is_none_is_refused(good: AmdCollateral, change: dict[str, Any]) -> None:
    with pytest.raises(CollateralError):
        read_collateral({**good.to_json(), **change})


def test_chain_of_another_length_is_refused(good: AmdCollateral) -> None:
    root = good.chain[good.chain.rindex("-----BEGIN") :]
    for chain in (root, good.chain + root):
        with pytest.raises(CollateralError, match="certifying key"):
            AmdCollateral.from_json({**good.to_json(), "chain": chain})


def test_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps([]))
    with pytest.raises(CollateralError):
        load_collateral(tmp_path / "c.json")

import dataclasses
import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from confide.attest.collateral import Collateral
from confide.attest.collateral_sources import CollateralSources, CollateralStore, FixedCollateral, load_collateral, write_atomic
from confide.errors import CollateralError
from confide.ids import Tee

FOLDER = Path(__file__).parents[2] / "vectors" / "intel" / "collateral"
OLD, NEW = (load_collateral(FOLDER / f"tdx-B0C0-{when}.json") for when in ("2025-06", "2026-08"))


def test_all_real_collateral_is_read_and_survives_json() -> None:
    paths = sorted(FOLDER.glob("*.json"))
    assert len(paths) == 9
    for path in paths:
        collateral = load_collateral(path)
        assert Collateral.from_json(collateral.to_json()) == collateral
        assert collateral.tee.value == path.name[:3]
        assert collateral.issued < collateral.epoch.stale_from


def test_epoch_holds_the_numbers_of_the_vendor() -> None:
    assert (NEW.epoch.tcb_eval, NEW.epoch.qe_eval, NEW.fmspc, NEW.ca) == (20, 19, "b0c06f000000", "platform")
    assert NEW.epoch.to_json()["earliest_next_update"] == "2026-09-11T23:57:11Z"


def test_store_gives_back_what_it_keeps(tmp_path) -> None:
    store = CollateralStore(tmp_path / "new")
    store.put(OLD)
    assert store.get("B0C06F000000", "platform", Tee.TDX) == OLD
    store.put(NEW)
    assert store.get("b0c06f000000", "platform", Tee.TDX) == NEW
    assert CollateralStore(tmp_path / "new").get("b0c06f000000", "platform", Tee.TDX) == NEW


def test_store_refuses_a_roll_back(tmp_path) -> None:
    store = CollateralStore(tmp_path)
    store.put(NEW)
    with pytest.raises(CollateralError, match="older"):
        store.put(OLD)
    assert store.get("b0c06f000000", "platform", Tee.TDX) == NEW


def test_an_older_revocation_list_alone_is_a_roll_back() -> None:
    mixed = dataclasses.replace(NEW, pck_crl=OLD.pck_crl)
    with pytest.raises(CollateralError) as caught:
        mixed.epoch.check_not_older_than(NEW.epoch)
    assert caught.value.facts["field"] == "pck_crl_issued"


@pytest.mark.parametrize(
    ("fmspc", "ca"), [("000000000000", "platform"), ("../../../etc", "platform"), ("b0c06f000000", "../x"), ("", "platform")]
)
def test_store_has_nothing_for_other_names(tmp_path, fmspc, ca) -> None:
    store = CollateralStore(tmp_path)
    store.put(NEW)
    with pytest.raises(CollateralError):
        store.get(fmspc, ca, Tee.TDX)


def test_file_of_another_platform_under_the_name_is_refused(tmp_path) -> None:
    store = CollateralStore(tmp_path)
    store.put(NEW)
    (tmp_path / "tdx-b0c06f000000-platform.json").rename(tmp_path / "sgx-b0c06f000000-platform.json")
    with pytest.raises(CollateralError, match="another platform"):
        store.get("b0c06f000000", "platform", Tee.SGX)


def test_sources_are_asked_in_order() -> None:
    sources = CollateralSources(FixedCollateral(), FixedCollateral(OLD), FixedCollateral(NEW))
    assert sources.get(OLD.fmspc, "platform", Tee.TDX) == OLD
    with pytest.raises(CollateralError):
        sources.get(OLD.fmspc, "platform", Tee.SGX)


@pytest.mark.parametrize(
    "change",
    [
        {"extra": "x"},
        {"pck_crl": "zz"},
        {"pck_crl": "3000"},
        {"tcb_info": "[]"},
        {"tcb_info": "{"},
        {"tcb_info": "{}"},
        {"tcb_info": 5},
        {"qe_identity": "{}"},
        {"tcb_info_issuer_chain": "junk"},
        {"tcb_info": " " * 600_000},
    ],
    ids=str,
)
def test_collateral_that_does_not_parse_is_refused(change) -> None:
    with pytest.raises(CollateralError):
        Collateral.from_json({**NEW.to_json(), **change})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"tcbEvaluationDataNumber":20', '"tcbEvaluationDataNumber":true'),
        ('"nextUpdate":"2026-09-12T10:45:38Z"', '"nextUpdate":"tomorrow"'),
        ('"id":"TDX"', '"id":"XYZ"'),
    ],
)
def test_tcb_info_with_a_field_of_the_wrong_type_is_refused(old, new) -> None:
    assert old in NEW.tcb_info
    with pytest.raises(CollateralError):
        Collateral.from_json({**NEW.to_json(), "tcb_info": NEW.tcb_info.replace(old, new)})


def test_file_that_is_missing_or_no_json_is_refused(tmp_path) -> None:
    with pytest.raises(CollateralError, match="cannot read"):
        load_collateral(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(CollateralError, match="not JSON"):
        load_collateral(tmp_path / "bad.json")


def test_what_a_set_is_found_by_follows_its_contents() -> None:
    assert NEW.platform == (NEW.fmspc, NEW.ca, NEW.tee)
    changed = dataclasses.replace(NEW, tcb_info=NEW.tcb_info.replace(NEW.fmspc.upper(), "0123456789AB"))
    assert changed.platform == ("0123456789ab", NEW.ca, NEW.tee)


def test_digest_names_the_set() -> None:
    assert NEW.digest == Collateral.from_json(NEW.to_json()).digest != OLD.digest


def test_store_is_safe_while_others_write(tmp_path) -> None:
    store = CollateralStore(tmp_path)
    store.put(NEW)
    threads = [threading.Thread(target=CollateralStore(tmp_path).put, args=(NEW,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        assert CollateralStore(tmp_path).get(NEW.fmspc, "platform", Tee.TDX) == NEW
    for thread in threads:
        thread.join()


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fchmod", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_simulated_collateral_has_the_vendors_fields(installation, now) -> None:
    for tee in (Tee.SGX, Tee.TDX):
        simulated = installation.collateral(tee)
        assert set(simulated.to_json()) == set(json.loads((FOLDER / "tdx-B0C0-2026-08.json").read_text()))
        assert simulated.issued <= now < simulated.epoch.stale_from - timedelta(days=7)

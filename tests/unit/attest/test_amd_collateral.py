"""AMD's collateral: read totally, kept by product and kind of key, ordered by its revocation list."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from support.amd import NOW, Vendor, distinguished, rsa_key
from support.der import without_end

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


def test_collateral_that_is_no_object_is_refused(good: AmdCollateral) -> None:
    for nothing in (None, "text", list(good.to_json()), [good.to_json()]):
        with pytest.raises(CollateralError, match="exactly the fields"):
            AmdCollateral.from_json(nothing)


def test_set_has_a_size(good: AmdCollateral) -> None:
    """64 KiB of text; between the digits of hex there may be white space."""
    data = good.to_json()
    room = 64 * 1024 - sum(map(len, data.values()))
    assert AmdCollateral.from_json({**data, "crl": data["crl"] + " " * room}) == good
    with pytest.raises(CollateralError, match="too large"):
        AmdCollateral.from_json({**data, "crl": data["crl"] + " " * (room + 1)})


def test_set_does_not_fill_a_log(good: AmdCollateral) -> None:
    assert repr(read_collateral(good.to_json())) == "AmdCollateral(product='Genoa', key='vcek')"


def test_digest_of_a_set_is_of_its_fields_in_alphabetical_order(good: AmdCollateral) -> None:
    """Receipts and verifiers' memories name sets by it, and other programs may compute it."""
    text = f'{{"chain": {json.dumps(good.chain)}, "crl": "{good.crl.hex()}", "key": "vcek", "product": "Genoa"}}'
    assert good.digest == hashlib.sha384(text.encode()).hexdigest()


def test_revocation_list_has_an_end(good: AmdCollateral) -> None:
    """Without one it would be current for ever."""
    with pytest.raises(CollateralError, match="has no end"):
        AmdCollateral.from_json({**good.to_json(), "crl": without_end(good.crl).hex()})


def test_list_without_a_number_is_the_first(good: AmdCollateral) -> None:
    """It is newer than none, and ordered by when it was issued."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(distinguished("ARK-Genoa"))
    made = builder.last_update(NOW).next_update(NOW + timedelta(days=1)).sign(rsa_key("ARK-Genoa"), SHA384())
    plain = Vendor("Genoa").collateral(crl=made.public_bytes(Encoding.DER))
    assert (plain.epoch.crl_number, plain.epoch.crl_issued) == (0, "2030-06-01T00:00:00Z")
    plain.epoch.check_not_older_than(Vendor("Genoa").collateral(crl=b"").epoch)
    with pytest.raises(CollateralError, match="older"):
        plain.epoch.check_not_older_than(good.epoch)


def test_set_was_signed_when_its_list_was_or_else_its_certificates(good: AmdCollateral) -> None:
    assert good.signed_since == NOW - timedelta(days=10)
    later = Vendor("Genoa").issuer(begin=NOW - timedelta(days=5))
    assert Vendor("Genoa").collateral(issuer=later).signed_since == NOW - timedelta(days=10)
    assert Vendor("Genoa").collateral(issuer=later, crl=b"").signed_since == NOW - timedelta(days=5)


def test_set_counts_from_the_newest_of_its_parts_until_the_first_ends() -> None:
    vendor = Vendor("Genoa")
    short = vendor.issuer(begin=NOW - timedelta(days=5), end=NOW + timedelta(days=5))
    for crl, issued in ((vendor.crl(), 5), (vendor.crl(issued=NOW - timedelta(days=4)), 4), (b"", 5)):
        found = vendor.collateral(issuer=short, crl=crl)
        assert (found.issued, found.epoch.stale_from) == (NOW - timedelta(days=issued), NOW + timedelta(days=5))


def test_chain_of_another_length_is_refused(good: AmdCollateral) -> None:
    root = good.chain[good.chain.rindex("-----BEGIN") :]
    for chain in (root, good.chain + root):
        with pytest.raises(CollateralError, match="certifying key"):
            AmdCollateral.from_json({**good.to_json(), "chain": chain})


def test_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps([]))
    with pytest.raises(CollateralError):
        load_collateral(tmp_path / "c.json")

"""Collateral at its limits: how large a set may be, when it was signed and begins to count, and what is older than what."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from support.der import without_end

from confide.attest.amd_collateral import AmdEpoch
from confide.attest.collateral import Collateral, CollateralEpoch
from confide.attest.collateral_sources import CollateralStore, check_not_older, load_collateral, read_collateral, write_atomic
from confide.errors import CollateralError
from confide.ids import Tee

NEW = read_collateral(json.loads((Path(__file__).parents[2] / "vectors/intel/collateral/tdx-B0C0-2026-08.json").read_text()))
assert isinstance(NEW, Collateral)
EPOCH = NEW.epoch
TCB_ISSUED, QE_ISSUED, LIST_ISSUED = "2026-08-13T10:45:38Z", "2026-08-12T23:57:43Z", "2026-08-12T23:57:11Z"
LIST_ENDS = "2026-09-11T23:57:11Z"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def dated(*, tcb: str = TCB_ISSUED, qe: str = QE_ISSUED) -> Collateral:
    """The set with other times of issue; nobody's signature is looked at here."""
    assert isinstance(NEW, Collateral)
    return replace(
        NEW,
        tcb_info=NEW.tcb_info.replace(f'"issueDate":"{TCB_ISSUED}"', f'"issueDate":"{tcb}"'),
        qe_identity=NEW.qe_identity.replace(f'"issueDate":"{QE_ISSUED}"', f'"issueDate":"{qe}"'),
    )


def test_set_counts_from_the_newest_of_its_parts() -> None:
    for changes, newest in (
        ({}, TCB_ISSUED),
        ({"tcb": "2027-01-01T00:00:00Z"}, "2027-01-01T00:00:00Z"),
        ({"qe": "2027-01-01T00:00:00Z"}, "2027-01-01T00:00:00Z"),
        ({"tcb": "2020-01-01T00:00:00Z", "qe": "2020-01-01T00:00:00Z"}, LIST_ISSUED),
    ):
        assert dated(**changes).issued == moment(newest)


def test_set_is_as_old_as_the_oldest_of_what_is_renewed() -> None:
    """The root's list, which is renewed once a year, makes no set old."""
    for changes, oldest in (
        ({}, LIST_ISSUED),
        ({"tcb": "2026-08-01T00:00:00Z"}, "2026-08-01T00:00:00Z"),
        ({"qe": "2026-08-01T00:00:00Z"}, "2026-08-01T00:00:00Z"),
    ):
        assert dated(**changes).signed_since == moment(oldest)


def test_set_has_a_size() -> None:
    data: dict[str, Any] = NEW.to_json()
    room = 512 * 1024 - sum(map(len, data.values()))
    assert read_collateral({**data, "tcb_info": data["tcb_info"] + " " * room}).platform == NEW.platform
    with pytest.raises(CollateralError, match="too large"):
        read_collateral({**data, "tcb_info": data["tcb_info"] + " " * (room + 1)})


def test_chain_of_one_machine_may_be_there_or_not() -> None:
    data: dict[str, Any] = NEW.to_json()
    assert "pck_certificate_chain" not in data
    for none in ({}, {"pck_certificate_chain": None}, {"pck_certificate_chain": ""}):
        assert read_collateral({**data, **none}) == NEW
    kept = read_collateral({**data, "pck_certificate_chain": "PEM"})
    assert kept.to_json()["pck_certificate_chain"] == "PEM"
    for wrong in ({"pck_crl": None}, {"pck_certificate_chain": 7}, {"other": None}):
        with pytest.raises(CollateralError, match="exactly the fields"):
            read_collateral({**data, **wrong})
    for nothing in (None, [], "text", list(data)):
        with pytest.raises(CollateralError, match="exactly the fields"):
            read_collateral(nothing)


def test_set_does_not_fill_a_log() -> None:
    assert repr(read_collateral({**NEW.to_json(), "pck_certificate_chain": "PEM"})) == "Collateral()"


def test_digest_of_a_set_is_the_same_in_every_version() -> None:
    """Receipts and verifiers' memories name sets by it: it follows what the set says, and neither the order nor the form of its fields."""
    assert NEW.digest == "2e5eadde2d339da4b68a64ccc9bca805d6e374c18eb79b98f656bd06e81446d743867e9298f535d9fb2d18ceb0ed143a"


def revocation_list(issuer: str, *, number: int | None = 1, until: str = LIST_ENDS) -> bytes:
    """A list of whoever; nobody's signature is looked at here."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)])
    builder = x509.CertificateRevocationListBuilder().issuer_name(name)
    builder = builder.last_update(moment(LIST_ISSUED)).next_update(moment(until))
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("name", ["root_ca_crl", "pck_crl"])
def test_list_of_revoked_keys_has_an_end_and_a_number(name: str) -> None:
    """Without an end it would be current for ever, and without a number an older one could not be told from it."""
    assert isinstance(NEW, Collateral)
    issuer = "Intel SGX PCK Platform CA"
    good = revocation_list(issuer)
    read_collateral({**NEW.to_json(), name: good.hex()})
    for wrong, says in ((without_end(good), "has no end"), (revocation_list(issuer, number=None), "has no number")):
        with pytest.raises(CollateralError, match=says):
            read_collateral({**NEW.to_json(), name: wrong.hex()})


def test_kind_of_pck_ca_is_known_by_its_name() -> None:
    assert isinstance(NEW, Collateral)
    for name, kind in (("Intel SGX PCK Platform CA", "platform"), ("Intel SGX PCK Processor CA", "processor")):
        assert replace(NEW, pck_crl=revocation_list(name)).ca == kind
    with pytest.raises(CollateralError, match="not of a PCK CA") as caught:
        read_collateral({**NEW.to_json(), "pck_crl": revocation_list("Intel SGX Root CA").hex()})
    assert caught.value.facts["issuer"] == "Intel SGX Root CA"


@pytest.mark.parametrize("name", ["root_ca_crl", "pck_crl"])
def test_set_goes_stale_with_the_first_of_its_lists(name: str) -> None:
    assert isinstance(NEW, Collateral)
    assert moment(LIST_ENDS) == NEW.epoch.stale_from
    end = "2026-08-14T00:00:00Z"
    short = revocation_list("Intel SGX PCK Platform CA", until=end)
    assert replace(NEW, **{name: short}).epoch.stale_from == moment(end)


@pytest.mark.parametrize("number", ["-1", "true", "1.0", '"20"', "null"])
def test_number_of_an_evaluation_is_one(number: str) -> None:
    assert isinstance(NEW, Collateral)
    changed = replace(NEW, tcb_info=NEW.tcb_info.replace('"tcbEvaluationDataNumber":20', f'"tcbEvaluationDataNumber":{number}'))
    with pytest.raises(CollateralError, match="number of the collateral is missing"):
        _ = changed.epoch
    first = replace(NEW, tcb_info=NEW.tcb_info.replace('"tcbEvaluationDataNumber":20', '"tcbEvaluationDataNumber":0'))
    assert first.epoch.tcb_eval == 0


@pytest.mark.parametrize("name", ["tcb_eval", "qe_eval", "root_crl_number", "pck_crl_number", "root_crl_issued", "pck_crl_issued"])
def test_each_number_of_an_epoch_only_grows(name: str) -> None:
    value = getattr(EPOCH, name)
    smaller = value - 1 if isinstance(value, int) else value.replace("2026", "2025")
    older = replace(EPOCH, **{name: smaller})
    for seen in (EPOCH, older):
        EPOCH.check_not_older_than(seen)
    with pytest.raises(CollateralError, match="older") as caught:
        older.check_not_older_than(EPOCH)
    assert caught.value.facts["field"] == name


@pytest.mark.parametrize("name", ["crl_number", "crl_issued"])
def test_each_number_of_amds_epoch_only_grows(name: str) -> None:
    epoch = AmdEpoch(4, "2030-05-22T00:00:00Z", "2030-06-21T00:00:00Z")
    older = replace(epoch, crl_number=3) if name == "crl_number" else replace(epoch, crl_issued="2030-05-21T00:00:00Z")
    for seen in (epoch, older):
        epoch.check_not_older_than(seen)
    with pytest.raises(CollateralError, match="older"):
        older.check_not_older_than(epoch)


def test_end_of_a_set_is_no_mark_of_its_age() -> None:
    """Vendors may shorten how long a list counts."""
    replace(EPOCH, earliest_next_update="2026-01-01T00:00:00Z").check_not_older_than(EPOCH)


def test_epochs_of_two_vendors_are_not_compared() -> None:
    amd = AmdEpoch(4, "2030-05-22T00:00:00Z", "2030-06-21T00:00:00Z")
    for one, other in ((EPOCH, amd), (amd, EPOCH), (None, EPOCH), (EPOCH, None)):
        with pytest.raises(CollateralError, match="another vendor"):
            check_not_older(one, other)


@pytest.mark.parametrize("change", [
    {"tcb_eval": True}, {"tcb_eval": "20"}, {"pck_crl_issued": 7}, {"more": 1}, {"tcb_eval": None}, {"tcb_eval": 20.0},
], ids=str)  # fmt: skip
def test_mark_of_another_form_is_no_mark(tmp_path: Path, change: dict[str, Any]) -> None:
    store = CollateralStore(tmp_path)
    store.put(NEW)
    (mark,) = tmp_path.glob("*.mark")
    assert CollateralEpoch(**json.loads(mark.read_text())) == EPOCH
    mark.write_text(json.dumps({**EPOCH.to_json(), **change}))
    with pytest.raises(CollateralError, match="not known any more"):
        store.put(NEW)


def test_file_of_a_set_has_a_size(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    text = json.dumps(NEW.to_json())
    path.write_text(text.ljust(1024 * 1024))
    assert load_collateral(path) == NEW
    path.write_text(text.ljust(1024 * 1024 + 1))
    with pytest.raises(CollateralError):
        load_collateral(path)


def test_file_is_written_with_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    for mode in (0o644, 0o600):
        write_atomic(tmp_path / "file", b"x", mode=mode)
        assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    write_atomic(tmp_path / "usual", b"x")
    assert (tmp_path / "usual").stat().st_mode & 0o777 == 0o644


def test_set_that_was_replaced_by_another_process_is_read_anew(tmp_path: Path) -> None:
    reader, writer = CollateralStore(tmp_path), CollateralStore(tmp_path)
    writer.put(dated(tcb="2026-08-01T00:00:00Z"))
    first = reader.get("B0C06F000000", "platform", Tee.TDX)
    assert reader.get("b0c06f000000", "platform", Tee.TDX) is first, "a file that is the same is read once"
    writer.put(NEW)
    assert reader.get("b0c06f000000", "platform", Tee.TDX) == NEW

"""Rules of the SEV-SNP verifier that no forged report shows by itself: what a hostile source of collateral can answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from support.amd import CPUS, NOW, Vendor

from confide.attest import amd_certs
from confide.attest.amd_certs import endorsement_in_table, load_der
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.errors import CollateralError, EvidenceInvalidError, ParseError
from confide.ids import Tee


def _verify(vendor: Vendor, collateral: Any, **changes: Any) -> str:
    verifier = Verifier(TrustRoots(amd=vendor.roots), SimpleNamespace(get=lambda *_: collateral))
    return verifier.verify(vendor.evidence(**changes), NOW).claims.platform


def test_collateral_of_another_product_kind_of_key_or_vendor_is_refused(installation: Any) -> None:
    genoa = Vendor("Genoa")
    assert _verify(genoa, genoa.collateral()) == "Genoa"
    for other in (Vendor("Milan").collateral(), genoa.collateral("vlek"), installation.collateral(Tee.SGX)):
        with pytest.raises(CollateralError, match="another platform"):
            _verify(genoa, other)


@pytest.mark.parametrize(
    ("product", "family", "models"),
    [("Milan", 0x19, {0x00, 0x0F}), ("Genoa", 0x19, {0x10, 0x1F, 0xA0, 0xAF}), ("Turin", 0x1A, {0x00, 0x1F})],
)
def test_each_product_has_its_families_and_models(product: str, family: int, models: set[int]) -> None:
    vendor = Vendor(product)
    collateral = vendor.collateral()
    assert CPUS[product][0] == family
    outside = {(max(models) + 1) & 0xFF, 0x20, 0x9F if product == "Genoa" else 0xA0, *({0x0F} if product == "Genoa" else set())}
    for model in models:
        assert _verify(vendor, collateral, cpu=(family, model)) == product
    for model in outside:
        with pytest.raises(EvidenceInvalidError, match="another processor"):
            _verify(vendor, collateral, cpu=(family, model))
    for wrong in (family - 1, family + 1):
        with pytest.raises(EvidenceInvalidError, match="another processor"):
            _verify(vendor, collateral, cpu=(wrong, min(models)))


def test_claims_say_what_the_report_says() -> None:
    vendor = Vendor("Genoa")
    verifier = Verifier(TrustRoots(amd=vendor.roots), SimpleNamespace(get=lambda *_: vendor.collateral()))
    claims = verifier.verify(vendor.evidence(flags=1), NOW).claims
    assert claims.vendor["author_key_digest"] == "00" * 48
    assert claims.vendor["revocation_list"] is True
    assert len(str(claims.vendor["chip_id_sha384"])) == 96
    assert (claims.simulated, claims.debug, claims.tcb_eval) == (False, False, 0)
    plain = verifier.verify(vendor.evidence(), NOW).claims
    assert plain.vendor["author_key_digest"] == ""
    turin = Vendor("Turin")  # its id is 8 bytes, then zeros
    verifier = Verifier(TrustRoots(amd=turin.roots), SimpleNamespace(get=lambda *_: turin.collateral()))
    assert len(str(verifier.verify(turin.evidence(), NOW).claims.vendor["chip_id_sha384"])) == 96
    provider = SimpleNamespace(get=lambda *_: vendor.collateral("vlek"))
    masked = vendor.evidence(leaf=vendor.leaf("vlek"), flags=2 | 1 << 2, chip_id=b"")
    assert Verifier(TrustRoots(amd=vendor.roots), provider).verify(masked, NOW).claims.vendor["chip_id_sha384"] == ""


def _table(*entries: tuple[bytes, int, int], data: bytes = b"") -> bytes:
    return b"".join(name + start.to_bytes(4, "little") + length.to_bytes(4, "little") for name, start, length in entries) + data


VCEK = bytes.fromhex("63da758de6644564adc5f4b93be8accd")
OTHER = bytes.fromhex("4ab7b379bbac4fe4a02f05aef327c782")


def test_certificate_is_found_in_the_hosts_table_by_its_guid() -> None:
    at = 24 * 3
    table = _table((OTHER, at, 2), (VCEK, at + 2, 3), (bytes(16), 0, 0), data=b"xxyes")
    assert endorsement_in_table(table, "vcek") == b"yes"
    assert endorsement_in_table(table, "vlek") == b""
    assert endorsement_in_table(_table((bytes(16), 0, 0), (VCEK, 48, 3), data=b"yes"), "vcek") == b""  # after the end
    assert endorsement_in_table(_table((VCEK, 24, 3), data=b"yes"), "vcek") == b"yes"
    assert endorsement_in_table(_table((VCEK, 0, 0))[:-1], "vcek") == b""
    for start, length in ((24, 4), (28, 0), (25, 3)):
        with pytest.raises(ParseError, match="outside"):
            endorsement_in_table(_table((VCEK, start, length), data=b"yes"), "vcek")


def test_certificate_over_the_cap_is_refused_before_it_is_read() -> None:
    for length, match in ((4097, "too large"), (4096, "does not parse")):
        with pytest.raises(ParseError, match=match):
            load_der(bytes(length))


def test_key_that_certifies_providers_keys_does_not_certify_chips() -> None:
    """Everything is signed as it must be, by the wrong one of AMD's keys: only its name tells."""
    vendor = Vendor("Genoa")
    wrong = vendor.collateral(issuer=vendor.issuer(name="SEV-VLEK-Genoa"))
    leaf = vendor.leaf(issuer_name="SEV-VLEK-Genoa", signed_by="SEV-VLEK-Genoa")
    with pytest.raises(EvidenceInvalidError, match="another name"):
        _verify(vendor, wrong, leaf=leaf)


def test_entry_whose_guid_has_a_zero_byte_does_not_end_the_table() -> None:
    assert endorsement_in_table(_table((b"\0" + OTHER[1:], 48, 0), (VCEK, 48, 3), data=b"yes"), "vcek") == b"yes"


def test_short_der_element_is_read_exactly() -> None:
    assert [amd_certs._value(data, 2) for data in (b"\x02\x00", b"\x02\x01\x05", b"\x02\x7f" + bytes(127))] == [b"", b"\x05", bytes(127)]
    wrong = (b"", b"\x02", b"\x02\x01", b"\x02\x01\x05\x00", b"\x04\x01\x05", b"\x02\x80" + bytes(128), b"\x02\x81" + bytes(129))
    for data in wrong:
        with pytest.raises(ParseError, match="another form"):
            amd_certs._value(data, 2)


def test_component_of_a_certificates_tcb_is_one_byte() -> None:
    assert [amd_certs._integer(data) for data in (b"\x02\x01\x00", b"\x02\x01\x7f", b"\x02\x02\x00\xff")] == [0, 127, 255]
    for data in (b"\x02\x02\x01\x00", b"\x02\x01\x80", b"\x02\x02\xff\xff"):
        with pytest.raises(ParseError, match="out of range"):
            amd_certs._integer(data)


def test_chips_id_has_its_length_bare_or_as_octets() -> None:
    assert amd_certs._octets(b"c" * 8, 8) == amd_certs._octets(b"\x04\x08" + b"c" * 8, 8) == b"c" * 8
    with pytest.raises(ParseError, match="wrong length"):
        amd_certs._octets(b"\x04\x07" + b"c" * 7, 8)


def test_issuer_that_is_no_ca_certifies_nothing() -> None:
    vendor = Vendor("Genoa")
    leaf = load_der(vendor.leaf())
    amd_certs.check_issued(leaf, vendor.issuer(), ca=False, what="key")
    with pytest.raises(EvidenceInvalidError, match="CA certificate"):
        amd_certs.check_issued(leaf, vendor.issuer(ca=False), ca=False, what="key")
    with pytest.raises(EvidenceInvalidError, match="CA certificate"):
        amd_certs.check_issued(leaf, vendor.issuer(), ca=True, what="key")

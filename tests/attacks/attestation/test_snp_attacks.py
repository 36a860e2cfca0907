"""What an attacker who holds genuine chips, or AMD's other keys, can try against the verifier of SEV-SNP reports.

The vendor is of our own making, with each product's layouts; where a test says so, the attacker owns some of its keys.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from support.amd import NOW, Vendor, der_value, rsa_key, tcb_version

from confide.attest.amd_collateral import AmdCollateral
from confide.attest.collateral_sources import CollateralStore, FixedCollateral
from confide.attest.evidence import Evidence
from confide.attest.policy import Policy
from confide.attest.roots import TrustRoots
from confide.attest.verify import VerifiedEvidence, Verifier
from confide.errors import CollateralError, EvidenceInvalidError
from confide.ids import Tee

PRODUCTS = pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])


@pytest.fixture(scope="module")
def vendor() -> Vendor:
    return Vendor("Genoa")


def verify(vendor: Vendor, evidence: Evidence, collateral: AmdCollateral | None = None, **options: Any) -> VerifiedEvidence:
    roots = TrustRoots(amd=options.get("roots", vendor.roots))
    return Verifier(roots, FixedCollateral(collateral or vendor.collateral())).verify(evidence, options.get("now", NOW))


def refusals(verified: VerifiedEvidence, **changes: Any) -> list[str]:
    data = {"measurements": {"snp": ["5a" * 48]}, "min_tcb": {verified.claims.platform: verified.claims.tcb}}
    policy = Policy.from_json({"name": "p", **data, **changes})
    return [check.name for check in policy.explain(verified, now=NOW) if not check.ok]


# --- what is right is accepted ----------------------------------------------------------------------------------------


@PRODUCTS
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_genuine_report_of_each_product_and_version_is_accepted(product: str, version: int) -> None:
    vendor = Vendor(product)
    verified = verify(vendor, vendor.evidence(version=version))
    assert refusals(verified) == []
    assert verified.claims.tcb == vendor.tcb
    assert verified.claims.platform == product


def test_genuine_report_under_a_providers_key_is_accepted(vendor: Vendor) -> None:
    evidence = vendor.evidence(leaf=vendor.leaf("vlek"), flags=1 << 2)
    verified = verify(vendor, evidence, vendor.collateral("vlek"))
    assert refusals(verified) == []
    assert (verified.claims.vendor["signing_key"], verified.claims.vendor["csp_id"]) == ("vlek", "a-cloud")


# --- chips, keys and certificates -------------------------------------------------------------------------------------


@PRODUCTS
def test_report_of_another_chip_than_the_certificates_is_refused(product: str) -> None:
    """The attacker has two genuine chips, and asks for the certificate of the one whose firmware is new."""
    vendor = Vendor(product)
    with pytest.raises(EvidenceInvalidError, match="another chip"):
        verify(vendor, vendor.evidence(chip_id=b"\xc2" * len(vendor.chip_id)))


def test_turins_short_chip_id_is_compared_whole() -> None:
    vendor = Vendor("Turin")
    with pytest.raises(EvidenceInvalidError, match="another chip"):
        verify(vendor, vendor.evidence(chip_id=vendor.chip_id + b"\x01"))


def test_masked_chip_is_refused_under_a_chips_key(vendor: Vendor) -> None:
    for changes in ({"flags": 2}, {"flags": 2, "chip_id": b""}, {"chip_id": b""}):
        leaf = vendor.leaf(chip_id=bytes(64)) if "chip_id" in changes else None
        with pytest.raises(EvidenceInvalidError, match="does not say which chip") as caught:
            verify(vendor, vendor.evidence(leaf=leaf, **changes))
        assert "VLEK" in (caught.value.hint or "")
    with pytest.raises(EvidenceInvalidError, match="another chip"):
        verify(vendor, vendor.evidence(leaf=vendor.leaf(chip_id=bytes(64))))


def test_report_signed_by_another_key_than_the_certificates_is_refused(vendor: Vendor) -> None:
    with pytest.raises(EvidenceInvalidError, match="signature"):
        verify(vendor, vendor.evidence(key=ec.generate_private_key(ec.SECP384R1())))


def test_certificate_for_a_newer_tcb_of_the_same_chip_is_refused(vendor: Vendor) -> None:
    """A chip that was rolled back to old firmware still has the certificate of its new one: key and TCB must be the report's."""
    for component in vendor.tcb:
        newer = {**vendor.tcb, component: vendor.tcb[component] + 1}
        with pytest.raises(EvidenceInvalidError, match="another TCB"):
            verify(vendor, vendor.evidence(leaf=vendor.leaf(tcb=newer)))


def test_turins_extra_component_counts() -> None:
    vendor = Vendor("Turin")
    assert "fmc" in vendor.tcb
    older = vendor.evidence(tcb=tcb_version({**vendor.tcb, "fmc": 0}, "Turin"))
    with pytest.raises(EvidenceInvalidError, match="another TCB"):
        verify(vendor, older)
    with pytest.raises(EvidenceInvalidError, match="lacks an extension"):
        verify(vendor, vendor.evidence(leaf=vendor.leaf(extensions={"3.9": None})))


@pytest.mark.parametrize(
    ("leaf", "says"),
    [
        (lambda v: v.leaf(ca=True), "CA"),
        (lambda v: v.leaf(name="SEV-Genoa"), "not a VCEK"),
        (lambda v: v.leaf(name="SEV-VLEK"), "lacks an extension"),
        (lambda v: v.leaf("vlek"), "another kind of key"),
        (lambda v: v.leaf(signed_by="ARK-Genoa"), "certified by its issuer"),
        (lambda v: v.leaf(signed_by="nobody"), "certified by its issuer"),
        (lambda v: v.leaf(issuer_name="SEV-Milan"), "certified by its issuer"),
        (lambda v: v.leaf(begin=NOW + timedelta(days=1)), "not valid at this time"),
        (lambda v: v.leaf(end=NOW - timedelta(days=1)), "not valid at this time"),
        (lambda v: v.leaf(key=ec.generate_private_key(ec.SECP256R1())), "P-384"),
        (lambda v: v.leaf(key=rsa_key("x")), "P-384"),
        (lambda v: v.leaf(product="Milan"), "collateral"),
        (lambda v: v.leaf(product="Rome"), "not known here"),
        (lambda v: v.leaf(extensions={"2": None}), "lacks an extension"),
        (lambda v: v.leaf(extensions={"3.3": None}), "lacks an extension"),
        (lambda v: v.leaf(extensions={"3.3": der_value(2, b"\x80")}), "out of range"),
        (lambda v: v.leaf(extensions={"3.3": der_value(2, b"\x01\x00")}), "out of range"),
        (lambda v: v.leaf(extensions={"3.3": der_value(4, b"\x16")}), "another form"),
        (lambda v: v.leaf(extensions={"3.3": der_value(2, b"\x16") + b"\0"}), "another form"),
        (lambda v: v.leaf(chip_id=b"\xc1" * 63), "another form"),
        (lambda v: v.leaf() + b"\0", "does not parse"),
        (lambda v: b"", "without the certificate"),
        (lambda v: v.leaf()[:-1], "does not parse"),
        (lambda v: b"\x30" * 5000, "too large"),
    ],
)
def test_certificate_that_is_not_the_chips_is_refused(vendor: Vendor, leaf: Callable[[Vendor], bytes], says: str) -> None:
    with pytest.raises((EvidenceInvalidError, CollateralError), match=says):
        verify(vendor, vendor.evidence(leaf=leaf(vendor)))


@pytest.mark.parametrize(
    "collateral",
    [
        lambda v: v.collateral(root=Vendor("Milan").root(), issuer=Vendor("Milan").issuer()),
        lambda v: v.collateral(root=v.root(serial=7)),
        lambda v: v.collateral(issuer=v.root()),
        lambda v: v.collateral(issuer=v.issuer(ca=False)),
        lambda v: v.collateral(issuer=v.issuer(name="SEV-VLEK-Genoa")),
        lambda v: v.collateral(issuer=v.issuer(signed_by="SEV-Genoa")),
        lambda v: v.collateral("vlek"),
    ],
    ids=["another product's", "same name and key", "root twice", "no CA", "provider's", "self-signed", "of the other kind"],
)
def test_chain_that_is_not_amds_for_the_product_is_refused(vendor: Vendor, collateral: Callable[[Vendor], AmdCollateral]) -> None:
    with pytest.raises((EvidenceInvalidError, CollateralError)):
        verify(vendor, vendor.evidence(), collateral(vendor))


def test_root_of_one_product_is_none_of_another(vendor: Vendor) -> None:
    """Who can sign for Milan, whose firmware was broken, must not be able to sign for Genoa."""
    (fingerprint,) = vendor.roots
    with pytest.raises(EvidenceInvalidError, match="root of this product"):
        verify(vendor, vendor.evidence(), roots={fingerprint: "Milan"})


@pytest.mark.parametrize("cpu", [(0x19, 0x01), (0x1A, 0x02), (0x17, 0x31)], ids=["Milan", "Turin", "Rome"])
def test_report_of_another_processor_than_the_certificates_is_refused(vendor: Vendor, cpu: tuple[int, int]) -> None:
    with pytest.raises(EvidenceInvalidError, match="another processor"):
        verify(vendor, vendor.evidence(cpu=cpu))


# --- revocation and time ----------------------------------------------------------------------------------------------


def test_revoked_issuer_is_refused(vendor: Vendor) -> None:
    issuer = vendor.issuer(serial=0x5EC)
    collateral = vendor.collateral(issuer=issuer, crl=vendor.crl(0x5EC, 9))
    with pytest.raises(EvidenceInvalidError, match="revoked"):
        verify(vendor, vendor.evidence(), collateral)
    verify(vendor, vendor.evidence(), vendor.collateral(issuer=issuer, crl=vendor.crl(9)))


@pytest.mark.parametrize("changes", [{"signed_by": "SEV-Genoa"}, {"signed_by": "ARK-Milan"}, {"issuer": "ARK-Milan"}], ids=str)
def test_revocation_list_that_the_root_did_not_sign_is_refused(vendor: Vendor, changes: dict[str, str]) -> None:
    with pytest.raises(CollateralError, match="not signed by AMD's root"):
        verify(vendor, vendor.evidence(), vendor.collateral(crl=vendor.crl(**changes)))


def test_collateral_outside_its_time_is_refused(vendor: Vendor) -> None:
    for crl, says in (
        (vendor.crl(until=NOW), "stale"),
        (vendor.crl(issued=NOW + timedelta(seconds=1)), "not valid yet"),
    ):
        with pytest.raises(CollateralError, match=says):
            verify(vendor, vendor.evidence(), vendor.collateral(crl=crl))


def test_revocation_list_is_not_rolled_back(vendor: Vendor, tmp_path: Any) -> None:
    store = CollateralStore(tmp_path)
    store.put(vendor.collateral(crl=vendor.crl(number=5)))
    for older in (
        vendor.crl(number=4),
        vendor.crl(number=5, issued=NOW - timedelta(days=11)),
        b"",
    ):
        with pytest.raises(CollateralError, match="older"):
            store.put(vendor.collateral(crl=older))
    store.put(vendor.collateral(crl=vendor.crl(number=6)))


def test_set_without_a_revocation_list_needs_the_policys_switch(vendor: Vendor) -> None:
    verified = verify(vendor, vendor.evidence(), vendor.collateral(crl=b""))
    assert refusals(verified) == ["revocation-list-missing"]
    assert refusals(verified, allow=["snp-no-revocation-list"]) == []


# --- guest ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"policy": 0x30000 | 1 << 19}, "debug"),
        ({"policy": 0x30000 | 1 << 18}, "migration-agent"),
        ({"vmpl": 1}, "vmpl"),
        ({"measurement": b"\x5b" * 48}, "measurement"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_guest_that_protects_less_is_refused_by_policy(vendor: Vendor, changes: dict[str, Any], check: str) -> None:
    assert refusals(verify(vendor, vendor.evidence(**changes))) == [check]


def test_migration_agent_needs_the_policys_switch(vendor: Vendor) -> None:
    verified = verify(vendor, vendor.evidence(policy=0x30000 | 1 << 18))
    assert refusals(verified, allow=["snp-migration-agent"]) == []


def test_older_firmware_than_the_minimum_is_refused(vendor: Vendor) -> None:
    verified = verify(vendor, vendor.evidence())
    assert refusals(verified, min_tcb={"Genoa": {**vendor.tcb, "snp": vendor.tcb["snp"] + 1}}) == ["tcb"]
    assert refusals(verified, min_tcb={"Genoa": {**vendor.tcb, "snp": vendor.tcb["snp"] - 1}}) == []


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": 1}, "version 2 to 5"),
        ({"version": 6}, "version 2 to 5"),
        ({"policy": 0x10000}, "guest policy"),
        ({"policy": 0x30000 | 1 << 40}, "guest policy"),
        ({"flags": 7 << 2}, "not signed"),
        ({"flags": 2 << 2}, "not signed"),
        ({"flags": 1 << 5}, "reserved"),
        ({"patch": (0x34, b"\x02")}, "ECDSA"),
        ({"patch": (0x4C, b"\x01")}, "reserved"),
        ({"patch": (0x18C, b"\x01")}, "reserved"),
        ({"patch": (0x1EB, b"\x01")}, "reserved"),
        ({"patch": (0x200, b"\x01")}, "reserved"),
        ({"patch": (0x183, b"\x01")}, "reserved bytes of a TCB"),
        ({"version": 2, "patch": (0x188, b"\x19")}, "reserved"),
    ],
    ids=str,
)
def test_report_with_anything_unknown_in_it_is_refused(vendor: Vendor, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(EvidenceInvalidError, match=says):
        verify(vendor, vendor.evidence(**changes))


def test_mitigation_vectors_are_of_version_5_only(vendor: Vendor) -> None:
    vectors = (0x1F8, bytes(range(1, 17)))
    verify(vendor, vendor.evidence(version=5, patch=vectors))
    for older in (3, 4):
        with pytest.raises(EvidenceInvalidError, match="reserved"):
            verify(vendor, vendor.evidence(version=older, patch=vectors))


@pytest.mark.parametrize("tail", [b"", b"\0", b"\x01" * 100], ids=len)
def test_bytes_cut_off_or_added_are_refused(vendor: Vendor, tail: bytes) -> None:
    raw = vendor.report()
    with pytest.raises(EvidenceInvalidError, match="1184"):
        verify(vendor, Evidence(Tee.SNP, raw[:-1] if not tail else raw + tail, vendor.leaf()))


def test_second_form_of_the_signature_does_not_make_new_evidence(vendor: Vendor) -> None:
    """(r, n - s) signs the same bytes: the evidence digest, which names a report, stays."""
    evidence = vendor.evidence()
    order = int("FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16)
    s = order - int.from_bytes(evidence.quote[672 + 72 : 672 + 144], "little")
    twin = Evidence(Tee.SNP, evidence.quote[: 672 + 72] + s.to_bytes(72, "little") + evidence.quote[672 + 144 :], evidence.chain)
    assert verify(vendor, twin).claims.evidence_digest == verify(vendor, evidence).claims.evidence_digest


def test_zero_and_oversized_numbers_are_no_signature(vendor: Vendor) -> None:
    evidence = vendor.evidence()
    for r, s in ((0, 0), (1, 0), (2**400, 5)):
        raw = evidence.quote[:672] + (r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(512, b"\0")
        with pytest.raises(EvidenceInvalidError, match="signature"):
            verify(vendor, Evidence(Tee.SNP, raw, evidence.chain))


def test_report_is_no_evidence_of_intel_and_the_other_way_round(vendor: Vendor) -> None:
    verifier = Verifier(TrustRoots(amd=vendor.roots), FixedCollateral(vendor.collateral()))
    for tee in (Tee.SGX, Tee.TDX):
        with pytest.raises(EvidenceInvalidError):
            verifier.verify(Evidence(tee, vendor.report()), NOW)

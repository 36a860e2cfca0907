"""SEV-SNP: the certificate of the key that signed, or the chain above it, is the attacker's, of another product or of another kind.

Where the attacker owns some of AMD's keys, the test says which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from support.amd import NOW, Vendor, der_value, rsa_key, verify

from confide.attest import amd_certs, snp
from confide.attest.amd_collateral import AmdCollateral
from confide.errors import CollateralError, EvidenceInvalidError

Leaf = Callable[[Vendor], bytes]

NOT_CERTIFIED: dict[str, tuple[Leaf, str]] = {
    "by the root itself": (lambda v: v.leaf(signed_by="ARK-Genoa"), "certified by its issuer"),
    "by the attacker": (lambda v: v.leaf(signed_by="nobody"), "certified by its issuer"),
    "under another issuer's name": (lambda v: v.leaf(issuer_name="SEV-Milan"), "certified by its issuer"),
    "with the rights of a CA": (lambda v: v.leaf(ca=True), "CA"),
}


@pytest.mark.parametrize("case", NOT_CERTIFIED)
def test_certificate_that_the_issuer_did_not_certify_is_refused(amd: Vendor, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    leaf, says = NOT_CERTIFIED[case]
    evidence = amd.evidence(leaf=leaf(amd))
    with pytest.raises(EvidenceInvalidError, match=says):
        verify(amd, evidence)
    monkeypatch.setattr(amd_certs, "check_issued", lambda *_, **__: None)
    assert verify(amd, evidence)


@pytest.mark.parametrize("times", [{"begin": NOW + timedelta(days=1)}, {"end": NOW - timedelta(days=1)}], ids=["early", "late"])
def test_certificate_outside_of_its_time_is_refused(amd: Vendor, monkeypatch: pytest.MonkeyPatch, times: dict[str, object]) -> None:
    evidence = amd.evidence(leaf=amd.leaf(**times))
    with pytest.raises(EvidenceInvalidError, match="not valid at this time"):
        verify(amd, evidence)
    monkeypatch.setattr(snp, "_check_time", lambda endorsement, now: None)
    assert verify(amd, evidence)


def test_certificate_of_another_key_of_the_issuer_is_refused(amd: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The issuer signs other things than chips' keys; only the two names that AMD gives to those are taken."""
    evidence = amd.evidence(leaf=amd.leaf(name="SEV-Genoa"))
    with pytest.raises(EvidenceInvalidError, match="not a VCEK"):
        verify(amd, evidence)
    monkeypatch.setitem(amd_certs._LEAF_NAMES, "SEV-Genoa", "vcek")
    assert verify(amd, evidence)


UNREADABLE: dict[str, tuple[Leaf, str]] = {
    "provider's name, chip's extensions": (lambda v: v.leaf(name="SEV-VLEK"), "lacks an extension"),
    "a provider's": (lambda v: v.leaf("vlek"), "another kind of key"),
    "another curve": (lambda v: v.leaf(key=ec.generate_private_key(ec.SECP256R1())), "P-384"),
    "an RSA key": (lambda v: v.leaf(key=rsa_key("x")), "P-384"),
    "another product": (lambda v: v.leaf(product="Milan"), "collateral"),
    "an unknown product": (lambda v: v.leaf(product="Rome"), "not known here"),
    "no product": (lambda v: v.leaf(extensions={"2": None}), "lacks an extension"),
    "no component": (lambda v: v.leaf(extensions={"3.3": None}), "lacks an extension"),
    "negative component": (lambda v: v.leaf(extensions={"3.3": der_value(2, b"\x80")}), "out of range"),
    "large component": (lambda v: v.leaf(extensions={"3.3": der_value(2, b"\x01\x00")}), "out of range"),
    "octets for a component": (lambda v: v.leaf(extensions={"3.3": der_value(4, b"\x16")}), "another form"),
    "bytes after a component": (lambda v: v.leaf(extensions={"3.3": der_value(2, b"\x16") + b"\0"}), "another form"),
    "a short chip id": (lambda v: v.leaf(chip_id=b"\xc1" * 63), "another form"),
    "a byte added": (lambda v: v.leaf() + b"\0", "does not parse"),
    "a byte cut off": (lambda v: v.leaf()[:-1], "does not parse"),
    "none": (lambda v: b"", "without the certificate"),
    "endless": (lambda v: b"\x30" * 5000, "too large"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_certificate_that_does_not_say_all_that_a_chips_must_is_refused(amd: Vendor, case: str) -> None:
    """There is no control: without the value that is missing or wrong, no later step has anything to compare."""
    leaf, says = UNREADABLE[case]
    with pytest.raises((EvidenceInvalidError, CollateralError), match=says):
        verify(amd, amd.evidence(leaf=leaf(amd)))


# --- the chain above it -----------------------------------------------------------------------------------------------


def _any_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakened check: whatever root the collateral brings is the product's."""
    check = snp.check_issuers

    def weak(collateral: AmdCollateral, roots: Mapping[str, amd_certs.Product]) -> None:
        root = collateral.certificates[1].public_bytes(Encoding.DER)
        check(collateral, {hashlib.sha256(root).hexdigest(): collateral.product})

    monkeypatch.setattr(snp, "check_issuers", weak)


def test_root_of_the_same_name_and_key_is_not_the_pinned_one(amd: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    collateral = amd.collateral(root=amd.root(serial=7))
    with pytest.raises(EvidenceInvalidError, match="root of this product"):
        verify(amd, amd.evidence(), collateral)
    _any_root(monkeypatch)
    assert verify(amd, amd.evidence(), collateral)


def test_root_of_one_product_is_none_of_another(amd: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can sign for Milan, whose firmware was broken, must not be able to sign for Genoa."""
    (fingerprint,) = amd.roots
    with pytest.raises(EvidenceInvalidError, match="root of this product"):
        verify(amd, amd.evidence(), roots={fingerprint: "Milan"})
    _any_root(monkeypatch)
    assert verify(amd, amd.evidence(), roots={fingerprint: "Milan"})


def test_whole_vendor_of_the_attackers_is_refused(amd: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key is the attacker's, under AMD's names; only the pinned root says that it is not AMD."""
    with pytest.raises(EvidenceInvalidError, match="root of this product"):
        verify(amd, amd.evidence(), roots={"ab" * 32: "Genoa"})
    _any_root(monkeypatch)
    assert verify(amd, amd.evidence(), roots={"ab" * 32: "Genoa"})


def test_issuer_that_is_no_ca_is_refused(amd: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    collateral = amd.collateral(issuer=amd.issuer(ca=False))
    with pytest.raises(EvidenceInvalidError, match="CA certificate"):
        verify(amd, amd.evidence(), collateral)
    monkeypatch.setattr(amd_certs, "check_issued", lambda *_, **__: None)
    assert verify(amd, amd.evidence(), collateral)


def test_issuer_that_the_root_did_not_certify_is_refused(amd: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    collateral = amd.collateral(issuer=amd.issuer(signed_by="SEV-Genoa"))
    with pytest.raises(EvidenceInvalidError, match="certified by its issuer"):
        verify(amd, amd.evidence(), collateral)
    monkeypatch.setattr(amd_certs, "check_issued", lambda *_, **__: None)
    assert verify(amd, amd.evidence(), collateral)


def _issuer_with(amd: Vendor, name: str) -> x509.Certificate:
    """AMD's root certified the very key that certifies chips a second time, under the name of another of its purposes."""
    key = rsa_key("SEV-Genoa").public_key()
    return amd.certify(name, key, "ARK-Genoa", ca=True)


def test_key_for_providers_keys_certifies_no_chip(amd: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    collateral = amd.collateral(issuer=_issuer_with(amd, "SEV-VLEK-Genoa"))
    evidence = amd.evidence(leaf=amd.leaf(issuer_name="SEV-VLEK-Genoa"))
    with pytest.raises(EvidenceInvalidError, match="another name"):
        verify(amd, evidence, collateral)
    monkeypatch.setattr(amd_certs, "issuer_name", lambda product, kind: f"SEV-VLEK-{product}")
    assert verify(amd, evidence, collateral)


@pytest.mark.parametrize(
    "collateral",
    [
        lambda v: v.collateral(root=Vendor("Milan").root(), issuer=Vendor("Milan").issuer()),
        lambda v: v.collateral(issuer=v.root()),
        lambda v: v.collateral("vlek"),
    ],
    ids=["another product's", "root twice", "of the other kind"],
)
def test_collateral_of_something_else_is_refused(amd: Vendor, collateral: Callable[[Vendor], AmdCollateral]) -> None:
    """No control: several checks refuse each, and without them the chip's certificate still does not follow from the chain."""
    with pytest.raises((EvidenceInvalidError, CollateralError)):
        verify(amd, amd.evidence(), collateral(amd))

"""A vendor like AMD, with keys of its own: products, chips, certificates, revocation lists and reports, right or wrong on demand."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from confide.attest import snp
from confide.attest.amd_certs import Endorsement
from confide.attest.amd_collateral import AmdCollateral
from confide.attest.collateral_sources import FixedCollateral
from confide.attest.evidence import Evidence
from confide.attest.policy import Policy
from confide.attest.roots import TrustRoots
from confide.attest.snp_report import Report, encode_signature
from confide.attest.verify import VerifiedEvidence, Verifier
from confide.ids import Tee

NOW = datetime.fromisoformat("2030-06-01T00:00:00+00:00")
PSS_SHA384 = PSS(MGF1(hashes.SHA384()), 48)
ARC = "1.3.6.1.4.1.3704.1."
CPUS = {"Milan": (0x19, 0x01), "Genoa": (0x19, 0x11), "Turin": (0x1A, 0x02)}
TCB = {"bootloader": 4, "tee": 1, "snp": 22, "microcode": 213}


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """One key a name, made once in a process; AMD's have 4096 bits."""
    del name
    return rsa.generate_private_key(65537, 2048)


def distinguished(name: str) -> x509.Name:
    """AMD's names: the common name is what counts."""
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Not AMD"), x509.NameAttribute(NameOID.COMMON_NAME, name)])


def der_value(tag: int, content: bytes) -> bytes:
    """One short DER element."""
    return bytes([tag, len(content)]) + content


def tcb_version(tcb: dict[str, int], product: str) -> int:
    """A TCB version as the number in reports."""
    places = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}
    if product != "Turin":
        places = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
    raw = bytearray(8)
    for name, value in tcb.items():
        raw[places[name]] = value
    return int.from_bytes(raw, "little")


@dataclass(frozen=True)
class Vendor:
    """The keys of one product.  ``changes`` of a method are what shall differ from how AMD does it."""

    product: str = "Genoa"
    now: datetime = NOW
    tcb: dict[str, int] = field(default_factory=lambda: dict(TCB))
    chip_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()), repr=False)

    def __post_init__(self) -> None:
        if self.product == "Turin":
            self.tcb.setdefault("fmc", 1)

    @property
    def chip_id(self) -> bytes:
        """What is burnt into the one chip of this vendor."""
        return b"\xc1" * (8 if self.product == "Turin" else 64)

    def certify(self, name: str, key: Any, issuer: str, *, ca: bool, **changes: Any) -> x509.Certificate:
        """A certificate signed by the RSA key named ``issuer``."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(distinguished(name))
            .issuer_name(distinguished(changes.get("issuer_name", issuer)))
            .public_key(key)
            .serial_number(changes.get("serial", x509.random_serial_number()))
            .not_valid_before(changes.get("begin", self.now - timedelta(days=300)))
            .not_valid_after(changes.get("end", self.now + timedelta(days=3000)))
        )
        if ca:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        for oid, value in changes.get("extensions", {}).items():
            builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(ARC + oid), value), critical=False)
        return builder.sign(rsa_key(changes.get("signed_by", issuer)), hashes.SHA384(), rsa_padding=PSS_SHA384)

    def root(self, **changes: Any) -> x509.Certificate:
        """The ARK; always the same one, unless changed."""
        name = f"ARK-{self.product}"
        return _root(self.product, self.now) if not changes else self.certify(name, rsa_key(name).public_key(), name, ca=True, **changes)

    def issuer(self, kind: str = "vcek", **changes: Any) -> x509.Certificate:
        """The ASK or ASVK."""
        name = changes.pop("name", f"SEV-{'VLEK-' if kind == 'vlek' else ''}{self.product}")
        return self.certify(name, rsa_key(name).public_key(), f"ARK-{self.product}", ca=changes.pop("ca", True), **changes)

    def leaf(self, kind: str = "vcek", **changes: Any) -> bytes:
        """The certificate of the chip's key, DER."""
        oids = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
        tcb = changes.pop("tcb", self.tcb)
        extensions = {"2": der_value(0x16, f"{changes.pop('product', self.product)}-B1".encode())}
        extensions |= {oids[name]: der_value(2, b"\0" * (value > 0x7F) + bytes([value])) for name, value in tcb.items()}
        extensions |= {"4": changes.pop("chip_id", self.chip_id)} if kind == "vcek" else {"5": der_value(0x16, b"a-cloud")}
        extensions |= changes.pop("extensions", {})
        extensions = {oid: value for oid, value in extensions.items() if value is not None}
        issuer = f"SEV-{'VLEK-' if kind == 'vlek' else ''}{self.product}"
        name, key = changes.pop("name", f"SEV-{kind.upper()}"), changes.pop("key", self.chip_key)
        made = self.certify(name, key.public_key(), issuer, ca=changes.pop("ca", False), extensions=extensions, **changes)
        return made.public_bytes(Encoding.DER)

    def crl(self, *revoked: int, **changes: Any) -> bytes:
        """The root's revocation list, DER; an empty one revokes nothing."""
        issuer = f"ARK-{self.product}"
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(distinguished(changes.get("issuer", issuer)))
            .last_update(changes.get("issued", self.now - timedelta(days=10)))
            .next_update(changes.get("until", self.now + timedelta(days=20)))
            .add_extension(x509.CRLNumber(changes.get("number", 4)), critical=False)
        )
        for serial in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self.now - timedelta(days=20)).build()
            )
        made = builder.sign(rsa_key(changes.get("signed_by", issuer)), hashes.SHA384(), rsa_padding=PSS_SHA384)
        return made.public_bytes(Encoding.DER)

    def collateral(self, kind: str = "vcek", **changes: Any) -> AmdCollateral:
        """Chain and revocation list."""
        certificates = (changes.get("issuer", self.issuer(kind)), changes.get("root", self.root()))
        chain = "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)
        return AmdCollateral(self.product, kind, chain, changes.get("crl", self.crl()))  # type: ignore[arg-type]

    @property
    def roots(self) -> dict[str, Any]:
        """What a verifier has to trust: fingerprint and product."""
        return {hashlib.sha256(self.root().public_bytes(Encoding.DER)).hexdigest(): self.product}

    def report(self, **changes: Any) -> bytes:
        """A signed report; ``changes`` are fields by name, ``patch`` is (offset, bytes) put in before it is signed."""
        want = {"version": 3, "policy": 0x30000, "vmpl": 0, "report_data": bytes(64), "measurement": b"\x5a" * 48, "key": self.chip_key}
        want |= {"flags": 0, "chip_id": self.chip_id, "tcb": tcb_version(self.tcb, self.product), "patch": (0, b"")} | changes
        family, model = want.get("cpu", CPUS[self.product])
        head = struct.pack(
            "<IIQ16s16sIIQQII64s48s32s48s48s32s32sQ",
            want["version"], 7, want["policy"], b"family", b"image", want["vmpl"], 1, want["tcb"], 3, want["flags"], 0,
            want["report_data"], want["measurement"], b"host", b"\x1d" * 48, bytes(48), b"id", b"\xff" * 32, want["tcb"],
        )  # fmt: skip
        cpu = bytes([family, model, 1]) if want["version"] >= 3 else b""
        tail = struct.pack("<64sQ4B4BQ", want["chip_id"].ljust(64, b"\0"), want["tcb"], 1, 55, 1, 0, 1, 55, 1, 0, want["tcb"])
        signed = bytearray((head + cpu.ljust(0x1A0 - len(head), b"\0") + tail).ljust(672, b"\0"))
        at, patch = want["patch"]
        signed[at : at + len(patch)] = patch
        r, s = decode_dss_signature(want["key"].sign(bytes(signed), ec.ECDSA(hashes.SHA384())))
        return bytes(signed) + encode_signature(r, s)

    def evidence(self, *, leaf: bytes | None = None, **changes: Any) -> Evidence:
        """A report with the certificate of its key."""
        return Evidence(Tee.SNP, self.report(**changes), self.leaf() if leaf is None else leaf)

    def twin(self) -> Vendor:
        """The same vendor with another chip key, and so another chip."""
        return dataclasses.replace(self, chip_key=ec.generate_private_key(ec.SECP384R1()))


@cache
def _root(product: str, now: datetime) -> x509.Certificate:
    name = f"ARK-{product}"
    return Vendor(product, now).certify(name, rsa_key(name).public_key(), name, ca=True)


def verify(vendor: Vendor, evidence: Evidence, collateral: AmdCollateral | None = None, **options: Any) -> VerifiedEvidence:
    """What an honest verifier says that trusts this vendor, and has its collateral."""
    roots = TrustRoots(amd=options.get("roots", vendor.roots))
    return Verifier(roots, FixedCollateral(collateral or vendor.collateral())).verify(evidence, options.get("now", NOW))


def refusals(verified: VerifiedEvidence, **changes: Any) -> list[str]:
    """The rules that genuine evidence does not meet, of a policy for this measurement at this very TCB."""
    data = {"measurements": {"snp": ["5a" * 48]}, "min_tcb": {verified.claims.platform: verified.claims.tcb}}
    policy = Policy.from_json({"name": "p", **data, **changes})
    return [check.name for check in policy.explain(verified, now=NOW) if not check.ok]


def without_part_of_the_platform_check(monkeypatch: pytest.MonkeyPatch, part: Literal["chip", "tcb", "processor"]) -> None:
    """The weakened verifier: one comparison of report and certificate always fits, the other two are made as ever."""
    check = snp._check_platform

    def weak(report: Report, endorsement: Endorsement, tcb: dict[str, int]) -> None:
        if part == "chip":
            report = dataclasses.replace(report, chip_id=b"\1" * 64, masked_chip=False)
            endorsement = dataclasses.replace(endorsement, chip_id=b"\1" * 64)
        if part == "processor":
            report = dataclasses.replace(report, family=None, model=None)
        check(report, endorsement, endorsement.tcb if part == "tcb" else tcb)

    monkeypatch.setattr(snp, "_check_platform", weak)

"""Issues the simulated vendor's certificates and revocation lists.  Knows nothing of files.

Profiles follow Intel's PCK certificate and revocation list profile specification, with this installation's own names and keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from confide.attest.certs import PLATFORM_CA_CN, SGX_EXTENSION, TCB_SIGNER_CN, SgxExtension

ROOT_CN = "Confide simulated SGX Root CA"
PCK_CN = "Intel SGX PCK Certificate"
_ORGANISATION = "Confide simulated TEE, protects nothing"
_POINT = "https://simulated.invalid/IntelSGXRootCA.der"
"""Where a revocation list would be: the field is part of the profile, and ``.invalid`` resolves nowhere (RFC 2606)."""
_CERTIFICATE_LIFE = timedelta(days=3650)
BACKDATED = timedelta(days=90)
"""How long before its creation an installation's certificates begin, so that stale collateral can be signed for the tests."""


def _name(common_name: str) -> x509.Name:
    attributes = [(NameOID.COMMON_NAME, common_name), (NameOID.ORGANIZATION_NAME, _ORGANISATION)]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=not ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True, slots=True)
class Signer:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def issue(self, common_name: str, now: datetime, *, ca_depth: int | None = None, platform: SgxExtension | None = None) -> Signer:
        """A new key with a certificate from this signer.  ``ca_depth`` None makes an end entity."""
        return _issue(common_name, now, self, ca_depth=ca_depth, platform=platform)

    def revocation_list(self, number: int, issued: datetime, until: datetime, revoked: tuple[int, ...] = ()) -> bytes:
        """A DER revocation list of this signer over ``revoked`` serial numbers."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject).last_update(issued).next_update(until)
        builder = builder.add_extension(x509.CRLNumber(number), critical=False).add_extension(self._key_id(), critical=False)
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(issued)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)

    def _key_id(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())


def _issue(common_name: str, now: datetime, issuer: Signer | None, *, ca_depth: int | None, platform: SgxExtension | None = None) -> Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(_POINT)], None, None, None)
    issuer_key = key if issuer is None else issuer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(_name(common_name) if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + _CERTIFICATE_LIFE)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.CRLDistributionPoints([point]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_usage(ca=ca_depth is not None), critical=True)
        .add_extension(x509.BasicConstraints(ca=ca_depth is not None, path_length=ca_depth), critical=True)
    )
    if platform is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(SGX_EXTENSION, platform.to_der()), critical=False)
    return Signer(builder.sign(issuer_key, hashes.SHA256()), key)


def new_root(now: datetime) -> Signer:
    """A new self-signed root."""
    return _issue(ROOT_CN, now, None, ca_depth=1)


def new_platform_ca(root: Signer, now: datetime) -> Signer:
    """The CA that issues PCK certificates, under ``root``.  Its name is the vendor's: readers find the kind of CA by it."""
    return root.issue(PLATFORM_CA_CN, now, ca_depth=0)


def new_tcb_signer(root: Signer, now: datetime) -> Signer:
    """The signer of TCB info and identities, under ``root``."""
    return root.issue(TCB_SIGNER_CN, now)

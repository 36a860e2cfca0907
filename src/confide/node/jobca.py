"""The job's certificate authority: lives in the driver's memory for one run, certifies attested keys only.

Certificates are X.509 (RFC 5280).  A certificate says: this key was attested for this run under this node id.  Which node may be called
what is the caller's decision; whoever verifies a chain must also compare the key with the one it attested, where it has one.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from confide.crypto.sign import PublicKey
from confide.errors import ParseError

if TYPE_CHECKING:
    from confide.ids import NodeId, Role, RunId

LIFETIME = timedelta(hours=24)
"""How long certificates of one run are valid; a run that lasts longer ends its own channels."""
CONTROL_LIFETIME = timedelta(minutes=15)
"""How long a worker's control certificate is valid: it opens one channel, at once, and re-attestation speaks for the node from then on."""
_SKEW = timedelta(minutes=5)
"""Certificates are valid from a little before now: nodes' clocks differ."""


class JobCa:
    """Issues the certificates of one run.  The key has no way out of this object."""

    def __init__(self, run: RunId, *, now: datetime) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._not_after = now + LIFETIME
        # The run's id makes the subject unique, so that CAs of two runs in one process never stand in for each other.
        self._name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Confide job CA"), _common_name(run)])
        builder = _builder(self._name, self._key.public_key(), now, self._not_after).issuer_name(self._name)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        self.ca_pem = builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def issue(self, spki: bytes, *, node: NodeId, role: Role, host: str, now: datetime, lifetime: timedelta = LIFETIME) -> bytes:
        """A PEM certificate for the attested key ``spki`` (DER), as client and server, under the node's id and ``host``.

        There is no certificate request: that the peer holds the key was shown by the TLS handshake of its attested channel.

        Raises:
            ParseError: not a P-256 public key.
        """
        PublicKey.from_spki(spki)
        key = load_der_public_key(spki)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ParseError("not a P-256 public key")
        unit = x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, str(role))
        until = min(now + lifetime, self._not_after)
        builder = _builder(x509.Name([unit, _common_name(node)]), key, now, until).issuer_name(self._name)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(signs_certificates=False), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
            (authority, False),
            (x509.SubjectAlternativeName(_names(node, host)), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)


def _builder(subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).public_key(key).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _SKEW).not_valid_after(until)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _common_name(text: str) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.COMMON_NAME, text[:64])  # ub-common-name, RFC 5280 appendix A.1


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(node: str, host: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName(node)]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return [*names, x509.DNSName(host)]
    names.append(x509.IPAddress(address))
    if address.is_loopback:
        names.append(x509.DNSName("localhost"))
    return names

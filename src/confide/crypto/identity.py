"""Who one side of a channel is, and whom it accepts on the other side.

An identity is a key; its certificate only carries it through TLS.  A self-signed certificate's name and dates mean nothing here
and are not checked: who owns a key is settled by a pin, by attestation, by the job CA or by the caller's list of keys.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from confide.crypto.sign import PublicKey, SigningKey, spki_of
from confide.errors import ChannelError
from confide.ids import SpkiDigest

if TYPE_CHECKING:
    from OpenSSL import SSL

_CLOCK_SKEW: Final = timedelta(minutes=5)
_SHORT: Final = timedelta(hours=24)
_MAX_NAME: Final = 64
"""Upper bound of a common name, RFC 5280 appendix A.1 (ub-common-name)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A key with the certificate that shows it to TLS peers, and the CA that issued it if one did."""

    key: SigningKey
    certificate: x509.Certificate
    ca_pem: bytes | None = None
    contexts: dict[tuple[int, bytes | str | None], SSL.Context] = field(default_factory=dict, init=False, repr=False, compare=False)
    """TLS contexts of this key and certificate, by what else they depend on (``confide.crypto.tls``).  They end with the identity."""

    @classmethod
    def generate(
        cls, common_name: str, *, key: SigningKey | None = None, valid_for: timedelta = _SHORT, names: tuple[str, ...] = ()
    ) -> Identity:
        """A self-signed identity, of a new key unless one is given.

        Our peers do not check a self-signed certificate's dates (see the module), so an identity of a long-lived key keeps working.
        ``names`` are host names and addresses for clients that trust the certificate itself.
        """
        key = SigningKey.generate() if key is None else key
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_MAX_NAME])])
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.unwrapped().public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + valid_for)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([*map(_general_name, names)]), critical=False)
        return cls(key, builder.sign(key.unwrapped(), SHA256()))

    def with_certificate(self, cert_pem: bytes | str, ca_pem: bytes | str) -> Identity:
        """The same key under a certificate that a CA issued for it.

        Raises:
            ChannelError: not PEM certificates, or the certificate is for another key.
        """
        certificate, authority = one_certificate(cert_pem), one_certificate(ca_pem)
        if certificate_spki(certificate) != self.spki_der:
            raise ChannelError("a certificate was issued for another key than this node's")
        return replace(self, certificate=certificate, ca_pem=authority.public_bytes(Encoding.PEM))

    @property
    def spki_der(self) -> bytes:
        """DER SubjectPublicKeyInfo of the key."""
        return self.key.spki_der

    @property
    def spki_digest(self) -> SpkiDigest:
        """The key's public name."""
        return self.key.spki_digest

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM)


@dataclass(frozen=True, slots=True)
class PinnedSpki:
    """Accept one key: the one whose SPKI has this digest."""

    digest: SpkiDigest


@dataclass(frozen=True, slots=True)
class AnyKeyUntilAttested:
    """Accept any key, and demand one.  **The peer is unknown** until the caller has attested it over this very channel.

    ``confide.node.session`` does that; nothing may be sent or believed before it has returned.
    """


@dataclass(frozen=True, slots=True)
class IssuedBy:
    """Accept a key with a certificate issued directly by this CA, valid now, for this use (and for ``name``, if given).

    ``name`` is a DNS name that the certificate must hold: the CA alone says "an accepted node of this run", not which one.
    """

    ca_pem: bytes | str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class AnyClientKey:
    """For servers: accept clients with any key or none.  The caller authenticates by :attr:`Channel.peer_spki` at each request."""


PeerTrust = PinnedSpki | AnyKeyUntilAttested | IssuedBy
"""What a client may trust: a server that shows no key is never accepted."""
Trust = PeerTrust | AnyClientKey


def one_certificate(pem: bytes | str) -> x509.Certificate:
    """The one certificate in ``pem``.

    Raises:
        ChannelError: not exactly one PEM certificate.
    """
    data = pem.encode("ascii", errors="replace") if isinstance(pem, str) else pem
    try:
        certificates = x509.load_pem_x509_certificates(data)
    except ValueError as cause:
        raise ChannelError("not a PEM certificate") from cause
    if len(certificates) != 1:
        raise ChannelError("one PEM certificate is expected", got=len(certificates))
    return certificates[0]


def certificate_spki(certificate: x509.Certificate) -> bytes:
    """The canonical DER SPKI of a certificate's P-256 key.

    Raises:
        ChannelError: another kind of key: identities are P-256.
    """
    try:
        key = certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as cause:
        raise ChannelError("a peer's key is not P-256") from cause
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ChannelError("a peer's key is not P-256")
    return spki_of(key)  # written anew, so that one key has one SPKI however the certificate encodes it


def check_trust(trust: Trust, spki: bytes | None, certificate: x509.Certificate | None) -> None:
    """Return if ``trust`` accepts the peer's key.  A CA's signature was checked by TLS before; the name is checked here.

    Raises:
        ChannelError: the peer is not the one that is trusted.
    """
    match trust:
        case AnyClientKey():
            return
        case _ if spki is None or certificate is None:
            raise ChannelError("the peer showed no certificate")
        case PinnedSpki(digest):
            got = PublicKey(spki).digest
            if got != digest:
                hint = "another program answers there than was named, or somebody in between: ask whose key that is by another way"
                raise ChannelError("the peer has another key than the pinned one", hint=hint, expected=digest, got=got)
        case IssuedBy(name=str(name)):
            if name not in _dns_names(certificate):
                raise ChannelError("the peer's certificate is for another node", expected=name)
        case IssuedBy() | AnyKeyUntilAttested():
            return
        case _:
            raise ChannelError("unknown kind of trust")


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _dns_names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return []
    return names.get_values_for_type(x509.DNSName)

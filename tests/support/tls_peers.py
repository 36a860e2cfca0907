"""A job CA of a test, and servers that send back what they get."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL

from confide.crypto.sign import SigningKey
from confide.crypto.tls import (
    Channel,
    Identity,
)

CLIENT_AND_SERVER = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


class Authority:
    """A CA as the job CA is one."""

    def __init__(self, name: str = "job", parent: Authority | None = None) -> None:
        self.key = SigningKey.generate()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = parent or self
        self.certificate = self._sign(signer, self.name, self.key, ca=True, days=(-1, 1))
        self.pem = self.certificate.public_bytes(Encoding.PEM)

    @staticmethod
    def _sign(
        signer: Authority, subject: x509.Name, key: SigningKey, *, ca: bool, days: tuple[int, int], names=(), uses=()
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(signer.name).public_key(key.unwrapped().public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now + timedelta(days=days[0]))
        builder = builder.not_valid_after(now + timedelta(days=days[1])).add_extension(x509.BasicConstraints(ca, None), critical=True)
        # Python asks for these from 3.13 on (VERIFY_X509_STRICT).
        subject_key = x509.SubjectKeyIdentifier.from_public_key(key.unwrapped().public_key())
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.unwrapped().public_key())
        builder = builder.add_extension(subject_key, critical=False).add_extension(authority_key, critical=False)
        if ca:
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        if uses:
            builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        return builder.sign(signer.key.unwrapped(), SHA256())

    def issue(self, *names: str, days: tuple[int, int] = (-1, 1), uses=CLIENT_AND_SERVER) -> Identity:
        """A node's identity with this CA's certificate."""
        own = Identity.generate("node")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
        certificate = self._sign(self, subject, own.key, ca=False, days=days, names=names, uses=uses)
        return own.with_certificate(certificate.public_bytes(Encoding.PEM), self.pem)


@contextlib.contextmanager
def one_handshake(context: SSL.Context) -> Iterator[tuple[str, int]]:
    """The address of a server that shakes hands once, as ``context`` has it, whatever comes of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection = SSL.Connection(context, server.accept()[0])
            connection.set_accept_state()
            with contextlib.suppress(SSL.Error):
                connection.do_handshake()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()
        thread.join(5)


def echo(channel: Channel) -> None:
    while data := channel.recv(65536):
        channel.send(data)


def echo_frames(channel: Channel) -> None:
    while True:
        channel.send_frame(channel.recv_frame())

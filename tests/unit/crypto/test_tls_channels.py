"""TLS channels between honest peers: who is accepted, what the session is, frames, closing."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL

from confide.crypto.sign import PublicKey, SigningKey
from confide.crypto.tls import (
    AnyClientKey,
    AnyKeyUntilAttested,
    Channel,
    Identity,
    IssuedBy,
    Listener,
    PinnedSpki,
    connect,
)
from confide.errors import BindingError, ChannelError, ChannelTimeoutError, ProtocolError
from confide.ids import SpkiDigest

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


def echo(channel: Channel) -> None:
    while data := channel.recv(65536):
        channel.send(data)


def echo_frames(channel: Channel) -> None:
    while True:
        channel.send_frame(channel.recv_frame())


# --- the session ------------------------------------------------------------------------------------------------------


def test_both_ends_see_one_exporter_and_each_others_keys(server_of) -> None:
    seen = []
    server = server_of(lambda channel: seen.append((channel.exporter(), channel.peer_spki, channel.own_spki)))
    client = Identity.generate("client")
    with server.connect(client) as channel:
        mine = channel.exporter(), channel.own_spki, channel.peer_spki
    server.wait()
    assert seen == [mine]
    assert len(mine[0]) == 32
    assert mine[1:] == (client.spki_der, server.identity.spki_der)


def test_each_session_has_another_exporter(server_of) -> None:
    server, client = server_of(echo), Identity.generate("client")
    exporters = set()
    for _ in range(3):
        with server.connect(client) as channel:
            exporters.add(channel.exporter())
    assert len(exporters) == 3


def test_client_without_a_key_has_no_peer_spki(server_of) -> None:
    seen = []
    server = server_of(lambda channel: seen.append(channel.peer_spki))
    with server.connect(None) as channel:
        assert channel.own_spki is None
    server.wait()
    assert seen == [None]


def test_nothing_is_known_before_the_handshake() -> None:
    with Listener("127.0.0.1", 0, Identity.generate("s"), trust=AnyClientKey()) as listener:

        def refused() -> None:
            with pytest.raises(ChannelError):
                connect(*listener.address, None, trust=AnyKeyUntilAttested())

        client = threading.Thread(target=refused)
        client.start()
        with listener.accept(5) as channel:
            for use in (channel.exporter, lambda: channel.peer_spki, lambda: channel.recv(1), lambda: channel.send(b"x")):
                with pytest.raises(ChannelError, match="handshake"):
                    use()
        client.join()


def test_session_is_not_resumed(server_of) -> None:
    server = server_of(lambda channel: channel.send(b"x"))

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_session_cache_mode(SSL.SESS_CACHE_CLIENT)

    def raw(session: SSL.Session | None) -> tuple[bool, SSL.Session | None]:
        connection = SSL.Connection(context, socket.create_connection(server.listener.address))
        if session is not None:
            connection.set_session(session)
        connection.set_connect_state()
        connection.do_handshake()
        assert connection.recv(1) == b"x"  # after any ticket
        session = connection.get_session()
        connection.shutdown()  # OpenSSL forgets the session of a connection that was cut
        return bool(SSL._lib.SSL_session_reused(connection._ssl)), session

    reused, session = raw(None)
    assert (reused, raw(session)[0]) == (False, False)


# --- who is accepted --------------------------------------------------------------------------------------------------


def test_server_with_another_key_than_the_pinned_one_is_refused(server_of) -> None:
    server = server_of(echo)
    with pytest.raises(ChannelError, match="pinned") as refusal:
        connect(*server.listener.address, None, trust=PinnedSpki(SpkiDigest("0" * 64)))
    assert refusal.value.facts["got"] == server.identity.spki_digest


def test_server_may_pin_its_client(server_of) -> None:
    client = Identity.generate("client")
    server = server_of(echo, trust=PinnedSpki(client.spki_digest))
    with server.connect(client) as channel:
        channel.send(b"hi")
        assert channel.recv_exact(2) == b"hi"
    with server.connect(Identity.generate("another")) as channel, pytest.raises(ChannelError):
        channel.recv(1)


@pytest.mark.parametrize("trust", [AnyKeyUntilAttested(), PinnedSpki(SpkiDigest("0" * 64))], ids=["any key", "pinned"])
def test_client_without_a_key_is_refused_where_one_is_demanded(server_of, trust) -> None:
    server = server_of(echo, trust=trust)
    with pytest.raises(ChannelError), server.connect(None) as channel:
        channel.recv(1)
    server.wait()
    assert isinstance(server.failures[0], ChannelError)


def test_peer_that_shows_our_own_key_is_refused_on_both_sides(server_of) -> None:
    identity = Identity.generate("node")
    server = server_of(echo, trust=AnyKeyUntilAttested(), identity=identity)
    with pytest.raises(BindingError):
        connect(*server.listener.address, identity, trust=AnyKeyUntilAttested())
    server.wait()
    assert isinstance(server.failures[0], BindingError)


def test_client_that_trusts_any_client_key_cannot_be_written(server_of) -> None:
    with pytest.raises(TypeError):
        connect(*server_of(echo).listener.address, None, trust=AnyClientKey())


def test_nodes_of_one_job_ca_accept_each_other(server_of) -> None:
    authority = Authority()
    server = server_of(echo, trust=IssuedBy(authority.pem), identity=authority.issue("driver"))
    for trust in (IssuedBy(authority.pem), IssuedBy(authority.pem.decode(), "driver")):
        with connect(*server.listener.address, authority.issue("worker-1"), trust=trust) as channel:
            channel.send(b"hi")
            assert channel.recv_exact(2) == b"hi"


def bad_nodes(authority: Authority) -> dict[str, Identity]:
    return {
        "self-signed": Identity.generate("node"),
        "of another CA": Authority().issue("driver"),
        "of a CA of the same name": Authority("job").issue("driver"),
        "expired": authority.issue("driver", days=(-3, -1)),
        "not yet valid": authority.issue("driver", days=(1, 2)),
        "for another use": authority.issue("driver", uses=(ExtendedKeyUsageOID.CODE_SIGNING,)),
    }


@pytest.mark.parametrize("kind", list(bad_nodes(Authority())))
def test_certificate_that_the_job_ca_did_not_issue_for_this_is_refused_on_both_sides(server_of, kind: str) -> None:
    authority = Authority()
    bad = bad_nodes(authority)[kind]
    server = server_of(echo, trust=IssuedBy(authority.pem), identity=authority.issue("driver"))
    with pytest.raises(ChannelError), connect(*server.listener.address, bad, trust=IssuedBy(authority.pem)) as channel:
        channel.recv(1)
    server.wait()
    assert isinstance(server.failures[0], ChannelError)
    server = server_of(echo, trust=AnyClientKey(), identity=bad)
    with pytest.raises(ChannelError):
        connect(*server.listener.address, None, trust=IssuedBy(authority.pem))


def test_node_of_an_intermediate_ca_is_refused_even_with_its_chain() -> None:
    authority = Authority()
    intermediate = Authority("sub", authority)
    bad = intermediate.issue("driver")
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(bad.certificate)
    context.add_extra_chain_cert(intermediate.certificate)
    context.use_privatekey(bad.key.unwrapped())
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection = SSL.Connection(context, server.accept()[0])
            connection.set_accept_state()
            with contextlib.suppress(SSL.Error):
                connection.do_handshake()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ChannelError, match="certificate verify failed"):
            connect(*server.getsockname(), None, trust=IssuedBy(authority.pem))
        thread.join(5)


def test_another_node_of_the_same_ca_is_refused_where_one_is_named(server_of) -> None:
    authority = Authority()
    for identity in (authority.issue("worker-1"), authority.issue()):
        server = server_of(echo, trust=IssuedBy(authority.pem), identity=identity)
        with pytest.raises(ChannelError, match="another node"):
            connect(*server.listener.address, authority.issue("worker-2"), trust=IssuedBy(authority.pem, "driver"))


def test_certificate_for_another_key_is_not_taken() -> None:
    authority = Authority()
    other = authority.issue("node")
    with pytest.raises(ChannelError, match="another key"):
        Identity.generate("node").with_certificate(other.certificate_pem, authority.pem)


@pytest.mark.parametrize("pem", [b"", "no PEM", "\udcff", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_refused(pem) -> None:
    with pytest.raises(ChannelError):
        Identity.generate("node").with_certificate(pem, pem)
    with pytest.raises(ChannelError):
        connect("127.0.0.1", 1, None, trust=IssuedBy(pem))


def test_two_certificates_are_not_one() -> None:
    pem = Authority().pem
    with pytest.raises(ChannelError, match="one PEM"):
        Identity.generate("node").with_certificate(pem * 2, pem)


def test_identity_keeps_a_given_key() -> None:
    key = SigningKey.generate()
    identity = Identity.generate("owner" * 40, key=key, valid_for=timedelta(days=365))
    assert (identity.spki_der, identity.spki_digest) == (key.spki_der, PublicKey(key.spki_der).digest)
    assert identity.certificate.not_valid_after_utc - datetime.now(UTC) > timedelta(days=364)


# --- frames and bytes -------------------------------------------------------------------------------------------------


def test_frames_come_back_as_they_were_sent(server_of) -> None:
    server = server_of(echo_frames)
    with server.connect() as channel:
        for frame in ({}, {"text": "çé\u0000€", "n": [1, -2.5, None, True]}, {"big": "x" * 300_000}):
            channel.send_frame(frame)
            assert channel.recv_frame() == frame


def test_both_sides_may_send_much_at_once(server_of) -> None:
    blob = os.urandom(1 << 20) * 6

    def both(channel: Channel) -> None:
        writer = threading.Thread(target=channel.send, args=(blob,))
        writer.start()
        assert channel.recv_exact(len(blob)) == blob
        writer.join(10)
        assert not writer.is_alive()

    server = server_of(both)
    with server.connect() as channel:
        both(channel)
    server.wait()
    assert server.failures == []


def test_empty_send_sends_nothing(server_of) -> None:
    with server_of(echo).connect() as channel:
        channel.send(b"")
        channel.send(b"x")
        assert channel.recv(10) == b"x"


def test_receiving_that_timed_out_goes_on_without_loss(server_of) -> None:
    frame = json.dumps({"a": "b" * 50}).encode()
    halves = len(frame).to_bytes(4, "big") + frame
    resume = threading.Event()

    def slow(channel: Channel) -> None:
        channel.send(halves[:20])
        resume.wait(5)
        channel.send(halves[20:])
        channel.recv(1)

    with server_of(slow).connect() as channel:
        channel.settimeout(0.1)
        with pytest.raises(ChannelTimeoutError):
            channel.recv_frame()
        with pytest.raises(ChannelTimeoutError):
            channel.recv_frame()
        resume.set()
        assert channel.recv_frame(timeout=5) == {"a": "b" * 50}


@pytest.mark.parametrize("sent", [[b"one"], [b"one", b"two"], [b"one", b"two", bytes(20_000)], [bytes(16_384), b"x"]])
def test_all_records_that_came_in_one_read_are_given_out_without_a_further_one(server_of, sent: list[bytes]) -> None:
    ready = threading.Event()

    def several(channel: Channel) -> None:
        channel.recv_exact(2)  # one record and another: from here on the channel knows what it has been fed
        for data in sent:
            channel.send(data)
        ready.set()
        assert channel.recv(1) == b"d"  # nothing else comes until all of that has arrived

    server = server_of(several)
    with server.connect() as channel:
        for byte in (b"g", b"o"):
            channel.send(byte)
        assert ready.wait(5)
        assert channel.recv_exact(sum(map(len, sent)), timeout=2) == b"".join(sent)
        channel.send(b"d")
        server.wait()
    assert not server.failures


def test_frame_too_large_to_send_is_refused_and_the_channel_stays_good(server_of) -> None:
    with server_of(echo_frames).connect() as channel:
        with pytest.raises(ProtocolError):
            channel.send_frame({"x": "y" * (16 * 1024 * 1024)})
        channel.send_frame({"x": 1})
        assert channel.recv_frame() == {"x": 1}


@pytest.mark.parametrize("seconds", [0, -1])
def test_timeout_must_be_some_time(server_of, seconds: float) -> None:
    with server_of(echo).connect() as channel, pytest.raises(ValueError, match="more than zero"):
        channel.settimeout(seconds)


# --- closing ----------------------------------------------------------------------------------------------------------


def test_proper_end_reads_as_no_bytes_and_as_an_error_where_bytes_are_due(server_of) -> None:
    with server_of(lambda channel: channel.send(b"bye")).connect() as channel:
        assert channel.recv_exact(3) == b"bye"
        assert channel.recv(1) == b""
        for due in (lambda: channel.recv_exact(1), channel.recv_frame):
            with pytest.raises(ChannelError) as refusal:
                due()
            assert refusal.value.facts == {"ended": True}


def test_close_wakes_a_blocked_reader(server_of) -> None:
    with server_of(lambda channel: channel.recv(1)).connect() as channel:
        ended = []

        def read() -> None:
            with pytest.raises(ChannelError, match="closed"):
                channel.recv_frame()
            ended.append(time.monotonic())

        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(0.1)
        before = time.monotonic()
        channel.close()
        reader.join(5)
        assert ended[0] - before < 1
        with pytest.raises(ChannelError):
            channel.send(b"x")
        with pytest.raises(ChannelError):
            channel.recv(1)
        assert channel.closed
        channel.close()


def test_close_wakes_a_blocked_writer(server_of) -> None:
    release = threading.Event()
    server = server_of(lambda channel: release.wait(10))
    with server.connect() as channel:
        failed = []

        def write() -> None:
            with pytest.raises(ChannelError):
                channel.send(bytes(64 << 20))
            failed.append(True)

        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(0.2)
        channel.close()
        writer.join(5)
        assert failed
    release.set()


def test_close_wakes_a_blocked_accept() -> None:
    listener = Listener("127.0.0.1", 0, Identity.generate("s"), trust=AnyClientKey())
    raised = []

    def accept() -> None:
        with pytest.raises(ChannelError, match="closed"):
            listener.accept(30)
        raised.append(True)

    thread = threading.Thread(target=accept)
    thread.start()
    time.sleep(0.1)
    listener.close()
    thread.join(5)
    assert raised
    listener.close()
    with Listener(*listener.address, Identity.generate("s"), trust=AnyClientKey()):  # the port is free again
        pass


def test_listener_closed_from_within_accept_does_not_hang(monkeypatch) -> None:
    """A signal handler runs in the thread that it interrupts, which may be inside accept()."""
    listener = Listener("127.0.0.1", 0, Identity.generate("s"), trust=AnyClientKey())
    following = listener._next

    def interrupted(deadline):
        listener.close()
        return following(deadline)

    monkeypatch.setattr(listener, "_next", interrupted)
    with pytest.raises(ChannelError, match="closed"):
        listener.accept(10)
    assert listener._sock.fileno() == -1


def test_nobody_comes() -> None:
    with Listener("127.0.0.1", 0, Identity.generate("s"), trust=AnyClientKey()) as listener, pytest.raises(ChannelTimeoutError):
        listener.accept(0.05)


def test_address_in_use_or_no_address_is_an_error() -> None:
    with Listener("127.0.0.1", 0, Identity.generate("s"), trust=AnyClientKey()) as listener:
        for host, port in [listener.address, ("no such host.", 1), ("127.0.0.1", 99999)]:
            with pytest.raises(ChannelError):
                Listener(host, port, Identity.generate("s"), trust=AnyClientKey())


def test_nothing_listening_is_an_error_with_the_address() -> None:
    with Listener("127.0.0.1", 0, Identity.generate("s"), trust=AnyClientKey()) as listener:
        address = listener.address
    with pytest.raises(ChannelError) as refusal:
        connect(*address, None, trust=AnyKeyUntilAttested())
    assert refusal.value.facts == {"host": address[0], "port": address[1]}


def test_channels_leave_no_descriptors_behind(server_of) -> None:
    server = server_of(echo)
    server.connect().close()
    server.wait()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        server.connect().close()
    server.wait()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before

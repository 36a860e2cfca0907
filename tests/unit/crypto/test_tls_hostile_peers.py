"""What a hostile or broken peer can do to a channel: nothing but end its own."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from support.tls_peers import echo_frames, one_handshake

from confide.crypto.tls import AnyClientKey, AnyKeyUntilAttested, Channel, Identity, Listener, connect
from confide.errors import ChannelError, ChannelTimeoutError, ProtocolError


def raw_client(address: tuple[str, int], *, highest: int = SSL.TLS1_3_VERSION) -> SSL.Connection:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(highest)
    connection = SSL.Connection(context, socket.create_connection(address))
    connection.set_connect_state()
    return connection


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener("127.0.0.1", 0, Identity.generate("server"), trust=AnyClientKey()) as listener:
        yield listener


def test_client_of_an_older_tls_is_refused(server_of) -> None:
    server = server_of(echo_frames)
    with pytest.raises(SSL.Error):
        raw_client(server.listener.address, highest=SSL.TLS1_2_VERSION).do_handshake()
    server.wait()
    assert isinstance(server.failures[0], ChannelError)


def test_server_of_an_older_tls_is_refused() -> None:
    identity = Identity.generate("old")
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.use_certificate(identity.certificate)
    context.use_privatekey(identity.key.unwrapped())
    with one_handshake(context) as address, pytest.raises(ChannelError, match="handshake failed"):
        connect(*address, None, trust=AnyKeyUntilAttested())


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())], ids=["rsa", "p384"])
def test_key_of_another_kind_is_refused(key) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1)).sign(key, SHA256()))
    context.use_privatekey(key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection = SSL.Connection(context, server.accept()[0])
            connection.set_accept_state()
            connection.do_handshake()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(ChannelError, match="not P-256"):
            connect(*server.getsockname(), None, trust=AnyKeyUntilAttested())
        thread.join(5)


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", bytes(2000), b"\x16\x03\x01\xff\xff" + b"\x01" * 70000, b"\x16\x03\x01\x00\x05\x01\x00\x00\x00\x00"],
    ids=["http", "zeros", "long record", "empty hello"],
)
def test_bytes_that_are_no_tls_end_the_channel_only(server_of, data: bytes) -> None:
    server = server_of(echo_frames)
    with socket.create_connection(server.listener.address) as peer:
        peer.sendall(data)
        server_said = b""
        while part := _recv(peer):
            server_said += part
    assert server_said == b"" or server_said[0] == 0x15  # an alert at most
    server.wait()
    assert isinstance(server.failures[0], ChannelError)
    with server.connect() as channel:
        channel.send_frame({"still": "here"})
        assert channel.recv_frame() == {"still": "here"}


def _recv(peer: socket.socket) -> bytes:
    try:
        return peer.recv(4096)
    except ConnectionError:
        return b""


def test_silent_client_does_not_hold_up_the_next_one(server_of) -> None:
    server = server_of(echo_frames)
    with socket.create_connection(server.listener.address), socket.create_connection(server.listener.address):
        before = time.monotonic()
        with server.connect() as channel:
            channel.send_frame({})
            assert channel.recv_frame() == {}
        assert time.monotonic() - before < 1
    server.wait()


def test_client_that_sends_one_byte_at_a_time_runs_out_of_time(listener) -> None:
    def dribble() -> None:
        with socket.create_connection(listener.address) as peer:
            try:
                peer.sendall(b"\x16\x03\x01\x40\x00")
                for _ in range(100):
                    peer.sendall(b"\x01")
                    time.sleep(0.02)
            except ConnectionError:
                pass

    thread = threading.Thread(target=dribble)
    thread.start()
    with listener.accept(5) as channel:
        before = time.monotonic()
        with pytest.raises(ChannelTimeoutError):
            channel.handshake(0.3)
        assert time.monotonic() - before < 0.6
        with pytest.raises(ChannelError, match="closed"):
            channel.handshake(0.3)
    thread.join()


def test_server_that_never_answers_runs_out_of_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = time.monotonic()
        with pytest.raises(ChannelTimeoutError):
            connect(*server.getsockname(), None, trust=AnyKeyUntilAttested(), timeout=0.2)
        assert time.monotonic() - before < 1


def test_peer_that_dribbles_bytes_does_not_stretch_a_call(server_of) -> None:
    def dribble(channel: Channel) -> None:
        channel.send(b"\x00\x00\x40\x00")
        for _ in range(50):
            channel.send(b"{")
            time.sleep(0.02)

    with server_of(dribble).connect() as channel:
        before = time.monotonic()
        with pytest.raises(ChannelTimeoutError):
            channel.recv_frame(timeout=0.3)
        assert time.monotonic() - before < 0.6


def test_peer_that_floods_tiny_records_does_not_stretch_a_call(server_of) -> None:
    def flood(channel: Channel) -> None:
        channel.send(b"\x01\x00\x00\x00")
        while True:
            channel.send(b"{")

    with server_of(flood).connect() as channel:
        before = time.monotonic()
        with pytest.raises(ChannelTimeoutError):
            channel.recv_frame(timeout=0.3)
        assert time.monotonic() - before < 0.6


def test_peer_that_takes_nothing_does_not_hold_the_sender(server_of) -> None:
    release = threading.Event()
    with server_of(lambda channel: release.wait(10)).connect() as channel:
        with pytest.raises(ChannelTimeoutError):
            channel.send(bytes(64 << 20), timeout=0.3)
        assert channel.closed  # part of it went out: nothing can follow
    release.set()


def test_connection_that_was_cut_is_not_a_proper_end(server_of) -> None:
    server = server_of(lambda channel: channel._wire.close())
    with server.connect() as channel, pytest.raises(ChannelError) as refusal:
        channel.recv(1)
    assert refusal.value.facts.get("cut") or "broke" in refusal.value.message


def test_connection_that_was_reset_is_an_error(server_of) -> None:
    def reset(channel: Channel) -> None:
        channel._wire._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        channel._wire._sock.close()

    server = server_of(reset)
    with server.connect() as channel:
        with pytest.raises(ChannelError):
            channel.recv(1)
        with pytest.raises(ChannelError):
            channel.send(b"x")


def test_client_that_resets_at_once_does_not_end_the_listener(listener) -> None:
    peer = socket.create_connection(listener.address)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    with listener.accept(5) as channel, pytest.raises(ChannelError):
        channel.handshake(1)


def test_changed_byte_on_the_wire_breaks_the_channel() -> None:
    with Listener("127.0.0.1", 0, Identity.generate("server"), trust=AnyClientKey()) as listener:
        done = threading.Event()

        def serve() -> None:
            with listener.accept(5) as channel:
                channel.handshake()
                done.wait(5)
                with pytest.raises(ChannelError):
                    channel.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        with connect(*listener.address, None, trust=AnyKeyUntilAttested()) as channel:
            with channel._state:
                channel._tls.send(b"hello")
                record = bytearray(channel._tls.bio_read(4096))
            record[-1] ^= 1
            channel._wire.write_now(bytes(record))
            done.set()
            thread.join(5)
            assert not thread.is_alive()
            with pytest.raises(ChannelError):  # the peer's alert
                channel.recv(1)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"{}x",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":"\xff"}',
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":' + b"[" * 100000,
    ],
    ids=["empty", "array", "null", "cut", "trailing", "twice", "nan", "not utf-8", "long number", "deep"],
)
def test_frame_that_is_not_one_json_object_is_refused_and_ends_the_channel(server_of, frame: bytes) -> None:
    server = server_of(echo_frames)
    with server.connect() as channel:
        channel.send(len(frame).to_bytes(4, "big") + frame)
        with pytest.raises(ChannelError):
            channel.recv_frame()
    server.wait()
    assert isinstance(server.failures[0], ProtocolError)


def test_frame_longer_than_allowed_is_refused_before_it_is_read(server_of) -> None:
    server = server_of(lambda channel: channel.recv_frame(1000))
    with server.connect() as channel:
        channel.send((1001).to_bytes(4, "big"))
        with pytest.raises(ChannelError):
            channel.recv(1)
    server.wait()
    assert server.failures[0].facts == {"limit": 1000, "got": 1001}


def test_peer_that_makes_us_send_and_never_reads_is_cut_off(server_of) -> None:
    """Key updates (RFC 8446 section 4.6.3) ask for answers; their queue is bounded."""
    release = threading.Event()
    with server_of(lambda channel: (channel.send(b"x"), release.wait(10))).connect() as channel:
        with channel._sending:  # as if a writer were blocked
            channel._unsent += bytes(2 << 20)
            with pytest.raises(ChannelError, match="does not read"):
                channel.recv(1)
        assert channel.closed
    release.set()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ECONNABORTED, errno.ENOMEM])
def test_shortage_while_accepting_is_waited_out(listener, code: int) -> None:
    class Short:
        def __init__(self, sock: socket.socket) -> None:
            self.sock, self.failed = sock, False

        def fileno(self) -> int:
            return self.sock.fileno()

        def accept(self):
            if not self.failed:
                self.failed = True
                raise OSError(code, "short")
            return self.sock.accept()

        def close(self) -> None:
            self.sock.close()

    listener._sock = Short(listener._sock)
    with socket.create_connection(listener.address), listener.accept(5):
        pass
    assert listener._sock.failed


def test_close_ends_a_handshake_in_progress(listener) -> None:
    with socket.create_connection(listener.address):
        channel = listener.accept(5)
        ended = []

        def shake() -> None:
            with pytest.raises(ChannelError, match="closed"):
                channel.handshake(30)
            ended.append(True)

        thread = threading.Thread(target=shake)
        thread.start()
        time.sleep(0.05)
        channel.close()
        thread.join(5)
        assert ended

"""TLS channels between honest peers: what the session is, frames, closing.  Who is accepted: ``test_tls_trust``."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from support.tls_peers import echo, echo_frames

from confide.crypto.tls import (
    AnyClientKey,
    AnyKeyUntilAttested,
    Channel,
    Identity,
    Listener,
    connect,
)
from confide.errors import ChannelError, ChannelTimeoutError, ProtocolError

CLIENT_AND_SERVER = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


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


@pytest.mark.parametrize(
    ("host", "hint"), [("127.0.0.1", "another program"), ("192.0.2.1", "an address of this machine"), ("no.host.invalid", "an address")]
)
def test_listener_that_cannot_be_says_why_and_what_to_do(host: str, hint: str) -> None:
    with Listener("127.0.0.1", 0, Identity.generate("s"), trust=AnyClientKey()) as taken, pytest.raises(ChannelError) as caught:
        Listener(host, taken.address[1], Identity.generate("s"), trust=AnyClientKey())
    assert hint in str(caught.value.hint)
    assert "while attempting" not in caught.value.message

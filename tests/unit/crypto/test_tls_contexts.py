"""TLS contexts are made once for an identity, and what they depend on decides which one is used."""

from __future__ import annotations

import pytest
from support.tls_peers import Authority, echo

from confide.crypto.tls import AnyClientKey, AnyKeyUntilAttested, Identity, IssuedBy, Listener, PinnedSpki, _context, connect
from confide.errors import ChannelError
from confide.ids import SpkiDigest

ANY = AnyKeyUntilAttested()


def test_the_same_key_and_trust_make_one_context() -> None:
    identity, authority = Identity.generate("node"), Authority()
    assert _context(identity, ANY) is _context(identity, ANY)
    assert _context(identity, ANY) is _context(identity, PinnedSpki(SpkiDigest("00" * 32)))
    assert _context(identity, IssuedBy(authority.pem)) is _context(identity, IssuedBy(authority.pem, "driver"))
    assert _context(None, ANY) is not _context(None, ANY)


def test_another_key_another_ca_or_another_demand_makes_another_context() -> None:
    identity = Identity.generate("node")
    others = [ANY, AnyClientKey(), IssuedBy(Authority().pem), IssuedBy(Authority().pem)]
    contexts = [_context(identity, trust) for trust in others] + [_context(Identity.generate("node"), ANY)]
    assert len({id(context) for context in contexts}) == len(contexts)


def test_an_identity_keeps_few_contexts() -> None:
    identity = Identity.generate("node")
    for _ in range(20):
        _context(identity, IssuedBy(Authority().pem))
        assert len(identity.contexts) <= 8


def test_a_pin_is_checked_whatever_the_key_was_used_for_before(server_of) -> None:
    server, identity = server_of(echo), Identity.generate("node")
    server.connect(identity).close()
    with pytest.raises(ChannelError, match="pinned"):
        connect(*server.listener.address, identity, trust=PinnedSpki(SpkiDigest("00" * 32)))
    server.connect(identity).close()


def test_a_ca_is_trusted_only_where_it_was_named(server_of) -> None:
    ours, theirs = Authority(), Authority()
    server, identity = server_of(echo, identity=ours.issue("driver")), Identity.generate("node")
    for trust in (ANY, IssuedBy(ours.pem)):
        connect(*server.listener.address, identity, trust=trust).close()
    for pem in (theirs.pem, b"", ""):
        with pytest.raises(ChannelError):
            connect(*server.listener.address, identity, trust=IssuedBy(pem))


def test_a_listener_demands_a_key_though_another_with_its_identity_does_not(server_of) -> None:
    identity = Identity.generate("server")
    lax = server_of(echo, identity=identity, trust=AnyClientKey())
    lax.connect(None).close()
    strict = server_of(echo, identity=identity, trust=ANY)
    with pytest.raises(ChannelError), strict.connect(None) as channel:
        channel.recv(1)
    strict.wait()
    assert isinstance(strict.failures[0], ChannelError)


def test_channels_of_one_context_have_an_exporter_each(server_of) -> None:
    server, identity = server_of(echo), Identity.generate("node")
    exporters = set()
    for _ in range(3):
        with server.connect(identity) as channel:
            exporters.add(channel.exporter())
    assert len(exporters) == 3
    assert len(identity.contexts) == 1


def test_a_certificate_that_was_issued_later_is_shown_from_then_on(server_of) -> None:
    authority, seen = Authority(), []
    server = server_of(lambda channel: seen.append(channel.peer_spki), trust=IssuedBy(authority.pem), identity=authority.issue("driver"))
    issued = authority.issue("worker-1")
    before = Identity.generate("worker-1", key=issued.key)
    with pytest.raises(ChannelError), connect(*server.listener.address, before, trust=IssuedBy(authority.pem)) as channel:
        channel.recv(1)
    after = before.with_certificate(issued.certificate_pem, authority.pem)
    assert not after.contexts
    with connect(*server.listener.address, after, trust=IssuedBy(authority.pem)) as channel:
        assert channel.recv(1) == b""
    assert seen == [issued.spki_der]


def test_a_key_that_is_not_the_certificates_is_not_used() -> None:
    ours, theirs = Identity.generate("node"), Identity.generate("node")
    mixed = Identity(ours.key, theirs.certificate)
    with pytest.raises(Exception, match="mismatch"):
        Listener("127.0.0.1", 0, mixed, trust=ANY)
    assert not mixed.contexts


def test_a_channel_that_was_closed_here_has_no_end_to_report(server_of) -> None:
    with server_of(lambda channel: channel.send(b"bye")).connect() as channel:
        assert (channel.recv_exact(3), channel.recv(1)) == (b"bye", b"")
        channel.close()
        with pytest.raises(ChannelError, match="this channel is closed"):
            channel.recv(1)


def test_a_server_that_says_nothing_and_ends_is_read_to_its_proper_end(server_of) -> None:
    """What it has not sent yet (session tickets) goes out with its end, in order."""
    with server_of(lambda _: None).connect() as channel:
        assert channel.recv(1) == b""

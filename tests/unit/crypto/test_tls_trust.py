"""Who is accepted at the other end of a channel, and who is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from support.tls_peers import Authority, echo, one_handshake

from confide.crypto.sign import PublicKey, SigningKey
from confide.crypto.tls import (
    AnyClientKey,
    AnyKeyUntilAttested,
    Identity,
    IssuedBy,
    PinnedSpki,
    connect,
)
from confide.errors import BindingError, ChannelError
from confide.ids import SpkiDigest

CLIENT_AND_SERVER = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


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
    with one_handshake(context) as address, pytest.raises(ChannelError, match="certificate verify failed"):
        connect(*address, None, trust=IssuedBy(authority.pem))


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

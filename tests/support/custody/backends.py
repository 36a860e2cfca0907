"""Every custody behind one interface, for the suite that they all must pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from support.custody.aws import CREDENTIALS, REGION, AwsServer
from support.custody.azure import CLIENT, TENANT, AzureServer
from support.custody.gcp import PARENT, GcpServer, account_file
from support.custody.kmip import KmipServer
from support.custody.mischief import MischiefServer
from support.custody.softhsm import MODULE, TOKEN, SoftHsm
from support.custody.tls import Tls, private_file
from support.custody.transit import NAMESPACE, TransitServer
from support.kbs_world import Kbs

from confide.attest.insecure import InsecureAttester
from confide.crypto.secret import SecretBytes
from confide.ids import SpkiDigest, Tee
from confide.keys.custody.aws import AwsKey
from confide.keys.custody.azure import AzureKey
from confide.keys.custody.envelope import EnvelopeKms
from confide.keys.custody.gcp import GcpKey
from confide.keys.custody.kmip import KmipKey
from confide.keys.custody.local import KeyFile, Passphrase
from confide.keys.custody.pkcs11 import Pkcs11Key
from confide.keys.custody.protocol import KeyService, Kms
from confide.keys.custody.root import Custody
from confide.keys.custody.shares import SharedRoot
from confide.keys.custody.vault import VaultTransit
from confide.keys.kbs.resources import ResourceName
from confide.keys.kbs.upstream import UpstreamKey

PIN = "48151623"
AZURE_SECRET = "8Q~testSecretOfAnApplication"
TOKEN_TEXT = "hvs.CAESIJtestTokenOfACustody"
CALL_S = 2.0
CONTEXT = {"use": "kek", "key": "airline/flights", "version": 1}


@dataclass
class Local:
    """A custody in this process: it has no key that somebody could disable and no service that could be away."""

    kms: Kms
    other_key: Kms
    again: Kms
    """The same key, opened another time."""
    credentials: tuple[bytes, ...] = ()


@dataclass
class Service:
    """A service: ``kms`` and ``other_key`` are two of its keys.  ``rotate`` returns what wraps under the key's next version."""

    kms: Kms
    other_key: Kms
    again: Kms
    rotate: Callable[[], Kms]
    disabled: Callable[[], AbstractContextManager[tuple[Kms, bytes]]]
    """A key that is disabled, and what it wrapped before (for ``CONTEXT``)."""
    denied: Callable[[], AbstractContextManager[Kms]]
    offline: Callable[[], AbstractContextManager[None]]
    credentials: tuple[bytes, ...]
    at_port: Callable[[int, Tls], Kms] | None = None
    """The same, but at another port of this machine, if it is reached over a network."""


def key_file(folder: Path) -> Local:
    ways = [KeyFile.create(folder / name) for name in ("one.key", "two.key")]
    opened = [way.unlock(way.new_parameters()) for way in (*ways, ways[0])]
    return Local(*opened, (ways[0].path.read_bytes(),))


def passphrase(_folder: Path) -> Local:
    one, two = (Passphrase(SecretBytes(text)) for text in (b"correct horse battery", b"wrong horse battery"))
    parameters = one.new_parameters()
    return Local(one.unlock(parameters), two.unlock(parameters), one.unlock(parameters), (b"correct horse battery",))


def shares(_folder: Path) -> Local:
    one, two = (SharedRoot.create(threshold=2, count=3)[0] for _ in range(2))
    return Local(one.unlock(one.new_parameters()), two.unlock(two.new_parameters()), one.unlock(one.new_parameters()), (one.root.reveal(),))


def root_key(transit: TransitServer, tls: Tls, folder: Path) -> Local:
    """A root key that a service wrapped: what a broker works with."""
    custody = Custody(EnvelopeKms(_vault(transit, tls, folder, "roots")), "vault")
    transit.rotate("roots")
    one, two = custody.new_parameters(), custody.new_parameters()
    return Local(custody.unlock(one), custody.unlock(two), custody.unlock(one), (TOKEN_TEXT.encode(),))


def _vault(transit: TransitServer, tls: Tls, folder: Path, key: str) -> VaultTransit:
    token = private_file(folder / f"{key}.token", TOKEN_TEXT + "\n")
    return VaultTransit(transit.address, key, token, namespace=NAMESPACE, ca=tls.ca, timeout_s=CALL_S)


def vault(transit: TransitServer, tls: Tls, folder: Path) -> Service:
    services = [_vault(transit, tls, folder, name) for name in ("one", "two")]
    for name in ("one", "two"):
        transit.rotate(name)
    kms = EnvelopeKms(services[0])

    def rotate() -> Kms:
        transit.rotate("one")
        return kms

    @contextmanager
    def disabled() -> Iterator[tuple[Kms, bytes]]:
        wrapped = _wrapped(kms)
        versions = transit.keys.pop("one")
        yield kms, wrapped
        transit.keys["one"] = versions

    @contextmanager
    def denied() -> Iterator[Kms]:
        services[0].token_file.write_text("hvs.another")
        yield kms
        services[0].token_file.write_text(TOKEN_TEXT)

    return Service(kms, EnvelopeKms(services[1]), EnvelopeKms(replace(services[0])), rotate, disabled, denied,
                   lambda: _elsewhere(services[0], "address", "https://127.0.0.1:1"), (TOKEN_TEXT.encode(),),
                   lambda port, other: EnvelopeKms(replace(services[0], address=f"https://127.0.0.1:{port}", ca=other.ca)))  # fmt: skip


def aws(server: AwsServer, folder: Path) -> Service:
    admin = server.admin()
    names = [admin.create_key()["KeyMetadata"]["KeyId"] for _ in range(2)]
    file = private_file(folder / "aws-credentials", CREDENTIALS)
    services = [AwsKey(REGION, name, file, endpoint=server.endpoint, ca=server.tls.ca, timeout_s=CALL_S) for name in names]
    kms = EnvelopeKms(services[0])

    def rotate() -> Kms:
        admin.rotate_key_on_demand(KeyId=names[0])
        return kms

    # moto uses keys that are disabled and knows no policies; these answers are as "Decrypt", "Errors" of the API reference has them.
    @contextmanager
    def answers(code: str) -> Iterator[Kms]:
        mischief = MischiefServer(server.tls, http(400, b'{"__type":"%s","message":"no"}' % code.encode()))
        yield EnvelopeKms(replace(services[0], endpoint=f"https://127.0.0.1:{mischief.port}"))
        mischief.stop()

    @contextmanager
    def disabled() -> Iterator[tuple[Kms, bytes]]:
        with answers("DisabledException") as found:
            yield found, _wrapped(kms)

    return Service(kms, EnvelopeKms(services[1]), EnvelopeKms(replace(services[0])), rotate, disabled,
                   lambda: answers("AccessDeniedException"), lambda: _elsewhere(services[0], "endpoint", "https://127.0.0.1:1"),
                   (b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",),
                   lambda port, other: EnvelopeKms(replace(services[0], endpoint=f"https://127.0.0.1:{port}", ca=other.ca)))  # fmt: skip


def gcp(server: GcpServer, tls: Tls, folder: Path) -> Service:
    file = account_file(folder / "account.json", tls.client_key)
    services = [GcpKey(f"{PARENT}/{name}", file, f"127.0.0.1:{server.port}", tls.ca, CALL_S) for name in ("one", "two")]
    for name in ("one", "two"):
        server.rotate(name)
    kms = EnvelopeKms(services[0])

    def rotate() -> Kms:
        server.rotate("one")
        return kms

    @contextmanager
    def disabled() -> Iterator[tuple[Kms, bytes]]:
        wrapped = _wrapped(kms)
        server.disabled.add(services[0].key)
        yield kms, wrapped
        server.disabled.clear()

    @contextmanager
    def denied() -> Iterator[Kms]:
        genuine = file.read_text()
        file.unlink()
        account_file(file, tls.server_key)
        yield kms
        file.write_text(genuine)

    return Service(kms, EnvelopeKms(services[1]), EnvelopeKms(replace(services[0])), rotate, disabled, denied,
                   lambda: _elsewhere(services[0], "endpoint", "127.0.0.1:1"), (tls.client_key.read_bytes()[100:160],),
                   lambda port, other: EnvelopeKms(replace(services[0], endpoint=f"127.0.0.1:{port}", ca=other.ca)))  # fmt: skip


def azure(server: AzureServer, tls: Tls, folder: Path) -> Service:
    file = private_file(folder / "secret", AZURE_SECRET)
    services = [AzureKey(server.address, name, TENANT, CLIENT, file, server.address, tls.ca, CALL_S) for name in ("one", "two")]
    for name in ("one", "two"):
        server.rotate(name)
    kms = EnvelopeKms(services[0])

    def rotate() -> Kms:
        server.rotate("one")
        return kms

    @contextmanager
    def disabled() -> Iterator[tuple[Kms, bytes]]:
        wrapped = _wrapped(kms)
        server.disabled.add("one")
        yield kms, wrapped
        server.disabled.clear()

    @contextmanager
    def denied() -> Iterator[Kms]:
        file.write_text("another")
        yield kms
        file.write_text(AZURE_SECRET)

    return Service(kms, EnvelopeKms(services[1]), EnvelopeKms(replace(services[0])), rotate, disabled, denied,
                   lambda: _elsewhere(services[0], "vault", "https://127.0.0.1:1"), (AZURE_SECRET.encode(),),
                   lambda port, other: EnvelopeKms(replace(services[0], vault=f"https://127.0.0.1:{port}", ca=other.ca)))  # fmt: skip


def upstream(kbs: Kbs) -> Service:
    """Another broker of Confide, as a key broker service; this one attests to it (with a simulated TEE)."""
    world = kbs.world
    values = {name: SecretBytes.random() for name in ("one", "two", "one-newer", "doomed")}
    for name, value in values.items():
        assert kbs.post("airline", f"resource/airline/key/{name}", value.reveal()).status == 200
    spki = SpkiDigest(world.server.spki)

    def service(name: str, *older: str) -> UpstreamKey:
        names = [ResourceName("airline", "key", one) for one in (name, *older)]
        return UpstreamKey(world.server.url, names[0], lambda: kbs.attester, spki=spki, older=tuple(names[1:]), timeout_s=CALL_S)

    kms, found = EnvelopeKms(service("one")), service("one")

    @contextmanager
    def disabled() -> Iterator[tuple[Kms, bytes]]:
        doomed = EnvelopeKms(service("doomed"))
        wrapped = _wrapped(doomed)
        kbs.post("airline", "resource/airline/key/doomed", None, "DELETE")  # type: ignore[arg-type]
        yield doomed, wrapped
        kbs.post("airline", "resource/airline/key/doomed", values["doomed"].reveal())

    @contextmanager
    def denied() -> Iterator[Kms]:
        stranger = InsecureAttester(world.installation, Tee.SGX, "ee" * 32)
        yield EnvelopeKms(replace(found, attester=lambda: stranger))

    mine = kms._service
    assert isinstance(mine, UpstreamKey)
    return Service(kms, EnvelopeKms(service("two")), EnvelopeKms(replace(mine)), lambda: EnvelopeKms(service("one-newer", "one")),
                   disabled, denied, lambda: _elsewhere(mine, "address", "https://127.0.0.1:1"), (values["one"].reveal(),),
                   lambda port, other: EnvelopeKms(replace(mine, address=f"https://127.0.0.1:{port}", spki=None, ca=other.ca)))  # fmt: skip


def kmip(server: KmipServer, folder: Path) -> Service:
    tls = server.tls

    def service(name: str, *older: str) -> KmipKey:
        return KmipKey("127.0.0.1", server.port, name, tls.ca, tls.client, tls.client_key, older, CALL_S)

    services = [service(server.create_key()) for _ in range(2)]
    stranger = Tls(folder / "stranger")

    @contextmanager
    def disabled() -> Iterator[tuple[Kms, bytes]]:
        """A key cannot be activated again once it is revoked: one of its own is."""
        found = service(server.create_key())
        wrapped = _wrapped(EnvelopeKms(found))
        server.revoke(found.key)
        yield EnvelopeKms(found), wrapped

    @contextmanager
    def denied() -> Iterator[Kms]:
        with _elsewhere(services[0], "certificate", stranger.client), _elsewhere(services[0], "private_key", stranger.client_key):
            yield EnvelopeKms(services[0])

    return Service(EnvelopeKms(services[0]), EnvelopeKms(services[1]), EnvelopeKms(replace(services[0])),
                   lambda: EnvelopeKms(service(server.create_key(), services[0].key)), disabled, denied,
                   lambda: _elsewhere(services[0], "port", 1), (tls.client_key.read_bytes()[100:200],),
                   lambda port, other: EnvelopeKms(replace(services[0], port=port, ca=other.ca)))  # fmt: skip


def pkcs11(hsm: SoftHsm, folder: Path) -> Service:
    file = private_file(folder / "pin", PIN + "\n")
    for label in ("one", "two"):
        hsm.create_key(label, b"\x01")
    services = [Pkcs11Key(MODULE, TOKEN, label, file) for label in ("one", "two")]
    named = replace(services[0], key_id="01")

    def rotate() -> Kms:
        hsm.create_key("one", b"\x02")
        return EnvelopeKms(replace(services[0], key_id="02"))

    @contextmanager
    def disabled() -> Iterator[tuple[Kms, bytes]]:
        wrapped = _wrapped(EnvelopeKms(named))
        hsm.set_usable("one", usable=False)
        yield EnvelopeKms(named), wrapped
        hsm.set_usable("one", usable=True)

    @contextmanager
    def denied() -> Iterator[Kms]:
        file.write_text("00000000")
        yield EnvelopeKms(named)
        file.write_text(PIN)

    @contextmanager
    def offline() -> Iterator[None]:
        hsm.unplug()
        yield
        hsm.plug_in()

    return Service(EnvelopeKms(named), EnvelopeKms(services[1]), EnvelopeKms(replace(named)), rotate, disabled, denied, offline,
                   (PIN.encode(),))  # fmt: skip


@contextmanager
def _elsewhere(service: KeyService, name: str, value: object) -> Iterator[None]:
    """The service's settings are frozen, for everybody but this."""
    before = getattr(service, name)
    object.__setattr__(service, name, value)
    yield
    object.__setattr__(service, name, before)


def _wrapped(kms: Kms) -> bytes:
    return kms.wrap(SecretBytes.random(), context=CONTEXT)


def http(status: int, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """An HTTP answer as bytes."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json", f"Content-Length: {size}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

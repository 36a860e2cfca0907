"""Real servers and devices, one of each for all tests here; each test gets them as one interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker_world import World
from support.custody import backends
from support.custody.aws import AwsServer
from support.custody.azure import AzureServer
from support.custody.gcp import GcpServer
from support.custody.kmip import KmipServer
from support.custody.softhsm import SoftHsm
from support.custody.tls import Tls
from support.custody.transit import TransitServer
from support.kbs_world import Kbs

from confide.attest.insecure import Installation


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def transit(tls: Tls) -> Iterator[TransitServer]:
    found = TransitServer(tls, backends.TOKEN_TEXT)
    yield found
    found.stop()


@pytest.fixture(scope="session")
def cloud_kms(tls: Tls) -> Iterator[GcpServer]:
    found = GcpServer(tls, tls.client_key)
    yield found
    found.stop()


@pytest.fixture(scope="session")
def key_vault(tls: Tls) -> Iterator[AzureServer]:
    found = AzureServer(tls, backends.AZURE_SECRET)
    yield found
    found.stop()


@pytest.fixture(scope="session")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", "")
        yield SoftHsm(tmp_path_factory.mktemp("hsm"), backends.PIN)


@pytest.fixture(scope="session")
def moto(tls: Tls) -> Iterator[AwsServer]:
    found = AwsServer(tls)
    yield found
    found.stop()


@pytest.fixture(scope="session")
def pykmip(tls: Tls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmipServer]:
    found = KmipServer(tls, tmp_path_factory.mktemp("kmip") / "server")
    yield found
    found.stop()


@pytest.fixture(scope="session")
def upstream_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kbs]:
    folder = tmp_path_factory.mktemp("upstream")
    world = World(folder, Installation.create(folder / "simulated"))
    yield Kbs(world)
    world.close()


_LOCAL = ["key-file", "passphrase", "shares", "root-key"]
_REMOTE = ["vault-stand-in", "gcp-stand-in", "azure-stand-in", "aws", "kmip", "upstream"]


@pytest.fixture(scope="session", params=[*_LOCAL, "pkcs11", *_REMOTE])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> backends.Local | backends.Service:
    """Every custody."""
    return _open(request, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session", params=["pkcs11", *_REMOTE])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> backends.Service:
    """Every custody that is a service or device."""
    found = _open(request, tmp_path_factory.mktemp(request.param))
    assert isinstance(found, backends.Service)
    return found


@pytest.fixture(scope="session", params=_REMOTE)
def remote(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> backends.Service:
    """Every custody behind a network."""
    found = _open(request, tmp_path_factory.mktemp(request.param))
    assert isinstance(found, backends.Service)
    return found


_opened: dict[str, backends.Local | backends.Service] = {}


def _open(request: pytest.FixtureRequest, folder: Path) -> backends.Local | backends.Service:
    """One of each for the session, whichever of the fixtures asks first."""
    name = request.param
    if name not in _opened:
        ask = request.getfixturevalue
        make = {
            "key-file": lambda: backends.key_file(folder),
            "passphrase": lambda: backends.passphrase(folder),
            "shares": lambda: backends.shares(folder),
            "root-key": lambda: backends.root_key(ask("transit"), ask("tls"), folder),
            "vault-stand-in": lambda: backends.vault(ask("transit"), ask("tls"), folder),
            "gcp-stand-in": lambda: backends.gcp(ask("cloud_kms"), ask("tls"), folder),
            "azure-stand-in": lambda: backends.azure(ask("key_vault"), ask("tls"), folder),
            "pkcs11": lambda: backends.pkcs11(ask("hsm"), folder),
            "aws": lambda: backends.aws(ask("moto"), folder),
            "upstream": lambda: backends.upstream(ask("upstream_broker")),
            "kmip": lambda: backends.kmip(ask("pykmip"), folder),
        }
        _opened[name] = make[name]()
    return _opened[name]

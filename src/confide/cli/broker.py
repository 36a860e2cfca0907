"""``confide broker``: serve keys to attested nodes, and enrol owners.  For the broker's operator."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.opening import Opening, opening_options, refuse_missing, unlock_of
from confide.cli.operation import COMMANDS as OPERATION
from confide.cli.output import Context, Story, answers
from confide.cli.owners import BrokerAddress, serving, serving_file
from confide.cli.rekey import rekey
from confide.cli.shares import desk_at, init, interrupted_by_sigterm, unseal
from confide.cli.storage import COMMANDS, WITNESSES, location_of, open_for_service, witnesses_of
from confide.errors import BrokerError, CustodyOfflineError, UsageError

if TYPE_CHECKING:
    import socket

    from confide.attest.verify import Verifier
    from confide.cli.service_manager import ServiceManager
    from confide.config import Settings
    from confide.crypto.identity import Identity
    from confide.keys.storage.locations import Location
    from confide.keys.store import Store
    from confide.keys.token_issuers import OwnerIssuer
    from confide.keys.witness import Witness

DEFAULT_LISTEN = "127.0.0.1:7600"
_START_S = 20.0
_STOP_S = 5.0
_POLL_S = 0.05
_ASK_AGAIN_S = 5.0
"""Between questions to a custody that is away when the broker comes up."""


@click.group("broker")
def command() -> None:
    """Serve keys to attested nodes, and enrol owners."""


for _one in (init, unseal, rekey, *OPERATION, *COMMANDS):
    command.add_command(_one)


@command.command("serve")
@click.option("--listen", metavar="HOST:PORT", help="Where; port 0 takes a free one [default: as last time, or 127.0.0.1:7600].")
@click.option("--name", "names", multiple=True, metavar="HOST",
              help="Name or address by which guests call it, for its certificate (repeat) [default: where it listens].")  # fmt: skip
@WITNESSES
@click.option("--issuers", "issuers", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="TOML file that says whose tokens count besides enrolled keys.")  # fmt: skip
@click.option("--simulate", is_flag=True, help="Also know this installation's simulated TEE, which protects nothing.  Grants decide.")
@click.option("--wait", is_flag=True, help="While the custody of the master key cannot be reached, wait, sealed, instead of ending.")
@opening_options
@answers
def serve(
    context: Context, listen: str | None, names: tuple[str, ...], witnesses: tuple[str, ...], issuers: Path | None, opening: Opening,
    *, simulate: bool, wait: bool
) -> None:  # fmt: skip
    """Serve the key store of this home folder until Ctrl-C or SIGTERM.  Makes the store when first started.

    On SIGTERM, requests in hand are answered first (setting drain_s); SIGHUP has the certificate looked at.  A service manager's socket
    (sd_listen_fds) is taken in the place of --listen: then a new broker can start before the old one ends, and no request is lost.

    All of the store is checked first.  With --witness, it must continue what each witness has seen, and each is told of new heads.

    Prints the address and the SHA-256 of the broker's public key, which job files name.  With --shares it is sealed until enough holders
    have run `confide broker unseal`, and serves nothing before.  With --wait, GET /healthz says meanwhile why it is sealed, under a key of
    the moment.  The certificate for guests of KBS protocol 0.4.0 is in broker/certificate.pem of the home folder.
    """
    from confide.keys.store import Store
    from confide.keys.token_issuers import load_issuers

    place = _place(context.settings, listen)
    location, story = location_of(context.settings), Story(simulated=simulate)
    told, believed = witnesses_of(context.settings, witnesses), () if issuers is None else load_issuers(issuers)
    if not opening.shares:
        with closing(_opened(story, location, opening, place, wait=wait)) as store:
            open_for_service(store, told)
            _serve(context, story, store, place, names, told, believed)
        return
    refuse_missing(location)
    with desk_at(context.settings) as desk:
        story.say("sealed; waits for shares: `confide broker unseal`")
        with place.manager.waits(lambda: "sealed; waits for shares"):
            opened = Store.open(location, desk)
        with closing(opened) as store:
            open_for_service(store, told)
            desk.opened(store)
            _serve(context, story, store, place, names, told, believed)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a broker listens, a host and a port or a socket that listens already, and who started it."""

    host: str
    port: int
    manager: ServiceManager
    sock: socket.socket | None = None


def _place(settings: Settings, listen: str | None) -> _Place:
    from confide.cli.service_manager import ServiceManager, inherited_socket

    sock, manager = inherited_socket(os.environ), ServiceManager.of(os.environ)
    if sock is None:
        return _Place(*_split(listen if listen is not None else _last_listen(settings)), manager)
    if listen is not None:
        raise UsageError("the broker was started with a socket that it listens on", hint="leave --listen out")
    host, port = sock.getsockname()[:2]
    return _Place(host, port, manager, sock)


def _opened(story: Story, location: Location, opening: Opening, place: _Place, *, wait: bool) -> Store:
    """The store; with ``wait``, once its custody can be reached.  One that refuses is not waited for: somebody has decided."""
    from confide.keys.store import Store

    unlock = unlock_of(location, opening)
    try:
        return Store.open_or_create(location, unlock)
    except CustodyOfflineError as away:
        if not wait or not location.exists():
            raise
        return _waited_for(story, away, place, lambda: Store.open(location, unlock))


def _waited_for(story: Story, away: CustodyOfflineError, place: _Place, ask: Callable[[], Store]) -> Store:
    from confide.keys.sealed_server import SealedServer

    held = None if place.sock is None else place.sock.dup()  # a server closes its own
    with SealedServer(place.host, place.port, away.message, sock=held) as sealed, interrupted_by_sigterm():
        host, port = sealed.address
        story.say(f"sealed: {away.message}; asks again until it is there (https://{host}:{port}/healthz)")
        with place.manager.waits(lambda: f"sealed: {sealed.reason}"):
            while True:
                time.sleep(_ASK_AGAIN_S)
                try:
                    return ask()
                except CustodyOfflineError as error:
                    sealed.reason = error.message


def _serve(context: Context, story: Story, store: Store, place: _Place, names: tuple[str, ...], witnesses: Sequence[Witness],
           issuers: Sequence[OwnerIssuer]) -> None:  # fmt: skip
    from socket import gethostname

    from confide.cli.broker_process import BrokerProcess
    from confide.keys.broker import Broker, utc_now
    from confide.keys.custody.seal_state import watching
    from confide.keys.kbs.certificate import kept_identity
    from confide.keys.seal_events import seals_audited
    from confide.keys.server import BrokerServer
    from confide.keys.telemetry import Collector, traced
    from confide.keys.witness import Reporter

    settings = context.settings
    file = settings.key_store.with_name("certificate.pem")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def identity() -> Identity:
        return kept_identity(file, store.signing_key, names or (place.host,), utc_now())

    broker = Broker(store, _verifier(settings, simulate=story.simulated), issuers=issuers)
    server = BrokerServer(broker, place.host, place.port, sock=place.sock, identity=identity())
    process = BrokerProcess(server, place.manager, identity, story)
    address = BrokerAddress(server.url, server.spki)
    collector = Collector(settings.traces, settings.traces_ca_file, settings.traces_share) if settings.traces else None
    seals = watching(store.kms, seals_audited(store, gethostname()))
    # Whoever reads the announcement may end the broker: signals count from before it.
    with process.signals(), traced(collector), seals, Reporter(store, witnesses, utc_now), _announced(settings, address):
        context.answer(address.to_json(), lambda: click.echo(f'[broker]\nurl = "{address.url}"\nspki = "{address.spki}"'))
        sys.stdout.flush()
        story.say("serving; Ctrl-C ends it")
        process.serve(settings.drain_s)
    story.say("ended")


def _verifier(settings: Settings, *, simulate: bool) -> Verifier:
    from confide.attest.tpm_trust import TpmTrust
    from confide.attest.vendor_verifier import vendor_verifier

    def tpm() -> TpmTrust:
        return TpmTrust.load(settings.tpm_dir)

    if simulate:
        from confide.jobs.local.simulation import SimulatedTee

        return SimulatedTee.at(settings.simulation_dir).verifier(settings.intel_service, settings.service_ca_file, tpm=tpm)
    intel, amd, authorities = settings.intel_service, settings.amd_service, settings.service_ca_file
    return vendor_verifier(settings.collateral_dir, intel=intel, amd=amd, ca_file=authorities, tpm=tpm)


# --- where things are ----------------------------------------------------------------------------------------------


@contextmanager
def _announced(settings: Settings, address: BrokerAddress) -> Iterator[None]:
    """Say in the home folder where the broker serves, for as long as it does."""
    import json

    file = serving_file(settings)
    draft = file.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps({**address.to_json(), "pid": os.getpid()}), encoding="utf-8")
    draft.replace(file)
    _last_file(settings).write_text(address.url.removeprefix("https://"), encoding="utf-8")
    try:
        yield
    finally:
        if (now := serving(settings)) is not None and now.get("pid") == os.getpid():  # not that of one that has taken over
            file.unlink(missing_ok=True)


def _last_listen(settings: Settings) -> str:
    """Where the broker of this home folder listened last: job files name that address."""
    file = _last_file(settings)
    return file.read_text(encoding="utf-8").strip() if file.exists() else DEFAULT_LISTEN


def _last_file(settings: Settings) -> Path:
    return settings.home / "broker" / "last-address"


def _split(listen: str) -> tuple[str, int]:
    host, separator, port = listen.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"not an address: {listen[:80]!r}", hint="write HOST:PORT, for instance 127.0.0.1:7600")
    return host.strip("[]"), int(port)


@contextmanager
def spawn(home: Path, key_file: Path, *, host: str = "127.0.0.1") -> Iterator[BrokerAddress]:
    """A broker in a process of its own that knows the simulated TEE, for the demo and benchmarks; ended with the block.

    Raises:
        BrokerError: it does not start.
    """
    from confide.config import Settings

    settings = Settings.load(environ={}, home=home)
    words = ["--home", str(home), "broker", "serve", "--simulate", "--listen", f"{host}:0", "--key-file", str(key_file)]
    with (home / "broker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "confide.cli.main", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + _START_S
        while (found := serving(settings)) is None or found.get("pid") != process.pid:
            if process.poll() is not None or time.monotonic() > deadline:
                raise BrokerError("the broker did not start", hint=f"see {home / 'broker.log'}")
            time.sleep(_POLL_S)
        yield BrokerAddress(str(found["url"]), found["spki"])
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

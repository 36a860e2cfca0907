"""``confide broker``: serve keys to attested nodes, and enrol owners.  For the broker's operator."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.output import Context, Story, answers
from confide.cli.owners import BrokerAddress, Enrolment
from confide.errors import BrokerError, StoreError, UsageError

if TYPE_CHECKING:
    from types import FrameType

    from confide.attest.verify import Verifier
    from confide.canonical import Json
    from confide.config import Settings
    from confide.keys.custody.protocol import Unlock
    from confide.keys.server import BrokerServer

DEFAULT_LISTEN = "127.0.0.1:7600"
_START_S = 20.0
_STOP_S = 5.0
_POLL_S = 0.05

_KEY_FILE = click.option("--key-file", type=click.Path(path_type=Path, dir_okay=False),
                         help="File with the store's master key (made if there is no store yet) [default: a passphrase].")  # fmt: skip
_PASSPHRASE_FILE = click.option("--passphrase-file", type=click.Path(path_type=Path, dir_okay=False, exists=True),
                                help="File with the passphrase, mode 0600 [default: asked for].")  # fmt: skip


@click.group("broker")
def command() -> None:
    """Serve keys to attested nodes, and enrol owners."""


@command.command("serve")
@click.option("--listen", metavar="HOST:PORT", help="Where; port 0 takes a free one [default: as last time, or 127.0.0.1:7600].")
@click.option("--name", "names", multiple=True, metavar="HOST",
              help="Name or address by which guests call it, for its certificate (repeat) [default: where it listens].")  # fmt: skip
@click.option("--simulate", is_flag=True, help="Also know this installation's simulated TEE, which protects nothing.  Grants decide.")
@_KEY_FILE
@_PASSPHRASE_FILE
@answers
def serve(
    context: Context,
    listen: str | None,
    names: tuple[str, ...],
    key_file: Path | None,
    passphrase_file: Path | None,
    *,
    simulate: bool,
) -> None:
    """Serve the key store of this home folder until Ctrl-C or SIGTERM.  Makes the store when first started.

    Prints the address and the SHA-256 of the broker's public key, which job files name.  The certificate for guests of KBS protocol 0.4.0
    is in broker/certificate.pem of the home folder.
    """
    from confide.keys.broker import Broker, utc_now
    from confide.keys.kbs.certificate import kept_identity
    from confide.keys.server import BrokerServer
    from confide.keys.store import Store

    host, port = _split(listen if listen is not None else _last_listen(context.settings))
    path = store_path(context.settings)
    store = Store.open_or_create(path, _unlock(path, key_file, passphrase_file))
    story = Story(simulated=simulate)
    try:
        broker = Broker(store, _verifier(context.settings, simulate=simulate))
        identity = kept_identity(path.with_name("certificate.pem"), store.signing_key, names or (host,), utc_now())
        server = BrokerServer(broker, host, port, identity=identity)
        address = BrokerAddress(server.url, server.spki)
        with _announced(context.settings, address):
            context.answer(address.to_json(), lambda: click.echo(f'[broker]\nurl = "{address.url}"\nspki = "{address.spki}"'))
            sys.stdout.flush()
            story.say("serving; Ctrl-C ends it")
            _serve_until_signal(server)
        story.say("ended")
    finally:
        store.close()


def _serve_until_signal(server: BrokerServer) -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        server.stop()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.serve_forever()
    finally:
        server.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _verifier(settings: Settings, *, simulate: bool) -> Verifier:
    from confide.attest.roots import TrustRoots
    from confide.attest.tpm_trust import TpmTrust
    from confide.attest.verify import Verifier
    from confide.cli.collateral import endorsements_of, source_of

    def tpm() -> TpmTrust:
        return TpmTrust.load(settings.tpm_dir)

    if simulate:
        from confide.jobs.local.simulation import SimulatedTee

        return SimulatedTee.at(settings.simulation_dir).verifier(settings.intel_service, settings.service_ca_file, tpm=tpm)
    return Verifier(TrustRoots(), source_of(settings), endorsements_of(settings), tpm=tpm)


@command.command("enrol")
@click.argument("owner")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write [default: OWNER.enrolment.json].")
@click.option("--url", help="The broker's address as the owner reaches it [default: where it serves now].")
@_KEY_FILE
@_PASSPHRASE_FILE
@answers
def enrol(context: Context, owner: str, out: Path | None, url: str | None, key_file: Path | None, passphrase_file: Path | None) -> None:
    """Make the enrolment file with which somebody becomes OWNER, or a recipient of that name.

    It holds the broker's address and key, and a token that works once and for 24 hours.  Whoever has it can become OWNER: hand it over
    safely.
    """
    from confide.keys.broker import utc_now
    from confide.keys.owners import Owners
    from confide.keys.store import Store

    path = store_path(context.settings)
    target = out if out is not None else Path(f"{owner}.enrolment.json")
    if target.exists():
        raise UsageError(f"{target} exists", hint="choose another file with --out")
    store = Store.open(path, _unlock(path, key_file, passphrase_file, make=False))
    try:
        address = BrokerAddress(url or _serving_url(context.settings), store.signing_key.spki_digest)
        Enrolment(owner, address, Owners(store, utc_now).create_enrolment(owner)).save(target)
    finally:
        store.close()
    context.answer({"owner": owner, "file": str(target), "broker": address.url})


# --- where things are ----------------------------------------------------------------------------------------------


def store_path(settings: Settings) -> Path:
    """The key store of this home folder."""
    return settings.home / "broker" / "store.sqlite"


def _address_file(settings: Settings) -> Path:
    return settings.home / "broker" / "address.json"


@contextmanager
def _announced(settings: Settings, address: BrokerAddress) -> Iterator[None]:
    """Say in the home folder where the broker serves, for as long as it does."""
    import json

    file = _address_file(settings)
    draft = file.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps({**address.to_json(), "pid": os.getpid()}), encoding="utf-8")
    draft.replace(file)
    _last_file(settings).write_text(address.url.removeprefix("https://"), encoding="utf-8")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _read_address(settings: Settings) -> Json | None:
    from confide.canonical import parse_object

    file = _address_file(settings)
    return parse_object(file.read_bytes()) if file.exists() else None


def _last_listen(settings: Settings) -> str:
    """Where the broker of this home folder listened last: job files name that address."""
    file = _last_file(settings)
    return file.read_text(encoding="utf-8").strip() if file.exists() else DEFAULT_LISTEN


def _last_file(settings: Settings) -> Path:
    return settings.home / "broker" / "last-address"


def _serving_url(settings: Settings) -> str:
    found = _read_address(settings)
    if found is None:
        raise UsageError("no broker serves from this home folder", hint="start `confide broker serve`, or give --url")
    return str(found["url"])


def _split(listen: str) -> tuple[str, int]:
    host, separator, port = listen.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"not an address: {listen[:80]!r}", hint="write HOST:PORT, for instance 127.0.0.1:7600")
    return host.strip("[]"), int(port)


def _unlock(store: Path, key_file: Path | None, passphrase_file: Path | None, *, make: bool = True) -> Unlock:
    from confide.crypto.secret import SecretBytes
    from confide.crypto.sign import read_private_file
    from confide.keys.custody.local import KeyFile, Passphrase

    if key_file is not None and passphrase_file is not None:
        raise UsageError("a store has either a key file or a passphrase", hint="give one of --key-file and --passphrase-file")
    if key_file is not None:
        if make and not store.exists() and not key_file.exists():
            return KeyFile.create(key_file)
        return KeyFile(key_file)
    if passphrase_file is not None:
        return Passphrase(SecretBytes(read_private_file(passphrase_file).rstrip(b"\r\n")))
    if not make and not store.exists():
        raise StoreError(f"there is no key store at {store}", hint="`confide broker serve` makes one when first started")
    if not sys.stdin.isatty():
        raise UsageError("a passphrase is needed and there is no terminal to ask at", hint="give --passphrase-file or --key-file")
    text: str = click.prompt("passphrase of the key store", hide_input=True, confirmation_prompt=not store.exists(), err=True)
    return Passphrase(SecretBytes(text.encode()))


@contextmanager
def spawn(home: Path, key_file: Path) -> Iterator[BrokerAddress]:
    """A broker in a process of its own that knows the simulated TEE, for the demo and benchmarks; ended with the block.

    Raises:
        BrokerError: it does not start.
    """
    from confide.config import Settings

    settings = Settings.load(environ={}, home=home)
    words = ["--home", str(home), "broker", "serve", "--simulate", "--listen", "127.0.0.1:0", "--key-file", str(key_file)]
    with (home / "broker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "confide.cli.main", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + _START_S
        while (found := _read_address(settings)) is None or found.get("pid") != process.pid:
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

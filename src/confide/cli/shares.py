"""A broker whose master key is in several people's hands: making the shares, and bringing them to a broker that waits for them.

The broker listens on a unix socket of its home folder, for processes of its own user only.  A share is typed or read from a private file:
it is never an argument.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from confide.cli.output import Context, answers
from confide.cli.storage import location_of
from confide.errors import BrokerError, ChannelError, SealedError, ShareError, StoreError, UsageError

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.config import Settings
    from confide.keys.custody.protocol import Kms
    from confide.keys.custody.shares import Collected, SharedRoot
    from confide.keys.store import Store

_CALL_S = 30.0


class Desk:
    """An :class:`Unlock` that waits until enough holders have brought their shares.  Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asks = threading.Event()
        self._enough = threading.Event()
        self._collected: Collected | None = None
        self._store: Store | None = None
        self._holders: list[int] = []

    @property
    def called(self) -> str:
        """See :class:`~confide.keys.custody.protocol.Unlock`."""
        return "the key that these shares make"

    def new_parameters(self) -> NoReturn:
        """Shares are made by ``confide broker init`` alone."""
        raise StoreError("there is no key store yet", hint="`confide broker init --shares 3-of-5` makes one, and the shares")

    def unlock(self, parameters: Json) -> Kms:
        """Wait for the shares, then the root key that they are of."""
        from confide.keys.custody.shares import Collected, SharedRoot, ShareSet

        wanted = ShareSet.from_json(parameters)
        with self._lock:
            collected = self._collected = Collected(wanted)
        self._asks.set()
        self._enough.wait()
        with self._lock:
            self._collected = None
            return SharedRoot(collected.take(), wanted).unlock(parameters)

    @property
    def holders(self) -> list[str]:
        """Whose shares were brought, by their numbers."""
        return [str(index) for index in sorted(self._holders)]

    def opened(self, store: Store) -> None:
        """The store is open: its log says by whose shares, and owners can be enrolled from now on."""
        from confide.keys.audit import new_event
        from confide.keys.broker import utc_now

        store.append_audit(new_event("unseal", (), utc_now(), shares=self.holders))
        with self._lock:
            self._store = store

    def take(self, request: Json) -> Json:
        """Operation ``share``: one holder's share."""
        from confide.crypto.secret import SecretBytes
        from confide.keys.custody.shares import Share

        share = Share.parse(SecretBytes(str(request.get("share")).encode()))
        self._asks.wait(_CALL_S / 2)  # the socket is there a moment before the store is read
        with self._lock:
            if self._collected is None or self._enough.is_set():
                raise ShareError("the broker is not waiting for shares")
            self._collected.add(share)
            self._holders.append(share.index)
            missing = self._collected.missing
            if not missing:
                self._enough.set()
        return {"share": share.index, "missing": missing}

    def operate(self, op: str, request: Json) -> Json:
        """One of the operator's steps, in the process that has the key."""
        with self._lock:
            store = self._store
        if store is None:
            raise SealedError("the broker is sealed: it waits for shares", hint="bring them with `confide broker unseal`")
        return operate_in(store, op, request)


@contextmanager
def desk_at(settings: Settings) -> Iterator[Desk]:
    """A desk on this home folder's socket, with SIGTERM as good as Ctrl-C while it waits."""
    from confide.node.local_socket import LocalSocketServer

    desk, path = Desk(), _socket(settings)
    _remove_stale(path)
    steps = {op: partial(desk.operate, op) for op in OPERATIONS}
    server = LocalSocketServer(path, {"share": desk.take, **steps}, only_children=False)
    server.start()
    try:
        with interrupted_by_sigterm():
            yield desk
    finally:
        server.close()


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Have SIGTERM be as good as Ctrl-C inside, for what waits before it serves."""

    def end(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ask_broker(settings: Settings, op: str, **fields: object) -> Json:
    """Ask the broker of this home folder over its socket.

    Raises:
        BrokerError: it is not running, or not one with shares.
    """
    from confide.node.local_socket import LocalSocketClient

    client = LocalSocketClient(_socket(settings), timeout_s=_CALL_S)
    try:
        return client.call(op, **fields)
    except ChannelError:
        raise BrokerError("no broker with shares serves from this home folder", hint="start `confide broker serve --shares`") from None
    finally:
        client.close()


def _socket(settings: Settings) -> Path:
    return settings.key_store.with_name("operator.sock")


def _remove_stale(path: Path) -> None:
    """Remove the socket of a broker that was killed; not of one that answers."""
    import socket

    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX) as probe, suppress(ConnectionRefusedError, FileNotFoundError):
        probe.connect(str(path))
        raise UsageError("another broker with shares serves from this home folder", path=str(path))
    path.unlink(missing_ok=True)


# --- commands ------------------------------------------------------------------------------------------------------


@click.command("init")
@click.option("--shares", "wanted", metavar="T-of-N", required=True, help="Any T of the N shares open the store; fewer do not.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True,
              help="Folder for the share files, made if it is not there.")  # fmt: skip
@click.option("--on-disk", is_flag=True, help="The folder may be on a disk, which may keep what is removed from it.")
@answers
def init(context: Context, wanted: str, out: Path, *, on_disk: bool) -> None:
    """Make a key store whose master key several people hold in shares.

    Each share is a file of mode 0600, in a folder that is in memory only (/dev/shm).  Hand each to its holder and remove it here: whoever
    has T of them has the master key.
    """
    from confide.keys.store import Store

    location = location_of(context.settings)
    if location.exists():
        hint = "`confide broker rekey` puts a store that there is under another key"
        raise StoreError(f"there is a key store at {location.name}", hint=hint, path=location.name)
    root, files = new_shares(wanted, out, on_disk=on_disk)
    try:
        Store.create(location, root).close()
    except BaseException:
        _remove(files)
        raise
    context.answer({"store": location.name, "needed": root.shares.threshold, "shares": [str(file) for file in files]})


def new_shares(wanted: str, out: Path, *, on_disk: bool) -> tuple[SharedRoot, list[Path]]:
    """A new root key, and the files of its shares.

    Raises:
        UsageError: not a number of shares, or the folder is on a disk.
    """
    from confide.crypto.sign import write_private_file
    from confide.keys.custody.shares import SharedRoot
    from confide.node.private_dir import in_memory

    threshold, separator, count = wanted.partition("-of-")
    if not (separator and threshold.isdecimal() and count.isdecimal()):
        raise UsageError(f"not a number of shares: {wanted[:40]!r}", hint="write T-of-N, for instance 3-of-5")
    root, made = SharedRoot.create(threshold=int(threshold), count=int(count))
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not on_disk and not in_memory(out.resolve()):
        raise UsageError(f"{out} is on a disk: together, the shares are the master key", hint="choose one in /dev/shm, or give --on-disk")
    files: list[Path] = []
    try:
        for share in made:
            file = out / f"share-{share.index}-of-{share.count}"
            write_private_file(file, share.to_text().reveal() + b"\n")
            files.append(file)
    except BaseException:
        _remove(files)
        raise
    return root, files


def _remove(files: list[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


@click.command("unseal")
@click.option("--share-file", type=click.Path(path_type=Path, dir_okay=False), help="File with your share, mode 0600 [default: asked for].")
@answers
def unseal(context: Context, share_file: Path | None) -> None:
    """Bring one share to the broker of this home folder, which waits for them.  Each holder does this."""
    from confide.crypto.sign import read_private_file

    if share_file is not None:
        text = read_private_file(share_file).decode("ascii", "replace").strip()
    elif sys.stdin.isatty():
        text = click.prompt("your share", hide_input=True, err=True)
    else:
        raise UsageError("a share is needed and there is no terminal to ask at", hint="give --share-file")
    answer = ask_broker(context.settings, "share", share=text)
    context.answer({"share": answer.get("share"), "missing": answer.get("missing")})


OPERATIONS: Final = ("enrol", "cancel-enrolment", "withdraw", "add-tenant", "tenants", "limits")
"""What an operator asks of the broker on its machine: nothing of it reads or uses a key."""


def operate_in(store: Store, op: str, fields: Mapping[str, object]) -> Json:
    """One of the operator's steps in an open store.

    Raises:
        UsageError: there is no such step.
    """
    from confide.keys.broker import utc_now
    from confide.keys.operators import Operation

    operation, said = Operation(store, utc_now), {name: str(value) for name, value in fields.items()}
    match op:
        case "enrol":
            return operation.enrolment(said.get("owner", ""), said.get("tenant", ""), said.get("role", ""))
        case "withdraw":
            return operation.withdraw(said.get("owner", ""), strand_rules=fields.get("strand_rules") is True)
        case "cancel-enrolment":
            return operation.cancel_enrolment(said.get("owner", ""))
        case "add-tenant":
            return operation.add_tenant(said.get("tenant", ""))
        case "tenants":
            return operation.tenants()
        case "limits":
            found = fields.get("limits")
            return operation.set_limits(said.get("tenant", ""), found if isinstance(found, dict) else {"": ""})
    raise UsageError("there is no such step")

"""A node's keys: asks the broker under the node's own evidence, keeps them in a keyring for their lease, serves them to children.

Two broker sessions a node: one asks for keys, used by one thread at a time; one waits for withdrawals, in a thread of its own, from
the first key on.  A withdrawal ends the node.  While the broker cannot be asked, keys that are here are used until their lease ends.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from confide.errors import AppraisalError, BindingError, ConfideError, KeyRevokedError, UnavailableError
from confide.ids import DatasetId, Purpose, SpkiDigest
from confide.jobs import kbs_keys
from confide.jobs.owners_policies import require_owners_accept
from confide.jobs.reports import group_name, key_opened
from confide.jobs.staging import staging_path
from confide.keys.client import NodeBrokerClient
from confide.keys.readings import Reading
from confide.keys.released_keys import OutputKey, ReleasedKey
from confide.node.keyring import Keyring, Lease

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from confide.canonical import Json
    from confide.ids import NodeId
    from confide.job import KbsSource
    from confide.jobs.inputs import VerifiedInput
    from confide.node.local_socket import Operation
    from confide.node.workload import NodeServices


_log = logging.getLogger(__name__)
_WATCH_TIMEOUT_S: Final = 40.0
"""Longer than the broker keeps a question for withdrawals open (25 s)."""
_STOP_S: Final = 2.0
"""How long the end waits for the thread that waits for withdrawals."""
_RETRY_S: Final = 1.0
"""Between tries to ask for withdrawals while the broker does not answer: when it is back, it is asked within this time."""


class BrokerKeys:
    """The keys of one node.  Safe to use from several threads; :meth:`close` wipes all of them and is idempotent."""

    def __init__(self, services: NodeServices) -> None:
        self._services = services
        self._lock = threading.Lock()
        job = services.job
        connect = partial(
            NodeBrokerClient,
            job.broker.url,
            SpkiDigest(job.broker.spki),
            identity=services.identity,
            attester=services.attester,
            context=services.context,
            seal_key=services.seal_key,
            role=services.spec.role,
            signatures=job.signatures,
        )
        self._broker, self._watcher = connect(), connect(timeout=_WATCH_TIMEOUT_S)
        self._keyring = Keyring()
        self._groups: frozenset[DatasetId] = frozenset()
        self._watching: threading.Thread | None = None
        self._closed = threading.Event()
        self._revoked: KeyRevokedError | None = None

    def operations(self) -> Mapping[str, Operation]:
        """The agent socket's operations for file keys."""
        return self._keyring.operations()

    def counts(self) -> tuple[int, int]:
        """How many file keys this node's processes asked for, and how many of them the broker was not asked for."""
        return self._keyring.counts()

    def know(self, inputs: Iterable[VerifiedInput]) -> None:
        """Take note of which column groups the job reads: outputs derive from these too."""
        self._groups = frozenset(group.dataset for found in inputs for group in found.groups)

    def open_inputs(self, inputs: Sequence[VerifiedInput]) -> None:
        """Get and hold the keys of verified inputs, asked for together.

        Raises:
            KeyAccessError: the owner has not granted it to this job, role and node.
            AppraisalError: the driver does not meet an owner's policy.
            BrokerError, KbsError: the broker, or the key broker service that the job names, does not answer as it must.
        """
        for found, lease in zip(inputs, self._read_keys(inputs), strict=True):
            files, again = frozenset(file.path for file in found.manifest.files), partial(self._read_key, found)
            self._keyring.open_input(found.root, DatasetId(found.manifest.dataset), lease, files=files, refresh=again)
            self._say_opened(found)

    def prove_admitted(self, found: VerifiedInput) -> None:
        """Have the key broker service of an input give this node its key too, which is wiped at once (driver only).

        A service's owner names no job and no driver: that the driver, to whom workers give what they read, is one of the nodes that the
        owner accepts shows in nothing else.  Raises as :meth:`open_inputs`.
        """
        (released,) = self._released([found])
        released.secret.wipe()
        self._services.tell(key_opened(found.name, Purpose.READ, released))
        self._say_opened(found)

    def _read_key(self, found: VerifiedInput) -> Lease:
        (lease,) = self._read_keys([found])
        return lease

    def _read_keys(self, inputs: Sequence[VerifiedInput]) -> list[Lease]:
        released = self._released(inputs)
        self._check_driver(released)
        for found, key in zip(inputs, released, strict=True):
            self._services.tell(key_opened(found.name, Purpose.READ, key))
            for name, group in key.groups.items():
                self._services.tell(key_opened(group_name(found.name, name), Purpose.READ, group))
        return [_lease(key, grouped=bool(found.manifest.groups)) for found, key in zip(inputs, released, strict=True)]

    def _released(self, inputs: Sequence[VerifiedInput]) -> list[ReleasedKey]:
        """Each key from the key broker service that the job names for its input, or else, all together, from the broker."""
        named = [(one, source) for one in inputs if (source := self._source(one)) is not None]
        found = {one.name: kbs_keys.fetch(one, source, self._services.attester) for one, source in named}
        others = [one for one in inputs if one.name not in found]
        if others:
            try:
                shown = [one.vouched() for one in others]
                with self._asking() as broker:
                    asked = [{group.name: group.dataset for group in one.groups} for one in others]
                    given = broker.releases(shown, Purpose.READ, groups=asked)
                    self._watch()
            except ConfideError:
                for key in found.values():
                    key.wipe()
                raise
            found |= {one.name: key for one, key in zip(others, given, strict=True)}
        return [found[one.name] for one in inputs]

    def _source(self, found: VerifiedInput) -> KbsSource | None:
        return self._services.job.inputs[found.name].key

    def _say_opened(self, found: VerifiedInput) -> None:
        source = self._source(found)
        where = {} if source is None else {"source": source.resource}
        self._services.emit("key-opened", dataset=found.manifest.dataset, name=found.name, key=found.key_name, **where)
        for group in found.groups:
            key = f"{group.wrapped.key}@{group.wrapped.version}"
            self._services.emit("key-opened", dataset=group.dataset, name=group_name(found.name, group.name), key=key)

    def output(self, name: str, newest: Sequence[VerifiedInput] = (), parent: Json | None = None) -> OutputKey:
        """The key of this run's output ``name`` (the driver's first call makes it).

        ``newest``: inputs that the driver reads as they are because it was shown no newer snapshot of them.  ``parent``: the newest
        manifest of the dataset that the output goes on with (the driver's first call).

        Raises:
            RollbackError: the broker has seen a newer one.
            GrantError: the run may not go on with that dataset.
        """
        job = self._services.job
        inputs = [*(DatasetId(spec.dataset) for spec in job.inputs.values() if spec.key is None), *sorted(self._groups)]
        read = [Reading(one.manifest.dataset, one.manifest.snapshot, one.digest) for one in newest if self._source(one) is None]
        with self._asking() as broker:
            key = broker.output(name, inputs=inputs, recipients=job.outputs[name].recipients, newest=read, parent=parent)
            self._watch()
        goes_on = job.outputs[name].dataset
        if goes_on and key.dataset != goes_on:
            key.secret.wipe()
            raise BindingError("the broker answered with another dataset's key than the job goes on with", output=name)
        self._services.tell(key_opened(name, Purpose.WRITE, key))
        return key

    def _check_driver(self, released: Sequence[ReleasedKey]) -> None:
        """A worker gives the driver what it reads: the driver has to meet the owners' policies too, not only the job's."""
        if self._services.driver is None:
            return
        policies = {policy.digest: policy for one in released for key in (one, *one.groups.values()) for policy in key.policies}
        try:
            require_owners_accept(self._services.driver, tuple(policies.values()), self._services.verifier)
        except AppraisalError:
            for key in released:
                key.wipe()
            raise

    def open_output(self, name: str) -> None:
        """Get and hold the key of an output, for this node's executors to write it.

        Raises:
            BindingError: the output was made by another driver than the one that this worker attested.
        """
        key = self.output(name)
        driver = self._services.driver
        if driver is not None and key.signer != driver.binding.spki_digest:
            key.secret.wipe()
            raise BindingError("the output was made by another driver than this worker's", output=name)
        place = staging_path(self._services.job.outputs[name].folder(name), self._services.spec.run_id)
        run = self._services.spec.run_id
        self._keyring.open_output(str(place), key.dataset, _lease(key), run=run, refresh=lambda: _lease(self.output(name)))
        self._services.emit("key-opened", dataset=key.dataset, name=name, key=str(key.key))

    def register(self, envelope: Json, *, announce: bool = False) -> None:
        """Tell the broker of an output's manifest (driver only); ``announce``: it is about to become an earlier dataset's newest."""
        with self._asking() as broker:
            broker.register_manifest(envelope, announce=announce)

    def cut_off(self, node: NodeId) -> None:
        """Have the broker give that node of this run no key any more (driver only).

        Raises:
            ConfideError: the broker does not take note.
        """
        with self._asking() as broker:
            broker.cut_off(node)

    def audit_head(self) -> tuple[Json, bytes]:
        """The broker's signed audit head, and the key (DER SPKI) that signed it, which the job pins."""
        with self._asking() as broker:
            return broker.audit_head(), broker.broker_key().spki_der

    @contextmanager
    def _asking(self) -> Iterator[NodeBrokerClient]:
        """The broker, for one question at a time.

        Raises:
            UnavailableError: the node is ending.
        """
        with self._lock:
            if self._closed.is_set():
                raise UnavailableError("the node is ending")
            yield self._broker

    def check_not_revoked(self) -> None:
        """Return if no withdrawal is known here.

        Raises:
            KeyRevokedError: one is.
        """
        if self._revoked is not None:
            raise self._revoked

    def close(self) -> None:
        """Wipe the keys and leave the broker, for good: a key that comes after this is wiped, too."""
        self._closed.set()
        self._keyring.wipe()
        self._broker.close()  # without the lock: a request that is under way ends by it
        self._stop_watching()

    # --- withdrawals ---------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Begin to wait for withdrawals, if that has not begun."""
        if self._watching is None and not self._closed.is_set():
            self._watching = threading.Thread(target=self._wait_for_withdrawals, name="confide-withdrawals", daemon=True)
            self._watching.start()

    def _stop_watching(self) -> None:
        """End the thread, which may be connecting just now: then there is nothing to close yet."""
        thread, until = self._watching, time.monotonic() + _STOP_S
        while thread is not None and thread.is_alive() and thread is not threading.current_thread() and time.monotonic() < until:
            self._watcher.close()
            thread.join(0.05)

    def _wait_for_withdrawals(self) -> None:
        while not self._closed.is_set():
            try:
                self._watcher.watch()
            except KeyRevokedError as error:
                self._revoked = error
                self._keyring.end(error)
                self._services.fail(error)
                break
            except ConfideError as error:  # the leases still end by themselves
                _log.debug("withdrawals cannot be asked for: %s", error.code)
                self._closed.wait(_RETRY_S)
            self._keyring.drop_expired()
        self._watcher.close()


def _lease(key: ReleasedKey | OutputKey, *, grouped: bool = False) -> Lease:
    """A lease of a dataset's key and, of a table with column groups, of those that the job reads: all end with the first."""
    groups = key.groups if isinstance(key, ReleasedKey) else {}
    ends = min(one.expires for one in (key, *groups.values()))
    secrets = {name: group.secret for name, group in groups.items()}
    return Lease(key.secret, (ends - datetime.now(UTC)).total_seconds(), secrets if grouped else None)

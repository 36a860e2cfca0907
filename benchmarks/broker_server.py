"""The broker of the benchmark: in a process of its own, on one core, with owners, keys, grants and a resource.

All of it is made by the owners' own requests.  What is measured inside this process (appends, proofs, re-wraps) is asked for over a pipe.
"""

from __future__ import annotations

import base64
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confide.attest.insecure import Installation
from confide.attest.policy import Policy
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import Json, canonical, digest_of
from confide.crypto.http import request
from confide.crypto.sign import SigningKey, dsse_sign
from confide.crypto.tls import PinnedSpki, connect
from confide.ids import DatasetId, JobDigest, Purpose, Role, SpkiDigest, Tee
from confide.keys.audit import new_event
from confide.keys.broker import Broker
from confide.keys.client import OwnerClient
from confide.keys.connection import https_address
from confide.keys.credentials import Credential
from confide.keys.custody.local import KeyFile
from confide.keys.garbage import collect_rarely
from confide.keys.hierarchy import KeyHierarchy
from confide.keys.key_records import Key
from confide.keys.manifest_claims import PAYLOAD_TYPE
from confide.keys.records import Dataset
from confide.keys.released_keys import MintedDataset
from confide.keys.server import BrokerServer
from confide.keys.store import Store

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from confide.keys.storage.locations import Location

OWNER = "airline"
APPROVERS = ("anna", "bert", "carl")
SIMPLE, APPROVED = "simple", "2 of 3"
RESOURCE = f"{OWNER}/key/flights"
MEASUREMENT = "ab" * 48
JOB = JobDigest(digest_of({"benchmark": "broker"}))
_RESOURCE_BYTES = 32
_FILES = 8
_STEP = 1000


@dataclass(frozen=True, slots=True)
class World:
    """What clients have to know.  ``manifests`` by policy: the signed manifest of each dataset."""

    url: str
    spki: SpkiDigest
    installation: Path
    manifests: dict[str, list[Json]]


def serve(folder: Path, place: Location, core: int, datasets: int, pipe: Connection) -> None:
    """Be the broker until told to stop."""
    os.sched_setaffinity(0, {core})
    made = _Made(folder, place)
    with made.server:
        manifests = made.prepare(datasets)
        collect_rarely()  # as a broker in service does
        pipe.send(World(made.server.url, made.server.spki, made.installation.folder, manifests))
        commands: dict[str, Callable[[int], Any]] = {"append": made.append, "prove": made.prove, "make": made.make, "rewrap": made.rewrap}
        while (asked := pipe.recv()) is not None:
            name, number = asked
            pipe.send(commands[name](number))
    made.store.close()


class _Made:
    """The broker and what is in it."""

    def __init__(self, folder: Path, place: Location) -> None:
        self._folder = folder
        self.installation = Installation.create(folder / "simulated")
        verifier = Verifier(TrustRoots(simulated=self.installation.root_der), self.installation.collateral_source())
        self.store = Store.create(place, KeyFile.create(folder / "master.key"))
        self._broker = Broker(self.store, verifier)
        self.server = BrokerServer(self._broker)

    def prepare(self, datasets: int) -> dict[str, list[Json]]:
        """Owners, approvers, datasets under either policy, their grants, and a resource with its rule."""
        with self._enrolled(OWNER) as owner:
            people = [self._enrolled(name) for name in APPROVERS]
            manifests = {}
            for policy, key in ((SIMPLE, "flights"), (APPROVED, "weather")):
                owner.create_key(key)
                if policy == APPROVED:
                    owner.set_approvers(key, 2, APPROVERS)
                made = owner.grant(key, job=JOB, policy=_policy(), roles=[Role.WORKER], purposes=[Purpose.READ])
                if policy == APPROVED:
                    for person in people[:2]:
                        person.vote(made.id, "approve")
                manifests[policy] = [self._dataset(owner, key) for _ in range(datasets)]
            for person in people:
                person.close()
        self._resource()
        return manifests

    def append(self, number: int) -> tuple[list[float], float]:
        """Entries like those of releases, one step each: milliseconds, and CPU seconds in all."""
        facts = {"job": JOB, "run": "bench-000000000000", "node": "worker-1", "role": "worker", "evidence": "0" * 96, "dataset": "0" * 32}

        def once(_: int) -> None:
            self.store.append_audit(new_event("release", [OWNER], datetime.now(UTC), **facts))

        return _timed(once, number)

    def prove(self, number: int) -> tuple[list[float], float, int]:
        """Proofs of entries anywhere in the log, each with a head that is signed for it; and the log's length."""
        size = self.store.head(datetime.now(UTC)).size
        any_of = random.Random(7)
        values, used = _timed(lambda _: self.store.prove(any_of.randint(1, size), datetime.now(UTC)), number)
        return values, used, size

    def make(self, number: int) -> tuple[float, float]:
        """So many datasets under one key: seconds, and CPU seconds."""
        began, used = time.perf_counter(), time.process_time()
        with OwnerClient(self.server.url, self.server.spki, self._credential(OWNER), timeout=60) as owner:
            owner.create_key("many")
        key, keys, signer = self.store.get(Key, f"{OWNER}/many"), KeyHierarchy(self.store), self._credential(OWNER).key.spki_der
        if key is None:
            raise LookupError("the key was not made")
        for start in range(0, number, _STEP):
            minted = [keys.mint(key)[0] for _ in range(min(_STEP, number - start))]
            self.store.put_all(Dataset(DatasetId(wrapped.dataset), wrapped, signer) for wrapped in minted)
        return time.perf_counter() - began, time.process_time() - used

    def rewrap(self, number: int) -> tuple[float, float]:
        """Their keys put under a new version of that key: seconds, and CPU seconds."""
        with OwnerClient(self.server.url, self.server.spki, self._credential(OWNER), timeout=60) as owner:
            owner.rotate_key("many")
            began, used = time.perf_counter(), time.process_time()
            done = max(progress.done for progress in owner.rewrap("many"))
            taken = time.perf_counter() - began, time.process_time() - used
        if done != number:
            raise LookupError(f"{done} of {number} were re-wrapped")
        return taken

    def _credential(self, name: str) -> Credential:
        folder = self._folder / "credentials"
        return Credential.load(folder, name) if Credential.path(folder, name).exists() else Credential.create(folder, name)

    def _enrolled(self, name: str) -> OwnerClient:
        client = OwnerClient(self.server.url, self.server.spki, self._credential(name))
        client.enrol(self._broker.owners.create_enrolment(name))
        return client

    def _dataset(self, owner: OwnerClient, key: str) -> Json:
        minted = owner.mint_dataset(key)
        envelope = _manifest(minted, self._credential(OWNER).key)
        owner.register_manifest(envelope)
        return envelope

    def _resource(self) -> None:
        """A resource for guests, with a policy and a rule: a KBS's own requests, by the owner's TLS key."""
        host, port = https_address(self.server.url)
        encoded = {"type": "confide", "policy_id": "simulated", "policy": _base64(_policy().to_json())}
        rules = {"policy": _base64({"rules": [{"resource": f"{OWNER}/key/*", "policy": "simulated"}]})}
        bodies = ((f"resource/{RESOURCE}", bytes(_RESOURCE_BYTES)), ("attestation-policy", encoded), ("resource-policy", rules))
        with connect(host, port, self._credential(OWNER).identity(), trust=PinnedSpki(self.server.spki)) as channel:
            for path, body in bodies:
                answer = request(channel, "POST", f"/kbs/v0/{path}", body)
                if answer.status != 200:
                    raise LookupError(f"{path}: {answer.json}")


def _policy() -> Policy:
    return Policy.from_json({"name": "bench", "allow": ["simulated"], "measurements": {Tee.TDX.value: [MEASUREMENT]}})


def _manifest(minted: MintedDataset, signer: SigningKey) -> Json:
    """A manifest with the fields that the broker reads, and as many files as a small table has."""
    data = {
        "format": "confide-manifest-v1",
        "dataset": minted.dataset,
        "snapshot": 1,
        "key": minted.key.id,
        "version": minted.key.version,
        "wrapped": minted.wrapped.to_json(),
        "files": [{"path": f"part-{n:05}.parquet", "bytes": 1 << 20, "sha384": f"{n:096x}"} for n in range(_FILES)],
    }
    return dsse_sign(signer, PAYLOAD_TYPE, canonical(data))


def _base64(value: object) -> str:
    return base64.b64encode(canonical(value)).decode()


def _timed(action: Callable[[int], object], number: int) -> tuple[list[float], float]:
    values, used = [], time.process_time()
    for n in range(number):
        began = time.perf_counter()
        action(n)
        values.append(1000 * (time.perf_counter() - began))
    return values, time.process_time() - used

"""A whole world around one real broker on loopback: simulated TEEs, owners, nodes, a clock that tests can turn."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from confide.attest.evidence import NodeContext
from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.attest.policy import Policy, Rules
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import Json, canonical
from confide.crypto.seal import SealKey
from confide.crypto.sign import SigningKey, dsse_sign
from confide.crypto.tls import Identity
from confide.ids import JobDigest, NodeId, Role, RunId, Tee
from confide.keys.broker import Broker
from confide.keys.client import NodeBrokerClient, OwnerClient
from confide.keys.credentials import Credential
from confide.keys.custody.local import KeyFile
from confide.keys.custody.protocol import Unlock
from confide.keys.manifest_claims import PAYLOAD_TYPE
from confide.keys.operator_client import OperatorClient
from confide.keys.operators import Operation
from confide.keys.released_keys import MintedDataset, OutputKey
from confide.keys.roles import Office
from confide.keys.server import BrokerServer
from confide.keys.storage.locations import Location
from confide.keys.store import Store
from confide.keys.tenant_records import DEFAULT_TENANT, EVERY_TENANT
from confide.keys.tenants import Tenants

MEASUREMENT = "ab" * 32
JOB = JobDigest("11" * 48)
OTHER_JOB = JobDigest("22" * 48)
RUN = RunId("delays-0123456789ab")


def policy(name: str = "demo", **changes: Any) -> Policy:
    data: dict[str, Any] = {"name": name, "measurements": {Tee.SGX: (MEASUREMENT,)}, "allow": ("simulated",)}
    return Rules(**{**data, **changes})


def manifest(minted: MintedDataset | OutputKey, signer: SigningKey, snapshot: int = 1, **changes: object) -> Json:
    """A signed manifest with the fields that the broker reads, and one that it does not."""
    data = {
        "format": "confide-manifest-v1",
        "dataset": minted.dataset,
        "snapshot": snapshot,
        "key": minted.key.id,
        "version": minted.key.version,
        "wrapped": minted.wrapped.to_json(),
        "files": [],
    }
    return dsse_sign(signer, PAYLOAD_TYPE, canonical({**data, **changes}))


@dataclass
class Node:
    """A node's keys and what it says of itself."""

    attester: InsecureAttester
    role: Role = Role.WORKER
    job: JobDigest = JOB
    run: RunId = RUN
    name: str = "worker-1"
    identity: Identity = field(default_factory=lambda: Identity.generate("node"))
    seal_key: SealKey = field(default_factory=SealKey.generate)

    @property
    def context(self) -> NodeContext:
        return NodeContext(self.job, self.run, NodeId(self.name), self.seal_key.public_jwk())


class World:
    """One broker with its store, server, owners and nodes."""

    def __init__(
        self, folder: Path, installation: Installation, *, verifier: Verifier | None = None, place: Location | None = None, **options: Any
    ) -> None:
        self.folder = folder
        self.place = place or folder / "store" / "broker.db"
        self.installation = installation
        self.ahead = timedelta()
        self.unlock: Unlock = options.pop("unlock", None) or KeyFile.create(folder / "master.key")
        self.verifier = verifier or Verifier(TrustRoots(simulated=installation.root_der), installation.collateral_source())
        self._clean = contextlib.ExitStack()
        self.options = options
        self.serve(Store.create(self.place, self.unlock))

    def serve(self, store: Store) -> None:
        self.store = store
        self.broker = Broker(store, self.verifier, self.now, **self.options)
        self.server = self._clean.enter_context(BrokerServer(self.broker))

    def restart(self) -> None:
        """The broker ends and comes back from its file, on another port."""
        self.server.stop()
        self.store.close()
        store = Store.open(self.place, self.unlock)
        store.check()
        self.serve(store)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def credential(self, name: str) -> Credential:
        folder = self.folder / "credentials"
        return Credential.load(folder, name) if Credential.path(folder, name).exists() else Credential.create(folder, name)

    def stranger(self, credential: Credential) -> OwnerClient:
        return self._clean.enter_context(OwnerClient(self.server.url, self.server.spki, credential))

    def owner(self, name: str, *, tenant: str = DEFAULT_TENANT, office: Office = Office.OWNER) -> OwnerClient:
        if not Tenants(self.store).exists(tenant) and tenant != EVERY_TENANT:
            Operation(self.store, self.now).add_tenant(tenant)
        client = self.stranger(self.credential(name))
        client.enrol(self.broker.owners.create_enrolment(name, tenant=tenant, office=office))
        return client

    def operator(self, name: str = "ops") -> OperatorClient:
        self.owner(name, tenant=EVERY_TENANT, office=Office.OPERATOR)
        return self._clean.enter_context(OperatorClient(self.server.url, self.server.spki, self.credential(name)))

    def dataset(self, client: OwnerClient, owner: str, key: str) -> tuple[MintedDataset, Json]:
        """A dataset under a new key of ``owner``, with its registered manifest."""
        client.create_key(key)
        minted = client.mint_dataset(key)
        envelope = manifest(minted, self.credential(owner).key)
        client.register_manifest(envelope)
        return minted, envelope

    def attester(self, fault: Fault | None = None, measurement: str = MEASUREMENT) -> InsecureAttester:
        return InsecureAttester(self.installation, Tee.SGX, measurement, fault=fault)

    def node(self, role: Role = Role.WORKER, *, fault: Fault | None = None, **changes: Any) -> Node:
        attester = changes.pop("attester", None) or self.attester(fault)
        return Node(attester, role, **{"name": f"{role.value}-1", **changes})

    def second(self) -> BrokerServer:
        """Another broker on the same store, which has the same key."""
        store = Store.open(self.place, self.unlock)
        self._clean.callback(store.close)
        return self._clean.enter_context(BrokerServer(Broker(store, self.verifier, self.now, **self.options)))

    def client(self, node: Node, *, at: BrokerServer | None = None, signatures: Sequence[Json] = ()) -> NodeBrokerClient:
        return self._clean.enter_context(
            NodeBrokerClient(
                (at or self.server).url,
                self.server.spki,
                identity=node.identity,
                attester=node.attester,
                context=node.context,
                seal_key=node.seal_key,
                role=node.role,
                signatures=signatures,
            )
        )

    def events(self, action: str) -> list[Json]:
        """The audit log's events of one kind, as the operator sees them."""
        return [e.event for e in self.store.audit() if e.event is not None and e.event["action"] == action]

    def refusals(self) -> list[tuple[str, str]]:
        """What was refused, and why, as the audit log has it."""
        return [(e["refused"], e["code"]) for e in self.events("refuse")]

    def close(self) -> None:
        self._clean.close()
        self.store.close()

"""What an agent gives a workload, without an agent: for tests of a node's keys against real brokers."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from support.stage import Stage

from confide.attest.evidence import NodeContext
from confide.canonical import Json
from confide.crypto.seal import SealKey
from confide.crypto.secret import SecretBytes
from confide.crypto.tls import Identity
from confide.errors import ConfideError
from confide.ids import NodeId, Role, RunId, Tee
from confide.job import Job
from confide.jobs.broker_keys import BrokerKeys
from confide.jobs.inputs import VerifiedInput
from confide.node.private_dir import PrivateDir
from confide.node.spec import NodeSpec
from confide.node.workload import JobCertificate, NodeServices

RUN = RunId(f"main-job-{secrets.token_hex(6)}")  # a name in /dev/shm, which other test runs on this machine have in common with this one


@dataclass
class Node:
    """What an agent would give a workload, and what came back."""

    services: NodeServices
    failed: threading.Event = field(default_factory=threading.Event)
    errors: list[ConfideError] = field(default_factory=list)
    told: list[Json] = field(default_factory=list)


@contextmanager
def node(stage: Stage, job: Job, role: Role = Role.WORKER) -> Iterator[tuple[Node, BrokerKeys]]:
    name = NodeId("driver" if role is Role.DRIVER else "worker-1")
    values = {"run_id": RUN, "node_id": name, "role": role, "job_digest": job.digest, "tee": Tee.SGX}
    place: dict[str, object] = {"log_path": stage.root / "log", "work_dir": stage.root}
    place |= {"announce_path": stage.root / "announce"} if role is Role.DRIVER else {"driver_host": "h", "driver_port": 1}
    spec = NodeSpec.model_validate({**values, **place})
    seal_key = SealKey.generate()
    with PrivateDir(RUN, name) as private:
        found = Node(None)  # type: ignore[arg-type]  # made in the next line, with its own methods
        found.services = NodeServices(
            spec=spec,
            job=job,
            policy=stage.parsed,
            identity=Identity.generate(name),
            seal_key=seal_key,
            context=NodeContext(job.digest, RUN, name, seal_key.public_jwk()),
            attester=stage.tee.attester(spec),
            verifier=stage.tee.verifier(),
            certificate=JobCertificate(b"", b"", SecretBytes(b"none")),
            private_dir=private,
            emit=lambda *_, **__: None,
            tell=found.told.append,
            fail=lambda error: (found.errors.append(error), found.failed.set())[0],
        )
        keys = BrokerKeys(found.services)
        try:
            yield found, keys
        finally:
            keys.close()


def read(keys: BrokerKeys, found: VerifiedInput) -> str:
    """A file's key, as an executor asks for it."""
    path = str(found.folder / found.manifest.files[0].path)
    return str(keys.operations()["read-key"]({"path": path})["key"])

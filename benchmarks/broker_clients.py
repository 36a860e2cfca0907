"""The benchmark's clients: several processes on another core than the broker's, each with some threads; they only ask and take the time.

Cycles are those of real clients, with each answer opened.  Clients on open sessions send the same request again and again, made once, and
look at the answer's status and length only, except that each :data:`_OPEN_EVERY`th answer is read and its keys are opened: otherwise the
clients would be what is measured.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from benchmarks.broker_server import JOB, MEASUREMENT, RESOURCE, World
from confide.attest.evidence import NodeContext
from confide.attest.insecure import InsecureAttester, Installation
from confide.canonical import Json
from confide.crypto.derive import KEY_BYTES
from confide.crypto.http import request
from confide.crypto.http_messages import Response
from confide.crypto.seal import SealKey
from confide.crypto.tls import AnyKeyUntilAttested, Channel, Identity, PinnedSpki, connect
from confide.ids import NodeId, Purpose, Role, RunId, Tee
from confide.keys.client import NodeBrokerClient
from confide.keys.connection import https_address
from confide.keys.kbs.messages import AttestRequest, AuthRequest, GuestTee, report_data
from confide.keys.kbs.tee_evidence import json_of_evidence
from confide.keys.kbs.tee_key import TeeKey
from confide.keys.seal_contexts import joint_seal_context, seal_context

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_OPEN_EVERY = 64
_READ = 64 * 1024


@dataclass(frozen=True, slots=True)
class Task:
    """What each of ``threads`` clients does for ``seconds``: ``kind`` is a name in :data:`KINDS`."""

    kind: str
    policy: str
    threads: int
    seconds: float


@dataclass(slots=True)
class Done:
    """Milliseconds of each operation, and the CPU seconds that the clients used."""

    values: list[float] = field(default_factory=list)
    used: float = 0.0


class Client(Protocol):
    """One client."""

    def once(self) -> None:
        """Do one operation."""
        ...

    def close(self) -> None:
        """End what is open."""
        ...


def work(cores: Iterable[int], number: int, pipe: Connection) -> None:
    """Be one process of clients until told to stop: take a world and a task, say when ready, begin when told, hand in the values."""
    os.sched_setaffinity(0, set(cores))
    sys.setswitchinterval(0.0005)
    while (asked := pipe.recv()) is not None:
        world, task = asked
        clients = [KINDS[task.kind](world, task.policy, f"worker-{number}-{n}") for n in range(task.threads)]
        for client in clients:
            client.once()
        pipe.send("ready")
        pipe.recv()
        pipe.send(_run(clients, task.seconds))
        for client in clients:
            client.close()


def _run(clients: Sequence[Client], seconds: float) -> Done:
    done, until, used = Done(), time.perf_counter() + seconds, time.process_time()

    def go_on(client: Client) -> None:
        values = []
        began = time.perf_counter()
        while began < until:
            client.once()
            ended = time.perf_counter()
            values.append(1000 * (ended - began))
            began = ended
        done.values.extend(values)

    threads = [threading.Thread(target=go_on, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.used = time.process_time() - used
    return done


class _Node:
    """A worker of the job, with keys of its own.  Nodes keep their key and certificate, and with them their TLS context."""

    def __init__(self, world: World, policy: str, name: str) -> None:
        self.manifests = world.manifests[policy]
        self._key = SealKey.generate()
        self._context = NodeContext(JOB, RunId("bench-000000000000"), NodeId(name), self._key.public_jwk())
        self.client = NodeBrokerClient(
            world.url,
            world.spki,
            identity=Identity.generate(name),
            attester=_attester(world),
            context=self._context,
            seal_key=self._key,
            role=Role.WORKER,
            timeout=60,
        )

    def open(self, answer: Json) -> int:
        """Open what is sealed in one answer: how many keys it is."""
        if "releases" in answer:
            context = joint_seal_context(answer["releases"], self._context, Purpose.READ)
        else:
            context = seal_context(answer["dataset"], self._context, Purpose.READ)
        return len(self._key.open(answer["jwe"], context=context)) // KEY_BYTES

    def close(self) -> None:
        """End the connection."""
        self.client.close()


class _Cycle(_Node):
    """Connect, ``auth``, ``attest``, release, and open the key: as a node does it."""

    def once(self) -> None:
        """One cycle."""
        self.client.release(self.manifests[0])
        self.client.close()


class _Release(_Node):
    """Releases on a session that is open, one dataset a request."""

    path, datasets = "/confide/v0/release", 1

    def __init__(self, world: World, policy: str, name: str) -> None:
        super().__init__(world, policy, name)
        self.client.release(self.manifests[0])
        # The client's own connection and session: what it would send, sent faster.
        self._channel, cookie = self.client._connection.channel()[0], self.client._cookie["cookie"]  # noqa: SLF001
        body = json.dumps(self._body(), separators=(",", ":")).encode()
        head = (f"POST {self.path} HTTP/1.1", "host: broker", f"cookie: {cookie}", "content-type: application/json")
        self._request = "\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body
        self._sent = 0

    def _body(self) -> Json:
        return {"manifest": self.manifests[0], "purpose": "read"}

    def once(self) -> None:
        """One request."""
        self._channel.send(self._request)
        answer = _answer(self._channel)
        self._sent += 1
        if self._sent % _OPEN_EVERY == 1 and self.open(json.loads(answer)) != self.datasets:
            raise LookupError("the broker has not released what was asked for")


class _Releases(_Release):
    """Releases on a session that is open, of all datasets of a job in one request."""

    path = "/confide/v0/releases"

    def _body(self) -> Json:
        self.datasets = len(self.manifests)
        return {"manifests": self.manifests, "purpose": "read"}


class _Guest:
    """A guest of the plain KBS protocol on one connection: connect, ``auth``, ``attest``, the resource, and open it."""

    def __init__(self, world: World, _policy: str, _name: str) -> None:
        self._address, self._trust = https_address(world.url), PinnedSpki(world.spki)
        self._attester, self._key = _attester(world), TeeKey.generate()

    def once(self) -> None:
        """One cycle."""
        with connect(*self._address, None, trust=self._trust, timeout=60) as channel:
            challenge = request(channel, "POST", "/kbs/v0/auth", AuthRequest(GuestTee(self._attester.tee.value)).to_json())
            nonce, cookie = _of(challenge)["nonce"], {"cookie": challenge.headers["set-cookie"].partition(";")[0]}
            evidence = self._attester.quote(report_data(nonce, self._key.public))
            message = AttestRequest(nonce, self._key.public, json_of_evidence(evidence))
            _of(request(channel, "POST", "/kbs/v0/attest", message.to_json(), cookie))
            self._key.open(_of(request(channel, "GET", f"/kbs/v0/resource/{RESOURCE}", None, cookie)))

    def close(self) -> None:
        """Nothing is open."""


class _Tls:
    """The same TLS 1.3, both sides with keys, and nothing else: what no cycle can be faster than."""

    def __init__(self, world: World, _policy: str, name: str) -> None:
        self._address, self._identity = https_address(world.url), Identity.generate(name)

    def once(self) -> None:
        """One handshake.  A request that is none makes sure that the server is done with it."""
        with connect(*self._address, self._identity, trust=AnyKeyUntilAttested(), timeout=60) as channel:
            channel.send(b"\r\n\r\n")
            channel.recv(1)

    def close(self) -> None:
        """Nothing is open."""


KINDS: dict[str, type[_Cycle | _Release | _Releases | _Guest | _Tls]] = {
    "cycle": _Cycle,
    "release": _Release,
    "releases": _Releases,
    "guest": _Guest,
    "tls": _Tls,
}


def _attester(world: World) -> InsecureAttester:
    return InsecureAttester(Installation.create(world.installation), Tee.TDX, MEASUREMENT)


def _of(response: Response) -> Json:
    if response.status != 200 or response.json is None:
        raise LookupError(f"the broker has refused: {response.json}")
    return response.json


def _answer(channel: Channel) -> bytes:
    """The body of the next answer, which must be a 200."""
    data = channel.recv(_READ)
    while b"\r\n\r\n" not in data:
        data += channel.recv(_READ)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise LookupError(f"the broker has refused: {data[:500]!r}")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return body if len(body) == length else body + channel.recv_exact(length - len(body))

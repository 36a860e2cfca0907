"""What peers send after their channel is open: requests to the broker, its answers, frames between nodes, requests to an agent's socket.

The broker is a real one, with a node attested and an owner enrolled, so that requests get behind the doors and not only to them.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from confide.attest import binding
from confide.attest.evidence import NodeContext
from confide.attest.insecure import InsecureAttester, Installation
from confide.attest.policy import Rules
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import Json, b64url, canonical, from_b64url, parse_object
from confide.crypto.http_messages import Request, Response
from confide.crypto.seal import SealKey
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey, dsse_sign
from confide.data.failure import failure_in
from confide.errors import ConfideError, ParseError, error_from_json
from confide.ids import DatasetId, JobDigest, NodeId, Nonce, Role, RunId, Tee
from confide.jobs.reports import read_report
from confide.keys.audit import HEAD_TYPE, AuditEntry, AuditHead, AuditLog, AuditProof
from confide.keys.broker import KBS_VERSION, Broker
from confide.keys.client import _nonce, _session_of
from confide.keys.connection import Answer, _expect, as_key
from confide.keys.custody.local import KeyFile
from confide.keys.grant_client import _change, _grant, _rule, _standing
from confide.keys.kbs.messages import COOKIE
from confide.keys.kbs.routes import KbsRoutes
from confide.keys.manifest_claims import PAYLOAD_TYPE
from confide.keys.routes import Routes
from confide.keys.sessions import Peer
from confide.keys.store import Store
from confide.node.control import Kind, read
from confide.node.keyring import Keyring, Lease
from confide.node.local_socket import LocalSocketServer
from confide.node.reattest import _numbered

_FOLDER = tempfile.TemporaryDirectory(prefix="confide-fuzz-broker-")
_MEASUREMENT = "5a" * 32
JOB, RUN = JobDigest("ab" * 48), RunId("fuzz-0123456789ab")
NO_CHANNEL: Any = None
"""Routes answer from the peer that they were made with, and never look at the channel."""


@dataclass(frozen=True)
class Doors:
    """A broker, and three who speak to it: anybody, an attested driver (with its session), an enrolled owner."""

    broker: Broker
    attester: InsecureAttester
    anybody: Routes
    node: Routes
    owner: Routes
    cookie: str
    key: SigningKey
    minted: Json
    manifest: Json

    def routes(self, path: str) -> list[Routes]:
        return [self.anybody, self.node] if path.startswith("/kbs/") else [self.node, self.owner]


@cache
def doors() -> Doors:
    """Made when first asked for, in a folder of its own: processes that were forked must not share a database."""
    folder = Path(tempfile.mkdtemp(dir=_FOLDER.name))
    installation = Installation.create(folder / "tee")
    verifier = Verifier(TrustRoots(simulated=installation.root_der), installation.collateral_source())
    broker = Broker(Store.create(folder / "broker.db", KeyFile.create(folder / "master.key")), verifier)
    key, other = SigningKey.generate(), SigningKey.generate()
    owner, node = Peer(b"o" * 32, key.public.spki_der), Peer(b"n" * 32, other.public.spki_der)
    owners = broker.owners
    owners.enrol(owner, "airline", owners.create_enrolment("airline"))
    broker.key_commands.create_key(owner, "airline/flights")
    minted = owners.mint_dataset(owner, "airline/flights")
    claims = {"format": "confide-manifest-v1", "dataset": minted["dataset"], "snapshot": 1, "key": minted["key"], "files": []}
    signed = {**claims, "version": minted["version"], "wrapped": minted["wrapped"]}
    manifest = dsse_sign(key, PAYLOAD_TYPE, canonical(signed))
    owners.register_manifest(owner, DatasetId(minted["dataset"]), manifest)
    broker.grants.grant(owner, grant_request())
    attester = InsecureAttester(installation, Tee.SGX, _MEASUREMENT)
    cookie = _attested(broker, node, attester)
    kbs = KbsRoutes(broker, lambda: 1, lambda: False)
    anybody, driver, owners_routes = (Routes(broker, peer, kbs, going=lambda: False) for peer in (Peer(b"a" * 32, None), node, owner))
    return Doors(broker, attester, anybody, driver, owners_routes, cookie, key, minted, manifest)


def _attested(broker: Broker, peer: Peer, attester: InsecureAttester) -> str:
    name, challenge = broker.auth(peer, {"version": KBS_VERSION, "tee": "sgx", "extra-params": {}})
    context = NodeContext(JOB, RUN, NodeId("driver-1"), SealKey.generate().public_jwk())
    nonce = Nonce(from_b64url(challenge["nonce"]))
    data = binding.report_data(role=Role.DRIVER, exporter=peer.exporter, nonce=nonce, spki=peer.spki or b"", context=context.digest)
    runtime = {"nonce": b64url(nonce), "tee-pubkey": context.seal, "confide-context": context.to_json(), "role": "driver"}
    evidence = {"primary_evidence": attester.quote(data).to_json(), "additional_evidence": ""}
    broker.attest(peer, name, {"runtime-data": runtime, "tee-evidence": evidence})
    return name


def simulated_policy() -> Json:
    return Rules(name="p", measurements={Tee.SGX: (_MEASUREMENT,)}, allow=("simulated",)).to_json()


def grant_request() -> Json:
    both = {"roles": ["driver", "worker"], "purposes": ["read", "write"]}
    return {"key": "airline/flights", "job": JOB, "policy": simulated_policy(), **both, "recipients": ["airline"], "not_after": None}


def broker_routes(data: bytes) -> None:
    """One request, as the server's handler sees it: the input is its method, path, session (or none) and body."""
    match parse_object(data):
        case {"method": str(method), "path": str(path), "session": str(session), "body": dict() | None as body}:
            found = doors()
        case _:
            raise ParseError("not a request")
    headers = {"cookie": session.replace("SESSION", f"{COOKIE}={found.cookie}")} if session else {}
    for routes in found.routes(path):
        try:
            routes.handle(Request(method, path, headers, body, NO_CHANNEL))
        except ConfideError:
            continue


def broker_answer(data: bytes) -> None:
    """What clients of the broker make of an answer: its status, headers, body, and each field that any of them reads."""
    match parse_object(data):
        case {"status": int(status), "type": str(kind), "cookie": str(cookie), "body": dict(body)}:
            answered = Response(status, {"content-type": kind, "set-cookie": cookie}, body)
        case _:
            raise ParseError("not an answer")
    answer, dataset = Answer(_expect(answered)), DatasetId("ab" * 16)
    readers: list[Callable[[], object]] = [
        answer.key_ref, answer.dataset, lambda: answer.dataset_named(dataset), answer.wrapped, answer.grants, answer.policies,
        lambda: answer.texts("recipients"), lambda: answer.time("expires"), lambda: as_key(answer.dataset_key()),
        lambda: _nonce(answer.field("nonce", str)), lambda: _session_of(answered.headers),
        lambda: _rule(answer.field("rule", dict)), lambda: [_change(one) for one in answer.field("changes", list) if isinstance(one, dict)],
        lambda: _standing(answer.field("standing", dict)), lambda: _grant(answer.field("grant", dict)),
        lambda: [_grant(one) for one in answer.field("grants", list) if isinstance(one, dict)],
        lambda: SealKey.generate().open(answer.field("jwe", str), context={}),
        lambda: AuditLog(
            tuple(AuditEntry.from_json(one) for one in answer.field("entries", list)), answer.field("head", dict)
        ).verify(_key().public),
    ]  # fmt: skip
    each(*readers)


@cache
def _key() -> SigningKey:
    return SigningKey.generate()


def audit_log(data: bytes) -> None:
    """An exported log, the proof of one entry, and the same bytes as what a head was signed over."""
    text = data.decode("utf-8", errors="replace")
    each(
        lambda: AuditLog.load(text.split("\n")).verify(_key().public),
        lambda: AuditHead.verify(dsse_sign(_key(), HEAD_TYPE, data), _key().public),
        lambda: AuditProof.from_json(parse_object(data)).verify(_key().public),
    )


def control_frames(data: bytes) -> None:
    """Frames of attested peers, and what is read out of them."""
    frame = parse_object(data)
    each(
        lambda: read(frame, Kind.READY),
        lambda: read_report(NodeId("worker-1"), frame),
        lambda: _numbered(frame, Kind.EVIDENCE),
        lambda: error_from_json(frame.get("error")),
        lambda: failure_in(str(frame.get("output"))),
    )


@cache
def _agent() -> Any:
    """An agent's socket without the socket: the same reading of lines, the same operations."""
    ring = Keyring()
    lease = Lease(SecretBytes(bytes(32)), math.inf)
    ring.open_input("/data/in", DatasetId("ab" * 16), lease, files=frozenset({"a.parquet"}), refresh=lambda: lease)
    ring.open_output("/data/out", DatasetId("cd" * 16), lease, run=RUN, refresh=lambda: lease)
    return SimpleNamespace(_ops=ring.operations())


def agent_request(data: bytes) -> None:
    """One line of a child of the node: the answer is one too, and never of a fault inside."""
    answer = parse_object(LocalSocketServer._answer(_agent(), data))
    if isinstance(answer.get("error"), dict) and "inside the agent" in str(answer["error"].get("message")):
        raise AssertionError("an operation of the agent failed inside")


def each(*readers: Callable[[], object]) -> None:
    """Each reader gets its turn, whatever the others say."""
    for reader in readers:
        try:
            reader()
        except ConfideError:
            continue


TARGETS: dict[str, Callable[[bytes], object]] = {
    "broker-routes": broker_routes,
    "broker-answer": broker_answer,
    "audit-log": audit_log,
    "control-frames": control_frames,
    "agent-request": agent_request,
}

"""A broker is killed at any system call of what it does with its store: nothing acknowledged is lost, nothing is half there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pytest
from support.broker_world import JOB, MEASUREMENT, Node, manifest, policy
from support.databases import Place, SqlitePlace
from support.kept_keys import Bench
from support.killed import Say, killed_at, random_calls

from confide.attest.binding import report_data
from confide.attest.insecure import InsecureAttester, Installation
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import Json, b64url, from_b64url
from confide.crypto.secret import SecretBytes
from confide.ids import KeyRef, Nonce, Purpose, RunId, Tee
from confide.keys import key_commands
from confide.keys.approvals import GrantRun
from confide.keys.audit import AuditHead, new_event
from confide.keys.broker import Broker
from confide.keys.grant_commands import GrantCommands
from confide.keys.grants import Grant
from confide.keys.records import Dataset, Release, run_ref
from confide.keys.released_keys import MintedDataset
from confide.keys.sessions import Peer
from confide.keys.storage import rows
from confide.keys.store import Store

POINTS = 50
"""For each of four operations."""
POINTS_OVER_A_NETWORK = 15
"""Each costs a connection to the server, and the server's own writing is not what is killed here."""


def now() -> datetime:
    return datetime.now(UTC)


class Operation(Protocol):
    """What is killed.  ``prepare`` runs in the child, before anything is counted; ``require`` in the parent, afterwards."""

    def prepare(self, bench: Bench, number: int) -> list[Callable[[], str]]:
        """Steps, each of which returns what it acknowledges."""
        ...

    def happened(self, bench: Bench) -> set[str]:
        """All that has happened, as it would be acknowledged; fails if a part of one thing is there and another is not."""
        ...


def events(store: Store, action: str) -> list[Json]:
    return [entry.event for entry in store.audit() if entry.event is not None and entry.event["action"] == action]


class Appends:
    """Entries of the audit log."""

    def prepare(self, bench: Bench, number: int) -> list[Callable[[], str]]:
        def append(step: int) -> str:
            entry = bench.store.append_audit(new_event("test", [], now(), number=f"{number}.{step}"))
            return f"{entry.seq} {entry.leaf}"

        return [lambda step=step: append(step) for step in range(9)]  # type: ignore[misc]

    def happened(self, bench: Bench) -> set[str]:
        return {f"{entry.seq} {entry.leaf}" for entry in bench.store.audit() if entry.event and entry.event["action"] == "test"}


class Grants:
    """Grants that an owner makes and ends."""

    def prepare(self, bench: Bench, number: int) -> list[Callable[[], str]]:
        commands = GrantCommands(bench.store, now)
        request = {
            "key": "airline/flights", "job": JOB, "policy": policy().to_json(), "roles": ["worker"], "purposes": ["read"],
            "recipients": [], "not_after": None, "max_runs": number + 1,
        }  # fmt: skip
        made: list[str] = []

        def grant() -> str:
            made.append(commands.grant(bench.peer, request)["grant"]["id"])
            return f"grant {made[-1]}"

        def revoke() -> str:
            return f"revoke {commands.revoke(bench.peer, made.pop())['grant']['id']}"

        return [grant, grant, revoke, grant, revoke]

    def happened(self, bench: Bench) -> set[str]:
        grants = bench.store.find(Grant, "airline/flights")
        said = {f"grant {event['grant']}" for event in events(bench.store, "grant")}
        ended = {f"revoke {event['grant']}" for event in events(bench.store, "revoke")}
        assert said == {f"grant {grant.id}" for grant in grants}
        assert ended == {f"revoke {grant.id}" for grant in grants if grant.revoked is not None}
        return said | ended


@dataclass
class Releases:
    """Keys that runs are given under a grant that counts them."""

    installation: Installation
    envelope: Json = None  # type: ignore[assignment]

    def grant(self, bench: Bench) -> None:
        request = {
            "key": "airline/flights", "job": JOB, "policy": policy().to_json(), "roles": ["worker"], "purposes": ["read"],
            "recipients": [], "not_after": None, "max_runs": 100_000,
        }  # fmt: skip
        GrantCommands(bench.store, now).grant(bench.peer, request)
        dataset = bench.store.get(Dataset, next(iter(bench.secrets)))
        assert dataset is not None
        key = KeyRef("airline", "flights", dataset.wrapped.version)
        self.envelope = manifest(MintedDataset(dataset.dataset, key, SecretBytes.random(), dataset.wrapped), bench.signer)

    def prepare(self, bench: Bench, number: int) -> list[Callable[[], str]]:
        verifier = Verifier(TrustRoots(simulated=self.installation.root_der), self.installation.collateral_source())
        broker = Broker(bench.store, verifier, now)
        node = Node(InsecureAttester(self.installation, Tee.SGX, MEASUREMENT), run=RunId(f"run-{number}"))
        return [self._release(broker, replace(node, run=RunId(f"run-{number}-{step}")), step) for step in range(2)]

    def _release(self, broker: Broker, node: Node, step: int) -> Callable[[], str]:
        peer = Peer(bytes([step]) * 32, node.identity.spki_der)
        session, challenge = broker.auth(peer, {"version": "0.4.0", "tee": "sgx", "extra-params": {}})
        nonce = Nonce(from_b64url(challenge["nonce"]))
        bound = report_data(
            role=node.role, exporter=peer.exporter, nonce=nonce, spki=node.identity.spki_der, context=node.context.digest
        )
        runtime = {
            "nonce": b64url(nonce), "tee-pubkey": node.context.seal, "confide-context": node.context.to_json(), "role": node.role.value,
        }  # fmt: skip
        evidence = {"primary_evidence": node.attester.quote(bound).to_json(), "additional_evidence": ""}
        broker.attest(peer, session, {"runtime-data": runtime, "tee-evidence": evidence})

        def release() -> str:
            assert broker.release(peer, session, self.envelope, Purpose.READ)["jwe"]
            return node.run

        return release

    def happened(self, bench: Bench) -> set[str]:
        (grant,) = bench.store.find(Grant, "airline/flights")
        said = [str(event["run"]) for event in events(bench.store, "release")]
        assert len(said) == len(set(said))
        assert {run.run for run in bench.store.find(GrantRun, grant.id)} == set(said), "runs are counted exactly where a key was given"
        given = {release.run for run in said for release in bench.store.find(Release, run_ref(RunId(run)))}
        assert given == set(said)
        return set(said)


class Rewraps:
    """Rotations of a key, and its datasets put under the new version in parts."""

    def prepare(self, bench: Bench, number: int) -> list[Callable[[], str]]:
        key_commands._FEW = 1000 if number % 2 else 0  # in the child only: both ways to find what is left
        commands = bench.commands()

        def step() -> str:
            progress = commands.rewrap(bench.peer, "airline/flights")
            if progress["left"] == 0:
                commands.rotate_key(bench.peer, "airline/flights")
            return f"{progress['version']:06} {progress['done']:06}"

        return [step] * 6

    def happened(self, bench: Bench) -> set[str]:
        (key,) = bench.commands().keys(bench.peer)["keys"]
        counted = {version["version"]: version["datasets"] for version in key["versions"]}
        kept = [dataset.wrapped.version for name in bench.secrets if (dataset := bench.store.get(Dataset, name))]
        assert {version: kept.count(version) for version in counted} == counted
        done = {f"{version:06} {count:06}" for version in range(1, key["version"]) for count in range(len(bench.secrets) + 1)}
        return done | {f"{key['version']:06} {count:06}" for count in range(counted[key["version"]] + 1)}


@pytest.fixture(params=["append", "grant", "release", "rewrap"])
def operation(request: pytest.FixtureRequest, installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Operation:
    monkeypatch.setattr(key_commands, "PART", 7)
    monkeypatch.setattr(rows, "_PART", 5)
    if request.param == "release":
        return Releases(installation)
    made: dict[str, Callable[[], Operation]] = {"append": Appends, "grant": Grants, "rewrap": Rewraps}
    return made[request.param]()


@pytest.mark.slow
@pytest.mark.unmeasured
def test_killed_broker_loses_nothing_and_keeps_nothing_half(tmp_path: Path, place: Place, operation: Operation) -> None:
    bench = Bench(tmp_path, 30, place.location)
    if isinstance(operation, Releases):
        operation.grant(bench)
    bench.store.close()
    sure, seen = operation_steps(bench, operation, None, 0)
    _, most = seen
    acknowledged, heads = set(sure[0]), sure[1]
    count = POINTS if isinstance(place, SqlitePlace) else POINTS_OVER_A_NETWORK
    for number, call in enumerate(random_calls(count, most), start=1):
        (said, signed), _ = operation_steps(bench, operation, call, number)
        acknowledged |= set(said)
        heads += signed
        bench.reopen()
        happened = operation.happened(bench)
        assert acknowledged <= happened, "something that was acknowledged is lost"
        acknowledged |= happened  # whoever asks the broker now is told so
        heads = [require_continued(bench, heads)]
        if number % 20 == 0:
            bench.require_whole()
        bench.store.close()
    bench.reopen()
    bench.require_whole()
    bench.store.close()


class Hasty(Appends):
    """Acknowledges an entry before it is committed."""

    def prepare(self, bench: Bench, number: int) -> list[Callable[[], str]]:
        step = bench.store.transaction()
        step.__enter__()
        commit = iter([lambda: step.__exit__(None, None, None)])

        def head(_: datetime) -> Json:
            next(commit, lambda: None)()
            return Store.signed_head(bench.store, now())

        bench.store.signed_head = head  # type: ignore[method-assign]
        return super().prepare(bench, number)[:1]


@pytest.mark.slow
@pytest.mark.unmeasured
def test_kills_find_a_broker_that_acknowledges_too_early(tmp_path: Path) -> None:
    """The control: at every system call of an append, of a store that keeps the order, and of one that does not."""
    early: set[type] = set()
    late: set[type] = set()
    for kind in (Appends, Hasty):
        (tmp_path / kind.__name__).mkdir()
        bench = Bench(tmp_path / kind.__name__, 1)
        bench.store.close()
        (said, _), (_, most) = operation_steps(bench, kind(), None, 0)
        known = set(said)
        for call in range(1, 2 * most // len(said) + 1):  # the first append takes longer than the others
            (said, _), _ = operation_steps(bench, kind(), call, call)
            bench.reopen()
            happened = kind().happened(bench)
            bench.store.close()
            early |= {kind} if not set(said) <= happened else set()
            late |= {kind} if not happened <= known | set(said) else set()
            known |= happened
    assert early == {Hasty}
    assert Appends in late, "kills hit between commit and acknowledgement too"


def operation_steps(
    bench: Bench, operation: Operation, call: int | None, number: int
) -> tuple[tuple[list[str], list[Json]], tuple[int, int]]:
    """Run the operation's steps in a child, to be killed at ``call``: what it acknowledged, and heads that it signed."""

    def prepare() -> Callable[[Say], None]:
        bench.reopen()
        steps = operation.prepare(bench, number)

        def work(say: Say) -> None:
            for step in steps:
                say(json.dumps({"said": step()}).encode())
                say(json.dumps({"head": bench.store.signed_head(now())}).encode())

        return work

    lines, begun = killed_at(call, prepare)
    words: list[Any] = [json.loads(line) for line in lines]
    said = [word["said"] for word in words if "said" in word]
    return (said, [word["head"] for word in words if "head" in word]), (len(said), begun)


def require_continued(bench: Bench, heads: list[Json]) -> Json:
    """The log continues every head that was signed; returns the newest."""
    key, signed = bench.store.signing_key.public, bench.store.signed_head(now())
    head = AuditHead.verify(signed, key)
    for envelope in heads:
        seen = AuditHead.verify(envelope, key)
        head.continues(seen, bench.store.consistency(seen.size, head.size))
    return signed


"""Attestation: verifications of real evidence by our verifier and the reference, mutual handshakes, and many workers at one driver.

One thread, unless a row says otherwise.  "Cached": another quote of a platform that was seen before; "cold": a new verifier each time.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import dcap_qvl
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from confide.attest.amd_collateral import AmdCollateral
from confide.attest.collateral import Collateral
from confide.attest.collateral_sources import FixedCollateral, load_collateral
from confide.attest.evidence import Evidence, NodeContext
from confide.attest.insecure import InsecureAttester
from confide.attest.policy import Policy
from confide.attest.roots import INTEL_SGX_ROOT, TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import digest_of
from confide.crypto.seal import SealKey
from confide.crypto.tls import AnyKeyUntilAttested, Channel, Identity, Listener, connect
from confide.ids import JobDigest, NodeId, ReportData, Role, RunId, Tee
from confide.jobs.local.simulation import SimulatedTee
from confide.node.session import VerifierSide, attest_mutually

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

_VECTORS = Path(__file__).parents[1] / "tests" / "vectors"
_KINDS = {"SGX v3": "sgx-v3-swhardening", "TDX v4": "tdx-v4-uptodate", "TDX v5": "tdx-v5-uptodate"}
_SNP_AT = datetime(2025, 6, 1, tzinfo=UTC)
_CACHED, _COLD, _ROUNDS = 2000, 200, 20
_SIGNED_BYTES = 632
"""Header and body of a TDX quote of version 4."""
_HANDSHAKES = 300
_WORKERS = 1000
_AT_ONCE = 16
_JOB = JobDigest(digest_of({"benchmark": "attest"}))


@dataclass
class Row:
    """One line: what, by whom, and each measured value in milliseconds."""

    what: str
    by: str
    values: list[float] = field(default_factory=list)
    note: str = ""

    def cells(self) -> tuple[str, str, str, str, str, str]:
        """The line as text."""
        if not self.values:
            return self.what, self.by, "", "", "", self.note
        middle, late = median(self.values), quantiles(self.values, n=100)[98] if len(self.values) > 1 else self.values[0]
        return self.what, self.by, f"{middle:.3f} ms", f"{late:.3f} ms", f"{1000 / middle:,.0f}", self.note


def measure(repeat: int) -> list[Row]:
    """All rows; ``repeat`` times as many verifications."""
    rows = [row for name, entry in _KINDS.items() for row in _intel(name, entry, repeat)]
    rows += [_floor(repeat), *_snp(repeat)]
    with tempfile.TemporaryDirectory(prefix="confide-bench-") as scratch:
        tee = SimulatedTee.at(Path(scratch) / "simulated")
        rows += _handshakes(tee)
        rows.append(_many(tee))
    return rows


def _timed(action: Callable[[], object], values: list[float], times: int) -> None:
    for _ in range(times):
        began = time.perf_counter()
        action()
        values.append(1000 * (time.perf_counter() - began))


# --- verifications ----------------------------------------------------------------------------------------------------


def _intel(kind: str, name: str, repeat: int) -> list[Row]:
    entry = next(e for e in json.loads((_VECTORS / "intel" / "manifest.json").read_text()) if e["id"] == name)
    collateral = load_collateral(_VECTORS / entry["collateral"])
    if not isinstance(collateral, Collateral):
        sys.exit(f"{entry['collateral']} is not Intel's")
    evidence = Evidence.from_device(Tee(entry["tee"].lower()), (_VECTORS / entry["quote"]).read_bytes())
    at, source = int(entry["now"]), FixedCollateral(collateral)
    now = datetime.fromtimestamp(at, UTC)
    known = Verifier(TrustRoots(), source)
    cached, cold, reference = Row(f"{kind}, cached", "confide"), Row(f"{kind}, cold", "confide"), Row(kind, "dcap-qvl, which keeps nothing")
    bundle = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(collateral.to_json()))
    known.verify(evidence, now)
    for _ in range(repeat * _ROUNDS):  # in turn, in small portions: the machine is not equally busy all the time
        _timed(lambda: known.verify(evidence, now), cached.values, _CACHED // _ROUNDS)
        _timed(lambda: dcap_qvl.verify_with_root_ca(evidence.quote, bundle, INTEL_SGX_ROOT, at), reference.values, _COLD // _ROUNDS)
        _timed(lambda: Verifier(TrustRoots(), source).verify(evidence, now), cold.values, _COLD // _ROUNDS)
    cached.note = f"{median(reference.values) / median(cached.values):.1f}x the reference"
    cold.note = f"{median(reference.values) / median(cold.values):.1f}x the reference"
    return [cached, cold, reference]


def _floor(repeat: int) -> Row:
    """What a cached verification cannot be faster than: the one signature over a quote, by the same library, key and DER form at hand."""
    key, data = ec.generate_private_key(ec.SECP256R1()), bytes(_SIGNED_BYTES)
    public, algorithm = key.public_key(), ec.ECDSA(SHA256())
    signature = key.sign(data, algorithm)
    row = Row("ECDSA P-256 signature alone", "OpenSSL", note="the floor of a cached verification")
    _timed(lambda: public.verify(signature, data, algorithm), row.values, repeat * _CACHED)
    return row


def _snp(repeat: int) -> list[Row]:
    blocks = (_VECTORS / "snp" / "certs" / "milan_ask_ark_asvk.pem").read_text().split("-----BEGIN CERTIFICATE-----")[1:3]
    chain = "".join("-----BEGIN CERTIFICATE-----" + block for block in blocks)
    evidence = Evidence(Tee.SNP, *((_VECTORS / "snp" / f"milan-vcek-valid.{end}").read_bytes() for end in ("report", "vcek.der")))
    verifier = Verifier(TrustRoots(), FixedCollateral(AmdCollateral("Milan", "vcek", chain, b"")))
    row = Row("SEV-SNP v2 (Milan, VCEK)", "confide")
    _timed(lambda: verifier.verify(evidence, _SNP_AT), row.values, repeat * _COLD)
    return [row]


# --- handshakes -------------------------------------------------------------------------------------------------------


class _Clocked:
    """An attester that adds up how long it takes to make evidence."""

    def __init__(self, attester: InsecureAttester) -> None:
        self._attester = attester
        self.seconds = 0.0
        self.tee, self.simulated = attester.tee, attester.simulated

    def quote(self, report_data: ReportData) -> Evidence:
        """Evidence over ``report_data``."""
        began = time.perf_counter()
        try:
            return self._attester.quote(report_data)
        finally:
            self.seconds += time.perf_counter() - began


@dataclass
class _Side:
    """One end of handshakes."""

    role: Role
    side: VerifierSide
    attester: Any
    name: str
    seal: SealKey = field(default_factory=SealKey.generate)

    def attest(self, channel: Channel) -> None:
        """Attest both ways."""
        context = NodeContext(_JOB, RunId("bench-000000000000"), NodeId(self.name), self.seal.public_jwk())
        other = Role.DRIVER if self.role is Role.WORKER else Role.WORKER
        first = self.role is Role.WORKER
        attest_mutually(
            channel, initiator=first, side=self.side, attester=self.attester, role=self.role, context=context, peer_role=other
        )


def _policy(tee: SimulatedTee) -> Policy:
    return Policy.from_json({"name": "bench", "allow": ["simulated"], "measurements": _reference(tee.installation.folder)})


def _attester(tee: SimulatedTee) -> InsecureAttester:
    return InsecureAttester(tee.installation, Tee.TDX, _reference(tee.installation.folder)[Tee.TDX.value][0])


@cache
def _reference(folder: Path) -> dict[str, list[str]]:
    """What the nodes measure: it takes a second to find out."""
    return SimulatedTee.at(folder).reference_values()


def _handshakes(tee: SimulatedTee) -> list[Row]:
    """TLS 1.3 and both attestations, one after the other, between two processes.

    Each node keeps its key and certificate, as nodes do, and with them the TLS context that its first connection makes.
    """
    attester = _Clocked(_attester(tee))
    side = _Side(Role.WORKER, VerifierSide(tee.verifier(), _policy(tee)), attester, "worker-1")
    whole, without = Row("mutual handshake", "confide"), Row("the same without making evidence", "confide")
    plain = Row("TLS 1.3 alone", "plain")
    with _other(_be_driver, tee.installation.folder) as (pipe, _):
        host, port = pipe.recv()
        identity = Identity.generate("worker-1")
        for attested in [True, False] * _HANDSHAKES:
            before, began = attester.seconds, time.perf_counter()
            channel = connect(host, port, identity, trust=AnyKeyUntilAttested(), timeout=30)
            if attested:
                side.attest(channel)
            taken = time.perf_counter() - began
            made = 2 * (attester.seconds - before)  # the driver's takes as long
            channel.send(b"e")
            channel.close()
            for row, seconds in ((whole, taken), (without, taken - made)) if attested else ((plain, taken),):
                row.values.append(1000 * seconds)
    return [whole, without, plain]


def _be_driver(folder: Path, pipe: Connection) -> None:
    tee = SimulatedTee.at(folder)
    side = _Side(Role.DRIVER, VerifierSide(tee.verifier(), _policy(tee)), _attester(tee), "driver")
    listener = Listener("127.0.0.1", 0, Identity.generate("driver"), trust=AnyKeyUntilAttested())
    pipe.send(listener.address)
    for attested in [True, False] * _HANDSHAKES:
        _serve_one(listener, side if attested else None)
    listener.close()


@contextmanager
def _other(work: Callable[..., None], *args: object) -> Iterator[tuple[Connection, BaseProcess]]:
    """Another process that does ``work``, and a pipe to it."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=work, args=(*args, theirs))
    process.start()
    try:
        yield ours, process
    finally:
        process.join(120)


def _serve_one(listener: Listener, side: _Side | None) -> None:
    channel = listener.accept(30)
    channel.handshake()
    if side is not None:
        side.attest(channel)
    channel.recv_exact(1)
    channel.close()


# --- many workers -----------------------------------------------------------------------------------------------------


def _many(tee: SimulatedTee) -> Row:
    """Workers with a quoting enclave and a key of their own each, in another process, ``_AT_ONCE`` at a time."""
    driver = _Side(Role.DRIVER, VerifierSide(tee.verifier(), _policy(tee)), _attester(tee), "driver")
    listener = Listener("127.0.0.1", 0, Identity.generate("driver"), trust=AnyKeyUntilAttested())
    before = _memory()
    with _other(_be_workers, tee.installation.folder, listener.address) as (ready, _), ThreadPoolExecutor(_AT_ONCE) as pool:
        ready.recv()  # the workers' keys are made
        used, began = time.process_time(), time.perf_counter()
        ready.send("go")
        served = [pool.submit(_serve_one, listener, driver) for _ in range(_WORKERS)]
        for one in served:
            one.result()
        taken, used = time.perf_counter() - began, time.process_time() - used
    listener.close()
    row = Row(f"{_WORKERS:,} workers attested by one driver, both ways", "confide")
    grown = _memory() - before
    row.note = f"{taken:.1f} s in all, {used:.1f} s of the driver's CPU, {grown} MiB more memory; the workers' process shares the 2 cores"
    return row


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _be_workers(folder: Path, address: tuple[str, int], ready: Connection) -> None:
    tee = SimulatedTee.at(folder)
    side = VerifierSide(tee.verifier(), _policy(tee))
    workers = [(_Side(Role.WORKER, side, _attester(tee), f"worker-{n}"), Identity.generate(f"worker-{n}")) for n in range(_WORKERS)]
    ready.send("ready")
    ready.recv()

    def join(worker: tuple[_Side, Identity]) -> None:
        side_, identity = worker
        channel = connect(*address, identity, trust=AnyKeyUntilAttested(), timeout=60)
        side_.attest(channel)
        channel.send(b"e")
        channel.close()

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(join, workers))


def markdown(rows: list[Row], about: dict[str, str], repeat: int) -> str:
    """The table as docs/benchmarks.md has it."""
    head = ("| what | by | p50 | p99 | per second | |", "| --- | --- | ---: | ---: | ---: | --- |")
    lines = [f"| {' | '.join(row.cells())} |" for row in rows]
    facts = [f"* {name}: {value}" for name, value in about.items() if name != "java"]
    counts = f"{repeat * _CACHED:,} cached and {repeat * _COLD:,} other verifications, {_HANDSHAKES} handshakes"
    return "\n".join([*head, *lines, "", *facts, f"* date: {datetime.now(UTC):%Y-%m-%d}; {counts}"])

"""The spine, side by side in one run: a Confide run and the same program on plain files, one attested handshake, one key release.

Every figure is the median of its repetitions, next to its plain counterpart.  Wall time; the machine should do nothing else.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from confide.canonical import digest_of
from confide.cli.demo import Demo
from confide.cli.demo_tables import write_flights, write_weather
from confide.cli.output import Story
from confide.ids import NodeId, Role, RunId, Tee

if TYPE_CHECKING:
    from confide.attest.evidence import NodeContext
    from confide.cli.owners import BrokerAddress
    from confide.crypto.seal import SealKey
    from confide.crypto.tls import Channel
    from confide.jobs.local.simulation import SimulatedTee
    from confide.jobs.result import RunEvent

_MARK = "benchmark first task ended at "
_FIRST_TASK = f"""
import time as _time
{{session}}
_context.spark.range(1).count()
print("{_MARK}" + repr(_time.time()), flush=True)

"""
_HANDSHAKES = 60
_RELEASES = 60
_HELPS = 15
_POLARS_RUNS = 9


@dataclass
class Row:
    """One line of the table: what, with Confide, without, in which unit."""

    what: str
    unit: str
    confide: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    plain_is: str = ""

    def cells(self) -> tuple[str, str, str, str, str]:
        """The line as text."""
        ours, theirs = _median(self.confide), _median(self.plain)
        ratio = f"{ours / theirs:.2f}x" if ours is not None and theirs else ""
        return self.what, _number(ours, self.unit), _number(theirs, self.unit), ratio, self.plain_is


def _median(values: list[float]) -> float | None:
    return median(values) if values else None


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.2f} {unit}" if value < 100 else f"{value:.0f} {unit}"


def measure(repeat: int) -> list[Row]:
    """All rows; ``repeat`` runs of each kind, in turn."""
    from benchmarks import polars_start

    worker, task, end = Row("first attested worker", "s"), Row("first task done", "s"), Row("end of the run", "s")
    work = Row("from first task to end", "s")
    task.plain_is = end.plain_is = work.plain_is = "same program, plain files, Spark local[2]"
    with tempfile.TemporaryDirectory(prefix="confide-bench-") as scratch, _workspace(Path(scratch)) as demo:
        plain = plain_tables(Path(scratch) / "plain")
        for number in range(repeat):
            _note(f"run {number + 1} of {repeat}: Confide")
            seconds = _confide_run(demo, number)
            worker.confide.append(seconds["worker"])
            _add(seconds, [row.confide for row in (task, end, work)])
            _note(f"run {number + 1} of {repeat}: plain")
            seconds = _plain_run(demo, plain)
            _add(seconds, [row.plain for row in (task, end, work)])
        _note("Polars")
        return [worker, task, work, end, *polars_start.measure(demo, plain, _POLARS_RUNS), _handshakes(demo), *_releases(demo), _help()]


def _add(seconds: dict[str, float], columns: list[list[float]]) -> None:
    """Add one run to the columns of: first task, end, and the time between."""
    for values, value in zip(columns, (seconds["task"], seconds["end"], seconds["end"] - seconds["task"]), strict=True):
        values.append(value)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _help() -> Row:
    """The command line's own start-up."""
    row = Row("confide --help", "ms", plain_is="the interpreter doing nothing")
    commands = ((row.confide, ["-m", "confide.cli.main", "--help"]), (row.plain, ["-c", ""]))
    for _ in range(_HELPS):
        for values, words in commands:
            began = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
            values.append((time.perf_counter() - began) * 1000)
    return row


# --- whole runs --------------------------------------------------------------------------------------------------


@contextmanager
def _workspace(scratch: Path) -> Iterator[Demo]:
    """The demo's folder with encrypted data and grants, its program telling when the first task is done."""
    folder = scratch / "demo"
    folder.mkdir(mode=0o700)
    demo = Demo(folder, Story(simulated=True))
    with demo.broker():
        program = folder / "delays.py"
        program.write_text(instrumented(program.read_text(encoding="utf-8")), encoding="utf-8")
        demo.job.write_text(re.sub(r"(?m)^workers = .*$", "workers = 2", demo.job.read_text(encoding="utf-8")), encoding="utf-8")
        demo.encrypt_tables()
        demo.grant()
        yield demo


def instrumented(program: str) -> str:
    """The demo's program, telling when its first task is done."""
    before, separator, after = program.rpartition("\nmain()\n")
    if not separator:
        sys.exit("the demo's program does not end with main()")
    return before + _FIRST_TASK.format(session="_context = confide.session()") + "main()\n" + after


def _confide_run(demo: Demo, number: int) -> dict[str, float]:
    from confide.config import Settings
    from confide.job import Job
    from confide.jobs.submit import submit

    job = Job.load(demo.job)
    outputs = {name: spec.model_copy(update={"path": f"{spec.path}-{number}"}) for name, spec in job.outputs.items()}
    seen: dict[str, float] = {}
    began = time.time()

    def on_event(event: RunEvent) -> None:
        if event.type == "worker-accepted":
            seen.setdefault("worker", time.time() - began)

    result = submit(
        job.model_copy(update={"outputs": outputs}), simulate=True, settings=Settings.load(environ={}, home=demo.folder), on_event=on_event
    )
    seen["end"] = time.time() - began
    logs = "".join(path.read_text(encoding="utf-8", errors="replace") for path in (result.folder / "logs").glob("*"))
    return {**seen, "task": first_task_in(logs) - began}


def plain_tables(folder: Path) -> Path:
    """The demo's tables as plain Parquet in a new folder."""
    import pyarrow.csv
    import pyarrow.parquet

    folder.mkdir()
    write_weather(folder)
    flights = pyarrow.csv.read_csv(write_flights(folder))
    pyarrow.parquet.write_table(flights, folder / "flights.parquet", coerce_timestamps="us")
    return folder


def _plain_run(demo: Demo, folder: Path) -> dict[str, float]:
    began = time.time()
    command = [sys.executable, "-m", "benchmarks.plain", str(demo.folder / "delays.py"), str(folder), "local[2]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1], env=dict(os.environ))
    if done.returncode:
        sys.exit(f"the plain run failed:\n{done.stderr[-2000:]}")
    return {"end": time.time() - began, "task": first_task_in(done.stdout) - began}


def first_task_in(text: str) -> float:
    """When the first task was done, in seconds since 1970, as the program has said in what it printed."""
    found = re.search(re.escape(_MARK) + r"([0-9.]+)", text)
    if found is None:
        sys.exit("the program did not say when its first task was done")
    return float(found[1])


# --- handshakes and releases ---------------------------------------------------------------------------------------


def _tee(demo: Demo) -> SimulatedTee:
    from confide.jobs.local.simulation import SimulatedTee

    return SimulatedTee.at(demo.folder / "simulated")


def _context(job: str, node: str) -> tuple[SealKey, NodeContext]:
    from confide.attest.evidence import NodeContext
    from confide.crypto.seal import SealKey
    from confide.ids import JobDigest

    seal_key = SealKey.generate()
    return seal_key, NodeContext(JobDigest(job), RunId("bench-000000000000"), NodeId(node), seal_key.public_jwk())


def _handshakes(demo: Demo) -> Row:
    """TLS 1.3 with client keys plus mutual attestation, next to the same TLS alone.  Keys are made before the clock starts."""
    from confide.attest.insecure import InsecureAttester
    from confide.attest.policy import Policy
    from confide.crypto.tls import AnyKeyUntilAttested, Identity, Listener, connect
    from confide.node.session import VerifierSide, attest_mutually

    tee, job = _tee(demo), digest_of({"benchmark": "handshake"})
    policy = Policy.load(demo.folder / "policy.toml")
    attester = InsecureAttester(tee.installation, Tee.TDX, tee.measurement().of(Tee.TDX))
    sides = {role: VerifierSide(tee.verifier(), policy) for role in (Role.DRIVER, Role.WORKER)}
    contexts = {Role.DRIVER: _context(job, "driver")[1], Role.WORKER: _context(job, "worker-1")[1]}

    def attest(channel: Channel, role: Role, other: Role) -> None:
        attest_mutually(
            channel, initiator=role is Role.WORKER, side=sides[role], attester=attester, role=role, context=contexts[role], peer_role=other
        )

    server, client = Identity.generate("driver"), Identity.generate("worker-1")

    def seconds(*, attested: bool) -> float:
        listener = Listener("127.0.0.1", 0, server, trust=AnyKeyUntilAttested())

        def serve() -> None:
            channel = listener.accept(10)
            channel.handshake()
            if attested:
                attest(channel, Role.DRIVER, Role.WORKER)
            channel.recv_exact(1)
            channel.close()

        thread = threading.Thread(target=serve)
        thread.start()
        began = time.perf_counter()
        channel = connect(*listener.address, client, trust=AnyKeyUntilAttested(), timeout=10)
        if attested:
            attest(channel, Role.WORKER, Role.DRIVER)
        taken = time.perf_counter() - began
        channel.send(b"e")
        thread.join()
        channel.close()
        listener.close()
        return taken

    row = Row("one mutually attested handshake", "ms", plain_is="the same TLS 1.3 handshake alone")
    for attested, values in ((True, row.confide), (False, row.plain)):
        seconds(attested=attested)
        values.extend(1000 * seconds(attested=attested) for _ in range(_HANDSHAKES))
    return row


def _releases(demo: Demo) -> list[Row]:
    """A key release over an attested session, and the whole of connect, attest and release."""
    from confide.attest.insecure import InsecureAttester
    from confide.crypto.tls import Identity
    from confide.data.snapshots import load_manifest
    from confide.job import Job
    from confide.jobs.submit import pin_datasets
    from confide.keys.client import NodeBrokerClient

    tee, job = _tee(demo), pin_datasets(Job.load(demo.job))
    attester = InsecureAttester(tee.installation, Tee.TDX, tee.measurement().of(Tee.TDX))
    seal_key, context = _context(job.digest, "worker-1")
    manifest = load_manifest(demo.folder / "data" / "flights").envelope
    address: BrokerAddress = demo.address

    def client() -> NodeBrokerClient:
        return NodeBrokerClient(
            address.url,
            address.spki,
            identity=Identity.generate("worker-1"),
            attester=attester,
            context=context,
            seal_key=seal_key,
            role=Role.WORKER,
        )

    def timed(action: Callable[[], Any]) -> float:
        began = time.perf_counter()
        action()
        return 1000 * (time.perf_counter() - began)

    def from_nothing() -> None:
        with client() as fresh:
            fresh.release(manifest)

    one, whole = Row("one key release, session open", "ms"), Row("connect, attest and release", "ms")
    one.plain_is = whole.plain_is = "no counterpart: a plain file needs no key"
    with client() as kept:
        kept.release(manifest)
        one.confide.extend(timed(lambda: kept.release(manifest)) for _ in range(_RELEASES))
    whole.confide.extend(timed(from_nothing) for _ in range(_RELEASES))
    return [one, whole]


def markdown(rows: list[Row], about: dict[str, str], repeat: int) -> str:
    """The table as docs/benchmarks.md has it."""
    head = ("| what | Confide (simulated TEE) | plain | ratio | plain means |", "| --- | ---: | ---: | ---: | --- |")
    lines = [f"| {' | '.join(row.cells())} |" for row in rows]
    facts = [f"* {name}: {value}" for name, value in about.items()]
    medians = f"medians of {repeat} runs, with Polars {_POLARS_RUNS}, {_HANDSHAKES} handshakes and {_RELEASES} releases"
    return "\n".join([*head, *lines, "", *facts, f"* date: {datetime.now(UTC):%Y-%m-%d}; {medians}"])

"""``confide runs``: what was run on this machine, from the run store."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.on_cluster import on_cluster
from confide.cli.output import Context, Story, answers, print_facts, print_table, say, short
from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.jobs.store import RunDir, RunStore

_FOLLOW_EVERY_S = 0.2
_STANDING = {
    "node-started": "started",
    "driver-attested": "accepted",
    "worker-accepted": "accepted",
    "worker-refused": "refused",
    "worker-started": "started its engine",
    "worker-failed": "failed",
    "worker-lost": "lost",
    "worker-cut-off": "cut off",
}
_WORDS = {
    **_STANDING,
    "job-accepted": "has the job",
    "program-started": "runs the program",
    "program-ended": "the program has ended",
}


@click.group("runs")
def command() -> None:
    """List, show, follow and stop runs."""


def _store(context: Context) -> RunStore:
    from confide.jobs.store import RunStore

    return RunStore(context.settings.runs_dir)


@command.command("ls")
@answers
def ls(context: Context) -> None:
    """List all runs, newest first."""
    runs = [run.to_json() for run in _store(context).list()]
    rows = [(r["run"], r["status"], "yes" if r["simulated"] else "no", _minute(r["started"]), _took(r)) for r in runs]
    columns = ("run", "status", "simulated", "started", "took")  # fits 80 columns; the run's id begins with the job's name
    context.answer({"runs": runs}, lambda: print_table(columns, rows, empty="no runs yet: try `confide demo`"))


def _minute(text: str) -> str:
    return text[:16].replace("T", " ")


def _took(run: Json) -> str:
    try:
        return f"{(datetime.fromisoformat(run['ended'] or '') - datetime.fromisoformat(run['started'])).total_seconds():.0f} s"
    except (ValueError, TypeError):  # not ended, or somebody edited the run's files
        return ""


@command.command("show")
@click.argument("run")
@answers
def show(context: Context, run: str) -> None:
    """Show one run: how it stands, its nodes and what it wrote.  RUN is an id or the beginning of one."""
    found = _store(context).open(run)
    summary = found.summary().to_json()
    events = list(found.events())
    result = _optional(found, "result.json")
    data, cluster = _data(found), _in_cluster(found, str(summary["status"]))
    value = {**summary, "nodes": _nodes(events), "data": data, "events": events, "result": result, "folder": str(found.path)}
    value |= {} if cluster is None else {"cluster": cluster}

    def text() -> None:
        print_facts({name: short(value[name]) if name == "digest" else value[name] for name in (*summary, "folder")})
        for node in value["nodes"]:
            say(f"node {node['node']}: {node['standing']}" + (f" ({node['code']})" if node.get("code") else ""))
        for line in _cluster_lines(cluster):
            say(line)
        for row in data:
            say(f"data {row['node']}: {_did(row)}")
        for name, path in (result or {}).get("outputs", {}).items():
            say(f"output {name}: {path}")
        error = (result or {}).get("error")
        if error:
            say(f"error[{error.get('code')}]: {error.get('message')}")

    context.answer(value, text)


def _in_cluster(found: RunDir, status: str) -> Json | None:
    """What the cluster says of a run there that has not ended for this client: its pods, and the driver's word on its nodes."""
    place = str(found.read("plan.json").get("on", ""))
    if not place.startswith("k8s:") or status not in {"detached", "running"}:
        return None
    from confide.cli.on_cluster import cluster_of
    from confide.errors import ConfideError
    from confide.jobs.kubernetes.standing import standing_of

    try:
        with cluster_of(place) as api:
            nodes, has_result = standing_of(api, found.run)
    except ConfideError as error:
        return {"place": place, "reached": False, "reason": error.message}
    return {"place": place, "reached": True, "ended": has_result, "nodes": [node.to_json() for node in nodes]}


def _cluster_lines(cluster: Json | None) -> Iterator[str]:
    if cluster is None:
        return
    if not cluster["reached"]:
        yield f"{cluster['place']} cannot be asked: {cluster['reason']}"
        return
    yield f"as {cluster['place']} says, which proves nothing:"
    for node in cluster["nodes"]:
        said = _WORDS.get(node["said"], node["said"] or "not heard of yet") + (f" ({node['code']})" if node["code"] else "")
        where = f" on {node['host']}" if node["host"] else ""
        yield f"  {node['node']} ({node['shape']}): {said}; {node['pod']} {node['phase']}{where}"
        if node["condition"]:
            yield f"    {node['condition']}"
    if cluster["ended"]:
        yield "  the run has ended and left its result: `confide runs attach` takes it"
    elif not cluster["nodes"]:
        yield "  nothing of the run is there any more"


def _optional(found: RunDir, name: str) -> Json | None:
    return found.read(name) if (found.path / name).exists() else None


def _data(found: RunDir) -> list[Json]:
    """What the run's receipt says that nodes did with datasets; `confide verify` checks whose receipt it is."""
    receipt = _optional(found, "receipt.json")
    if receipt is None:
        return []
    from confide.crypto.sign import unverified_payload
    from confide.jobs.statement import Statement

    return [asdict(row) for row in Statement.from_bytes(unverified_payload(receipt)).data]


def _did(row: Json) -> str:
    keys = f"{row['keys_asked']} file keys, {row['keys_asked'] - row['keys_held']} of them asked of the broker"
    cipher = f"{row['open_us'] / 1e6:.1f} s opening, {row['seal_us'] / 1e6:.1f} s sealing containers"
    moved = f"{row['rows_read']} rows ({row['bytes_read']} bytes) read, {row['rows_written']} ({row['bytes_written']}) written"
    return f"{moved} by {row['tasks']} tasks; {keys}; {cipher}"


def _nodes(events: list[Json]) -> list[Json]:
    """How each node stands after the run's events so far."""
    nodes: dict[str, Json] = {}
    for event in events:
        name, standing = str(event.get("node") or ""), _STANDING.get(str(event.get("type")))
        if name and standing:
            fields = event.get("fields") or {}
            nodes.setdefault(name, {"node": name}).update(standing=standing, code=fields.get("code"))
    return list(nodes.values())


@command.command("logs")
@click.argument("run")
@click.option("--node", help="Only this node's log (driver, worker-1, ...).")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended.")
@answers
def logs(context: Context, run: str, node: str | None, *, follow: bool) -> None:
    """Print what the nodes of a run logged.  Logs hold no keys and no data, except what the job's program itself prints."""
    found = _store(context).open(run)
    if context.as_json and follow:
        raise UsageError("--json prints one answer, and --follow goes on", hint="use one of them")
    files = _logs_of(found, node)
    if not files and node is not None and not (follow and found.summary().status == "running"):
        raise UsageError(f"run {found.run} has no log of a node {node!r}", hint="see `confide runs show`")
    if context.as_json:
        context.answer({"logs": {file.name: file.read_text(encoding="utf-8", errors="replace") for file in files}})
        return
    seen: dict[Path, int] = {}
    while True:
        running = follow and found.summary().status == "running"
        for file in _logs_of(found, node):
            _print_new(file, seen, label=node is None, last=not running)
        if not running:
            return
        time.sleep(_FOLLOW_EVERY_S)


def _logs_of(found: RunDir, node: str | None) -> list[Path]:
    files = sorted(found.logs.glob("*.log"))
    return [file for file in files if node is None or file.stem == node or file.stem.startswith(f"{node}.")]


def _print_new(file: Path, seen: dict[Path, int], *, label: bool, last: bool) -> None:
    """Print what came since the last time; a line without its end only when nothing more will come."""
    with file.open("rb") as log:
        log.seek(seen.get(file, 0))
        data = log.read()
    whole = data if last else data[: data.rfind(b"\n") + 1]
    seen[file] = seen.get(file, 0) + len(whole)
    for line in whole.decode("utf-8", errors="replace").splitlines():
        say((f"{file.stem}: {line}" if label else line).expandtabs(4))
    sys.stdout.flush()


@command.command("attach")
@click.argument("run")
@click.argument("job_file", metavar="JOB", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@on_cluster
@click.option("--client-key", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="The key of the client that started the run on another machine: `client-key.pem` in its folder.")  # fmt: skip
@answers
def attach(
    context: Context, run: str, job_file: Path, place: str | None, profile_file: Path | None, client_key: Path | None, *, simulate: bool
) -> None:
    """Come back to a run in a cluster that was started with --detach, or whose client was lost, and follow it to its receipt.

    JOB is the job file that it was started with.  Ctrl-C ends the run.  One that has ended meanwhile is taken to its receipt.
    """
    from confide.cli.on_cluster import chosen_target
    from confide.cli.run import Teller, show_result
    from confide.job import Job
    from confide.jobs import attach as attaching

    target = chosen_target(place, profile_file)
    if target is None:
        raise UsageError("a run on this machine ends with its client", hint="add --on k8s:CONTEXT")
    teller = Teller(Story(simulated=simulate))
    job = Job.load(job_file)
    with teller.story.working(f"following {run}"):
        result = attaching.attach(
            run, job, target, simulate=simulate, client_key=client_key, settings=context.settings, on_event=teller
        )
    context.answer(result.to_json(), lambda: show_result(result))


@command.command("stop")
@click.argument("run")
@answers
def stop(context: Context, run: str) -> None:
    """End a run that is under way: its nodes, their engines and whatever they staged; of one that was detached, all in its cluster."""
    store = _store(context)
    if store.open(run).summary().status == "detached":
        _stop_in_cluster(store.open(run))
    summary = store.stop(run).to_json()
    context.answer(summary, lambda: say(f"{summary['run']}: {summary['status']}"))


def _stop_in_cluster(found: RunDir) -> None:
    from confide.cli.on_cluster import cluster_of
    from confide.errors import InterruptedRunError, UnavailableError
    from confide.jobs.kubernetes.backend import remove_run

    with cluster_of(str(found.read("plan.json").get("on"))) as api:
        if not remove_run(api, found.run):
            raise UnavailableError(f"pods of run {found.run} are still ending", hint="the cluster removes them; see `kubectl get pods`")
    error = InterruptedRunError("the run was stopped").to_json()
    found.write("result.json", {"status": "interrupted", "ended": datetime.now(UTC).isoformat(), "outputs": {}, "error": error})

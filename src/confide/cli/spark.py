"""``confide spark``: let Spark's own tools start a run in a cluster."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.on_cluster import at_priority, chosen_target, on_cluster
from confide.cli.output import Context, answers, say
from confide.cli.run import signatures, signed
from confide.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from confide.jobs.kubernetes.submitted import SubmittedRun
    from confide.jobs.kubernetes.target import KubernetesTarget

Words = tuple[str, ...]
_SUBMIT, _OPERATOR = "spark-submit", "spark-operator"
_OBJECTS, _TEMPLATE, _PROPERTIES, _APPLICATION = "objects.yaml", "driver.yaml", "spark.properties", "application.yaml"


@click.group("spark")
def command() -> None:
    """Let `spark-submit` or the Spark Operator start a run."""


@command.command("render")
@click.argument("job_file", metavar="JOB", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@on_cluster
@at_priority
@click.option("--for", "tool", type=click.Choice([_SUBMIT, _OPERATOR]), required=True, help="Who is to start the driver.")
@signatures
@click.option("--output", "-o", "folder", type=click.Path(path_type=Path), help="A new folder for the files [default: the run's name].")
@answers
def render(
    context: Context,
    job_file: Path,
    place: str | None,
    profile_file: Path | None,
    priority: str | None,
    tool: str,
    signature_files: tuple[Path, ...],
    folder: Path | None,
    *,
    simulate: bool,
) -> None:
    """Write what Spark's own tool needs to start one run of JOB, and say the commands.

    Nothing is started.  The job, its code and its arguments are in the files and in the cluster: unlike with `confide run`, they are
    public.  The result is sealed to a key that is kept here: `confide runs attach` follows the run, and verifies its receipt.
    """
    from confide.job import Job
    from confide.jobs.prepare import prepare
    from confide.jobs.submit import pin_datasets

    target = chosen_target(place, profile_file, priority)
    if target is None or profile_file is None:
        raise UsageError("Spark's tools start runs in clusters", hint="add --on k8s:CONTEXT --cluster PROFILE.toml")
    if folder is not None and folder.exists():
        raise UsageError(f"there is something at {folder} already", hint="name a new folder with --output")
    job = signed(pin_datasets(Job.load(job_file), shares_files=target.shares_files), job_file, signature_files)
    run, made = prepare(job, target, simulate=simulate, settings=context.settings)
    folder = Path(made.name) if folder is None else folder
    files = _objects_for(tool, made)
    _write(folder, files)
    start, remove = _commands(tool, made, target, folder)
    simulated = ("--simulate",) if simulate else ()
    attach = ("confide", "runs", "attach", made.name, str(job_file), "--on", str(place), "--cluster", str(profile_file), *simulated)
    texts = {what: [shlex.join(words) for words in each] for what, each in (("start", start), ("follow", [attach]), ("remove", remove))}
    value = {"run": run.run, "files": [str(folder / name) for name in files], "client_key": str(run.client_key), "commands": texts}

    def text() -> None:
        for what, lines in texts.items():
            say(f"# {what}")
            for line in lines:
                say(line)

    context.answer(value, text)


def _commands(tool: str, made: SubmittedRun, target: KubernetesTarget, folder: Path) -> tuple[list[Words], list[Words]]:
    """What starts the run, and what removes it."""
    kubectl = ("kubectl", "--context", target.context)
    files = ("-f", str(folder / _OBJECTS))
    if tool == _OPERATOR:
        both = (*files, "-f", str(folder / _APPLICATION))
        return [(*kubectl, "apply", *both)], [(*kubectl, "delete", *both)]
    places = {"properties": str(folder / _PROPERTIES), "template": str(folder / _TEMPLATE)}
    submit = made.submit_command(server=target.server, context=target.context, **places)
    pod = (*kubectl, "--namespace", made.namespace, "delete", "pod", made.driver_pod)
    return [(*kubectl, "apply", *files), submit], [pod, (*kubectl, "delete", *files)]


def _objects_for(tool: str, made: SubmittedRun) -> dict[str, str]:
    """The files for one of Spark's tools, by name."""
    from confide.jobs.kubernetes.yaml_text import as_yaml

    if tool == _OPERATOR:
        return {_OBJECTS: as_yaml(made.base), _APPLICATION: as_yaml([made.application])}
    return {_OBJECTS: as_yaml(made.base), _TEMPLATE: as_yaml([made.template]), _PROPERTIES: made.properties_text}


def _write(folder: Path, files: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as cause:
        raise UnavailableError(f"cannot write {folder}: {cause.strerror}", path=str(folder)) from cause

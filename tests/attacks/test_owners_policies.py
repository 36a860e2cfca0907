"""A job whose author trusts more nodes than the data's owners do: what accepted nodes read must not reach the others.

The nodes here run a changed copy of this package that never asks the broker, so that only the other nodes can refuse it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.stage import Stage, outputs_of

from confide.errors import NodeLostError
from confide.job import Job
from confide.jobs.local import backend
from confide.jobs.result import RunEvent

pytestmark = [pytest.mark.run, pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left_behind")]

WORKER_ASKS = """        keys.open_inputs([*self._inputs.values()])
"""
WORKER_WRITES = """        for name in self._services.job.outputs:
            self._keys.open_output(name)
"""
DRIVER_ASKS = """            parent = parents[name].manifest.envelope if name in parents else None
            key = keys.output(name, newest, parent)  # soon: what is committed from now on is not for this run
            self._owners_policies |= {policy.digest: policy for policy in key.policies}
            outputs.hold(name, key, partial(keys.output, name))
            if engine.reads_data:
                keys.open_output(name)
            newest = []
"""
MEASURE = "from confide.attest.measure import measure; from confide.ids import Tee; m = measure(); print(m.of(Tee.SGX), m.of(Tee.TDX))"


def silent_copy(module: str, *parts: str) -> Callable[[Path], Path]:
    """Makes copies of the package without these lines of a module of ``jobs``."""

    def make(folder: Path) -> Path:
        copy = ORIGINAL(folder)
        path = copy / "confide" / "jobs" / module
        text = path.read_text(encoding="utf-8")
        for part in parts:
            assert part in text
            text = text.replace(part, part[: len(part) - len(part.lstrip())] + "pass\n")
        path.write_text(text, encoding="utf-8")
        return copy

    return make


ORIGINAL = backend.tampered_copy


def lax_job(stage: Stage, copy: Path) -> Job:
    """A job whose own policy accepts the copy too; the owners grant it under their policy, which does not."""
    command = [sys.executable, "-P", "-s", "-c", MEASURE]
    sgx, tdx = subprocess.run(command, env={"PYTHONPATH": str(copy)}, capture_output=True, text=True, check=True).stdout.split()
    strict = stage.tee.reference_values()
    wide = {**stage.policy, "name": "authors", "measurements": {"sgx": [*strict["sgx"], sgx], "tdx": [*strict["tdx"], tdx]}}
    job = stage.job(policy=wide)
    stage.grant(job)
    return job


def test_a_worker_that_the_owners_do_not_accept_gets_no_rows(stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(backend, "tampered_copy", silent_copy("spark_worker.py", WORKER_ASKS, WORKER_WRITES))
    job = lax_job(stage, backend.tampered_copy(tmp_path / "copy"))
    result, events = stage.run(job, faults={"worker-2": "tampered"})
    assert ended(events, "worker-2") == "appraisal-refused"
    assert ("worker-2", "worker-started") not in {(event.node, event.type) for event in events}
    assert {release.node for release in result.verification.require().releases} == {"driver", "worker-1"}


def test_a_driver_that_the_owners_do_not_accept_gets_no_rows(stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(backend, "tampered_copy", silent_copy("workload.py", DRIVER_ASKS))
    job = lax_job(stage, backend.tampered_copy(tmp_path / "copy"))
    with pytest.raises(NodeLostError) as caught:
        stage.run(job, faults={"driver": "tampered"})
    assert str(caught.value.facts["ended"]).count("appraisal-refused") == 2
    assert outputs_of(job) == []


def ended(events: list[RunEvent], node: str) -> object:
    return next(event.fields["code"] for event in events if (event.node, event.type) == (node, "worker-failed"))

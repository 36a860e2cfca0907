"""What a job says of an earlier dataset at an output's place: what is in its digest, and what is pinned before a run begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.manifests import listed

from confide.canonical import Json
from confide.crypto.sign import SigningKey
from confide.errors import JobError, ManifestError, OutputExistsError
from confide.ids import DatasetId, new_dataset_id
from confide.job import Job
from confide.jobs.parents import open_parents
from confide.jobs.staging import check_free
from confide.jobs.submit import pin_datasets


def job(path: Path, **output: Any) -> Job:
    broker = {"url": "https://127.0.0.1:1", "spki": "0" * 64}
    outputs = {"a": {"path": str(path), **output}}
    return Job.build({"name": "j", "program": "p.py", "files": {"p.py": b""}, "outputs": outputs, "policy": {}, "broker": broker})


def dataset(folder: Path, *, run: str | None = "first-1", owner: str | None = None) -> DatasetId:
    made = new_dataset_id()
    listed(folder, SigningKey.generate(), made, owner=owner, run=run)
    return made


def form(made: Job) -> Json:
    found: Json = made.canonical_form()["outputs"]["a"]
    return found


def test_mode_and_dataset_are_in_the_digest_and_a_job_without_them_has_the_one_that_it_had(tmp_path: Path) -> None:
    assert form(job(tmp_path / "a")) == {"recipients": []}
    pinned = dataset(tmp_path / "a")
    jobs = [job(tmp_path / "a"), job(tmp_path / "a", mode="append"), pin_datasets(job(tmp_path / "a", mode="append"))]
    jobs.append(pin_datasets(job(tmp_path / "a", mode="overwrite")))
    assert form(jobs[2]) == {"recipients": [], "mode": "append", "dataset": pinned}
    assert len({one.digest for one in jobs}) == 4
    assert Job.from_json(jobs[2].to_json()).digest == jobs[2].digest


def test_where_nothing_is_the_output_is_a_new_one(tmp_path: Path) -> None:
    made = pin_datasets(job(tmp_path / "a", mode="append"))
    assert form(made) == {"recipients": [], "mode": "append"}
    assert open_parents(made) == {}


def test_without_a_mode_nothing_may_be_there(tmp_path: Path) -> None:
    dataset(tmp_path / "a")
    assert pin_datasets(job(tmp_path / "a")).outputs["a"].dataset == ""
    with pytest.raises(OutputExistsError):
        check_free({"a": tmp_path / "a"})
    check_free({"a": tmp_path / "a"}, going_on={"a"})


def test_an_owners_own_dataset_and_what_is_none_are_refused(tmp_path: Path) -> None:
    dataset(tmp_path / "a", run=None, owner="airline")
    with pytest.raises(OutputExistsError, match="a dataset of airline"):
        pin_datasets(job(tmp_path / "a", mode="append"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError):
        pin_datasets(job(tmp_path / "empty", mode="append"))


def test_another_dataset_than_the_job_pins_is_refused(tmp_path: Path) -> None:
    dataset(tmp_path / "a")
    other = job(tmp_path / "a", mode="append", dataset="11" * 16)
    for ask in (pin_datasets, open_parents):
        with pytest.raises(ManifestError, match="another dataset than the job pins"):
            ask(other)


def test_a_dataset_without_a_mode_and_two_datasets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="says how"):
        job(tmp_path / "a", dataset="11" * 16)
    both = {name: {"path": str(tmp_path / name), "mode": "append", "dataset": "11" * 16} for name in ("a", "b")}
    with pytest.raises(JobError, match="one output of a job goes on"):
        Job.build({**job(tmp_path / "a").model_dump(), "outputs": both})

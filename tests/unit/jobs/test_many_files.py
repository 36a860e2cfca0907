"""A dataset of a thousand files costs a node one call to the broker: file keys are derived on the node."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.node_services import node
from support.stage import Stage

from confide.jobs.inputs import open_inputs
from confide.keys.client import NodeBrokerClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
FILES = 1000


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr("confide.data.files.sync_file", lambda _: None)  # a thousand waits for the disk are not what is tested
    source = tmp_path / "plain"
    source.mkdir()
    for number in range(FILES):
        (source / f"{number:04}.csv").write_text(f"{number}\n")
    made = Stage(tmp_path)
    made.open(people=source)  # type: ignore[arg-type]  # what `data encrypt` takes
    yield made
    made.close()


def test_opening_a_thousand_files_asks_the_broker_once_for_each_key(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = NodeBrokerClient.releases

    def counted(self: NodeBrokerClient, shown: list, *rest: object, **named: object) -> object:
        asked.append(len(shown))
        return real(self, shown, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(NodeBrokerClient, "releases", counted)
    job = stage.job()
    stage.grant(job)
    with node(stage, job) as (_, keys):
        inputs = open_inputs(job)
        keys.open_inputs([inputs["people"], inputs["cities"]])
        read = keys.operations()["read-key"]
        folder, files = inputs["people"].folder, inputs["people"].manifest.files
        salt = base64.b64encode(bytes(32)).decode()
        given = {read({"path": str(folder / file.path), "kind": "container", "salt": salt})["key"] for file in files}
    assert len(given) == len(files) == FILES
    assert asked == [2], "both keys in one call"
    events = [entry.event for entry in stage.broker.store.audit() if entry.event and entry.event["action"] == "release"]
    assert len([event for event in events if event["job"] == job.digest]) == 2

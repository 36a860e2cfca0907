"""A whole run whose data's owner withdraws its grant: it ends within seconds, on every node, with the owner's reason."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from datetime import datetime

import pytest
from support.stage import Stage, outputs_of, processes_of

from confide.errors import KeyRevokedError

pytestmark = [pytest.mark.run, pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left_behind")]

TOLD_S = 5.0
"""Within how many seconds of its owner's word every node of a run is told."""

# Has read and written, and then goes on for long: what ends it is the withdrawal and nothing else.
READS_ON = b"""
import confide, pathlib, time
ctx = confide.session()
people = ctx.read("people")
ctx.write(people.groupBy("city").count(), "summary")
pathlib.Path(ctx.arguments[0]).write_text("reading")
until = time.monotonic() + 120
while time.monotonic() < until:
    people.count()
    time.sleep(0.2)
"""


def test_a_withdrawn_grant_ends_a_running_job_within_seconds(stage: Stage, record_property: Callable[[str, object], None]) -> None:
    marker = stage.root / f"marker-{secrets.token_hex(4)}"
    job = stage.job(READS_ON, outputs=("summary",), arguments=(str(marker),))
    stage.grant(job)
    times: list[float] = []

    def withdraw() -> None:
        end = time.monotonic() + 120
        while not marker.exists() and time.monotonic() < end:
            time.sleep(0.05)
        airline = stage.clients["airline"]
        (grant,) = (grant for grant in airline.grants() if grant.job == job.digest)
        airline.revoke(grant.id)
        times.append(time.monotonic())

    owner = threading.Thread(target=withdraw)
    owner.start()
    with pytest.raises(KeyRevokedError, match="revoked") as caught:
        stage.run(job)
    ended = time.monotonic()
    owner.join()
    record_property("seconds", ended - times[0])
    assert caught.value.facts["key"] == "airline/people"
    assert outputs_of(job) == []
    assert processes_of(stage) == []

    # Who was told, and when: as the broker's log has it.
    events = [entry.event for entry in stage.broker.store.audit() if entry.event is not None]
    told = [event for event in events if event["action"] == "withdrawn" and event["job"] == job.digest]
    assert {event["code"] for event in told} == {"grant-missing"}
    assert "driver" in {event["node"] for event in told}
    (revoked,) = (event for event in events if event["action"] == "revoke")
    waited = [(datetime.fromisoformat(event["time"]) - datetime.fromisoformat(revoked["time"])).total_seconds() for event in told]
    assert max(waited) <= TOLD_S

"""What workers report is read totally: a report of another form is a breach of the protocol."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from confide.crypto.secret import SecretBytes
from confide.errors import ProtocolError
from confide.ids import DatasetId, KeyRef, NodeId, Purpose
from confide.jobs.reports import FilesDeleted, FilesWritten, data_counted, files_deleted, files_written, key_opened, read_report
from confide.jobs.statement import DataEntry, ReleaseEntry
from confide.keys.grants import GrantRef
from confide.keys.released_keys import ReleasedKey

NODE = NodeId("worker-1")
GRANT = GrantRef("ab" * 8, "cd" * 48)
KEY = ReleasedKey(
    DatasetId("11" * 16), KeyRef("airline", "flights", 2), SecretBytes.random(), datetime.now(UTC), grants={"airline/flights": GRANT}
)
COUNTS = DataEntry("worker-1", 2, 1000, 7, 65536, 100, 12, 3, 2, 2)


def test_reports_come_back_as_they_were() -> None:
    found = read_report(NODE, key_opened("flights", Purpose.READ, KEY))
    assert found == ReleaseEntry(NODE, "flights", "read", "airline/flights", 2, {"airline/flights": GRANT.to_json()})
    assert read_report(NODE, files_written(["/a/b"])) == FilesWritten(("/a/b",))
    assert read_report(NODE, files_deleted("/a")) == FilesDeleted("/a")
    assert read_report(NODE, data_counted(COUNTS)) == COUNTS


@pytest.mark.parametrize(
    "changes", [{"tasks": -1}, {"tasks": True}, {"tasks": 1.0}, {"tasks": 1 << 53}, {"tasks": "1"}, {"more": 1}, {"node": "worker-2"}]
)
def test_counts_in_another_form_are_refused(changes: dict[str, Any]) -> None:
    report = data_counted(COUNTS)
    with pytest.raises(ProtocolError):
        read_report(NODE, {**report, "counts": {**report["counts"], **changes}})
    del report["counts"]["rows_read"]
    with pytest.raises(ProtocolError):
        read_report(NODE, report)


def test_a_report_of_a_key_holds_no_key() -> None:
    assert KEY.secret.reveal().hex() not in str(key_opened("flights", Purpose.READ, KEY))


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "other"},
        {"name": 1},
        {"purpose": "burn"},
        {"version": "2"},
        {"grants": {"airline/flights": {"grant": "x", "policy": "cd" * 48}}},
        {"grants": {"airline/flights": {"grant": "ab" * 8, "policy": "cd" * 48, "more": 1}}},
        {"grants": []},
    ],
)
def test_another_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        read_report(NODE, {**key_opened("flights", Purpose.READ, KEY), **changes})


@pytest.mark.parametrize("report", [{}, {"type": "files-written", "paths": [1]}, {"type": "files-deleted", "path": None}])
def test_something_else_is_no_report(report: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        read_report(NODE, report)

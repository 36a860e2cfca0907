"""A worker's reports: told means that the driver has taken note."""

from __future__ import annotations

import threading

import pytest

from confide.canonical import Json
from confide.errors import ChannelError
from confide.node.reports import Reports


def test_a_report_returns_with_its_answer_and_not_before() -> None:
    sent: list[tuple[int, Json]] = []
    reports = Reports(lambda number, report: sent.append((number, report)))
    threads = [threading.Thread(target=reports.tell, args=({"n": n},)) for n in range(2)]
    for thread in threads:
        thread.start()
    while len(sent) < 2:
        threads[0].join(0.01)
    assert all(thread.is_alive() for thread in threads)
    reports.heard(99)
    for number, report in sent:
        reports.heard(number)
        threads[report["n"]].join(5)
        assert not threads[report["n"]].is_alive()


def test_whoever_waits_learns_that_the_driver_is_gone() -> None:
    sent = threading.Event()
    reports = Reports(lambda number, report: sent.set())
    failures: list[ChannelError] = []

    def tell() -> None:
        try:
            reports.tell({})
        except ChannelError as error:
            failures.append(error)

    thread = threading.Thread(target=tell)
    thread.start()
    assert sent.wait(5)
    reports.close()
    thread.join(5)
    assert len(failures) == 1
    with pytest.raises(ChannelError):
        reports.tell({})

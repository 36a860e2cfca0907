from __future__ import annotations

import threading
from typing import NoReturn

import pytest

from confide.errors import GrantError, UnavailableError
from confide.node.mailbox import Mailbox


def refuse() -> NoReturn:
    raise GrantError("no")


def test_letters_run_on_the_pumping_thread() -> None:
    mail, seen = Mailbox(), []
    threading.Thread(target=lambda: mail.post(lambda: seen.append(threading.current_thread()))).start()
    assert mail.pump(lambda: bool(seen), timeout_s=5)
    assert seen == [threading.current_thread()]


def test_letter_that_raises_ends_the_pump() -> None:
    mail = Mailbox()
    mail.post(refuse)
    with pytest.raises(GrantError):
        mail.pump(lambda: False, timeout_s=5)


def test_pump_gives_up_in_time_and_ticks() -> None:
    ticks: list[int] = []
    assert not Mailbox().pump(lambda: False, timeout_s=0.3, tick=lambda: ticks.append(1))
    assert ticks


def test_refused_question_is_the_askers_matter() -> None:
    mail, found = Mailbox(), []

    def ask() -> None:
        found.append(mail.ask(lambda: 7))
        try:
            mail.ask(refuse)
        except GrantError as error:
            found.append(error.code)

    threading.Thread(target=ask).start()
    assert mail.pump(lambda: len(found) == 2, timeout_s=5)
    assert found == [7, "grant-missing"]


def test_background_work_reports_its_value_or_its_failure() -> None:
    mail, found = Mailbox(), []
    mail.background(lambda: 3, found.append, name="work")
    assert mail.pump(lambda: found == [3], timeout_s=5)
    mail.background(refuse, found.append, name="work")
    with pytest.raises(GrantError):
        mail.pump(lambda: False, timeout_s=5)
    mail.background(lambda: 1 // 0, found.append, name="work")
    with pytest.raises(UnavailableError, match="ZeroDivisionError"):
        mail.pump(lambda: False, timeout_s=5)


def test_question_that_nobody_will_answer_is_an_error() -> None:
    mail, found = Mailbox(), []

    def ask() -> None:
        try:
            mail.ask(lambda: 7)
        except UnavailableError as error:
            found.append(error.message)

    waiting = threading.Thread(target=ask)
    waiting.start()
    while not mail._unanswered:
        pass
    mail.close()
    waiting.join(5)
    ask()
    assert found == ["the node is ending"] * 2


def test_question_with_a_bug_ends_the_pump_as_well() -> None:
    mail, found = Mailbox(), []

    def ask() -> None:
        try:
            mail.ask(lambda: 1 // 0)
        except ZeroDivisionError:
            found.append(1)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(ZeroDivisionError):
        mail.pump(lambda: False, timeout_s=5)
    asking.join(5)
    assert found == [1]

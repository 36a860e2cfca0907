"""The driver's end of the channel to its client, when the client is lost between two steps of another thread."""

from __future__ import annotations

from typing import Any

from confide.node.control import Kind, Link
from confide.node.run_client import RunClient
from confide.node.spec import Timing


class Heard(Link):
    """A link that keeps what it is told."""

    def __init__(self) -> None:
        self.sent: list[Kind] = []
        self.ended = 0

    def send(self, kind: Kind, **fields: object) -> None:
        self.sent.append(kind)

    def close(self) -> None:
        self.ended += 1


class LostMeanwhile(RunClient):
    """Its client is gone as soon as anybody has looked whether it is here, as if another thread had taken note of that just then."""

    link: Link | None = None

    @property
    def _link(self) -> Link | None:
        found, self.link = self.link, None
        return found

    @_link.setter
    def _link(self, link: Link | None) -> None:
        self.link = link


def client(link: Link) -> Any:
    made = LostMeanwhile(Timing(), on_frame=lambda _: None, on_lost=lambda *_: None, comes_back=True)
    made.link = link
    return made


def test_event_that_is_told_while_the_client_is_lost_ends_nothing() -> None:
    link = Heard()
    one = client(link)
    one.emit(type="program-started")
    one.tell(Kind.RESULT)
    assert link.sent == [Kind.EVENT]
    assert [*one._events] == [{"type": "program-started"}]


def test_client_that_is_lost_while_it_is_left_is_left() -> None:
    link = Heard()
    client(link).close()
    assert link.ended == 1

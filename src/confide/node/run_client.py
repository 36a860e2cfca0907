"""The driver's end of the channel to its client: the first client that brought the right job, and nobody else from then on.

A job that was left with the driver (:class:`~confide.node.left_job.LeftJob`) comes from its own process, and the run's client is
whom it was left by.  Where a run goes on without its client (:class:`~confide.node.host.DriverHost`), the holder of the same key may
come back, and hears first what it has missed.  Used on the thread that drives the node; frames and losses are passed on as letters by the
caller's functions.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from confide.errors import ConfideError, ProtocolError
from confide.node.control import Kind, Link

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.crypto.tls import Channel
    from confide.node.left_job import LeftJob
    from confide.node.reattest import Presenter
    from confide.node.spec import Timing

_MOST_KEPT = 10_000
"""Events that are kept for a client that comes back; of more, the first are forgotten."""


class RunClient:
    """The run's client.  ``here``: whether it listens just now."""

    def __init__(
        self,
        timing: Timing,
        *,
        on_frame: Callable[[Json], None],
        on_lost: Callable[[Link, ConfideError], None],
        comes_back: bool,
        left: LeftJob | None = None,
    ) -> None:
        self._timing = timing
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._comes_back = comes_back
        self._left = left
        self._key: bytes | None = None
        self._link: Link | None = None
        self._events: deque[Json] = deque(maxlen=_MOST_KEPT if comes_back else 0)
        self._telling = threading.Lock()
        self.presenter: Presenter | None = None

    @property
    def known(self) -> bool:
        """Whether the run has got its client."""
        return self._key is not None

    @property
    def key(self) -> bytes | None:
        """The client's key: SubjectPublicKeyInfo, DER.  Of a job that was left with the driver it is known from the beginning."""
        return self._left.owner if self._key is None and self._left is not None else self._key

    @property
    def here(self) -> bool:
        """Whether it is connected."""
        return self._link is not None

    def take(self, channel: Channel, presenter: Callable[[Link], Presenter]) -> None:
        """Make the peer of ``channel``, which has attested this node and brought the job, the run's client.

        Raises:
            ProtocolError: the run has its client already, or this is another one.
            ChannelError: it is gone again.
        """
        key = channel.peer_spki
        if self.here or (self.known and not (self._comes_back and key == self._key)):
            raise ProtocolError("this run has its client already")
        if key is None:
            raise ProtocolError("the client shows no key")
        if self._left is not None and not self.known:
            if key != self._left.bearer.spki_der:
                raise ProtocolError("this run's job is left with its driver, and nobody else brings one")
            key = self._left.owner
        timing = self._timing
        link = Link(
            channel,
            heartbeat_s=timing.heartbeat_s,
            lost_after_s=timing.lost_after_s,
            on_frame=self._on_frame,
            on_lost=lambda error: self._on_lost(link, error),
        )
        made = presenter(link)
        link.send(Kind.ACCEPTED)
        with self._telling:  # what is emitted meanwhile comes after what it has missed
            for event in self._events:
                link.send(Kind.EVENT, **event)
            self._key, self._link, self.presenter = key, link, made
        link.start()

    def emit(self, **event: object) -> None:
        """Tell an event, and keep it for a client that comes back.  Safe to call from any thread."""
        with self._telling:
            self._events.append(event)
            self.tell(Kind.EVENT, **event)

    def tell(self, kind: Kind, **fields: object) -> None:
        """Send a frame, if the client is here."""
        link = self._link  # read once: another thread may take note of its loss meanwhile
        if link is not None:
            with suppress(ConfideError):  # its loss is noticed by the link
                link.send(kind, **fields)

    def gone(self, link: Link) -> bool:
        """Take note that the client behind ``link`` is gone; ``False`` if that was an earlier one."""
        if link is not self._link:
            return False
        self._link = None
        if self.presenter is not None:
            self.presenter.close()
        return True

    def close(self) -> None:
        """Leave."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

"""HTTP by urllib3 with an end to each answer, however slowly it drips.  Knows nothing of what the answers are.

A socket's own timeout is for the pause between two bytes: a peer that sends one before each is over keeps its reader for as long as it
likes, in a head, a body, the length of a chunk or the fields after the last one.  So a timer cuts the connection under the reader.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final

from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import urllib3
    from urllib3.connectionpool import HTTPConnectionPool
    from urllib3.response import HTTPResponse

_HEAD_S: Final = 10.0
"""For a head whose request has no timeout."""
_CHUNK: Final = 64 * 1024


def end_in_time(pool: urllib3.PoolManager, *, body_s: float | None = None) -> None:
    """Let the read timeout of each request that ``pool`` makes be for all of an answer's head, and :func:`read_by` read its body.

    ``body_s``: where a library reads the bodies, how long each may take from its head on; the library finds its connection broken then.
    A handshake has to end in its time anyway: Python's ``ssl`` sees to that.
    """
    pool.pool_classes_by_scheme = {scheme: _timed(kind, body_s) for scheme, kind in pool.pool_classes_by_scheme.items()}


def read_by(answer: urllib3.BaseHTTPResponse, until: float, most: int) -> bytes:
    """The body of an answer of a pool that ends in time.  Who gets more than ``most`` bytes has not got all of it, and closes the answer.

    ``until`` is of the monotonic clock.  How the answer is packed is as the request said.

    Raises:
        TimeoutError: it did not end by then.
        urllib3.exceptions.HTTPError, OSError: the connection broke.
    """
    connection = answer.connection
    if connection is not None and not isinstance(connection, _Timed):
        raise TypeError("this answer's pool does not end in time")
    body = bytearray()
    with _ended_by(until, None if connection is None else connection.answering):
        while len(body) <= most and (piece := answer.read1(_CHUNK)):
            body += piece
            if time.monotonic() >= until:
                raise TimeoutError("an answer did not end in time")
    return bytes(body)


class _Timed(HTTPConnection):
    answering: Any = None
    """The socket of the newest answer: a connection that is to be closed after one has let go of it when its head is there."""
    body_s: float | None = None

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        self.answering = self.sock
        limit = self.timeout if isinstance(self.timeout, int | float) else _HEAD_S
        with _ended_by(time.monotonic() + limit, self.answering):
            answer = super().getresponse()
        if self.body_s is not None and not answer.closed:
            _cut_unless_read(answer, self.answering, self.body_s)
        return answer


def _timed(kind: type[HTTPConnectionPool], body_s: float | None) -> type[HTTPConnectionPool]:
    connection = type(f"Timed{kind.ConnectionCls.__name__}", (_Timed, kind.ConnectionCls), {"body_s": body_s})
    return type(f"Timed{kind.__name__}", (kind,), {"ConnectionCls": connection})


def _cut_unless_read(answer: HTTPResponse, sock: Any, seconds: float) -> None:
    """Cut ``sock`` then, unless the answer was read to its end: its connection has gone back to the pool, and may be another answer's."""
    timer = threading.Timer(seconds, _cut, (sock,))
    timer.daemon = True
    release = answer.release_conn

    def done() -> None:
        timer.cancel()
        release()

    answer.release_conn = done  # type: ignore[method-assign]
    timer.start()


def _cut(sock: Any) -> None:
    plain = getattr(sock, "socket", sock)  # below TLS within TLS (a proxy's)
    with suppress(OSError, TypeError):  # it ended in this very moment, or there is none
        socket.socket.shutdown(plain, socket.SHUT_RDWR)  # below TLS too, whose object stays as it is for its reader


@contextmanager
def _ended_by(until: float, sock: Any) -> Iterator[None]:
    """Cut ``sock`` if the block has not ended by then, which is a TimeoutError, whatever the cut looked like from within."""
    cut = threading.Event()

    def end() -> None:
        cut.set()
        _cut(sock)

    timer = threading.Timer(max(until - time.monotonic(), 0.0), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (HTTPError, HTTPException, OSError, ValueError) as cause:
        if cut.is_set():
            raise TimeoutError("an answer did not come in time") from cause
        raise
    finally:
        timer.cancel()
    if cut.is_set():
        raise TimeoutError("an answer did not come in time")

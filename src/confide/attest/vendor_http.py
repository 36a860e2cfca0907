"""HTTP for the vendors' services: GET only, with a limit to everything.  Knows nothing of what the answers are.

A service may be slow, busy, hostile, or somebody else: no answer is larger than it may be, and none takes longer than its time, however
slowly it drips.  Redirects are not followed and nothing is decompressed.
"""

from __future__ import annotations

import time
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import urllib3
from urllib3.exceptions import HTTPError

from confide.crypto.retry_after import pause_asked
from confide.crypto.timed_http import end_in_time, read_by
from confide.errors import CollateralError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

MAX_BODY: Final = 256 * 1024
"""Cap on one answer, in bytes: the largest genuine one, a TCB info, has about 20 KiB."""
MAX_RETRY_AFTER_S: Final = 20.0
"""A service that asks for a longer pause (``Retry-After``) is not waited for."""
_MAX_BACKOFF_S: Final = 10.0
_CONNECT_S: Final = 5.0
_BUSY: Final = {429, 500, 502, 503, 504}
_NOT_FOUND: Final = 404
_OK: Final = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with status 200."""

    body: bytes
    headers: Mapping[str, str]

    def text(self) -> str:
        """The body as text.

        Raises:
            CollateralError: it is none.
        """
        try:
            return self.body.decode("utf-8")
        except UnicodeDecodeError as cause:
            raise CollateralError("a collateral service answered with something that is not text") from cause


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Http:
    """GET with time limits, a size limit, and patience for services that are busy.  Follows no redirects.

    ``timeout_s`` is for one answer's beginning and for each pause in it, ``total_s`` for all of a call with its repetitions.
    """

    def __init__(
        self,
        *,
        ca_file: Path | None = None,
        timeout_s: float = 15.0,
        retries: int = 4,
        backoff_s: float = 0.5,
        total_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._timeout_s, self._retries, self._backoff_s, self._total_s = timeout_s, retries, backoff_s, total_s
        self._sleep = sleep
        authorities = None if ca_file is None else str(ca_file)
        self._pool = urllib3.PoolManager(cert_reqs="CERT_REQUIRED", ca_certs=authorities)
        end_in_time(self._pool)

    def get(self, url: str, **parameters: str | int) -> Answer | None:
        """The answer; None if there is no such thing (status 404).

        Raises:
            CollateralError: the service is not there, too slow, or answers anything else.
        """
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        deadline = time.monotonic() + self._total_s
        attempt = 0
        while True:
            pause = min(self._backoff_s * 2**attempt, _MAX_BACKOFF_S)
            last = attempt == self._retries
            try:
                reply = self._once(url + query, url, deadline)
            except (HTTPError, OSError) as cause:
                if last or time.monotonic() + pause >= deadline:
                    raise CollateralError("a collateral service cannot be reached", url=url, reason=type(cause).__name__) from cause
            else:
                asked = pause_asked(reply.headers.get("retry-after"))
                pause = pause if asked is None else asked
                patient = pause <= MAX_RETRY_AFTER_S and time.monotonic() + pause < deadline
                if reply.status not in _BUSY or last or not patient:
                    return _answer(reply, url)
            self._sleep(pause)
            attempt += 1

    def _once(self, url: str, shown: str, deadline: float) -> _Reply:
        left = max(deadline - time.monotonic(), 0.001)
        timeout = urllib3.Timeout(connect=min(_CONNECT_S, self._timeout_s, left), read=min(self._timeout_s, left))
        # Without an encoding asked for, an answer in one is refused: a small body that unpacks to a large one is no answer.
        headers = {"Accept-Encoding": "identity"}
        reply = self._pool.request(
            "GET", url, headers=headers, preload_content=False, retries=False, redirect=False, timeout=timeout, decode_content=False
        )
        try:
            body = _read(reply, shown, deadline)
        except BaseException:
            reply.close()
            raise
        return _Reply(reply.status, {name.lower(): value for name, value in reply.headers.items()}, body)


def _read(reply: urllib3.BaseHTTPResponse, url: str, deadline: float) -> bytes:
    try:
        body = read_by(reply, deadline, MAX_BODY)  # not decoded, as it was asked for
    except TimeoutError as cause:
        raise CollateralError("a collateral service takes too long over its answer", url=url) from cause
    if len(body) > MAX_BODY:
        raise CollateralError("a collateral service's answer is too large", url=url, limit=MAX_BODY)
    return body


def _answer(reply: _Reply, url: str) -> Answer | None:
    if reply.status == _NOT_FOUND:
        return None
    if reply.status != _OK:
        raise CollateralError("a collateral service refuses to answer", url=url, status=reply.status)
    if reply.headers.get("content-encoding", "identity") != "identity":
        raise CollateralError("a collateral service's answer is packed, which was not asked for", url=url)
    return Answer(reply.body, reply.headers)

"""Work in several threads whose results come in the order of the work, with a bound on how much is under way.

Threads, not processes: Arrow, AES-GCM and SHA-256 work without the interpreter's lock, and the dataset's key stays in one process.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Final, TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")
_MOST: Final = 8
"""More threads than that would need more memory than one command may take."""

Tell = Callable[[int, int | None], None]
"""Is told of bytes and rows that were done since it was told last."""
Progress = Callable[[str, "int | None"], AbstractContextManager[Tell]]
"""Begins to show how far something is: what it is, and how many bytes there are to do, if that is known."""


def silent(_what: str, _total: int | None) -> AbstractContextManager[Tell]:
    """Shows nothing."""
    return nullcontext(lambda _size, _rows: None)


def at_once() -> int:
    """How many threads to work with: the processors that this process may use, within a bound."""
    return max(1, min(len(os.sched_getaffinity(0)), _MOST))


def in_order(work: Callable[[_T], _R], items: Iterable[_T], *, threads: int | None = None, ahead: int = 0) -> Generator[_R, None, None]:
    """``work`` of each item, in the items' order.  No more items are taken than ``threads`` (all processors) have at hand, and ``ahead``.

    Whatever fails, no thread is at work any more when this raises.
    """
    count = threads if threads is not None else at_once()
    pool = ThreadPoolExecutor(count, "confide-data")
    pending: deque[Future[_R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            del item  # it may be large, and the next one is read before this name is bound anew
            if len(pending) >= count + ahead:  # the thread that takes the items works, too
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

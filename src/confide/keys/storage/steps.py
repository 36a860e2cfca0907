"""The store's steps: what happens at once or not at all, in groups that are committed together, each with a head that continues the last.

One connection, used by one thread at a time.  A step that others wait behind leaves its commit to the last of them, so that many steps cost
one write to the disk.  ``keys.store`` says what the steps are about.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import select

from confide.canonical import json_writer, parse_object
from confide.errors import AuditError, StepUnknownError, StoreError
from confide.keys.observation import observed
from confide.keys.storage.database import Database
from confide.keys.storage.log import Extent, Log
from confide.keys.storage.rows import Rows, not_latest
from confide.keys.storage.schema import HEAD
from confide.keys.storage.statements import Statement, upsert

MAX_BATCH: Final = 128
"""Steps that are committed together at most."""
_PATIENCE_S: Final = 0.05
"""How long a step waits for others to commit it before it sees to that itself."""
_write: Final = json_writer(sort_keys=True, separators=(", ", ": "))
_READ_HEAD: Final = Statement(select(HEAD.c.body, HEAD.c.mac))
_KEEP_HEAD: Final = upsert(HEAD)

_WITHIN: Final = nullcontext()
"""For what is done inside a transaction: it is this thread's turn already."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Head:
    """The store's newest state: how many commits there were, how far the audit log is, and the head row's own tag (none at first).

    ``time`` is the latest of the log's entries.
    """

    epoch: int = 0
    log: Extent = field(default_factory=Extent)
    tag: bytes | None = None
    time: datetime | None = None


class _Batch:
    """Steps that are committed together.  Whoever did one waits for ``done``; ``error`` is why none of them has happened."""

    def __init__(self, before: Head) -> None:
        self.before = before
        self.steps = 0
        self.done = threading.Event()
        self.error: BaseException | None = None


class _Inside(threading.local):
    """What a thread is doing."""

    writing = False


class _Turn:
    """A lock that counts who waits for it."""

    __slots__ = ("_queue", "alone", "waiting")

    def __init__(self) -> None:
        self.alone = threading.RLock()
        self._queue = threading.Lock()
        self.waiting = 0

    def __enter__(self) -> None:
        with self._queue:
            self.waiting += 1
        try:
            self.alone.acquire()
        finally:
            with self._queue:
                self.waiting -= 1

    def __exit__(self, *_: object) -> None:
        self.alone.release()


class Steps:
    """Reads and steps on one database.  Safe to use from several threads; several processes may each have one on the same database."""

    def __init__(self, database: Database, rows: Rows, log: Log, head_key: bytes) -> None:
        self._database = database
        self._rows = rows
        self._log = log
        self._head_key = head_key
        self._turn = _Turn()
        self._inside = _Inside()
        self._batch: _Batch | None = None
        self._head = Head()
        self.failing = False
        """Whether the last step that had something to write could not be kept: the disk is full, say, though all can be read."""

    @property
    def head(self) -> Head:
        """The newest state that this process knows, steps that wait for their commit included."""
        return self._head

    @property
    def on_disk(self) -> Head:
        """The newest state that no failure can undo: a head that is signed must stay true.  Inside :meth:`reading`."""
        return self._batch.before if self._batch is not None else self._head

    def log_is_now(self, extent: Extent, time: datetime) -> None:
        """The audit log has grown, and this is its latest time.  Inside :meth:`transaction`."""
        self._head = Head(self._head.epoch, extent, self._head.tag, time)

    def take_over(self, rows: Rows, head_key: bytes) -> None:
        """From now on the store's rows are these, and its head is under that key.  The last thing that a step does."""
        self._rows, self._head_key = rows, head_key

    def close(self) -> None:
        """Commit what waits, and end the connection."""
        with self._turn.alone:
            self._commit_waiting()
            self._database.close()

    def scrub(self, *, wait: bool = True) -> None:
        """Have the database overwrite what rows held before, as far as it can (:meth:`Database.scrub`).  Not inside a transaction."""
        with self.turn():
            self._commit_waiting()
            self._database.scrub(wait=wait)

    def _commit_waiting(self) -> None:
        if self._batch is not None:
            self._commit(self._batch)

    def transaction(self) -> AbstractContextManager[None]:
        """See :meth:`confide.keys.store.Store.transaction`."""
        return _WITHIN if self.is_writing else self._outermost()

    @contextmanager
    def _outermost(self) -> Iterator[None]:
        with self.turn():
            batch = self._batch or self._begin()
            mark, head = (self._rows.mark(), self._log.mark()), self._head
            self._inside.writing = True
            try:
                if batch.steps:
                    self._database.savepoint()
                yield
                if batch.steps:
                    self._database.release()
                batch.steps += 1
            except BaseException as cause:
                self._take_back(batch, mark, head)
                self._went(cause)
                raise
            finally:
                self._inside.writing = False
                self._commit_if_last(batch)
        self._await(batch)

    @property
    def is_writing(self) -> bool:
        """Whether this thread is inside :meth:`transaction`."""
        return self._inside.writing

    def turn(self) -> _Turn:
        """This thread alone uses the connection.  Who waits for that is counted: a batch stays open for them."""
        return self._turn

    @property
    def _waiting(self) -> int:
        return self._turn.waiting

    def _begin(self) -> _Batch:
        self._database.begin_write()
        try:
            self._catch_up()
        except BaseException:
            self._database.end()
            raise
        self._batch = _Batch(self._head)
        return self._batch

    def _take_back(self, batch: _Batch, mark: tuple[int, tuple[int, int]], head: Head) -> None:
        """Undo one step; if the database cannot, the whole batch has failed."""
        self._rows.restore(mark[0])
        self._log.restore(mark[1])
        self._head = head
        if batch.steps == 0:
            self._database.end()
            self._batch = None
            return
        try:
            self._database.take_back()
        except StoreError as cause:
            self._fail(batch, cause)

    def _commit_if_last(self, batch: _Batch) -> None:
        if self._batch is batch and (self._waiting == 0 or batch.steps >= MAX_BATCH):
            self._commit(batch)

    def _commit(self, batch: _Batch) -> None:
        """Keep a batch.  If that fails, those who wait for it are told; who is interrupted meanwhile is so after they were told."""
        sent = False
        try:
            if self._rows.changed or self._head != batch.before:
                with observed("store-commit", size=batch.steps):
                    self._database.check_begun()
                    self._write_head(batch.before.epoch + 1)
                    sent = True
                    self._database.commit()
                self._went(None)
            else:
                self._database.end()
            self._batch = None
            self._rows.keep()
            batch.done.set()
        except BaseException as cause:
            self._fail(batch, cause, sent=sent)
            if not isinstance(cause, Exception):
                raise

    def _fail(self, batch: _Batch, cause: BaseException, *, sent: bool = False) -> None:
        """The batch has not happened.  Once its commit was ``sent``, that is to be found out first: only the answer may have been lost."""
        meant, self._head, self._batch = self._head, batch.before, None
        self._rows.restore(0)
        self._log.restore((0, 0))
        batch.error = StepUnknownError("the key store was lost before it said whether it has kept this step") if sent else cause
        try:
            if not sent:
                self._database.end()
            elif self._has_happened(meant):
                batch.error = None
            else:
                batch.error = cause
        except (StoreError, AuditError) as unknown:
            _log.warning("what has become of a step is not known: %s", unknown.message)
        finally:
            self._went(batch.error)
            batch.done.set()

    def _went(self, cause: BaseException | None) -> None:
        """A step was kept, or why one was not.  The operator's log says it where that changes."""
        if cause is None and self.failing:
            _log.warning("the key store keeps steps again")
        if isinstance(cause, StoreError) and not self.failing:
            _log.warning("the key store cannot keep a step: %s", cause.message)
        self.failing = isinstance(cause, StoreError) or (self.failing and cause is not None)

    def _has_happened(self, meant: Head) -> bool:
        """Whether a commit has happened whose answer was not heard.

        Raises:
            StoreError: the database cannot be asked, or cannot say any more.
            AuditError: it is no continuation of what this store knows.
        """
        before = self._head
        self._database.ask_again()
        try:
            self._catch_up()
            now = self._head
            if now.epoch <= meant.epoch:
                return now.tag == meant.tag
            if meant.log == before.log:
                raise StepUnknownError("others have written since, and the step left nothing in the audit log")
            if now.log.size < meant.log.size:
                return False
            return self._log.holds(meant.log, now.log)
        finally:
            self._database.end()

    def _await(self, batch: _Batch) -> None:
        """Wait until the batch has been committed; whoever was expected to do it may have been interrupted."""
        while not batch.done.wait(_PATIENCE_S):
            with self._turn.alone:
                if self._batch is batch:
                    self._commit(batch)
        if isinstance(batch.error, StoreError):
            raise type(batch.error)(batch.error.message, hint=batch.error.hint) from batch.error
        if batch.error is not None:
            raise StoreError("the key store could not keep this step: nothing of it has happened") from batch.error

    def reading(self) -> AbstractContextManager[None]:
        """What is read inside is of one moment, and of the latest (steps that wait for their commit included)."""
        return _WITHIN if self.is_writing else self._moment()

    @contextmanager
    def _moment(self) -> Iterator[None]:
        with self.turn():
            if self._batch is not None:
                with self._within(self._batch):
                    yield
            else:
                self._database.begin_read()
                try:
                    self._catch_up()
                    yield
                finally:
                    self._database.end()

    @contextmanager
    def _within(self, batch: _Batch) -> Iterator[None]:
        """Read amid steps that wait for their commit.  A query that fails must not undo them, as it would in PostgreSQL."""
        try:
            self._database.savepoint()
            yield
            self._database.release()
        except BaseException:
            try:
                self._database.take_back()
            except StoreError as cause:
                self._fail(batch, cause)
            raise
        finally:
            self._commit_if_last(batch)

    def _catch_up(self) -> None:
        """Take note of what another process has written since the last look, if it continues what this one knows."""
        rows = self._database.rows(_READ_HEAD)
        if not rows:
            if self._head.tag is not None or not self._log.is_empty() or self._rows.stray():
                raise AuditError("the audit log has lost its head")
            return
        text, tag = str(rows[0][0]), bytes(rows[0][1])
        if tag == self._head.tag:
            return
        if not hmac.compare_digest(self._mac(text), tag):
            raise StoreError("the head of the key store was changed by somebody else than the broker")
        body = parse_object(text)
        peaks = tuple(bytes.fromhex(peak) for peak in body["peaks"])
        time = str(body.get("time", ""))  # heads of earlier versions have none
        head = Head(int(body["epoch"]), Extent(int(body["size"]), peaks), tag, datetime.fromisoformat(time) if time else None)
        if head.epoch <= self._head.epoch:
            raise AuditError("the key store went back to an earlier state: its audit log was cut", seen=self._head.epoch, got=head.epoch)
        self._log.check_continues(self._head.log, head.log)
        mark = self._rows.mark()
        self._rows.load_tags(self._head.epoch)
        if not hmac.compare_digest(self._rows.contents.seal(head.epoch), str(body["contents"])):
            self._rows.restore(mark)
            raise not_latest()
        self._rows.keep()
        self._head = head

    def _write_head(self, epoch: int) -> None:
        self._log.write()
        self._rows.write_tags(epoch)
        log = self._head.log
        body = {
            "epoch": epoch,
            "size": log.size,
            "peaks": [peak.hex() for peak in log.peaks],
            "contents": self._rows.contents.seal(epoch),
            "time": "" if self._head.time is None else self._head.time.isoformat(),
        }
        text = _write(body)
        tag = self._mac(text)
        self._database.run(_KEEP_HEAD, {"place": 0, "body": text, "mac": tag})
        self._head = Head(epoch, log, tag, self._head.time)

    def _mac(self, text: str) -> bytes:
        return hmac.digest(self._head_key, text.encode(), hashlib.sha256)

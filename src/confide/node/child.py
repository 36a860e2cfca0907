"""Engine processes: started with nothing that they were not given, tied to the agent's life, logged without secrets, ended in time.

Secrets reach a child through files of the private folder, the local socket or an inherited descriptor; never through its environment or
arguments, which any process of the same user can read.
"""

from __future__ import annotations

import base64
import logging
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from confide.errors import UnavailableError

if TYPE_CHECKING:
    from confide.crypto.secret import SecretBytes

_log = logging.getLogger(__name__)
INHERITED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "JAVA_HOME")
"""What a child takes over from the agent's environment; everything else must be given."""
_MAX_LOG_LINE = 64 * 1024
_PEM_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_HIDDEN = b"<redacted>"


def scrubbed_environment(given: Mapping[str, str], *, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The whole environment of a child: the few inherited names, then ``given``."""
    source = os.environ if environ is None else environ
    return {**{name: source[name] for name in INHERITED if name in source}, **given}


class Redactor:
    """Takes known secrets, in their usual spellings, out of log lines.  A net under the rule that nobody logs secrets, not a licence."""

    def __init__(self) -> None:
        self._hidden: set[bytes] = set()

    def hide(self, secret: SecretBytes) -> None:
        """Hide ``secret`` as raw bytes, hex and base64 (both alphabets) from now on."""
        raw = secret.reveal()
        spellings = (raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"="), base64.urlsafe_b64encode(raw).rstrip(b"="))
        self._hidden = self._hidden | {text for text in spellings if text}

    def line(self, line: bytes) -> bytes:
        """``line`` without secrets."""
        for text in self._hidden:
            line = line.replace(text, _HIDDEN)
        return _HIDDEN + b"\n" if _PEM_KEY.search(line) else line


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A process to start.  ``environment`` is all of it but the names in ``INHERITED``.

    ``hold_stdin`` keeps a pipe open as the child's standard input, for programs that end when it closes; otherwise it is empty.
    ``pass_fds`` are inherited descriptors.  ``on_line`` hears each (redacted) line of output.
    """

    name: str
    argv: Sequence[str]
    log_path: Path
    cwd: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    hold_stdin: bool = False
    pass_fds: tuple[int, ...] = ()
    on_line: Callable[[str], None] | None = None


class Child:
    """One running engine process and everything in its process group.  Made by :class:`Children`."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], capture: threading.Thread) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._capture = capture

    def poll(self) -> int | None:
        """Exit status (negative: ended by that signal), or ``None`` while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end; its status, or ``None`` if the time is over.  After an end, all output is in the log."""
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._capture.join(timeout=2.0)  # a grandchild may hold the pipe open: do not wait for it for ever
        return status

    def stop(self, *, grace_s: float = 2.0) -> None:
        """End the process group: ask, wait ``grace_s``, then kill."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.poll() is None:
            _signal_group(self.pid, signal.SIGTERM)
            self.wait(grace_s)
        _signal_group(self.pid, signal.SIGKILL)  # the rest of the group, or all of it
        self.wait(grace_s)


class Children:
    """Starts processes from one thread that lives as long as the agent.

    PR_SET_PDEATHSIG fires when the *thread* that started the child ends (prctl(2)), so no short-lived thread may start one.
    """

    def __init__(self, redactor: Redactor | None = None) -> None:
        self.redactor = redactor if redactor is not None else Redactor()
        self._wanted: queue.SimpleQueue[tuple[ChildSpec, Future[Child]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started: list[Child] = []
        self._closed = False
        threading.Thread(target=self._serve, name="confide-children", daemon=True).start()

    def start(self, spec: ChildSpec) -> Child:
        """Start one process.

        Raises:
            UnavailableError: the program cannot be started, or the node is ending.
        """
        future: Future[Child] = Future()
        self._wanted.put((spec, future))
        return future.result()

    def stop(self, *, grace_s: float = 2.0) -> None:
        """End all children at once, last started first, and start no more.  Idempotent."""
        with self._lock:
            self._closed = True
            children = self._started[::-1]
        for child in children:
            if child.poll() is None:
                _signal_group(child.pid, signal.SIGTERM)
        until = time.monotonic() + grace_s
        for child in children:
            child.wait(max(0.0, until - time.monotonic()))
        for child in children:
            child.stop(grace_s=grace_s)

    def _serve(self) -> None:
        while True:
            spec, future = self._wanted.get()
            try:
                future.set_result(self._start(spec))
            except OSError as cause:
                future.set_exception(UnavailableError(f"cannot start {spec.name}: {cause.strerror}", program=spec.argv[0]))
            except BaseException as error:  # noqa: BLE001  outermost edge of this thread: hand it to whoever asked
                future.set_exception(error)

    def _start(self, spec: ChildSpec) -> Child:
        spec.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            if self._closed:
                raise UnavailableError("the node is ending: no process is started any more", program=spec.name)
            log = open_log(spec.log_path)
            launcher = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py")), str(os.getpid()), *spec.argv]
            try:
                process = subprocess.Popen(
                    launcher,
                    cwd=spec.cwd,
                    env=scrubbed_environment(spec.environment),
                    stdin=subprocess.PIPE if spec.hold_stdin else subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=spec.pass_fds,
                    process_group=0,
                )
            except OSError:
                log.close()
                raise
            capture = threading.Thread(target=self._capture, args=(spec, process, log), name=f"confide-log-{spec.name}", daemon=True)
            capture.start()
            child = Child(spec.name, process, capture)
            self._started.append(child)
        return child

    def _capture(self, spec: ChildSpec, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        output = process.stdout
        if output is None:
            return
        with output, log:
            while line := output.readline(_MAX_LOG_LINE):
                clean = self.redactor.line(line)
                log.write(clean)
                log.flush()
                if spec.on_line is not None:
                    _tell(spec.on_line, clean)


def open_log(path: Path) -> IO[bytes]:
    """Open a log for appending, mode 0600: logs hold no secrets, but they are nobody else's business."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "ab")


def session_members(session: int, *, proc: Path = Path("/proc")) -> list[int]:
    """Process ids of a session (setsid(2)): a node and everything it started that did not leave on purpose."""
    found = []
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            state, _, _, owner = stat.rpartition(")")[2].split()[:4]  # state, ppid, pgrp, session (proc(5))
            if int(owner) == session and state != "Z":
                found.append(int(entry.name))
    return found


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # nobody is left


def _tell(listener: Callable[[str], None], line: bytes) -> None:
    try:
        listener(line.decode("utf-8", errors="replace").rstrip("\n"))
    except Exception:  # noqa: BLE001  a listener is not ours
        _log.exception("a listener of a child's output failed")

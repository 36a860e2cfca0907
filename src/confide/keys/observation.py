"""What a broker is doing, told to whoever counts or traces it: steps of closed lists, never names, digests or secrets.

Knows nothing of metrics and traces.  A step that nobody observes costs nothing.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from confide.crypto.http_messages import problem
from confide.errors import ConfideError
from confide.keys.roles import ROUTES

Step = Literal["request", "store-commit", "custody-check", "custody-wrap", "custody-unwrap"]
Outcome = Literal["ok", "refused", "failed"]
OTHER: Final = "other"
_PREFIX: Final = "/confide/v0/"
_KBS: Final = "/kbs/v0/"
_TOP: Final = "/"


def _words(prefix: str) -> frozenset[str]:
    """The first words behind ``prefix`` of all requests that are served."""
    return frozenset(route.path.removeprefix(prefix).partition("/")[0] for route in ROUTES if route.path.startswith(prefix))


_OWN: Final = _words(_PREFIX)
_KBS_OWN: Final = _words(_KBS)
_PLAIN: Final = _words(_TOP) - {"confide", "kbs"}
ENDPOINTS: Final = _OWN | {f"kbs-{name}" for name in _KBS_OWN} | _PLAIN | {OTHER}
"""What requests are called: the first word of their path, if it is one of a route's (``keys.roles.ROUTES``)."""


def endpoint_of(path: str) -> str:
    """The one of :data:`ENDPOINTS` that a request is for; never another word of the client's."""
    for prefix, names, mark in ((_PREFIX, _OWN, ""), (_KBS, _KBS_OWN, "kbs-"), (_TOP, _PLAIN, "")):
        if path.startswith(prefix):
            word = path.removeprefix(prefix).partition("/")[0]
            return f"{mark}{word}" if word in names else OTHER
    return OTHER


@dataclass(slots=True)
class Observation:
    """One step.  ``code`` is our error's, if it was refused or failed; ``seconds`` is there when it has ended."""

    step: Step
    endpoint: str = ""
    size: int = 0
    outcome: Outcome = "ok"
    status: int = 0
    code: str = ""
    seconds: float = 0.0
    begun: float = field(default_factory=time.perf_counter)

    def answered(self, status: int, code: object) -> None:
        """A request got this answer; ``code`` is its problem's, if it is one."""
        self.status = status
        self.outcome = "ok" if status < 400 else "refused" if status < 500 else "failed"
        self.code = code if status >= 400 and isinstance(code, str) else ""

    def failed(self, error: BaseException) -> None:
        """The step was ended by this."""
        if isinstance(error, ConfideError):
            self.answered(problem(error).status, error.code)
        else:
            self.outcome, self.status = "failed", 500


class Observer(Protocol):
    """Is told of each step, in the thread that does it; steps nest."""

    def begun(self, step: Observation) -> None:
        """A step begins."""
        ...

    def ended(self, step: Observation) -> None:
        """The step that began last and has not ended, has."""
        ...


_lock = threading.Lock()
_observers: tuple[Observer, ...] = ()


def add_observer(observer: Observer) -> None:
    """Tell ``observer`` of each step of this process from now on."""
    global _observers  # noqa: PLW0603 -- as a logger is: who observes is the process's affair, not each caller's
    with _lock:
        _observers = (*_observers, observer)


def remove_observer(observer: Observer) -> None:
    """Tell ``observer`` of no further steps."""
    global _observers  # noqa: PLW0603 -- see above
    with _lock:
        _observers = tuple(one for one in _observers if one is not observer)


class observed:  # noqa: N801 -- read as a verb, as context managers are
    """A step, from the block's begin to its end.  An exception is its outcome, and goes on."""

    __slots__ = ("_step", "_told")

    def __init__(self, step: Step, *, endpoint: str = "", size: int = 0) -> None:
        self._step, self._told = Observation(step, endpoint, size), _observers

    def __enter__(self) -> Observation:
        for one in self._told:
            one.begun(self._step)
        return self._step

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            self._step.failed(error)
        self._step.seconds = time.perf_counter() - self._step.begun
        for one in reversed(self._told):
            one.ended(self._step)

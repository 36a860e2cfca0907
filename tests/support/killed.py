"""Kills a process at a system call of choice: what it has done up to there has reached the kernel, what it was about to do has not.

A forked child works under ptrace(2), so that nothing has to be guessed or slept for, and no interpreter to be started for each point.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

_TRACEME, _SYSCALL, _SETOPTIONS = 0, 24, 0x4200  # linux/ptrace.h
_SYSGOOD, _EXITKILL = 1, 1 << 20
_AT_SYSCALL: Final = signal.SIGTRAP | 0x80
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long

Say = Callable[[bytes], None]
"""Tells the parent that something is acknowledged; what was said before the kill is known to it."""


def killed_at(call: int | None, prepare: Callable[[], Callable[[Say], None]]) -> tuple[list[bytes], int]:
    """Fork, ``prepare``, and run what that returns until its system call number ``call`` (counted from 1), which is not carried out.

    ``None`` lets it end by itself.  Returns what it has said, and how many system calls it had begun.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work(prepare, writing)
    os.close(writing)
    try:
        begun = _trace(child, call)
        said = b"".join(iter(lambda: os.read(reading, 1 << 16), b""))
    finally:
        os.close(reading)
    return said.splitlines(), begun


def random_calls(count: int, most: int) -> Iterator[int]:
    """``count`` different numbers of system calls up to ``most``; the seed is printed, so that a failure can be repeated."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"kills: seed {seed}, {count} of {most} system calls")  # noqa: T201 -- pytest shows it with a failure
    chosen = random.Random(seed)
    rounds = [chosen.sample(range(1, most + 1), min(most, count)) for _ in range(-(-count // most))]
    return iter([call for one in rounds for call in one][:count])


def _work(prepare: Callable[[], Callable[[Say], None]], writing: int) -> NoReturn:
    status = 1
    try:
        work = prepare()
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        work(lambda word: _all(writing, word + b"\n"))
        status = 0
    finally:
        os._exit(status)


def _all(handle: int, data: bytes) -> None:
    assert os.write(handle, data) == len(data)


def _trace(child: int, call: int | None) -> int:
    _, status = os.waitpid(child, 0)
    assert os.WIFSTOPPED(status), "the child ended before it began"
    _ptrace(_SETOPTIONS, child, _SYSGOOD | _EXITKILL)
    begun, entering, deliver = 0, True, 0
    while True:
        _ptrace(_SYSCALL, child, deliver)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            assert call is None or begun < call, "the child was not killed where it should have been"
            assert os.WIFEXITED(status), status
            assert os.WEXITSTATUS(status) == 0, "the child failed"
            return begun
        deliver = 0
        if os.WSTOPSIG(status) != _AT_SYSCALL:
            deliver = os.WSTOPSIG(status)
            continue
        begun += entering
        if entering and begun == call:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            assert os.WTERMSIG(status) == signal.SIGKILL
            return begun
        entering = not entering


def _ptrace(request: int, process: int, data: int = 0) -> None:
    if _libc.ptrace(request, process, None, data) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")

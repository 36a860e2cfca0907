"""Becomes an engine process: ties its life to the agent's, shuts core dumps, then replaces itself by the program.

Run as ``python -I -S launch.py PARENT_PID PROGRAM ARGUMENT...``.  A program of its own because ``preexec_fn`` is not safe in an agent with
threads.  Standard library only; imports as little as it can, because it runs before every engine start.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Set up this process and execute the program; does not return."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit("cannot tie this process to its agent")
    if os.getppid() != parent:  # the agent ended before the line above took effect
        sys.exit("the agent has ended")
    limit = 1 if resource.getrlimit(resource.RLIMIT_CORE)[1] else 0  # no keys in core files: see confide.crypto.core_dumps
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
    os.umask(0o077)
    os.execvp(program[0], program)  # noqa: S606  no shell is wanted here


if __name__ == "__main__":
    main()

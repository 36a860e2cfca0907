"""How a job's program is started for Polars: arguments and environment, as values.  Starts nothing itself.

There is no JVM and no worker: the program has the driver's node to itself and reads through ``confide.data.polars``.  Nothing secret is in
arguments or environment: the program asks the agent's socket for the key of each file.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from confide.errors import ExtraMissingError
from confide.jobs.engines.launch import Launch


def require_polars() -> None:
    """Return if this installation has Polars.

    Raises:
        ExtraMissingError: it has not.
    """
    if find_spec("polars") is None:
        raise ExtraMissingError("Polars is not installed", hint="pip install 'confide[polars]'")


def program_command(
    python: Path,
    program: Path,
    arguments: tuple[str, ...],
    *,
    agent_socket: Path,
    work_dir: Path,
    python_path: tuple[str, ...] = (),
    cores: int = 0,
) -> Launch:
    """The user's program.  ``work_dir`` is memory-backed and the node's own; ``cores``: of Polars' threads, 0 for one a core.

    Polars spills what does not fit its memory budget as plaintext into ``POLARS_OOC_SPILL_DIR``, which does not follow ``POLARS_TEMP_DIR``;
    both, and what else asks for a temporary folder, are in ``work_dir``.
    """
    env = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(work_dir),
        "TMPDIR": str(work_dir),
        "POLARS_TEMP_DIR": str(work_dir),
        "POLARS_TEMP_DIR_BASE_PATH": str(work_dir),
        "POLARS_OOC_SPILL_DIR": str(work_dir),
        "CONFIDE_AGENT_SOCKET": str(agent_socket),
        "PYTHONPATH": ":".join((str(program.parent), *python_path)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        **({"POLARS_MAX_THREADS": str(cores)} if cores else {}),
    }
    return Launch((str(python), str(program), *arguments), env)

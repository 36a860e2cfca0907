"""How a program is started for Polars."""

from __future__ import annotations

from pathlib import Path

import pytest

from confide.errors import ExtraMissingError
from confide.jobs.engines import polars

WORK = Path("/dev/shm/confide-x-driver/work")


def command(cores: int = 0) -> dict[str, str]:
    launch = polars.program_command(
        Path("/usr/bin/python3"), Path("/code/main.py"), ("--year", "2013"), agent_socket=Path("/agent.sock"), work_dir=WORK, cores=cores
    )
    assert launch.argv == ("/usr/bin/python3", "/code/main.py", "--year", "2013")
    assert launch.files == {}
    return dict(launch.env)


def test_whatever_polars_or_python_puts_aside_is_in_the_nodes_memory() -> None:
    env = command()
    # POLARS_OOC_SPILL_DIR is the one that spilling goes by: tests/attacks/test_polars_leaks.py makes it happen.
    for name in ("POLARS_OOC_SPILL_DIR", "POLARS_TEMP_DIR", "POLARS_TEMP_DIR_BASE_PATH", "TMPDIR", "HOME"):
        assert env[name] == str(WORK)


def test_the_program_has_nothing_of_the_agents_environment_and_no_module_of_its_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARS_OOC_SPILL_DIR", "/somewhere/else")
    monkeypatch.setenv("SECRET", "x")
    env = command()
    assert "SECRET" not in env
    assert (env["PYTHONSAFEPATH"], env["PYTHONNOUSERSITE"]) == ("1", "1")
    assert env["PYTHONPATH"] == "/code"


def test_threads_are_as_many_as_the_job_says_and_else_all() -> None:
    assert command(cores=3)["POLARS_MAX_THREADS"] == "3"
    assert "POLARS_MAX_THREADS" not in command()


def test_a_missing_polars_is_named_before_any_key_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    polars.require_polars()
    monkeypatch.setattr(polars, "find_spec", lambda _: None)
    with pytest.raises(ExtraMissingError, match="Polars") as caught:
        polars.require_polars()
    assert caught.value.hint == "pip install 'confide[polars]'"

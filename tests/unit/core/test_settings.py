"""Settings: where each value comes from; unknown keys are errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from confide.config import Settings
from confide.errors import ConfigError


def test_home_comes_from_the_environment_and_the_command_line_wins(tmp_path: Path) -> None:
    environ = {"CONFIDE_HOME": str(tmp_path / "a")}
    assert Settings.load(environ=environ).home == tmp_path / "a"
    settings = Settings.load(environ=environ, home=tmp_path / "b")
    assert settings.home == tmp_path / "b"
    assert settings.explain()["home"] == (str(tmp_path / "b"), "command line")
    assert settings.explain()["heartbeat_s"] == ("2.0", "default")


def test_folders_lie_under_home(tmp_path: Path) -> None:
    settings = Settings.load(environ={}, home=tmp_path)
    assert (settings.runs_dir, settings.simulation_dir, settings.credentials_dir) == (
        tmp_path / "runs",
        tmp_path / "simulated",
        tmp_path / "credentials",
    )


def test_file_sets_values_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('heartbeat_s = 1\nruns = "/srv/runs"\n')
    settings = Settings.load(environ={}, home=tmp_path)
    assert settings.heartbeat_s == 1.0
    assert settings.runs_dir == Path("/srv/runs")
    assert settings.explain()["runs"] == ("/srv/runs", "file")


WRONG = ["heartbeat_s = -1", 'heartbeat_s = "fast"', "heartbeat_s = true", "verify = false", "runs = 3", "= 1"]
NO_PLACES = ['runs = "~nosuchuser/runs"', r'runs = "a\u0000b"']


@pytest.mark.parametrize("text", WRONG + NO_PLACES)
def test_unknown_or_wrong_setting_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError):
        Settings.load(environ={}, home=tmp_path)

"""How the command line speaks: answers, errors, exit statuses, terminals and speed."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from confide.cli import main as cli_main
from confide.cli import output
from confide.cli.main import COMMANDS, cli
from confide.cli.output import Story, print_error, print_facts, print_table
from confide.errors import AppraisalError, ConfideError, InterruptedRunError, UnavailableError

_PROGRAM = [sys.executable, "-c", "from confide.cli.main import main; main()"]


def _raise(error: BaseException) -> Callable[..., None]:
    @click.command("doctor")
    @click.option("--json", is_flag=True)
    def fails(**_: Any) -> None:
        raise error

    return fails


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make ``confide doctor`` end with a given error."""

    def use(error: BaseException) -> None:
        monkeypatch.setattr(cli_main.LazyGroup, "get_command", lambda *_: _raise(error))

    return use


def test_help_snapshot(confide: Any, snapshot: Any) -> None:
    snapshot("help", confide("--help").whole())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_snapshot(confide: Any, snapshot: Any, name: str) -> None:
    said = confide(name, "--help")
    assert said.status == 0
    snapshot(f"help-{name}", said.whole())


@pytest.mark.parametrize("name", COMMANDS)
def test_list_of_commands_says_what_each_command_says(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.get_short_help_str(limit=200) == COMMANDS[name]


def test_help_imports_nothing_heavy() -> None:
    """What keeps ``--help`` under 200 ms (``python -m benchmarks`` measures it; timings are not asserted)."""
    look = "import sys; from confide.cli.main import cli; cli(['--help'], standalone_mode=False); print(list(sys.modules), file=sys.stderr)"
    modules = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True).stderr
    for heavy in ("pyarrow", "pydantic", "rich", "cryptography", "dcap_qvl", "pyspark", "OpenSSL", "rfc8785"):
        assert f"'{heavy}'" not in modules


HOSTILE = "\x1b[2K\rok: all\x9b31m\nok: well\u202e"
"""Erases its line, forges two others and turns the writing round."""


def test_nothing_in_a_text_steers_the_terminal(capsys: Any) -> None:
    """Names, logs and errors come from hosts and peers: no control character of theirs is printed."""
    print_error(AppraisalError(HOSTILE, hint=HOSTILE, got=HOSTILE + "."), as_json=False)
    Story().say(HOSTILE)
    print_facts({"name": HOSTILE})
    print_table(("name",), [(HOSTILE,)])
    said = capsys.readouterr()
    assert not [line for line in (said.out + said.err).split("\n") if not line.isprintable()]
    assert (said.out + said.err).count("ok: well") == 6  # each time where it was, and not on a line of its own
    assert "\nok:" not in said.out + said.err


@pytest.mark.parametrize("width", [80, 60])
def test_nothing_in_a_table_is_cut_by_a_narrow_terminal(capsys: Any, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """A digest of which the end is missing, or a status, would be read as what it is not."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    row = ("measurement", "ab" * 48, "cd" * 48, "passed")
    print_table(("check", "got", "expected", "status"), [row])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert "\x1b" not in "".join(lines)
    assert lines[-1].isascii()
    assert lines[0].split() == ["check", "got", "expected", "status"]
    shown = "".join("".join(line.split()) for line in lines[2:])
    assert (shown.count("b"), shown.count("c")) == (48, 48)


def test_commands_print_through_one_place() -> None:
    """``click.echo`` prints what it gets: only where the text is constant, or was escaped, is it used directly."""
    using = {path.stem for path in Path(output.__file__).parent.glob("*.py") if "click.echo(" in path.read_text(encoding="utf-8")}
    assert using == {"output", "broker", "demo", "main", "verify"}


def test_unknown_command_is_a_usage_error(confide: Any, snapshot: Any) -> None:
    snapshot("unknown-command", confide("nope").whole())


def test_unknown_option_is_a_usage_error(confide: Any, snapshot: Any) -> None:
    snapshot("unknown-option", confide("runs", "ls", "--nope").whole())


def test_no_command_prints_help_and_fails(confide: Any) -> None:
    said = confide()
    assert said.status == 2
    assert said.out == ""
    assert "Commands:" in said.err


def test_version(confide: Any) -> None:
    assert confide("--version").out.startswith("confide ")


def test_error_has_code_facts_and_hint(confide: Any, failing: Any, snapshot: Any) -> None:
    failing(AppraisalError("the node is another", hint="look at `confide attest show`", check="measurement", got="ab", at=None))
    snapshot("error", confide("doctor").whole())


def test_error_as_json_is_the_answer(confide: Any, failing: Any) -> None:
    error = AppraisalError("no", check="measurement")
    failing(error)
    said = confide("doctor", "--json")
    assert said.json == {"error": error.to_json()}
    assert said.err == ""
    assert said.status == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InterruptedRunError("stopped")])
def test_ctrl_c_exits_130(confide: Any, failing: Any, error: BaseException) -> None:
    failing(error)
    said = confide("doctor")
    assert said.status == 130
    assert "error[interrupted]" in said.err


def test_bug_names_type_and_place_but_not_the_message(confide: Any, failing: Any) -> None:
    failing(ValueError("the key is 0123"))
    said = confide("doctor")
    assert said.status == cli_main.INTERNAL_ERROR_STATUS
    assert "error[internal]: ValueError in test_cli_speaks.py" in said.err
    assert "0123" not in said.err + said.out
    answer = confide("doctor", "--json").json["error"]
    assert answer["code"] == "internal"
    assert set(answer) == set(AppraisalError("no").to_json())


def test_machine_that_refuses_is_no_bug(confide: Any, failing: Any) -> None:
    failing(OSError(errno.ENOSPC, "No space left on device", "/somewhere"))
    said = confide("doctor")
    assert said.status == UnavailableError.exit_status
    assert said.err.startswith("error[unavailable]: the system refused: No space left on device\n  path: /somewhere\n")


def test_home_that_cannot_be_made_is_no_bug(confide: Any) -> None:
    for words in (("demo",), ("keys", "init", "a", "--enrolment", "/dev/null"), ("attest", "measure", "--simulate")):
        said = confide("--home", "/dev/null/home", *words)
        assert said.status not in {0, cli_main.INTERNAL_ERROR_STATUS}
        assert said.err.startswith("error[")


def test_debug_shows_the_trace(confide: Any, failing: Any) -> None:
    failing(ValueError("boom"))
    assert "Traceback" in confide("--debug", "doctor").err
    failing(AppraisalError("boom"))
    assert "Traceback" in confide("--debug", "doctor").err


def test_closed_pipe_ends_quietly() -> None:
    pipe = ["bash", "-c", '"$@" | true; exit "${PIPESTATUS[0]}"', "-", *_PROGRAM, "doctor", "--json"]
    done = subprocess.run(pipe, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    assert done.returncode in {0, 1, 141}


def _in_terminal(environment: dict[str, str]) -> bytes:
    """What ``confide nope`` writes to a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen([*_PROGRAM, "nope"], stdin=follower, stdout=follower, stderr=follower, env={**os.environ, **environment})
    os.close(follower)
    said = b""
    try:
        while part := os.read(leader, 4096):
            said += part
    except OSError:  # the terminal is gone: the process has ended
        pass
    process.wait(10)
    os.close(leader)
    return said


def test_terminal_gets_colour_and_no_color_takes_it_away() -> None:
    assert b"\x1b[" in _in_terminal({"TERM": "xterm"})
    assert b"\x1b[" not in _in_terminal({"TERM": "xterm", "NO_COLOR": "1"})
    assert b"\x1b[" not in _in_terminal({"TERM": "dumb"})


def test_simulated_story_says_so_on_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story(simulated=True)
    with story.working("running"):
        story.begin("one")
        story.ok("two")
        story.refused("three")
        story.failed("four")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("simulated ") for line in lines)


def test_print_error_leaves_out_what_the_message_says(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(ConfideError("no file /tmp/x", path="/tmp/x", size=None), as_json=False)
    assert capsys.readouterr().err == "error[confide]: no file /tmp/x\n"


def test_home_option_wins_over_environment(confide: Any, tmp_path: Path) -> None:
    said = confide("--home", tmp_path / "here", "doctor", "--json")
    home = next(check for check in said.json["checks"] if check["check"] == "home folder")
    assert str(tmp_path / "here") in home["found"]


def test_event_of_a_driver_names_no_method_but_a_teller_of_events() -> None:
    from confide.cli.output import Story
    from confide.cli.run import Teller
    from confide.jobs.result import RunEvent

    for name in ("-init--", "-class--", "-call--", "unheard-of"):
        Teller(Story(simulated=True))(RunEvent(name, "driver", {}))


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with output.progress("verifying", 3000) as tell:
        tell(1000, 5)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(output, "SAY_EVERY_S", 0.0)
        tell(1000, None)
        assert capsys.readouterr().err == "verifying: 2,000 of 3,000 bytes 5 rows\n"
    assert capsys.readouterr().out == ""


def test_progress_on_a_terminal_is_a_bar_with_bytes_and_rows() -> None:
    program = "from confide.cli.output import progress\nwith progress('verifying', 4000) as tell: tell(4000, 12)"
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150"}
    subprocess.run([sys.executable, "-c", program], stderr=follower, stdout=follower, stdin=follower, env=environment, check=True)
    os.close(follower)
    said = os.read(leader, 65536)
    os.close(leader)
    assert b"verifying" in said
    assert b"4.0/4.0 kB" in said
    assert b"12 rows" in said

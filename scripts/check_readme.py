"""Holds README.md's blocks against the real program: runs the demo, the shell and the Python block, and looks for every shown line.

A block counts if a comment ``<!-- check: KIND -->`` stands before it.  ``demo``: each line is said by ``confide demo``.  ``shell`` and
``python`` are run, in that order, after the demo and in its home folder; each line of ``python-output`` is printed by the latter.
Times, digests, run ids, ports and process ids are compared by their form only.  Also: ``make demo`` runs ``confide demo``.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"<!-- check: ([a-z-]+) -->\n```\w+\n(.*?)```", re.DOTALL)
_FORMS = [
    (r"\x1b\[[0-9;]*m", ""),
    (r"\d+\.\ds ", "#s "),
    (r"part-\d{5}-[0-9a-f-]{36}", "part-#"),
    (r"\b[0-9a-f]{12,}\b", "#"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:#"),
    (r"worker-[12]", "worker-#"),
    (r"\b(sgx|tdx) #", "tee #"),
    (r"\s+", " "),
]
_KINDS = {"demo", "shell", "python", "python-output"}
_DEMO_S = 400
_RUN_S = 300


def form(line: str) -> str:
    """``line`` with everything that differs between two runs replaced."""
    for pattern, stand_in in _FORMS:
        line = re.sub(pattern, stand_in, line)
    return line.strip()


def missing(shown: str, said: str) -> list[str]:
    """Lines of ``shown`` that ``said`` does not have."""
    lines = {form(line) for line in said.splitlines()}
    return [line for line in shown.splitlines() if line.strip() and form(line) not in lines]


def _run(command: list[str], environment: dict[str, str], seconds: float) -> str:
    out, both, none = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL
    done = subprocess.run(command, env=environment, stdout=out, stderr=both, stdin=none, text=True, timeout=seconds, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)[:80]} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def _start_shell(block: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Run the shell block, which starts the broker in the background; the shell then waits for it."""
    shell = subprocess.Popen(["bash", "-ec", f"{block}\nwait"], env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    address = Path(environment["HOME"]) / ".confide" / "demo" / "broker" / "address.json"
    for _ in range(200):
        if address.exists():
            return shell
        time.sleep(0.1)
    os.killpg(shell.pid, signal.SIGTERM)
    sys.exit("the README's shell block did not start a broker")


def check(blocks: list[tuple[str, str]], home: Path) -> list[str]:
    """Every line that was shown but not said."""
    environment = {**os.environ, "HOME": str(home), "COLUMNS": "200"}  # PATH is the user's: what README's blocks need, they say
    environment.pop("CONFIDE_HOME", None)
    program = [sys.executable, "-m", "confide.cli.main"]
    said = _run([*program, "demo"], environment, _DEMO_S)
    findings = [line for kind, block in blocks if kind == "demo" for line in missing(block, said)]
    shell = _start_shell("".join(block for kind, block in blocks if kind == "shell"), environment)
    try:
        inside = {**environment, "CONFIDE_HOME": str(home / ".confide" / "demo")}
        code = "".join(block for kind, block in blocks if kind == "python")
        printed = _run([sys.executable, "-c", code], inside, _RUN_S)
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(20)
    return findings + [line for kind, block in blocks if kind == "python-output" for line in missing(block, printed)]


def main() -> int:
    """Check and report."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = _BLOCK.findall(text)
    if {kind for kind, _ in blocks} != _KINDS:
        sys.exit(f"README.md must have blocks of the kinds {', '.join(sorted(_KINDS))}")
    if not re.search(r"^demo:.*\n\t\$\(BIN\)/confide demo$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE):
        sys.exit("`make demo` does not run `confide demo`")
    with tempfile.TemporaryDirectory(prefix="confide-readme-") as scratch:
        findings = check(blocks, Path(scratch))
    for line in findings:
        print(f"README.md shows what was not said: {line}")
    print(f"README.md: {len(blocks)} blocks, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

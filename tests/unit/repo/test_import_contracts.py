"""The import contracts hold, and each fails when it is broken."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache", "--no-logo"]
    environment = {"PYTHONPATH": str(folder / "src"), "PATH": "/usr/bin:/bin", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.jar", "*.jsa"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    return tmp_path


def test_contracts_hold(copy: Path) -> None:
    done = _lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("crypto/secret.py", "import confide.jobs.store", "Imports go down only"),
        ("ids.py", "import confide.config", "Imports go down only"),
        ("keys/audit.py", "import pyspark", "The trusted part stays small"),
        ("node/spec.py", "import rich", "The trusted part stays small"),
        ("cli/run.py", "import confide.attest.insecure", "Only the local backend"),
        ("keys/server.py", "import confide.attest.insecure", "Code that runs in real nodes"),
        ("jobs/workload.py", "import confide.jobs.local.node", "Code that runs in real nodes"),
        ("crypto/secret.py", "import confide.crypto.seal", "No sibling cycles"),
    ],
)
def test_contract_fails_when_it_is_broken(copy: Path, module: str, line: str, contract: str) -> None:
    path = copy / "src" / "confide" / module
    path.write_text(path.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    done = _lint(copy)
    assert done.returncode != 0
    broken = re.findall(r"^(.+) BROKEN\b", done.stdout, flags=re.MULTILINE)
    assert any(contract in text for text in broken), done.stdout

"""What was measured on, and with what: figures without this mean nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("confide", "pyspark", "pyarrow", "polars", "cryptography", "pyOpenSSL", "dcap-qvl")


def describe() -> dict[str, str]:
    """Machine, system, Java and package versions, by name."""
    return {"machine": _machine(), "system": _system(), "python": platform.python_version(), "java": _java(), "packages": _packages()}


def _machine() -> str:
    found = re.search(r"model name\s*:\s*(.+)", _text("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s+(\d+) kB", _text("/proc/meminfo"))
    gib = int(memory[1]) / 2**20 if memory else 0.0
    return f"{found[1].strip() if found else platform.machine()}, {os.cpu_count()} cores, {gib:.0f} GiB"


def _system() -> str:
    name = re.search(r'PRETTY_NAME="(.+)"', _text("/etc/os-release"))
    return f"{name[1] if name else platform.system()}, Linux {platform.release()}"


def _java() -> str:
    told = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    return told.splitlines()[0] if told else "none"


def _packages() -> str:
    return ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed as a package"


def _text(path: str) -> str:
    file = Path(path)
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

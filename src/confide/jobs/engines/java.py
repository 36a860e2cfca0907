"""The Java that Spark's JVMs run on: where it is, how new it is, and what its module system must be told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from confide.errors import ExtraMissingError

OLDEST: Final = 17
"""The oldest Java that Spark 4 runs on."""
HINT: Final = "install OpenJDK 25, 21 or 17 (Debian and Ubuntu: openjdk-25-jre-headless, or with another of these numbers in its name)"

# JEP 471: from here on the JVM knows the option, and Netty, from 24 on, does without `Unsafe` (so that Arrow fails) unless it sees it.
_ASKS_FOR_UNSAFE: Final = 23
_VERSION_TIMEOUT_S: Final = 20.0

# What Spark's own launcher passes (org.apache.spark.launcher.JavaModuleOptions), without the incubating vector module: it would print a
# warning at each start, and MLlib's KMeans, logistic regression, PCA and ALS took as long with it as without.
_OPENED: Final = (
    *("java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.net", "java.nio", "java.util", "java.util.concurrent"),
    *("java.util.concurrent.atomic", "jdk.internal.ref", "sun.nio.ch", "sun.nio.cs", "sun.util.calendar"),
)
_OF_MANAGER: Final = "sun.security.action"
_WITHOUT_MANAGER: Final = 24  # JEP 486: without the security manager, whose package would be a warning at each start


def find_java() -> Path:
    """The Java of this machine: that of ``JAVA_HOME`` if this is set, else the one on ``PATH``.

    Raises:
        ExtraMissingError: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if java is None:
        where = f" in JAVA_HOME, {home}" if home else ""
        raise ExtraMissingError(f"there is no Java{where}", hint=HINT)
    return Path(java).resolve()


def java_version(java: Path) -> str:
    """What a runtime says that it is, ``"17.0.15"``: in the file ``release`` of its folder, which costs no start, else when it is asked.

    Raises:
        ExtraMissingError: it says nothing, or is older than :data:`OLDEST`.
    """
    try:
        told = java.parents[1].joinpath("release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = ""
    found = re.search(r'^JAVA_VERSION="(\d[^"]*)"', told, re.MULTILINE) or re.search(r'version "(\d[^"]*)"', _asked(java))
    if found is None:
        raise ExtraMissingError(f"{java} does not tell its version", hint=HINT)
    if release_of(found[1]) < OLDEST:
        raise ExtraMissingError(f"{java} is Java {found[1]}, which is too old", hint=HINT)
    return found[1]


def release_of(version: str) -> int:
    """The feature release: 17 of ``"17.0.15"`` (JEP 322), 1 of ``"1.8.0_352"``."""
    return int(re.split(r"\D", version, maxsplit=1)[0])


def module_options(release: int) -> tuple[str, ...]:
    """What Spark and its libraries must be allowed of the JDK's own, on a Java of that feature release."""
    packages = _OPENED if release >= _WITHOUT_MANAGER else (*_OPENED, _OF_MANAGER)
    opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in packages]
    allowed = ["--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"] if release >= _ASKS_FOR_UNSAFE else []
    return (*opened, "--add-opens=java.security.jgss/sun.security.krb5=ALL-UNNAMED", *allowed)


def _asked(java: Path) -> str:
    try:
        return subprocess.run([java, "-version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False).stderr
    except (OSError, subprocess.TimeoutExpired):
        return ""

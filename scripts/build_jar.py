"""Build ``src/confide/data/confide-spark.jar`` from ``java/`` against the jars of the installed PySpark.

The same sources and compiler give the same bytes: entries are sorted and carry one fixed time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "java" / "src"
RESOURCES = ROOT / "java" / "resources"
TARGET = ROOT / "src" / "confide" / "data" / "confide-spark.jar"
RELEASE = "17"
"""Oldest Java that Spark 4 runs on."""
_TIME = (1980, 1, 1, 0, 0, 0)
_MANIFEST = b"Manifest-Version: 1.0\r\n\r\n"


def spark_jars() -> Path:
    """The folder of PySpark's jars."""
    spec = find_spec("pyspark")
    if spec is None or spec.origin is None:
        sys.exit("build_jar: PySpark is not installed: pip install 'confide[spark]'")
    return Path(spec.origin).parent / "jars"


def compile_classes(folder: Path) -> None:
    """Compile every source into ``folder``; a warning is an error."""
    sources = sorted(str(path) for path in SOURCES.rglob("*.java"))
    # -path: jars of PySpark name class paths that it does not ship.  -classfile: annotations that it does not ship.
    lint = "-Xlint:all,-path,-processing,-classfile"
    command = ["javac", "--release", RELEASE, lint, "-Werror", "-cp", f"{spark_jars()}/*", "-d", str(folder), *sources]
    if subprocess.run(command, check=False).returncode:
        sys.exit("build_jar: the Java sources do not compile")


def entries(classes: Path) -> dict[str, bytes]:
    """What the jar holds, by name."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for folder in (classes, RESOURCES)
        for path in folder.rglob("*")
        if path.is_file()
    }
    return {"META-INF/MANIFEST.MF": _MANIFEST, **dict(sorted(found.items()))}


def main() -> None:
    """Build the jar and move it into place in one step."""
    with tempfile.TemporaryDirectory() as scratch:
        compile_classes(Path(scratch))
        content = entries(Path(scratch))
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    unfinished = TARGET.with_suffix(".new")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as jar:
        for name, data in content.items():
            jar.writestr(zipfile.ZipInfo(name, _TIME), data, zipfile.ZIP_DEFLATED)
    unfinished.replace(TARGET)
    TARGET.with_suffix(".jsa").unlink(missing_ok=True)  # the class-data archive holds for one jar
    print(f"{TARGET.relative_to(ROOT)}: {TARGET.stat().st_size} bytes, {len(content)} entries")


if __name__ == "__main__":
    main()

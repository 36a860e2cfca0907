"""A JVM that opens and seals containers through the file system that Spark uses, and the agent's socket that gives it keys."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from confide.canonical import Json
from confide.jobs.engines import spark as engine
from confide.jobs.inputs import InputLengths
from confide.node.keyring import Keyring
from confide.node.local_socket import LocalSocketServer

SOURCE = Path(__file__).parent / "java" / "Containers.java"


class ContainerJvm:
    """Speaks with ``Containers.java``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, *words: str) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\t".join(words) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the JVM ended"
        return answer.rstrip("\n").split("\t")


@contextmanager
def container_jvm(
    root: Path, keys: Keyring, lengths: InputLengths | None = None, renamed: Callable[[Json], object] = lambda _: None
) -> Iterator[ContainerJvm]:
    """The JVM, with the operations that an executor's file system asks its agent for.

    ``root``: for classes; ``lengths``: of inputs; ``renamed`` is told of each file that gets another name, before it does.
    """

    def note_renamed(request: Json) -> Json:
        renamed(request)
        return {}

    lengths = lengths or InputLengths()
    runtime = engine.find_runtime(with_archive=False)
    classes = root / "classes"
    path = ":".join(map(str, runtime.classpath))
    subprocess.run(["javac", "--release", "17", "-proc:none", "-cp", path, "-d", str(classes), str(SOURCE)], check=True)
    operations = {
        **keys.operations(),
        "file-renamed": note_renamed,
        "file-deleted": lambda _: {},
        "input-length": lengths.operation,
        "input-listing": lengths.listing,
    }
    server = LocalSocketServer(Path("/dev/shm") / f"ct-{secrets.token_hex(8)}.sock", operations)
    server.start()
    options = [f"-Dconfide.agent.socket={server.path}", "-Dlog4j2.configurationFile=confide-log4j2.properties", "-XX:TieredStopAtLevel=1"]
    command = [str(runtime.java), *options, "-cp", f"{classes}:{path}", "Containers"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        yield ContainerJvm(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
        server.close()

"""How fast AES-256-GCM and containers are at 64 KiB, in memory: OpenSSL, Python and the JVM in one run.

All figures are GB a second of **CPU time of the thread that works**, so that others on the machine disturb them less; two threads of one
core still share it.  Of Python's and the warm JVM's rounds the best counts, as of ``openssl speed`` one long one.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from confide.crypto.container import CHUNK_BYTES, HEADER_BYTES, TAG_BYTES, ContainerReader, seal_stream
from confide.crypto.secret import SecretBytes
from confide.ids import DatasetId
from confide.jobs.engines import spark as engine

Row = tuple[str, str, float]

_JAVA = Path(__file__).parent / "java" / "AeadSpeed.java"
_MEMORY = 4 << 20
"""Bytes of the containers that Python makes: they fit a core's caches, as the one buffer of ``openssl speed`` does."""
_ROUNDS = 40


def measure(rounds: int = _ROUNDS, openssl_seconds: int = 2) -> list[Row]:
    """(what, by, GB/s) of everything; takes about 20 seconds on a quiet machine."""
    return [*_openssl(openssl_seconds), *_one_shot(rounds), *_containers(rounds), *_jvm()]


def _openssl(seconds: int) -> list[Row]:
    """``-multi 2`` would measure the time on the clock: two processes side by side are each measured by their own CPU time instead."""
    command = ["openssl", "speed", "-mr", "-seconds", str(seconds), "-bytes", str(CHUNK_BYTES), "-evp", "aes-256-gcm"]
    found = []
    for by, count in (("openssl speed, 1 process", 1), ("openssl speed, 2 processes together", 2)):
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(count)]
        told = [process.communicate()[0] for process in started]
        # "+F:22:AES-256-GCM:2954035200.00": bytes a second
        rates = [float(line.rpartition(":")[2]) for text in told for line in text.splitlines() if line.startswith("+F:")]
        if len(rates) != count:
            raise SystemExit("benchmarks: openssl speed does not run here")
        found.append(("AES-256-GCM, seal", by, sum(rates) / 1e9))
    return found


def _one_shot(rounds: int) -> list[Row]:
    cipher, nonce, header = AESGCM(bytes(32)), bytes(12), bytes(HEADER_BYTES)
    plain, sealed = bytearray(CHUNK_BYTES), bytearray(CHUNK_BYTES + TAG_BYTES)
    cipher.encrypt_into(nonce, plain, header, sealed)
    calls: dict[str, Callable[[], object]] = {
        "seal": lambda: cipher.encrypt(nonce, plain, header),
        "open": lambda: cipher.decrypt(nonce, sealed, header),
        "seal, into a buffer": lambda: cipher.encrypt_into(nonce, plain, header, sealed),
        "open, into a buffer": lambda: cipher.decrypt_into(nonce, sealed, header, plain),
    }
    times = _MEMORY // CHUNK_BYTES
    return [(f"AES-256-GCM, {what}", "cryptography", _best(_repeated(call, times), rounds)) for what, call in calls.items()]


def _repeated(call: Callable[[], object], times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            call()

    return run


def _containers(rounds: int) -> list[Row]:
    key, dataset, path = SecretBytes(bytes(32)), DatasetId("0" * 32), "speed"
    plain, file, buffer = io.BytesIO(bytes(_MEMORY)), io.BytesIO(), bytearray(1 << 20)

    def seal() -> None:
        plain.seek(0)
        file.seek(0)
        seal_stream(plain, file, key, dataset, path)

    def read() -> None:
        reader = ContainerReader(io.BytesIO(sealed), key, dataset, path)
        while reader.readinto(buffer):
            pass

    seal()
    sealed = file.getvalue()
    return [("container, seal", "Python", _best(seal, rounds)), ("container, open", "Python", _best(read, rounds))]


def _best(run: Callable[[], object], rounds: int) -> float:
    fastest = float("inf")
    for _ in range(rounds):
        begun = time.thread_time()
        run()
        fastest = min(fastest, time.thread_time() - begun)
    return _MEMORY / fastest / 1e9


def _jvm() -> list[Row]:
    """As executors start: their options, their warm-up.  Beside it a JVM that nothing was done for."""
    runtime = engine.find_runtime(with_archive=False)
    with tempfile.TemporaryDirectory() as scratch:
        classes = Path(scratch) / "classes"
        jars = ":".join(map(str, runtime.classpath))
        subprocess.run(["javac", "--release", "17", "-proc:none", "-cp", jars, "-d", str(classes), str(_JAVA)], check=True)
        options = _executor_options(runtime, Path(scratch))
        path = ["-cp", f"{classes}:{jars}"]
        found = []
        for state, given, by in (
            ("first", [], "new JVM, as it comes"),
            ("first", options, "new JVM, an executor's options"),
            ("warmed-up", options, "new JVM, an executor's options and warm-up"),
            ("warm", options, "warm JVM"),
        ):
            command = [str(runtime.java), *given, *path, "org.confide.spark.AeadSpeed", state]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found += [(f"chunks, {what}", by, float(rate)) for what, rate in (line.split() for line in told.splitlines())]
        return found


def _executor_options(runtime: engine.JavaRuntime, folder: Path) -> list[str]:
    node = engine.SparkNode(folder, folder, folder / "agent.sock")
    launch = engine.executor_command(runtime, node, engine.SparkRun("aead", "aead"), "1")
    arguments = Path(launch.argv[1].removeprefix("@"))
    arguments.write_bytes(launch.files[arguments.name])
    return [f"@{arguments}"]


if __name__ == "__main__":
    for what, by, rate in measure():
        sys.stdout.write(f"{what:34} {by:46} {rate:6.2f} GB/s\n")

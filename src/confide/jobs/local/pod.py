"""A simulated node's process in a pod, ``python -I -B -m confide.jobs.local.pod``, which protects nothing.

The pod finds the simulated TEE's installation in a config map.  A real TEE measures how a program is started; the simulated one adds it
to its measurement, so that a pod with an argument, a variable or a preloaded library of its own is refused as a real one would be.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # before all else is read, which takes a second: a container's first process hears only what it asks for
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))  # there is nothing to wipe yet

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from confide.canonical import parse_object
from confide.errors import ConfigError
from confide.jobs.kubernetes.pod import run_pod
from confide.jobs.kubernetes.shapes import SIMULATION_DIR, SIMULATION_FILE
from confide.jobs.kubernetes.spark_start import SPARK_ARGUMENTS, is_of_spark
from confide.jobs.local.simulation import SimulatedTee, require_simulated

if TYPE_CHECKING:
    from confide.attest.collect import Attester
    from confide.attest.verify import Verifier
    from confide.node.spec import NodeSpec

_log = logging.getLogger("confide.node")
INSTALLATION_FILE = Path(SIMULATION_DIR, SIMULATION_FILE)
MEASURED_FILE = Path("/opt/confide/measured.json")
"""Where an image may have the digests of its files, so that a node need not read them all before it can say what it runs."""
ENTRY = ("-I", "-B", "-m", "confide.jobs.local.pod")
"""The arguments of the interpreter that simulated images have."""
_EXPECTED = frozenset({"PATH", "HOSTNAME", "HOME", "TERM", "LANG", "LC_CTYPE", "JAVA_HOME", "TMPDIR", "container"})
"""Variables that images and runtimes set; nothing of the node's code is found by them but Java, which nothing measures here."""
_OF_THE_API_SERVER = re.compile(r"KUBERNETES_(SERVICE_(HOST|PORT|PORT_HTTPS)|PORT|PORT_443_TCP(_(PROTO|PORT|ADDR))?)")
"""Variables that a kubelet sets in every container: where the API server's service is.  Nothing here reads them."""


def main() -> int:
    """Run the node of this pod; its exit status."""
    return run_pod(_simulated)


def _simulated(spec: NodeSpec) -> tuple[Attester, Verifier]:
    folder = require_simulated(spec).dir
    try:
        packed = INSTALLATION_FILE.read_bytes()
    except OSError as cause:
        raise ConfigError("the pod has no simulated TEE", path=str(cause.filename)) from cause
    tee = SimulatedTee.unpacked(parse_object(packed), folder, measured=MEASURED_FILE)
    found = unexpected(sys.orig_argv, os.environ)
    for each in found:
        _log.warning("this node was not started as its image says, and its measurement shows it: %s", each.partition("=")[0])
    attester = tee.attester(spec, started_by=found)
    return attester, tee.verifier(spec.services.intel, spec.services.ca_file)


def unexpected(argv: list[str], environ: os._Environ[str] | dict[str, str]) -> list[str]:
    """What of how this process was started is not as the image starts it: arguments, variables, and libraries loaded before all others.

    A driver that ``spark-submit`` starts has Spark's arguments and variables besides: those, and no other.
    """
    arguments = tuple(argv[1:])
    by_spark = arguments == (*ENTRY, *SPARK_ARGUMENTS)
    found = [] if by_spark or arguments == ENTRY else [f"argument {text}" for text in arguments]
    for name, value in sorted(environ.items()):
        if not _is_expected(name) and not (by_spark and is_of_spark(name, value)):
            found.append(f"variable {name}={value}")
    preload = Path("/etc/ld.so.preload")
    if preload.exists():
        found.append(f"preloaded {preload.read_text(encoding='utf-8', errors='replace')}")
    return found


def _is_expected(name: str) -> bool:
    return name in _EXPECTED or _OF_THE_API_SERVER.fullmatch(name) is not None


if __name__ == "__main__":
    sys.exit(main())

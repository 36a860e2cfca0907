"""Stands in for ``gramine-sgx-sign``, which cannot be had here: its command line, and a signature by the manual with a key of the tests.

Gramine's own program computes the measurement by its own code.  This one uses Confide's, so that the two agree proves nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: E402
from support import sigstruct  # noqa: E402

from confide.attest.launch.gramine import from_files  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("manifest", "output", "key", "libpal", "sigfile", "chroot", "date"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    given = parser.parse_args()
    if given.key.read_text() == "refused":
        sys.stderr.write("no such key\n")
        return 1
    text = given.manifest.read_text()
    if given.key.read_text() == "drops files":
        lines = text.splitlines(keepends=True)
        text = "".join(line for line in lines if "/passwd" not in line)
    given.output.write_text(text)
    values = from_files(given.output, given.libpal)
    measurement = bytes(32) if given.key.read_text() == "signs another" else values.mr_enclave
    if given.key.read_bytes().startswith(b"-----BEGIN"):
        key = load_pem_private_key(given.key.read_bytes(), password=None)
        sigstruct.signing_key = lambda: key
    given.sigfile.write_bytes(sigstruct.sign(measurement, product=values.isv_prod_id or 0, svn=values.isv_svn or 0))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the tests of ``confide data`` begin with: a broker's owners, and a small table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

CSV: Final = "id,name,score\n1,ann,0.5\n2,bob,\n3,cid,2.5\n"
RESOURCE: Final = "kbs://kbs.example:8080/ann/key/people"
"""A key of a key broker service that no test asks."""


def enrol(confide: Any, home: Path, *names: str) -> None:
    """Enrol owners with the broker at ``home``, if they are not yet."""
    for name in names:
        if not (home / "credentials" / f"{name}.key.pem").exists():
            ticket = home / f"{name}.json"
            confide("broker", "enrol", name, "--key-file", home / "master.key", "--out", ticket)
            confide("keys", "init", name, "--enrolment", ticket)


def encrypted(confide: Any, source: Path, key: str) -> Path:
    """The table in ``source`` as a dataset under ``key``, beside it."""
    assert confide("data", "encrypt", source, source.with_suffix(""), "--key", key).status == 0
    return source.with_suffix("")

"""Programs in the place of tpm2-tools' that answer what they are told to: for TPMs that fail, or that answer what no genuine one does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

_PROGRAM = """#!/bin/sh
here={folder}
name=$(basename "$0")
echo "$name $*" >> "$here/calls"
env > "$here/environment"
while [ $# -gt 0 ]; do
    case "$1" in
    -i) cp "$2" "$here/$name.i" ;;
    -o | -m | -s) if [ -f "$here/$name.answer$1" ]; then cp "$here/$name.answer$1" "$2"; fi ;;
    esac
    shift
done
if [ -f "$here/$name.then" ]; then . "$here/$name.then"; fi
"""
_NAMES = (
    "tpm2_readpublic", "tpm2_pcrread", "tpm2_quote", "tpm2_nvread", "tpm2_createek", "tpm2_createak", "tpm2_evictcontrol",
    "tpm2_startauthsession", "tpm2_policysecret", "tpm2_activatecredential", "tpm2_flushcontext",
)  # fmt: skip


@dataclass(frozen=True)
class StandIn:
    """The programs' folder."""

    folder: Path

    def answer(self, program: str, option: str, data: bytes) -> None:
        """What the program writes into the file that is named behind this option."""
        (self.folder / f"{program}.answer{option}").write_bytes(data)

    def then(self, program: str, script: str) -> None:
        """What the program does after that."""
        (self.folder / f"{program}.then").write_text(script)

    def calls(self) -> list[str]:
        """The programs that were run, each with its arguments."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def environment(self) -> dict[str, str]:
        """What the last program was given."""
        return dict(line.split("=", 1) for line in (self.folder / "environment").read_text().splitlines())

    def given(self, program: str) -> bytes:
        """The file that the program was given."""
        return (self.folder / f"{program}.i").read_bytes()


@pytest.fixture(name="programs")
def make_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """They are the first that are found."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in _NAMES:
        (folder / name).write_text(_PROGRAM.format(folder=folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return StandIn(folder)

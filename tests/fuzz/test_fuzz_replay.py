"""Every seed, a few hundred changes of each, and every past finding, given to every parser: refused or accepted, never a crash.

The coverage-guided search is ``python -m tests.fuzz``; this is what it leaves behind, without atheris.
"""

from __future__ import annotations

import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from fuzz import targets
from fuzz.mutations import mutated
from fuzz.seeds import _SEEDS, CORPUS, seeds

from confide.errors import ParseError

ROOT = Path(__file__).resolve().parents[2]
EACH = 300
_SLOW = {"intel-verify": 60, "collateral": 100, "collateral-file": 100, "intel-quote": 150, "tcb-info": 100, "pck-chain": 150, "backup": 60}


def replay(name: str, target: object, count: int) -> int:
    """Run a target over its seeds and ``count`` changes of them; returns how many inputs it had."""
    rng = random.Random(zlib.crc32(name.encode()))
    start = seeds(name)
    inputs = [*start, *(mutated(rng.choice(start), rng) for _ in range(count))]
    for data in inputs:
        targets.run(target, data)  # type: ignore[arg-type]
    return len(inputs)


@pytest.mark.parametrize("name", sorted(targets.TARGETS))
def test_parser_refuses_or_accepts_every_changed_seed(name: str) -> None:
    count = _SLOW.get(name, EACH)
    assert replay(name, targets.TARGETS[name], count) > count


@pytest.mark.parametrize("name", sorted(targets.TARGETS))
def test_some_seed_of_every_target_gets_past_its_parser(name: str) -> None:
    """Seeds that are all refused at the first byte would search nothing."""
    accepted = 0
    for data in seeds(name):
        try:
            targets.TARGETS[name](data)
        except targets.ConfideError:
            continue
        accepted += 1
    # Frames are read until the peer ends the channel, which is an error by design.
    assert accepted or name == "session-frames"


def test_every_target_has_seeds_and_every_finding_a_target() -> None:
    assert set(targets.TARGETS) == set(_SEEDS)
    assert {path.parent.name for path in CORPUS.glob("*/*.bin")} <= set(targets.TARGETS)


def test_planted_bug_is_found() -> None:
    """A parser that forgets that JSON holds other things than texts."""

    def careless(data: bytes) -> None:
        targets.parse_object(data)["name"].lower()

    with pytest.raises((AttributeError, KeyError)):
        replay("policy-json", careless, 300)


def test_refusal_is_no_finding() -> None:
    def refusing(data: bytes) -> None:
        raise ParseError("never")

    assert replay("policy-json", refusing, 10) == 11


_PLANT = """
from pathlib import Path
from tests.fuzz import __main__ as fuzz
def careless(data):
    if data and data[:1] != b"H":
        raise IndexError
fuzz.targets.TARGETS["http-response"] = careless
raise SystemExit(not all(fuzz.search_all(["http-response"], 10, Path({findings!r}), 1)))
"""


def test_search_finds_a_planted_bug(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has wheels for Linux only")
    program = _PLANT.format(findings=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "FINDING" in done.stdout
    assert "IndexError" in done.stdout
    assert list(tmp_path.glob("http-response-crash-*"))

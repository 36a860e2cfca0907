"""Mutation testing of ``confide.attest``: changes one decision at a time and asks whether a test notices.

``python -m scripts.mutation [--match TEXT] [MODULE ...]``.  Every test is run once, alone, to see which lines it reaches; each mutant is
then tried in a fork against the tests that reach its statement, until one fails.  No file is changed.  Mutants that no test can notice, or
need not, are listed with the reason in ``explained.toml``.  Results: ``docs/security/mutation-testing.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import json
import os
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import dcap_qvl  # noqa: F401 - imported once here, so that no fork has to
import jwcrypto.jwe  # noqa: F401
import OpenSSL.SSL  # noqa: F401
import pydantic  # noqa: F401
import pytest
from cryptography import x509  # noqa: F401

from .mutants import ATTEST, ROOT, Mutant, mutants, path_of
from .session import KILLED, SURVIVED, TESTS, Reach, Session, in_session, outcome_of, pytest_options

_CACHE = ROOT / ".mutation.json"
_EXPLAINED = Path(__file__).parent / "explained.toml"
_STANDING_FOR_ALL = 2
_COLLECTED_FIRST = 2
_LATELY = 5
_NEARER = 20
_LEFT_OUT = ("insecure", "annotate", "detect", "layouts")
"""What decides nothing about evidence: the simulation, notes for readers, and what looks which TEE a machine has."""

_Measured = dict[str, tuple[float, list[str], dict[str, str]]]
"""Of each test of a file: seconds, the lines that it reaches, and the digest of each module that they are of."""


class Plan:
    """Which tests reach what, as measured once and kept until a file changes."""

    def __init__(self) -> None:
        self._reach: dict[str, Reach] = {}
        self._modules: dict[str, dict[str, frozenset[str]]] = {}
        self._kept: dict[str, _Measured] = json.loads(_CACHE.read_text()) if _CACHE.exists() else {}

    def measure(self, session: Session, *, partly: bool) -> None:
        """Run each test alone, but for those that are kept: neither its file, what is shared, nor a module that it reached has changed."""
        shared = _digest([path for path in sorted((ROOT / "src" / "confide").rglob("*.py")) if not path.is_relative_to(ATTEST)])
        shared += _digest(sorted((ROOT / "tests" / "support").rglob("*.py")))
        sources = {str(path.relative_to(ATTEST)): _digest([path]) for path in ATTEST.rglob("*.py")}
        by_file: dict[str, list[str]] = defaultdict(list)
        for nodeid in session.items:
            by_file[nodeid.partition("::")[0]].append(nodeid)
        kept: dict[str, _Measured] = {}
        for file, nodeids in by_file.items():
            conftests = [folder / "conftest.py" for folder in (ROOT / file).parents if (folder / "conftest.py").exists()]
            name = f"{file} {_digest([ROOT / file, *conftests])} {shared}"
            known = self._kept.get(name, {})
            kept[name] = {nodeid: known[nodeid] for nodeid in nodeids if nodeid in known and _is_current(known[nodeid], sources)}
            measured = self._measure(session, [nodeid for nodeid in nodeids if nodeid not in kept[name]], sources)
            kept[name] |= measured
            self._reach |= {nodeid: Reach(seconds, frozenset(lines)) for nodeid, (seconds, lines, _) in kept[name].items()}
            if measured:
                _CACHE.write_text(json.dumps({**self._kept, **kept}))
        if not partly:
            _CACHE.write_text(json.dumps(kept))

    @staticmethod
    def _measure(session: Session, nodeids: list[str], sources: Mapping[str, str]) -> _Measured:
        found: _Measured = {}
        for nodeid in nodeids:
            reach = session.reach(nodeid)
            if reach is None:
                print(f"left out, it fails alone and without a mutant: {nodeid}", flush=True)
            else:
                modules = {line.partition(":")[0] for line in reach.lines}
                found[nodeid] = reach.seconds, sorted(reach.lines), {module: sources[module] for module in modules}
        return found

    def tests_of(self, mutant: Mutant) -> list[str]:
        """The tests that reach the mutant's statement; for what runs at import, all that reach its module.

        Quick and narrow ones first, and new kinds before more of the same: tests are of one kind that reach the same lines of the
        module.  Where all tests of a file are of one kind, it is not the module that they are about: the quickest two stand for them.
        """
        wanted = {f"{path_of(mutant.module).relative_to(ATTEST)}:{line}" for line in mutant.lines}
        in_module = self._in_module(mutant.module)
        by_file: dict[str, list[str]] = defaultdict(list)
        for test in sorted(in_module, key=lambda test: self._reach[test].seconds):
            if mutant.function is None or wanted & in_module[test]:
                by_file[test.partition("::")[0]].append(test)
        nearest = self._nearest(mutant.module, list(in_module))
        rounds: Counter[frozenset[str]] = Counter()
        ranked: list[tuple[float, str]] = []
        for file, tests in by_file.items():
            alike = len({lines for test, lines in in_module.items() if test.startswith(f"{file}::")}) == 1
            for test in tests[:_STANDING_FOR_ALL] if alike else tests:
                rounds[in_module[test]] += 1
                reach = self._reach[test]
                far = rounds[in_module[test]] * reach.seconds * len(reach.lines)
                ranked.append((far / _NEARER if file in nearest else far, test))
        return [test for _, test in sorted(ranked)]

    def within(self, tests: list[str], seconds: float) -> list[str]:
        """As many of the first tests as take this long together, without those that take long alone; at least one."""
        short = [test for test in tests if self._reach[test].seconds <= seconds / 5]
        takes = itertools.accumulate(self._reach[test].seconds for test in short)
        return short[: sum(until <= seconds for until in takes)] or tests[:1]

    def rounds(self, module: str, tests: list[str]) -> list[list[str]]:
        """First the tests of the files that reach most of the module, since a file is collected for one test of it; then the rest."""
        nearest = self._nearest(module, tests)
        rounds = [[test for test in tests if (test.partition("::")[0] in nearest) is near] for near in (True, False)]
        return [some for some in rounds if some]

    def _nearest(self, module: str, tests: list[str]) -> list[str]:
        """The files whose tests reach most of a module, which are about it."""
        reached: dict[str, set[str]] = defaultdict(set)
        for test in tests:
            reached[test.partition("::")[0]] |= self._in_module(module)[test]
        return sorted(reached, key=lambda file: -len(reached[file]))[:_COLLECTED_FIRST]

    def _in_module(self, module: str) -> dict[str, frozenset[str]]:
        """Test to what it reaches in one module, if that is anything."""
        if module not in self._modules:
            start = f"{path_of(module).relative_to(ATTEST)}:"
            found = {test: frozenset(line for line in reach.lines if line.startswith(start)) for test, reach in self._reach.items()}
            self._modules[module] = {test: lines for test, lines in found.items() if lines}
        return self._modules[module]

    def seconds(self, tests: Sequence[str]) -> float:
        """What the tests took."""
        return sum(self._reach[test].seconds for test in tests)


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Serves the changed code for one module's name."""

    def __init__(self, mutant: Mutant) -> None:
        self._name = f"confide.attest.{mutant.module}"
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module itself, from here."""
        return importlib.util.spec_from_loader(fullname, self) if fullname == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        """Run the changed code."""
        module.__file__ = str(path_of(self._mutant.module))
        exec(self._mutant.code(), module.__dict__)  # noqa: S102 - running the changed module is the point


class Run:
    """Mutants and what became of them."""

    def __init__(self, wanted: list[Mutant], basetemp: Path, log: Path, seconds: float, *, partly: bool) -> None:
        self._partly = partly
        self._wanted = wanted
        self._seconds = seconds
        self._basetemp = basetemp
        self._log = log
        self._log.touch()
        self._libraries = log.with_name("libraries")
        self._plan = Plan()

    def functions(self, session: Session) -> None:
        """In the collected session: measure, try what is in functions, and leave the rest for :meth:`modules`."""
        begins = time.monotonic()
        self._libraries.write_text("\n".join(_libraries()))
        self._plan.measure(session, partly=self._partly)
        print(f"which test reaches what: {time.monotonic() - begins:.0f} s", flush=True)
        noticing: dict[str, list[str]] = defaultdict(list)
        for mutant in self._wanted:
            tests = self._plan.within(self._plan.tests_of(mutant), self._seconds)
            lately = [test for test in reversed(noticing[mutant.module]) if test in tests]
            tests = list(dict.fromkeys([*lately, *tests]))  # what noticed the mutants around notices most of them
            result = "not applicable"
            if not tests:
                result = "not reached"
            elif mutant.function is not None:
                result = session.try_function(mutant, tests, self._plan.seconds(tests))
                if result == "killed":
                    noticing[mutant.module] = [*noticing[mutant.module], session.failed_first()][-_LATELY:]
            self._note(mutant, result, self._plan.rounds(mutant.module, tests) if result == "not applicable" else [])
        print(f"what is in functions: {time.monotonic() - begins:.0f} s", flush=True)

    def modules(self) -> None:
        """In this process, which has imported nothing of confide: what runs at import."""
        noted = [json.loads(line) for line in self._log.read_text().splitlines()]
        rest = {name: rounds for name, result, rounds in noted if result == "not applicable"}
        for library in self._libraries.read_text().splitlines() if rest else []:  # most of what a fork would spend its time on
            with suppress(Exception):  # a part that only its package can import
                importlib.import_module(library)
        if "confide" in sys.modules:
            raise SystemExit("an installed package imports confide: the changed modules would not be the ones that the tests use")
        for mutant in self._wanted:
            if mutant.name in rest:
                self._note(mutant, self._fresh(mutant, rest[mutant.name]), [])

    def _fresh(self, mutant: Mutant, rounds: list[list[str]]) -> str:
        def attempt() -> int:
            sys.meta_path.insert(0, _Mutated(mutant))
            options = pytest_options(self._basetemp)
            return KILLED if any(pytest.main([*options, *some]) for some in rounds) else SURVIVED

        return outcome_of(attempt, 60.0)

    def _note(self, mutant: Mutant, result: str, rounds: list[list[str]]) -> None:
        with self._log.open("a") as stream:
            stream.write(json.dumps([mutant.name, result, rounds]) + "\n")
        if result not in {"killed", "not applicable"}:
            print(f"{result}: {mutant.name}", flush=True)

    def totals(self) -> Counter[tuple[str, str]]:
        """(module, outcome) to how many."""
        last = {name: result for name, result, _ in map(json.loads, self._log.read_text().splitlines())}
        return Counter((mutant.module, last[mutant.name]) for mutant in self._wanted)


def _is_current(measured: tuple[float, list[str], dict[str, str]], sources: Mapping[str, str]) -> bool:
    return all(sources.get(module) == digest for module, digest in measured[2].items())


def _libraries() -> list[str]:
    """What is imported of installed packages, which depend on nothing here."""
    installed = sysconfig.get_path("purelib")
    return [name for name, module in list(sys.modules.items()) if (getattr(module, "__file__", None) or "").startswith(installed)]


def _digest(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def _modules() -> list[str]:
    found = [".".join(path.relative_to(ATTEST).with_suffix("").parts) for path in sorted(ATTEST.rglob("*.py"))]
    return [name for name in found if not name.endswith("__init__") and name.partition(".")[0] not in _LEFT_OUT]


def _is_in(mutant: Mutant, part: str | None) -> bool:
    return part is None or (mutant.function is None) is (part == "import")


def main() -> int:
    """Try the mutants; print survivors and totals.  The exit status is 1 if one is unexplained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="as launch.elf; all that decide about evidence, if none is given")
    parser.add_argument("--match", default="", metavar="TEXT", help="only mutants with this in their name")
    parser.add_argument("--explained", action="store_true", help="try the mutants that are explained, too")
    parser.add_argument("--only", type=Path, metavar="FILE", help="only the mutants that an earlier run printed into this file")
    parser.add_argument("--tests", nargs="+", metavar="PATH", help="only these files' tests: quick; others may notice a survivor")
    parser.add_argument("--part", choices=["functions", "import"], help="only what is in functions, or only what runs at import")
    parser.add_argument("--seconds", type=float, default=1e9, help="for each mutant, no more tests than take this long (a first look)")
    options = parser.parse_args()
    os.chdir(ROOT)
    begins = time.monotonic()
    modules = options.modules or _modules()
    explained = {name for group in tomllib.loads(_EXPLAINED.read_text())["group"] for name in group["mutants"]}
    only = None if options.only is None else {line.partition(": ")[2] for line in options.only.read_text().splitlines()}
    everything = [
        mutant
        for module in modules
        for mutant in mutants(module)
        if options.match in mutant.name and (only is None or mutant.name in only) and _is_in(mutant, options.part)
    ]
    wanted = [mutant for mutant in everything if options.explained or mutant.name not in explained]
    with tempfile.TemporaryDirectory() as folder:
        run = Run(wanted, Path(folder) / "tmp", Path(folder) / "log", options.seconds, partly=bool(options.tests))
        in_session(run.functions, Path(folder) / "tmp", options.tests or TESTS)
        run.modules()
        totals = run.totals()
    for module in modules:
        of_module = {result: number for (name, result), number in sorted(totals.items()) if name == module}
        print(f"{module}: {of_module}, explained {sum(mutant.module == module and mutant.name in explained for mutant in everything)}")
    survived = sum(number for (_, result), number in totals.items() if result in {"survived", "not reached"})
    print(f"{len(everything)} mutants, {len(wanted)} tried, {survived} not noticed, {time.monotonic() - begins:.0f} s")
    of_these = tuple(f"{module}{end}" for module in modules for end in (".", " "))
    stale = {name for name in explained if name.startswith(of_these)} - {mutant.name for mutant in everything}
    partly = bool(options.match or options.part or only)
    if stale and not partly:
        print("explained, but no such mutant:", *sorted(stale), sep="\n  ")
    return 1 if survived or (stale and not partly) else 0


if __name__ == "__main__":
    sys.exit(main())

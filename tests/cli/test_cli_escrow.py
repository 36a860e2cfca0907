"""``confide keys escrow`` and ``keys adopt``, as an owner, its trustees and the other broker's operator use them."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from confide.cli.broker import spawn

TRUSTEES = ("ada", "bob", "cyd")


@dataclass
class Stage:
    """The broker of the owner ``air`` and its trustees, with an escrow of the key ``air/k``; and another broker, where ``air`` is new."""

    confide: Any
    home: Path
    elsewhere: Path
    folder: Path
    digests: dict[str, str]
    other: str = ""

    def enrol(self, home: Path, name: str) -> None:
        ticket = home / f"{name}.json"
        assert self.confide("--home", home, "broker", "enrol", name, "--key-file", home / "master.key", "--out", ticket).status == 0
        assert self.confide("--home", home, "keys", "init", name, "--enrolment", ticket).status == 0

    def make(self, *more: str) -> Any:
        pins = [f"--trustee={name}={digest}" for name, digest in self.digests.items()]
        return self.confide("--home", self.home, "keys", "escrow", "make", "air/k", *pins, "--threshold", "2", "-o", self.file, *more)

    def open(self, name: str, *more: str, to: str | None = None) -> Any:
        pins = ("--to", to or self.other, "--for", self.requester)
        out = self.folder / f"{name}.json"
        command = ("keys", "escrow", "open", self.file, "--request", self.request, "--as", name, "-o", out, *pins, *more)
        return self.confide("--home", self.home, *command)

    def ask(self) -> Any:
        said = self.confide("--home", self.elsewhere, "keys", "escrow", "request", self.file, "-o", self.request, "--json")
        self.requester = said.json["credential"]
        assert said.json["broker"] == self.other
        return said

    def recover(self, *names: str) -> Any:
        given = [f"--contribution={self.folder / name}.json" for name in names]
        return self.confide("--home", self.elsewhere, "keys", "escrow", "recover", self.file, *given)

    @property
    def file(self) -> Path:
        return self.folder / "escrow.jsonl"

    @property
    def request(self) -> Path:
        return self.folder / "request.json"


@pytest.fixture
def staged(confide: Any, tmp_path: Path) -> Iterator[Stage]:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    made = Stage(confide, home, elsewhere, tmp_path, {})
    with spawn(home, home / "master.key"), spawn(elsewhere, elsewhere / "master.key") as other:
        made.other = other.spki
        made.enrol(home, "air")
        made.enrol(elsewhere, "air")
        assert confide("--home", home, "keys", "create", "air/k").status == 0
        for name in TRUSTEES:
            made.enrol(home, name)
            said = confide("--home", home, "keys", "escrow", "trustee-key", "--as", name, "--json")
            made.digests[name] = said.json["credential"]
        yield made


def encrypted(staged: Stage, name: str) -> Path:
    plain, folder = staged.folder / f"{name}.csv", staged.folder / name
    plain.write_text("a,b\n1,2\n", encoding="utf-8")
    assert staged.confide("--home", staged.home, "data", "encrypt", plain, folder, "--key", "air/k").status == 0
    return folder


def test_two_of_three_trustees_bring_a_key_back_at_another_broker(staged: Stage) -> None:
    confide, before = staged.confide, encrypted(staged, "before")
    said = staged.make("--json")
    assert said.json == {"key": "air/k", "file": str(staged.file), "threshold": 2, "trustees": 3, "datasets": 1}
    assert stat.S_IMODE(staged.file.stat().st_mode) == 0o600
    assert staged.make().status == 2, "an escrow is not written over another file"
    after = encrypted(staged, "after")
    listed = confide("--home", staged.home, "keys", "escrow", "ls", "--as", "air")
    assert re.search(r"air/k@1 +2 of ada, bob, cyd", listed.out)

    staged.ask()
    for name in ("ada", "cyd"):
        assert "for that broker alone" in staged.open(name).out
    assert stat.S_IMODE((staged.folder / "ada.json").stat().st_mode) == 0o600
    seen = confide("--home", staged.home, "audit", "show", "--as", "air", "--json").out
    assert seen.count('"escrow-open"') == 2

    assert "too few" in staged.recover("ada").err
    recovered = staged.recover("ada", "cyd")
    assert "air/k@1 and 1 datasets are here now" in recovered.out
    plain = staged.folder / "back.csv"
    assert confide("--home", staged.elsewhere, "data", "decrypt", before, plain).status == 0
    assert plain.read_text(encoding="utf-8").splitlines() == ['"a","b"', "1,2"]
    assert confide("--home", staged.elsewhere, "data", "decrypt", after, staged.folder / "no.csv").status == 4
    adopted = confide("--home", staged.elsewhere, "keys", "adopt", before, after)
    assert "1 of 2 datasets were new" in adopted.out
    assert confide("--home", staged.elsewhere, "data", "decrypt", after, staged.folder / "opened.csv").status == 0


def test_trustee_is_told_nothing_twice_and_contributes_to_whom_it_names(staged: Stage) -> None:
    staged.make()
    staged.ask()
    wrong = staged.open("ada", to="ab" * 32)
    assert (wrong.status, "escrow-refused" in wrong.err, (staged.folder / "ada.json").exists()) == (4, True, False)
    address = staged.home / "credentials" / "ada.broker.json"
    known = json.loads(address.read_text(encoding="utf-8"))
    address.write_text(json.dumps({**known, "url": "https://127.0.0.1:1"}), encoding="utf-8")
    untold = staged.open("ada")
    assert (untold.status, "--unannounced" in untold.err, (staged.folder / "ada.json").exists()) == (6, True, False)
    assert staged.open("ada", "--unannounced").status == 0


@pytest.mark.parametrize("trustee", ["ada", "=ab", "ada="])
def test_trustee_without_a_digest_is_refused(confide: Any, trustee: str, tmp_path: Path) -> None:
    said = confide("--home", tmp_path, "keys", "escrow", "make", "air/k", "--trustee", trustee, "--threshold", "2", "-o", tmp_path / "x")
    assert (said.status, "NAME=DIGEST" in said.err) == (2, True)


def test_trustee_that_is_named_twice_is_refused(staged: Stage) -> None:
    said = staged.make(f"--trustee=ada={staged.digests['ada']}")
    assert (said.status, "twice" in said.err, staged.file.exists()) == (2, True, False)

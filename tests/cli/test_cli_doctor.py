"""``confide doctor``: every finding, on machines that lack something."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from confide.cli import doctor
from confide.errors import ExtraMissingError, UnavailableError
from confide.jobs.engines.java import HINT, find_java
from confide.jobs.findings import Finding


def _finding(said: Any, name: str) -> Any:
    return next(check for check in said.json["checks"] if check["check"] == name)


def test_report_in_words(confide: Any) -> None:
    said = confide("doctor")
    assert said.status in {0, 1}
    assert "python:" in said.out
    assert "which protects nothing" in said.out


def test_missing_java_is_named_with_what_to_do(confide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    said = confide("doctor", "--json")
    assert said.status == 1
    assert said.json["ready"] is False
    assert _finding(said, "java")["hint"] == HINT
    words = confide("doctor")
    assert "NO  java:" in words.out
    assert f"hint: {HINT}" in words.out


def test_java_of_runs_is_the_one_that_doctor_looks_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ExtraMissingError, match="JAVA_HOME"):
        find_java()
    assert str(tmp_path) in doctor._java().found
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'version \"17.0.1\"' >&2\n")
    java.chmod(0o700)
    assert find_java() == java
    assert doctor._java() == ("java", True, f"17.0.1 ({java})", "", True)
    java.write_text("#!/bin/sh\necho 'version \"11.0.1\"' >&2\n")
    assert doctor._java() == ("java", False, f"{java} is Java 11.0.1, which is too old", HINT, True)


def test_archive_that_jvms_leave_out_is_told_and_does_not_stop_anybody(confide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def left_out() -> Path:
        raise UnavailableError("it is of other jars", hint="make it")

    good = Finding("x", ok=True, found="")
    monkeypatch.setattr(doctor, "_java", lambda: good)
    monkeypatch.setattr(doctor, "_jar", lambda: good)
    monkeypatch.setattr("confide.jobs.engines.archive.check_archive", left_out)
    told = {"check": "class-data archive", "ok": False, "found": "it is of other jars", "hint": "make it", "needed": False}
    assert _finding(confide("doctor", "--json"), "class-data archive") == told
    monkeypatch.setattr("confide.jobs.engines.archive.check_archive", lambda: Path("/x.jsa"))
    assert _finding(confide("doctor", "--json"), "class-data archive") == {**told, "ok": True, "found": "/x.jsa", "hint": ""}
    monkeypatch.setattr(doctor, "_jar", lambda: good._replace(ok=False))
    assert "class-data archive" not in {check["check"] for check in confide("doctor", "--json").json["checks"]}


def test_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor._package("no_such_module", "spark")
    assert (found.ok, found.hint) == (False, "pip install 'confide[spark]'")
    assert doctor._version("no-such-distribution") == "installed, version unknown"


@pytest.mark.parametrize(("installed", "needed"), [({"pyspark", "polars"}, True), ({"polars"}, False), (set(), True)])
def test_one_engine_is_enough(confide: Any, monkeypatch: pytest.MonkeyPatch, installed: set[str], needed: bool) -> None:
    real = importlib.util.find_spec
    engines = {"pyspark", "polars", "duckdb"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name in engines - installed else real(name, *more))
    said = confide("doctor", "--json")
    assert [_finding(said, name)["needed"] for name in ("java", "pyspark", "spark part")] == [needed] * 3
    for name in ("polars", "duckdb"):
        found = _finding(said, name)
        assert (found["ok"], found["needed"]) == (name in installed, False)
        assert found["hint"] == ("" if found["ok"] else f"pip install 'confide[{name}]'")


def test_unbuilt_jar_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("confide.__file__", str(tmp_path / "__init__.py"))
    assert not doctor._jar().ok


def test_bad_settings_are_found(confide: Any, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("nonsense = 1\n", encoding="utf-8")
    assert not _finding(confide("--home", tmp_path, "doctor", "--json"), "settings")["ok"]
    (tmp_path / "config.toml").write_text("heartbeat_s = 1\n", encoding="utf-8")
    assert _finding(confide("--home", tmp_path, "doctor", "--json"), "settings")["found"] == "changed: home, heartbeat_s"


def test_missing_memory_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    assert not doctor._shared_memory().ok


def test_each_source_of_evidence_is_told_with_a_reason(confide: Any) -> None:
    checks = {check["check"]: check for check in confide("doctor", "--json").json["checks"]}
    for name in ("gramine", "occlum", "configfs-tdx", "configfs-snp", "device-sgx", "device-tdx", "device-snp"):
        assert checks[name]["found"]
        assert not checks[name]["needed"]
        assert checks[name]["ok"] or checks[name]["hint"]
    assert "real evidence:" in confide("doctor").out

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from confide.errors import ExtraMissingError, UnavailableError
from confide.jobs.engines import archive, spark


def test_class_lists_are_merged_without_repeats(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x id: 1\ny id: 2\nmade/Class id: 3 super: 1 source: some.jar\n@lambda-form-invoker [X] id: 7\n")
    (tmp_path / "b").write_text("y id: 1\nz\n@lambda-form-invoker [X] id: 7\n")
    assert archive._merged([tmp_path / "a", tmp_path / "b"]) == ["x\n", "y\n", "@lambda-form-invoker [X] id: 7\n", "z\n"]


def test_java_that_cannot_dump_is_an_error(tmp_path: Path) -> None:
    runtime = spark.JavaRuntime(Path("/bin/false"), 17, ())
    with pytest.raises(UnavailableError, match="could not write"):
        archive._dump(runtime, tmp_path / "classes", tmp_path / "target")


def test_failed_training_leaves_no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self, *_: object) -> None:
            pass

        def run(self) -> list[Path]:
            raise UnavailableError("the training run failed")

    monkeypatch.setattr(archive, "_Training", Failing)
    monkeypatch.setattr(spark, "find_runtime", lambda **_: spark.JavaRuntime(Path("/bin/false"), 17, ()))
    monkeypatch.setattr(spark, "archive_path", lambda: tmp_path / "x.jsa")
    with pytest.raises(UnavailableError):
        archive.make_archive()
    assert not list(tmp_path.iterdir())


def test_set_up_without_java_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(**_: object) -> None:
        raise ExtraMissingError("there is no Java", hint="install it")

    monkeypatch.setattr(spark, "find_runtime", missing)
    assert archive.main() == ExtraMissingError.exit_status
    assert capsys.readouterr().err == "class-data archive: there is no Java (install it)\n"


def test_archive_of_another_java_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(program: str, there: Path | None) -> None:
        monkeypatch.setattr(spark, "find_runtime", lambda: spark.JavaRuntime(Path(program), 17, (), there))

    found("/bin/true", None)
    with pytest.raises(UnavailableError, match="there is none") as told:
        archive.check_archive()
    assert "-m confide.jobs.engines.archive` makes it" in str(told.value.hint)
    found("/bin/false", tmp_path / "x.jsa")
    with pytest.raises(UnavailableError, match="of another Java"):
        archive.check_archive()
    found("/bin/true", tmp_path / "x.jsa")
    assert archive.check_archive() == tmp_path / "x.jsa"


@pytest.mark.spark
def test_archive_of_this_installation_is_used_and_one_of_an_older_jar_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = spark.find_runtime()
    assert archive.check_archive() == runtime.archive
    jar = tmp_path / "confide-spark.jar"
    jar.write_bytes(runtime.classpath[0].read_bytes())
    monkeypatch.setattr(spark, "find_runtime", lambda: dataclasses.replace(runtime, classpath=(jar, *runtime.classpath[1:])))
    with pytest.raises(UnavailableError, match="of another Java or of other jars"):
        archive.check_archive()


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_training_run_lists_the_classes_of_both_jvms(tmp_path: Path) -> None:
    driver, executor = archive._Training(tmp_path, spark.find_runtime()).run()
    assert "org/confide/spark/DriverMain" in driver.read_text()
    assert "org/confide/spark/ConfideCryptoFactory" in executor.read_text()
    assert not list(Path("/dev/shm").glob("confide-cds-*"))

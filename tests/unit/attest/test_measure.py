import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import confide
from confide.attest import measure as module
from confide.attest.measure import Measurement, measure
from confide.errors import ConfigError
from confide.ids import Tee

PROGRAM = "import sys, pathlib; from confide.attest.measure import measure; print(measure(cache=pathlib.Path(sys.argv[1])).digest)"


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """Folders of their own instead of this machine's packages."""
    for name in ("site", "stdlib", "package"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.py").write_text(f"# {name}\n")
    (tmp_path / "package" / "__init__.py").write_text("")
    monkeypatch.setattr(module.confide, "__file__", str(tmp_path / "package" / "__init__.py"))
    paths = {"purelib": "site", "platlib": "site", "stdlib": "stdlib", "platstdlib": "stdlib"}
    monkeypatch.setattr(module.sysconfig, "get_path", lambda key: str(tmp_path / paths[key]))
    return tmp_path


def test_measurement_is_as_long_as_the_tees() -> None:
    value = Measurement("ab" * 48, 1)
    assert [len(value.of(tee)) for tee in (Tee.SGX, Tee.TDX, Tee.SNP)] == [64, 96, 96]


def test_same_files_give_the_same_measurement_with_and_without_a_cache(small) -> None:
    cache = small / "cache.json"
    assert measure() == measure(cache=cache) == measure(cache=cache)
    assert measure().files == 5
    assert cache.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["site", "stdlib", "package"])
def test_one_changed_line_changes_the_measurement(small, name) -> None:
    cache = small / "cache.json"
    before = measure(cache=cache)
    path = small / name / "code.py"
    status = path.stat()
    path.write_text(path.read_text().replace("#", ";"))
    # An attacker puts the times back; the inode's change time gives the edit away.
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert measure(cache=cache).digest != before.digest


def test_added_removed_and_renamed_files_change_the_measurement(small) -> None:
    seen = {measure().digest}
    (small / "site" / "new.pth").write_text("import evil")
    seen.add(measure().digest)
    (small / "site" / "new.pth").rename(small / "site" / "other.pth")
    seen.add(measure().digest)
    (small / "site" / "code.py").unlink()
    seen.add(measure().digest)
    assert len(seen) == 4


def test_byte_code_caches_do_not_count(small) -> None:
    before = measure()
    (small / "site" / "__pycache__").mkdir()
    (small / "site" / "__pycache__" / "code.cpython-311.pyc").write_bytes(b"x")
    assert measure() == before


def test_installed_copy_that_is_not_in_use_does_not_count(small) -> None:
    before = measure()
    (small / "site" / "confide").mkdir()
    (small / "site" / "confide" / "code.py").write_text("other")
    assert measure() == before


def test_linked_folders_count_and_circles_end(small) -> None:
    before = measure()
    (small / "elsewhere").mkdir()
    (small / "elsewhere" / "code.py").write_text("linked")
    (small / "site" / "linked").symlink_to(small / "elsewhere")
    (small / "elsewhere" / "circle").symlink_to(small / "elsewhere")
    assert measure().digest != before.digest


def test_extra_files_and_folders_count(small) -> None:
    (small / "extra").mkdir()
    (small / "extra" / "engine.jar").write_bytes(b"jar")
    digests = {measure().digest, measure(extra=[small / "extra"]).digest, measure(extra=[small / "extra" / "engine.jar"]).digest}
    assert len(digests) == 3


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', "{"])
def test_damaged_cache_costs_time_only(small, text) -> None:
    cache = small / "cache.json"
    cache.write_text(text)
    assert measure(cache=cache) == measure()


def test_cache_that_cannot_be_written_costs_time_only(small) -> None:
    assert measure(cache=small / "none" / "cache.json") == measure()


def test_file_that_cannot_be_read_is_an_error(small, monkeypatch) -> None:
    def fail(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "_hash", fail)
    with pytest.raises(ConfigError, match="Permission denied"):
        measure()


def test_folder_that_is_not_there_is_an_error(small) -> None:
    shutil.rmtree(small / "site")
    with pytest.raises(ConfigError, match="cannot measure"):
        measure()


def test_second_measurement_reads_no_file_that_has_not_changed(tmp_path, monkeypatch) -> None:
    cache = tmp_path / "cache.json"
    first = measure(cache=cache)
    assert first.files > 1000
    monkeypatch.setattr("confide.attest.measure._hash", lambda path: pytest.fail(f"{path} was read again"))
    assert measure(cache=cache) == first


def test_copy_of_the_package_measures_the_same_until_one_line_is_changed(tmp_path) -> None:
    """What the demo's tampered worker does: the same interpreter with a private copy of the package."""
    copy = tmp_path / "copy" / "confide"
    shutil.copytree(Path(confide.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))

    def run(path: Path) -> str:
        environment = {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "cache.json")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    honest = run(copy.parent)
    assert len(honest) == 96
    with (copy / "errors.py").open("a") as file:
        file.write("# changed\n")
    assert run(copy.parent) != honest
    entries = json.loads((tmp_path / "cache.json").read_text())
    assert str(copy / "errors.py") in entries

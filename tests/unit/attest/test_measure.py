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
    assert [value.of(tee) == value.digest for tee in Tee] == [tee is not Tee.SGX for tee in Tee]
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


@pytest.mark.parametrize("at", [0, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_one_changed_byte_anywhere_in_a_long_file_changes_the_measurement(small, at) -> None:
    """It is read in parts."""
    path = small / "site" / "library.so"
    data = bytearray((3 << 20) + 1)
    path.write_bytes(data)
    before = measure()
    data[at] = 1
    path.write_bytes(data)
    assert measure().digest != before.digest


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


def test_each_folder_is_walked_whole_and_each_linked_one_once(small) -> None:
    before = measure().files
    for name in ("site/a", "site/b", "site/b/c", "elsewhere"):
        (small / name).mkdir()
        (small / name / "more.py").write_text(name)
    (small / "elsewhere" / "circle").symlink_to(small / "elsewhere")
    for name in ("first", "second"):
        (small / "site" / name).symlink_to(small / "elsewhere")
    (small / "site" / "linked.py").symlink_to(small / "elsewhere" / "more.py")
    (small / "site" / "dangling.py").symlink_to(small / "nowhere")
    assert measure().files == before + 5


def test_which_of_two_links_is_walked_does_not_depend_on_the_file_system(small, monkeypatch) -> None:
    (small / "elsewhere").mkdir()
    (small / "elsewhere" / "more.py").write_text("linked")
    for name in ("first", "second"):
        (small / "site" / name).symlink_to(small / "elsewhere")
    before, real = measure(), os.scandir
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", lambda path: reversed(list(real(path))))
        assert measure() == before


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("stdlib/site-packages", False), ("stdlib/dist-packages", False), ("stdlib/json/site-packages", True),
        ("stdlib/json/__pycache__", False),
        ("site/site-packages", True), ("site/confide", False), ("site/other/confide", True), ("package/__pycache__", False),
        ("package/more", True),
    ],
)  # fmt: skip
def test_only_what_other_parts_have_and_byte_code_is_left_out(small, name, counts) -> None:
    before = measure()
    (small / name).mkdir(parents=True)
    (small / name / "code.py").write_text("more")
    assert (measure() != before, measure().files - before.files) == (counts, int(counts))


def test_package_among_the_installed_ones_is_measured_once(small, monkeypatch) -> None:
    before = measure()
    (small / "package").rename(small / "site" / "confide")
    monkeypatch.setattr(module.confide, "__file__", str(small / "site" / "confide" / "__init__.py"))
    assert measure() == before
    (small / "site" / "confide").rename(small / "site" / "editable")
    monkeypatch.setattr(module.confide, "__file__", str(small / "site" / "editable" / "__init__.py"))
    assert measure() == before


def test_interpreter_counts(small, monkeypatch) -> None:
    before = measure()
    (small / "python").write_bytes(b"another interpreter")
    monkeypatch.setattr(module.sys, "executable", str(small / "python"))
    assert (measure() != before, measure().files) == (True, before.files)


def test_both_folders_of_packages_count(small, monkeypatch) -> None:
    (small / "second").mkdir()
    (small / "second" / "code.py").write_text("# site\n")
    before = measure()
    paths = {"purelib": "site", "platlib": "second", "stdlib": "stdlib", "platstdlib": "stdlib"}
    monkeypatch.setattr(module.sysconfig, "get_path", lambda key: str(small / paths[key]))
    assert measure().files == before.files + 1


def cached(cache: Path, path: Path, change) -> None:
    """Write another digest for a file into the cache, and change its entry."""
    known = json.loads(cache.read_text())
    known[str(path)][4] = "0" * 64
    known[str(path)] = change(known[str(path)])
    cache.write_text(json.dumps(known))


@pytest.mark.parametrize("at", range(4), ids=["size", "modified", "changed", "inode"])
def test_remembered_digest_of_another_file_is_not_taken(small, at) -> None:
    cache, path = small / "cache.json", small / "site" / "code.py"
    honest = measure(cache=cache)
    cached(cache, path, lambda entry: [value + (number == at) if number < 4 else value for number, value in enumerate(entry)])
    assert measure(cache=cache) == honest


@pytest.mark.parametrize("change", [lambda entry: entry[:4], lambda entry: [*entry, 0], lambda entry: {}, lambda entry: "abcde"])
def test_entry_of_a_cache_that_is_none_is_not_taken(small, change) -> None:
    cache, path = small / "cache.json", small / "site" / "code.py"
    honest = measure(cache=cache)
    cached(cache, path, change)
    assert measure(cache=cache) == honest


def test_remembered_digest_of_the_same_file_is_taken_and_the_cache_left_as_it_is(small) -> None:
    cache, path = small / "cache.json", small / "site" / "code.py"
    honest = measure(cache=cache)
    inode = cache.stat().st_ino
    assert measure(cache=cache) == honest
    assert cache.stat().st_ino == inode
    cached(cache, path, list)
    assert measure(cache=cache) != honest


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
    def fail(path: str, size: int) -> str:
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
    monkeypatch.setattr("confide.attest.measure._hash", lambda path, size: pytest.fail(f"{path} was read again"))
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

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from confide.crypto.secret import SecretBytes
from confide.errors import UnavailableError, UsageError
from confide.ids import NodeId, RunId
from confide.node import private_dir
from confide.node.private_dir import PrivateDir, sweep

NODE = NodeId("worker-1")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folder_and_files_are_private_and_in_memory(run_id: RunId) -> None:
    with PrivateDir(run_id, NODE) as private:
        path = private.write("secret", SecretBytes(b"abc"))
        assert path.read_bytes() == b"abc"
        assert (mode(private.path), mode(path), mode(private.folder("scratch"))) == (0o700, 0o600, 0o700)
        assert private.path.is_relative_to("/dev/shm")
    assert not private.path.exists()


def test_files_are_overwritten_before_they_are_removed(run_id: RunId) -> None:
    with PrivateDir(run_id, NODE) as private:
        path = private.write("secret", b"abc" * 1000)
        with path.open("rb") as still_open:
            private.wipe()
            left = still_open.read()
    assert len(left) == 3000
    assert b"abcabc" not in left
    private.wipe()


def test_second_folder_of_a_node_is_refused(run_id: RunId) -> None:
    with PrivateDir(run_id, NODE), pytest.raises(UnavailableError):
        PrivateDir(run_id, NODE)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/x", "a\0b"])
def test_only_plain_names_are_written(name: str, run_id: RunId) -> None:
    with PrivateDir(run_id, NODE) as private, pytest.raises(UsageError):
        private.write(name, b"x")


def test_file_is_never_written_twice(run_id: RunId) -> None:
    with PrivateDir(run_id, NODE) as private:
        private.write("a", b"x")
        (private.path / "link").symlink_to("/etc/passwd")
        for name in ("a", "link"):
            with pytest.raises(UsageError):
                private.write(name, b"y")
    assert Path("/etc/passwd").exists()


def test_disk_is_no_place_for_secrets(run_id: RunId, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"tmpfs / tmpfs rw 0 0\n/dev/sda {tmp_path} ext4 rw 0 0\n")
    whole = private_dir.in_memory
    monkeypatch.setattr(private_dir, "in_memory", lambda base: whole(base, mounts=mounts))
    with pytest.raises(UnavailableError, match="memory-backed"):
        PrivateDir(run_id, NODE, base=tmp_path)
    assert not whole(tmp_path / "missing")


def test_sweep_wipes_what_a_killed_node_left(run_id: RunId) -> None:
    private = PrivateDir(run_id, NODE)
    private.write("secret", b"abc")
    sweep(run_id, NODE)
    assert not private.path.exists()
    sweep(run_id, NODE)


def test_sweep_does_not_follow_links(run_id: RunId, tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("mine")
    link = Path("/dev/shm") / f"confide-{run_id}-{NODE}"
    link.symlink_to(tmp_path)
    try:
        sweep(run_id, NODE)
        assert (tmp_path / "keep").read_text() == "mine"
    finally:
        link.unlink()

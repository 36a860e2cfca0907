"""The tree of an image: every byte, name and right counts, and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from confide.errors import ImageError
from confide.jobs.images.tree import Tree, digest


def filled(root: Path) -> Tree:
    tree = Tree(root)
    tree.write("/opt/a.py", b"a = 1\n")
    tree.write("/opt/b.py", b"b = 1\n")
    tree.folder("/empty")
    tree.shared_folder("/tmp")
    tree.link("/lib", "usr/lib")
    program = root.parent / "program"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o700)
    tree.copy(program, "/bin/program")
    tree.seal()
    return tree


def test_two_trees_of_the_same_files_are_the_same_whatever_the_umask_and_the_clock(tmp_path: Path) -> None:
    first, old = filled(tmp_path / "one"), os.umask(0o077)
    try:
        second = filled(tmp_path / "two")
    finally:
        os.umask(old)
    assert first.entries() == second.entries()
    assert {place.stat(follow_symlinks=False).st_mtime for place in (tmp_path / "two").rglob("*")} == {0}
    modes = {entry.path: oct(entry.mode) for entry in second.entries()}
    assert modes["/bin/program"] == "0o755"
    assert modes["/opt/a.py"] == "0o644"
    assert (modes["/opt"], modes["/tmp"]) == ("0o755", "0o1777")


@pytest.mark.parametrize("name", ["opt/a.py", "opt/b.py", "bin/program"])
def test_one_changed_byte_changes_the_digest(tmp_path: Path, name: str) -> None:
    tree = filled(tmp_path / "root")
    before, path = digest(tree.entries()), tree.root / name
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert digest(tree.entries()) != before
    path.write_bytes(data)
    assert digest(tree.entries()) == before


def test_names_rights_links_and_empty_folders_count(tmp_path: Path) -> None:
    tree = filled(tmp_path / "root")
    seen = {digest(tree.entries())}
    (tree.root / "empty").rmdir()
    seen.add(digest(tree.entries()))
    (tree.root / "opt/a.py").chmod(0o755)
    seen.add(digest(tree.entries()))
    (tree.root / "opt/a.py").rename(tree.root / "opt/c.py")
    seen.add(digest(tree.entries()))
    (tree.root / "lib").unlink()
    (tree.root / "lib").symlink_to("usr/lib64")
    seen.add(digest(tree.entries()))
    assert len(seen) == 5


def test_two_files_of_one_name_are_refused_unless_they_are_the_same(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "root")
    for name, data in (("one", b"1"), ("same", b"1"), ("other", b"2")):
        (tmp_path / name).write_bytes(data)
    tree.copy(tmp_path / "one", "/file")
    tree.copy(tmp_path / "same", "/file")
    with pytest.raises(ImageError, match="two files"):
        tree.copy(tmp_path / "other", "/file")


def test_links_into_the_machine_become_files_and_what_is_no_file_is_left_out(tmp_path: Path) -> None:
    source, outside = tmp_path / "source", tmp_path / "outside"
    for folder in (source, outside):
        folder.mkdir()
    (outside / "data").write_bytes(b"x")
    (source / "linked").symlink_to(outside)
    (source / "dangling").symlink_to("nowhere")
    os.mkfifo(source / "fifo")
    (source / "left").write_bytes(b"out")
    tree = Tree(tmp_path / "root")
    tree.copy_folder(source, "/opt", keeps=lambda name: name != "left")
    tree.seal()
    assert [(entry.path, entry.link) for entry in tree.entries()] == [("/opt", ""), ("/opt/linked", ""), ("/opt/linked/data", "")]


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a//b", "/a/", "/./a"])
def test_path_that_is_not_plain_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ImageError):
        Tree(tmp_path).write(path, b"")


def test_link_out_of_the_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        Tree(tmp_path).link("/lib", "/usr/lib")


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot copy"):
        Tree(tmp_path / "root").copy(tmp_path / "nothing", "/file")

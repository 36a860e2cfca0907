"""Free memory is the machine's or the container's, whichever is less, and what the kernel would give up counts as free."""

from __future__ import annotations

from pathlib import Path

import pytest

from confide.free_memory import free_memory

GROUP = {"memory.max": "1000000\n", "memory.current": "900000\n", "memory.stat": "anon 100\ninactive_file 300000\nactive_file 7\n"}


def machine(root: Path, kib: int | None, groups: dict[str, dict[str, str]], name: str = "/") -> int:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"4:memory:/old\n0::{name}\n")
    if kib is not None:
        (root / "proc/meminfo").write_text(f"MemTotal:  99999999 kB\nMemAvailable:   {kib} kB\nSwapFree: 0 kB\n")
    for group, files in groups.items():
        folder = root / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text)
    return free_memory(root)


def test_a_machine_without_limits_has_what_it_says(tmp_path: Path) -> None:
    assert machine(tmp_path, 2048, {}) == 2048 * 1024


def test_a_containers_limit_counts_and_files_that_were_read_are_free(tmp_path: Path) -> None:
    assert machine(tmp_path, 2048, {"": GROUP}) == 400_000


@pytest.mark.parametrize("of", ["pod", "pod/container"])
def test_the_limit_of_any_group_around_the_process_counts(tmp_path: Path, of: str) -> None:
    others = {"": {"memory.max": "max\n", "memory.current": "1\n"}, "pod/another": {**GROUP, "memory.max": "0\n"}}
    assert machine(tmp_path, 2048, {**others, of: GROUP}, "/pod/container") == 400_000


def test_a_group_that_uses_more_than_it_may_has_nothing_left(tmp_path: Path) -> None:
    assert machine(tmp_path, 2048, {"": {**GROUP, "memory.max": "5\n"}}) == 0


@pytest.mark.parametrize("kib", [None, 0])
def test_a_machine_that_does_not_say_has_none(tmp_path: Path, kib: int | None) -> None:
    assert machine(tmp_path, kib, {}) == 0


def test_this_machine_has_some() -> None:
    assert free_memory() > 1 << 20

"""The broker's container recipe: by rules of our own, and built by a real builder on this machine's Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.buildah import Buildah

ROOT = Path(__file__).resolve().parents[2]
DIGEST = f"sha256:{'ab' * 32}"


@pytest.fixture(scope="module")
def recipe() -> list[tuple[str, str]]:
    """The recipe's instructions: word and rest."""
    text = (ROOT / "deploy" / "container" / "Containerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in whole)]


def _all(recipe: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for found, rest in recipe if found == word]


def test_base_is_an_argument_without_a_default_and_both_stages_have_it(recipe: list[tuple[str, str]]) -> None:
    assert recipe[0] == ("ARG", "PYTHON_IMAGE")
    assert _all(recipe, "FROM") == ["${PYTHON_IMAGE} AS build", "${PYTHON_IMAGE}"]


def test_image_is_nobodys_and_brings_nothing_along(recipe: list[tuple[str, str]]) -> None:
    last = recipe[max(i for i, (word, _) in enumerate(recipe) if word == "FROM") :]
    assert _all(last, "USER") == ["65532:65532"]
    assert [word for word, _ in last].index("USER") < [word for word, _ in last].index("ENTRYPOINT")
    assert _all(last, "COPY") == ["--from=build /opt/confide /opt/confide"], "nothing of the source tree is in the image"
    assert "ADD" not in {word for word, _ in recipe}
    for word, rest in recipe:
        assert not re.search(r"https?://|curl|wget|--trusted-host|--index-url", rest), (word, rest)
        if word in {"ARG", "ENV"}:
            assert not re.search(r"(?i)passw|secret|token|key", rest), rest
    installs = [part for rest in _all(recipe, "RUN") for part in rest.split("&&") if "pip install" in part]
    assert installs
    assert all("--require-hashes" in part or "--no-index" in part for part in installs)


def test_entry_is_the_program_itself_and_no_shell(recipe: list[tuple[str, str]]) -> None:
    (entry,), (command,) = _all(recipe, "ENTRYPOINT"), _all(recipe, "CMD")
    assert entry == '["/opt/confide/bin/confide"]'
    assert command.startswith("[")


def test_context_holds_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / "deploy" / "container" / ".containerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == {
        "requirements.lock", "pyproject.toml", "README.md", "LICENSE", "src", "deploy/container/closure.py",
    }  # fmt: skip


@pytest.mark.parametrize("base", ["python", "python:3.11-slim", "python@sha256:ab", f"python@{DIGEST}x", ""])
def test_base_that_is_not_named_by_its_digest_is_refused(base: str) -> None:
    environ = {**os.environ, "BUILDER": "echo"}
    script = str(ROOT / "deploy" / "container" / "build.sh")
    assert subprocess.run([script, base, "x"], env=environ, capture_output=True, check=False).returncode == 2
    good = subprocess.run([script, f"python@{DIGEST}", "x"], env=environ, capture_output=True, text=True, check=False)
    assert (good.returncode, f"PYTHON_IMAGE=python@{DIGEST}" in good.stdout) == (0, True)


# --- a real build --------------------------------------------------------------------------------------------------


class Builder(Buildah):
    """buildah with a base that is this machine's /usr: read-only, and no part of what is built."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        config = subprocess.run([sys.executable, "-m", "pip", "config", "debug"], capture_output=True, text=True, check=True).stdout
        files = {Path(path) for path in re.findall(r"(/\S+), exists: True", config)}
        shared = {Path("/usr"), Path("/etc/ssl"), *(file.parent if file.parent.name == "pip" else file for file in files)}
        self.mounts = [word for path in sorted(shared) for word in ("--volume", f"{path}:{path}:ro")]

    def base(self) -> str:
        """A base image, by its digest."""
        tree = self.folder / "tree"
        for name in ("tmp", "etc", "var/lib", "opt", "usr", "proc", "sys", "dev", "root"):
            (tree / name).mkdir(parents=True, exist_ok=True)
        (tree / "tmp").chmod(0o1777)
        for name in ("bin", "sbin", "lib", "lib64"):
            (tree / name).symlink_to(f"usr/{name}")
        container = self("from", "scratch")
        self("copy", container, str(tree), "/")
        self("commit", container, "localhost/base")
        return f"localhost/base@{self.digest('localhost/base')}"

    def build(self, base: str) -> str:
        wrapper = self.folder / "buildah"
        wrapper.write_text(f'#!/bin/sh\nexec buildah {" ".join(self.place())} "$@"\n')
        wrapper.chmod(0o755)
        environ = {**self.environ, "BUILDER": str(wrapper)}
        command = [str(ROOT / "deploy" / "container" / "build.sh"), base, "localhost/broker", "--", *self.mounts]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return "localhost/broker"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Builder, str]]:
    """The image as a container, and its name."""
    folder = tmp_path_factory.mktemp("buildah")
    builder = Builder(folder)
    image = builder.build(builder.base())
    yield builder, builder("from", "--pull-never", image)
    builder.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_image_is_built_and_its_broker_serves_as_nobody_on_a_root_that_it_cannot_write(built: tuple[Builder, str]) -> None:
    builder, container = built
    root = Path(builder("mount", container))
    assert not list(root.glob("src")), "no source"
    assert not list((root / "opt/confide/lib").rglob("site-packages/pip")), "no installer"
    assert (root / "var/lib/confide").stat().st_uid == 65532
    program = [file for file in (root / "opt/confide").rglob("*") if file.is_file()]
    assert not [file for file in program if file.stat().st_uid == 65532], "its own program is not its own"
    run = ["run", *builder.mounts, "--user", "65532:65532", container, "--"]
    assert builder(*run, "/opt/confide/bin/confide", "--version").startswith("confide")
    script = (
        "id -u; touch /opt/confide/x 2>/dev/null && echo writable; cd /var/lib/confide; umask 077; head -c 32 /dev/urandom > k;"
        " confide --home /var/lib/confide broker serve --listen 127.0.0.1:0 --key-file k & sleep 20; kill -TERM $!; wait $!; echo ended $?"
    )
    before = time.monotonic()
    said = builder(*run, "/bin/sh", "-c", f"export PATH=/opt/confide/bin:$PATH HOME=/var/lib/confide; {script}")
    assert said.splitlines()[0] == "65532"
    assert "writable" not in said
    assert "spki" in said
    assert said.endswith("ended 0")
    assert time.monotonic() - before < 200

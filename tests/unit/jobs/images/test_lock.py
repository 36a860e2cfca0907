"""Locks: only what is pinned by version and hash counts, and of the project's own only what is needed."""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path

import pytest

from confide.errors import ParseError
from confide.jobs.images.lock import needed, normal, parse, requirements

ROOT = Path(__file__).parents[4]
LOCK = f"""# a comment
--index-url https://index.example/simple
App_Core==1.0 \\
    --hash=sha256:{"aa" * 32} \\
    --hash=sha256:{"ab" * 32}
    # via confide (pyproject.toml)
base==2.0 ; python_version >= "3.11" \\
    --hash=sha256:{"bb" * 32}
    # via
    #   app-core
    #   other
deep.est==3.0 \\
    --hash=sha256:{"cc" * 32}
    # via base
other==4.0 \\
    --hash=sha256:{"dd" * 32}
    # via confide (pyproject.toml)
"""


def test_entries_have_all_their_hashes() -> None:
    found = parse(LOCK)
    assert list(found) == ["app-core", "base", "deep-est", "other"]
    assert found["app-core"].hashes == ("aa" * 32, "ab" * 32)
    assert found["base"].because == {"app-core", "other"}
    assert found["base"].requirement() == f"base==2.0 --hash=sha256:{'bb' * 32}"


@pytest.mark.parametrize(
    "text",
    [
        "", "# nothing", "app==1.0", "app>=1.0 --hash=sha256:" + "aa" * 32, "app==1.0 --hash=sha256:aa", "app @ https://x.example/app.whl",
        f"app==1.0 --hash=md5:{'aa' * 16}", f"{LOCK}\nlast==1.0",
    ],
)  # fmt: skip
def test_lock_with_a_package_that_is_not_pinned_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse(text)


def test_what_is_needed_comes_with_what_it_needs_and_nothing_else() -> None:
    assert list(needed(parse(LOCK), ["app.core"])) == ["app-core", "base", "deep-est"]
    assert list(needed(parse(LOCK), ["base"])) == ["base", "deep-est"]
    assert list(needed(parse(LOCK), [])) == []


def test_package_that_the_lock_does_not_have_is_refused() -> None:
    with pytest.raises(ParseError, match="does not have nowhere"):
        needed(parse(LOCK), ["base", "nowhere"])


def test_requirements_of_a_distribution_are_those_of_the_extras_that_are_asked_for() -> None:
    metadata = (
        "Name: confide\nProvides-Extra: spark\nProvides-Extra: s3\nRequires-Dist: Click>=8\nRequires-Dist: py_arrow (>=23)\n"
        "Requires-Dist: pyspark==4.3.0; extra == 'spark'\nRequires-Dist: boto3; extra == 's3'\n"
    )
    assert requirements(metadata, ()) == ["click", "py-arrow"]
    assert requirements(metadata, ["spark"]) == ["click", "py-arrow", "pyspark"]
    with pytest.raises(ParseError, match="no extra sparc"):
        requirements(metadata, ["sparc"])


def test_projects_lock_has_all_that_each_engine_needs() -> None:
    locked = parse((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    here = {normal(distribution.metadata["Name"]) for distribution in distributions()}
    for engine in ("pyspark", "polars", "duckdb"):
        found = needed(locked, ["cryptography", "pydantic", "pyarrow", engine])
        assert {"cffi", "pycparser", "pydantic-core", "annotated-types", engine} <= set(found)
        assert set(found) <= here

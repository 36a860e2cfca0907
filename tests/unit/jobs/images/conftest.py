"""A small image of each kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.small_images import Shelf

from confide.jobs.images.context import Context, build
from confide.jobs.images.layout import Shape


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf.fill(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="session")
def built(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Shape], Context]:
    """An image of a shape, made once."""
    made: dict[Shape, Context] = {}

    def of(shape: Shape) -> Context:
        if shape not in made:
            made[shape] = build(tmp_path_factory.mktemp("images") / shape.value, shelf.request(shape), lambda _: None)
        return made[shape]

    return of


@pytest.fixture
def own_copy(built: Callable[[Shape], Context], tmp_path: Path) -> Callable[[Shape], Context]:
    """A copy of it, to change."""

    def of(shape: Shape) -> Context:
        shutil.copytree(built(shape).folder, tmp_path / "copy", symlinks=True)
        return Context.load(tmp_path / "copy")

    return of

"""What a node asks the broker for at once, in requests that a broker takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from confide.canonical import Json
from confide.ids import DatasetId
from confide.keys.manifest_claims import MAX_MANIFESTS

_PORTION_CHARS: Final = 8 * 1024 * 1024
"""How long the manifests of one request may be together, in characters: half of what a broker takes."""

Asked = tuple[Json, Mapping[str, DatasetId]]
"""A manifest, and the column groups that are asked for."""


def portions(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """The manifests in as few requests as a broker takes them."""
    portion: list[Asked] = []
    size = keys = 0
    for manifest, groups in asked:
        length = len(str(manifest.get("payload", "")))
        if portion and (keys + 1 + len(groups) > MAX_MANIFESTS or size + length > _PORTION_CHARS):
            yield portion
            portion, size, keys = [], 0, 0
        portion.append((manifest, groups))
        size, keys = size + length, keys + 1 + len(groups)
    if portion:
        yield portion

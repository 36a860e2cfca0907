"""Column groups of a table: columns under a key of their own, so that who was given the dataset's key alone cannot read them.

A group is in the broker's books what a dataset is: it has an id, and a key that is wrapped under one of its owner's keys, whose grants
decide.  What the manifest says of it is here; how the keys are used is in ``confide.data.parquet_keys``.  Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from confide.canonical import Json
from confide.crypto.derive import check_dataset_id
from confide.crypto.envelope import WrappedKey
from confide.errors import DataError, ManifestError, UsageError
from confide.ids import DatasetId, KeyRef, check_name

if TYPE_CHECKING:
    from confide.crypto.secret import SecretBytes


@dataclass(frozen=True, slots=True)
class ColumnGroup:
    """Columns (top-level names) and their key, wrapped.  The wrapped key's ``dataset`` is the group's own id."""

    name: str
    columns: tuple[str, ...]
    wrapped: WrappedKey

    @property
    def dataset(self) -> DatasetId:
        """The id by which the broker knows the group's key."""
        return DatasetId(self.wrapped.dataset)

    def to_json(self) -> Json:
        """As in a manifest."""
        return {"name": self.name, "columns": list(self.columns), "wrapped": self.wrapped.to_json()}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`, strict.

        Raises:
            ManifestError, ParseError, UsageError: not a group.
        """
        match data:
            case {"name": str(name), "columns": list(columns), "wrapped": dict(wrapped), **rest} if not rest:
                if columns and all(isinstance(column, str) for column in columns):
                    return cls(check_name(name, "column group"), tuple(columns), WrappedKey.from_json(wrapped))
        raise ManifestError("a manifest's column group does not have the documented form")


@dataclass(frozen=True, slots=True)
class NewGroup:
    """A group of a table that is to be made, with its key."""

    group: ColumnGroup
    key: SecretBytes


def check_groups(groups: Sequence[ColumnGroup], *, dataset: DatasetId, key: str, columns: Collection[str]) -> None:
    """Return if these are groups of a table with those ``columns``, whose own key is under ``key`` (``owner/name``).

    Raises:
        ManifestError: they are not sorted by name; a column is in two or is none; or a key is another owner's, or is used twice, which
            would protect nothing: grants are by key.
        ParseError, UsageError: an id or a key's name is none.
    """
    names = [group.name for group in groups]
    grouped = [column for group in groups for column in group.columns]
    keys = [key, *(group.wrapped.key for group in groups)]
    ids = [dataset, *(check_dataset_id(group.dataset) for group in groups)]
    if names != sorted(set(names)):
        raise ManifestError("a manifest's column groups are not sorted by name, each once")
    if len(set(grouped)) != len(grouped) or not set(grouped) <= set(columns):
        raise ManifestError("a column is in two column groups, or is no column of the table", columns=", ".join(grouped)[:400])
    if len(set(keys)) != len(keys) or len(set(ids)) != len(ids):
        raise ManifestError("each column group has a key of its own, and another than the table's", keys=", ".join(keys)[:400])
    if len({KeyRef.parse(name).owner for name in keys}) != 1:
        raise ManifestError("a column group's key is another owner's", keys=", ".join(keys)[:400])


def group_of(groups: Iterable[ColumnGroup], column: str) -> ColumnGroup | None:
    """The group that a column is in; ``None`` for one under the dataset's own key."""
    return next((group for group in groups if column in group.columns), None)


def groups_for(groups: Sequence[ColumnGroup], columns: Iterable[str] | None) -> tuple[ColumnGroup, ...]:
    """The groups whose keys are needed to read these columns (all, if none are named)."""
    if columns is None:
        return tuple(groups)
    wanted = set(columns)
    return tuple(group for group in groups if wanted & set(group.columns))


def groups_named(groups: Iterable[ColumnGroup], names: Iterable[str], *, what: str) -> tuple[ColumnGroup, ...]:
    """The groups of these names.

    Raises:
        UsageError: there is none of a name.
    """
    known = {group.name: group for group in groups}
    for name in names:
        if name not in known:
            raise UsageError(f"{what} has no column group {name!r}", hint=f"it has: {', '.join(known) or 'none'}")
    return tuple(known[name] for name in names)


def require_columns(groups: Sequence[ColumnGroup], columns: Collection[str]) -> None:
    """Return if a table with these columns can be in the groups.

    Raises:
        DataError: a group's column is missing, or a name cannot be told from another one in a Parquet file.
    """
    missing = [column for group in groups for column in group.columns if column not in columns]
    if missing:
        raise DataError(f"there is no column {missing[0]!r} to protect", columns=", ".join(columns)[:400])
    odd = [column for column in columns if groups and (not column.strip() or set(column) & set(".,:;") or column != column.strip())]
    if odd:
        # Parquet's paths are names joined by dots; the others are Arrow's separators (``parquet_keys.grouped_writer``).
        raise DataError(f"a table with column groups cannot have a column {odd[0]!r}", hint="rename it: no . , : ; and no spaces around")

"""Column groups of tables, as the broker sees them: what a group's key is known by is in the table's signed manifest.

A group is a dataset in the broker's books: minted, re-wrapped, exported and granted as one.  It has no manifest of its own; the table's
says which columns it protects, and whether it is the newest is decided over the table.
"""

from __future__ import annotations

from collections.abc import Sequence

from confide.errors import ManifestError, ParseError
from confide.ids import DatasetId, KeyRef
from confide.keys.manifest_claims import ManifestClaims
from confide.keys.records import Dataset
from confide.keys.store import Store


def group_of(store: Store, table: Dataset, claims: ManifestClaims, name: str) -> Dataset:
    """The group ``name`` of a table whose manifest's claims were verified, as the transaction sees it.

    Raises:
        ManifestError: the manifest has no such group, or not with a key of the table's owner that this broker made.
    """
    found = row_of(store, table, claims, name)
    if not found.is_known_as(claims.groups[name]):
        raise _no_group(table, name)
    return found


def row_of(store: Store, table: Dataset, claims: ManifestClaims, name: str) -> Dataset:
    """As :func:`group_of`, in whichever wrapped form the manifest has the group's key: nothing is to be given by it.

    Raises:
        ManifestError: the manifest has no such group, or its key is none of the table's owner.
    """
    wrapped = claims.groups.get(name)
    if wrapped is None:
        raise ManifestError("the manifest has no such column group", dataset=table.dataset, group=name[:64])
    found = store.get(Dataset, DatasetId(wrapped.dataset))
    if found is None or found.origin is not None or _owner(found) != _owner(table):
        raise _no_group(table, name)
    return found


def _no_group(table: Dataset, name: str) -> ManifestError:
    return ManifestError("a column group's key is none of the table's owner", dataset=table.dataset, group=name[:64])


def asked_groups(given: object, manifests: Sequence[object]) -> list[tuple[str, ...]]:
    """The groups that a request asks for, of each of its ``manifests``.

    Raises:
        ParseError: they are not a list of names, each once, for each manifest.
    """
    if given is None:
        return [() for _ in manifests]
    if isinstance(given, list) and len(given) == len(manifests):
        found = [tuple(names) for names in given if isinstance(names, list) and all(isinstance(name, str) for name in names)]
        if len(found) == len(manifests) and all(len(set(names)) == len(names) for names in found):
            return found
    raise ParseError("not the column groups of the manifests in the request")


def _owner(dataset: Dataset) -> str:
    return KeyRef.parse(dataset.wrapped.key).owner

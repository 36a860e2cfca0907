"""What a receipt says of keys: who was given which, and by whose word; and of work done under them.  Two steps of ``jobs.receipt``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from confide.data.column_groups import groups_named
from confide.errors import ReceiptError
from confide.ids import JOB_PREFIX
from confide.job_form import form_columns, kbs_resource
from confide.jobs.reports import group_name
from confide.keys.grants import GrantRef
from confide.keys.kbs.dataset_key import key_of, resource_of_key

if TYPE_CHECKING:
    from confide.canonical import Json
    from confide.data.manifest import Manifest
    from confide.jobs.statement import DatasetEntry, ReleaseEntry, Statement


def check_releases(statement: Statement, tables: Mapping[str, Manifest]) -> str:
    """Every key that a node was given: to a node of the receipt, for a dataset of the receipt, with the grant of each owner concerned.

    So for each column group of an input, and only those that the job names; ``tables`` are the inputs' verified manifests by name.
    A key of a key broker service has no grant: the job, which the receipt names, says where it came from.
    """
    nodes = {node.node for node in statement.nodes}
    groups = [entry for d in statement.inputs for entry in _groups(d, tables, statement.form)]
    datasets = {("read", d.name): d for d in (*statement.inputs, *groups)} | {("write", d.name): d for d in statement.outputs}
    elsewhere = {d.name: uri for d in statement.inputs if (uri := kbs_resource(statement.form, d.name))}
    for release in statement.releases:
        facts = {"node": release.node, "name": release.name}
        dataset = datasets.get((release.purpose, release.name))
        if release.node not in nodes or dataset is None:
            raise ReceiptError("a key went to a node, or is of a dataset, that the run does not have", **facts)
        require_same("the key", release.key, dataset.key)
        if release.purpose == "read" and release.name in elsewhere:
            _check_from_kbs(release, dataset, elsewhere[release.name])
            continue
        if release.version < dataset.version:  # newer is right: the key was re-wrapped since the manifest was written
            raise ReceiptError("a key was given under an older version than the manifest names", **facts)
        granted = [dataset] if release.purpose == "read" else [d for d in (*statement.inputs, *groups) if d.name not in elsewhere]
        missing = _owned(granted) - set(release.grants)
        if missing or not [GrantRef.from_json(ref) for ref in release.grants.values()]:
            raise ReceiptError("a key was given without an owner's grant", missing=", ".join(sorted(missing)), **facts)
    written = {release.name for release in statement.releases if (release.node, release.purpose) == (statement.driver.node, "write")}
    require_same("the outputs with a key", ", ".join(sorted(written)), ", ".join(sorted(d.name for d in statement.outputs)))
    grants = {str(ref["grant"]) for release in statement.releases for ref in release.grants.values()}
    found = f"{len(statement.releases)} under {len(grants)} grants"
    return f"{found}; from {', '.join(sorted(set(elsewhere.values())))}" if elsewhere else found


def _groups(table: DatasetEntry, tables: Mapping[str, Manifest], form: Json) -> list[DatasetEntry]:
    """The column groups of an input that the job reads, as rows of their own."""
    manifest = tables.get(table.name)
    found = groups_named(() if manifest is None else manifest.groups, form_columns(form, table.name), what=f"input {table.name!r}")
    return [
        replace(
            table,
            name=group_name(table.name, group.name),
            dataset=group.dataset,
            key=group.wrapped.key,
            version=group.wrapped.version,
        )
        for group in found
    ]


def check_data(statement: Statement) -> str:
    """What nodes say that they did with datasets is of nodes of the receipt, once each.  The numbers themselves are their word."""
    nodes = {node.node for node in statement.nodes}
    counted = [row.node for row in statement.data]
    if not nodes.issuperset(counted) or len(set(counted)) != len(counted):
        raise ReceiptError("counts are of a node that the run does not have, or of one twice", nodes=", ".join(counted))
    if any(value < 0 for row in statement.data for value in asdict(row).values() if isinstance(value, int)):
        raise ReceiptError("a count is negative")
    read, written = (sum(getattr(row, name) for row in statement.data) for name in ("rows_read", "rows_written"))
    return f"{read} rows read, {written} written by {sum(row.tasks for row in statement.data)} tasks"


def require_same(what: str, got: str, expected: str) -> str:
    """``got``, if it is what the receipt says.

    Raises:
        ReceiptError: it is not.
    """
    if got != expected:
        raise ReceiptError(f"{what} is not what the receipt says", expected=expected[:200], got=got[:200])
    return got


def _check_from_kbs(release: ReleaseEntry, dataset: DatasetEntry, uri: str) -> None:
    """The dataset is under the resource that the job names, and nobody claims a grant of an owner for it."""
    _, name = resource_of_key(uri)
    expected = key_of(dataset.key.partition("/")[0], name)
    require_same("the key's source", f"{release.key}@{release.version}", f"{expected.id}@{expected.version}")
    if release.grants:
        raise ReceiptError("a key of a key broker service is given without grants", node=release.node, name=release.name)


def _owned(datasets: Iterable[DatasetEntry]) -> set[str]:
    """The owners' keys among those of the datasets.  Of another job's output, only the broker knows whose data it derives from."""
    return {dataset.key for dataset in datasets if not dataset.key.startswith(JOB_PREFIX)}

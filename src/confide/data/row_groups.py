"""Which row groups of encrypted files hold no row for a query's predicate, by what their opened footers and their folders say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from confide.data.pinned_parquet import Facts, PinnedFooter
from confide.errors import ExtraMissingError

try:
    import polars as pl
except ImportError as missing:
    raise ExtraMissingError("Polars is not installed", hint="pip install 'confide[polars]'") from missing

_PRUNED: Final = (pl.Boolean, pl.Date, pl.Datetime, pl.Decimal)
"""Types whose statistics decide here what is not fetched, beside integers.  Not floats, whose statistics leave NaN out, and not text, whose
statistics may be cut: Polars itself decides about those, from the same footer."""


class Described(NamedTuple):
    """A file's footer, and the one row of columns that are in the names of its folders."""

    footer: PinnedFooter
    folders: pl.DataFrame


class Pruning:
    """Polars' own rule for a predicate."""

    def __init__(self, predicate: pl.Expr, schema: pl.Schema, in_folders: frozenset[str], *, prefix: str = "") -> None:
        """``in_folders``: columns that the names of a file's folders may hold.  ``prefix``: of the columns' names in the predicate."""
        self._prefix = prefix
        self._kinds = {name: schema[name.removeprefix(prefix)] for name in predicate.meta.root_names()}
        told = any(name in in_folders or _is_pruned(kind) for name, kind in self._kinds.items())
        # Of parts of a nested column there are no statistics under its name.
        nested = any(kind.is_nested() for kind in self._kinds.values())
        self._rule = predicate._skip_batch_predicate(self._kinds) if told and not nested else None

    def skipped(self, files: Sequence[Described]) -> list[frozenset[int]]:
        """For each file the row groups that need not be read."""
        if self._rule is None or not files:
            return [frozenset()] * len(files)
        rows = [group.rows for one in files for group in one.footer.footer.groups]
        facts = {"len": pl.Series(rows, dtype=pl.get_index_type())}
        for name, kind in self._kinds.items():
            said_of = self._said(name.removeprefix(self._prefix), kind, files)
            for word, said in (("min", said_of.lowest), ("max", said_of.highest), ("nc", said_of.nulls)):
                facts[f"{name}_{word}"] = pl.Series(said, dtype=pl.get_index_type() if word == "nc" else kind, strict=False)
        verdicts = iter(pl.DataFrame(facts).select(self._rule.alias("skip"))["skip"])
        return [frozenset(index for index in range(len(one.footer.footer.groups)) if next(verdicts) is True) for one in files]

    def _said(self, name: str, kind: pl.DataType, files: Sequence[Described]) -> Facts:
        said = Facts([], [], [])
        for footer, folders in files:
            groups = footer.footer.groups
            if name in folders.columns:
                value = folders[name][0]
                own = Facts([value] * len(groups), [value] * len(groups), [group.rows if value is None else 0 for group in groups])
            elif _is_pruned(kind):
                own = footer.facts(name)
            else:
                own = Facts([None] * len(groups), [None] * len(groups), [None] * len(groups))
            said.lowest.extend(own.lowest)
            said.highest.extend(own.highest)
            said.nulls.extend(own.nulls)
        return said


def _is_pruned(kind: pl.DataType) -> bool:
    return kind.is_integer() or isinstance(kind, _PRUNED)

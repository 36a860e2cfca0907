"""What one save into an output does with what the run saved there before: Spark's save modes.  Pure.

An output appears when its run ends, whole and as one snapshot: modes are about saves of one run.  What becomes of an earlier run's dataset
at the output's place, the job says (``jobs.parents``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, cast, get_args

from confide.data.manifest import Kind
from confide.errors import ProtocolError, UsageError

if TYPE_CHECKING:
    from confide.canonical import Json

Mode = Literal["error", "ignore", "append", "overwrite"]
_MODES: Final[dict[str, Mode]] = {
    "error": "error",
    "errorifexists": "error",
    "default": "error",
    "ignore": "ignore",
    "append": "append",
    "overwrite": "overwrite",
}
"""Spark's names of its modes."""


@dataclass(frozen=True, slots=True)
class Save:
    """One save, as the program announced it.  ``columns``: names and types of the data frame.  ``None``: not said."""

    mode: Mode = "error"
    kind: Kind | None = None
    format: str | None = None
    columns: tuple[tuple[str, str], ...] | None = None
    partitions: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, request: Json) -> Save:
        """What the fields of a ``stage`` request say.

        Raises:
            UsageError: Spark has no such mode.
            ProtocolError: a field is not what it must be.
        """
        mode = str(request.get("mode") or "error").lower()
        if mode not in _MODES:
            raise UsageError(f"no such save mode: {mode[:40]}", hint=f"one of {', '.join(_MODES)}")
        columns, given, kind = request.get("columns"), request.get("format"), request.get("kind")
        if kind is not None and kind not in get_args(Kind):
            raise UsageError("not a kind of dataset", kind=str(kind)[:40])
        try:
            return cls(
                mode=_MODES[mode],
                kind=cast("Kind | None", kind),
                format=None if given is None else str(given),
                columns=None if columns is None else tuple((str(name), str(kind)) for name, kind in columns),
                partitions=tuple(map(str, cast("Sequence[object]", request.get("partitions") or ()))),
            )
        except (TypeError, ValueError) as cause:
            raise ProtocolError("a save is not described as it must be") from cause

    def require_fits(self, before: Save, name: str) -> None:
        """Check that what this save writes can be read together with what is there.

        Raises:
            UsageError: another kind of files, other columns, or other folders.
        """
        for what, here, there in (
            ("kind", self.kind, before.kind),
            ("format", self.format, before.format),
            ("partitionBy", ", ".join(self.partitions) or "nothing", ", ".join(before.partitions) or "nothing"),
        ):
            if here != there:
                raise UsageError(f"output {name!r} was written with another {what}", hint=_HINT, before=str(there), now=str(here))
        if self.kind == "parquet" and self.columns != before.columns:
            old, new = dict(before.columns or ()), dict(self.columns or ())
            other = [column for column in {**old, **new} if old.get(column) != new.get(column)]
            named = f"other columns: {', '.join(other[:20])}" if other else "its columns in another order"
            raise UsageError(f"output {name!r} was written with {named}", hint=_HINT)


_HINT: Final = "select and cast to what is there; or save with mode overwrite"

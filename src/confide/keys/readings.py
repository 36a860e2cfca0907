"""What a driver tells the broker of the snapshots that it reads, so that none is older than the newest that the broker has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from confide.canonical import Json
from confide.errors import ParseError


@dataclass(frozen=True, slots=True)
class Reading:
    """A snapshot that a driver reads, by number and manifest digest, because it is shown as the newest one of its dataset."""

    dataset: str
    snapshot: int
    digest: str

    def to_json(self) -> Json:
        """As in a request."""
        return {"dataset": self.dataset, "snapshot": self.snapshot, "digest": self.digest}

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: a field is missing, unknown or wrong.
        """
        match data:
            case {"dataset": str(dataset), "snapshot": int(snapshot), "digest": str(digest), **rest} if not rest:
                if not isinstance(snapshot, bool):
                    return cls(dataset, snapshot, digest)
        raise ParseError("not a snapshot that a driver reads")

"""What is said in the clear of a key whose versions leave a broker wrapped: names, states and times.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from confide.canonical import Json
from confide.errors import ParseError
from confide.keys.key_records import Key, KeyState
from confide.keys.times import utc_time

_MAX_VERSIONS: Final = 1000


@dataclass(frozen=True, slots=True)
class KeyOutline:
    """A key (``owner/name``), the states of its versions from the first on, each with since when, and when the key was made."""

    key: str
    versions: tuple[tuple[KeyState, datetime], ...]
    created: datetime

    def __post_init__(self) -> None:
        active = [number for number, (state, _) in enumerate(self.versions, start=1) if state is KeyState.ACTIVE]
        if not 0 < len(self.versions) <= _MAX_VERSIONS or active not in ([], [len(self.versions)]):
            raise ParseError("these are not the versions of a key")

    @classmethod
    def of(cls, key: Key) -> Self:
        """The outline of a key in the store."""
        return cls(key.id, tuple((version.state, version.since) for version in key.versions), key.created)

    @property
    def openable(self) -> list[int]:
        """The versions that were not destroyed."""
        return [number for number, (state, _) in enumerate(self.versions, start=1) if state is not KeyState.DESTROYED]

    def states(self) -> list[Json]:
        """The versions as JSON."""
        return [{"state": state.value, "since": since.isoformat()} for state, since in self.versions]

    def to_json(self) -> Json:
        """As in a statement that names the key elsewhere."""
        return {"versions": self.states(), "created": self.created.isoformat()}

    @classmethod
    def from_json(cls, key: str, versions: Sequence[Json], created: str) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError, ValueError, TypeError, KeyError: it is none.
        """
        for version in versions:
            if set(version) != {"state", "since"}:
                raise ParseError("a key's version has other fields than it must")
        return cls(key, tuple((KeyState(v["state"]), utc_time(v["since"])) for v in versions), utc_time(created))

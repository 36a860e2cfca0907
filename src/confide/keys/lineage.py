"""Where a run's output comes from, and which later runs go on with it, as frozen values with an exact JSON form.

Pure.  ``keys.outputs`` decides who may; ``keys.records`` says when a later run's snapshot is the dataset's newest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self

from confide.canonical import Json
from confide.ids import DatasetId, JobDigest, RunId

MAX_ANNOUNCED: Final = 64
"""Cap on the snapshots that are announced after one parent: writers that are at it at the same time, and those that failed then."""

MAX_EARLIER: Final = 64
"""Cap on the signers of earlier snapshots that are remembered: what an older run has signed is refused as a stranger's is."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Which run made an output, what it derives from (``inherits``: root keys), and who may open it if every root's owner agrees.

    ``later`` are other jobs whose runs made snapshots of it: the owners' grants to these say who may open it, too.
    """

    job: JobDigest
    run: RunId
    name: str
    inherits: tuple[str, ...]
    recipients: tuple[str, ...]
    later: tuple[JobDigest, ...] = ()

    @property
    def jobs(self) -> tuple[JobDigest, ...]:
        """Every job that wrote what is in the dataset."""
        return (self.job, *self.later)

    def to_json(self) -> Json:
        """The origin as JSON."""
        return {
            "job": self.job,
            "run": self.run,
            "name": self.name,
            "inherits": list(self.inherits),
            "recipients": list(self.recipients),
            "later": list(self.later),
        }

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`."""
        later = tuple(data.get("later", ()))  # records of earlier versions have none
        return cls(data["job"], data["run"], data["name"], tuple(data["inherits"]), tuple(data["recipients"]), later)


@dataclass(frozen=True, slots=True)
class Continuation:
    """The fact that a run was given the key of an earlier run's output, to make the snapshot after ``parent`` (a manifest's digest).

    ``name`` is the output's in the run's own job; ``signer`` (DER SPKI) is the run's driver, which will sign the snapshot.
    """

    kind: ClassVar[str] = "continuation"
    job: JobDigest
    run: RunId
    name: str
    dataset: DatasetId
    signer: bytes
    parent: str

    @property
    def id(self) -> str:
        """Job, run and the output's name there."""
        return f"{self.job}/{self.run}/{self.name}"

    @property
    def ref(self) -> str:
        """The run, as ``records.run_ref`` writes it."""
        return f"run:{self.run}"

    def to_json(self) -> Json:
        """See :class:`~confide.keys.records.Record`."""
        said = {"job": self.job, "run": self.run, "name": self.name, "dataset": self.dataset}
        return {**said, "signer": self.signer.hex(), "parent": self.parent}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """See :class:`~confide.keys.records.Record`."""
        return cls(data["job"], data["run"], data["name"], data["dataset"], bytes.fromhex(data["signer"]), data["parent"])


@dataclass(frozen=True, slots=True)
class Announced:
    """A manifest (``digest``) that a driver (``signer``, DER SPKI) of ``job`` is about to commit as a dataset's next snapshot."""

    digest: str
    signer: bytes
    job: JobDigest

    def to_json(self) -> Json:
        """As JSON, within the dataset's record."""
        return {"digest": self.digest, "signer": self.signer.hex(), "job": self.job}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls(data["digest"], bytes.fromhex(data["signer"]), data["job"])

"""What is left of the nodes of a run that failed: their evidence, so that it can be judged again by whoever did not accept them.

A run that succeeded has a receipt.  This is no receipt: nobody signed it, and each record has to be verified by whoever uses it.
Public values only.  Knows nothing of files and channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

from confide.attest.collateral_sources import AnyCollateral, read_collateral
from confide.errors import AttestationError, CollateralError, ProtocolError
from confide.node.record import EvidenceRecord

if TYPE_CHECKING:
    from confide.attest.verify import Verifier
    from confide.canonical import Json
    from confide.node.workload import NodeReport, Refusal

_PARTS: Final = ("accepted", "refused", "collateral")
_MAX: Final = 2048
"""Cap on each part: a run has fewer workers, and keeps the evidence of fewer refusals."""


@dataclass(frozen=True, slots=True)
class Remains:
    """Evidence of nodes that were accepted and of such as were refused, and the collateral that it was judged with."""

    accepted: tuple[EvidenceRecord, ...] = ()
    refused: tuple[EvidenceRecord, ...] = ()
    collateral: tuple[AnyCollateral, ...] = ()

    @classmethod
    def of(cls, nodes: Sequence[NodeReport], refused: Sequence[Refusal], verifier: Verifier) -> Self:
        """What a driver knows of its workers."""
        used = tuple({node.collateral.digest: node.collateral for node in nodes if node.collateral is not None}.values())
        found = cls(tuple(node.record for node in nodes), (), used)
        for one in refused:
            if one.record is not None:
                found = found.and_of(cls.of_refused(one.record, one.code, verifier))
        return found

    @classmethod
    def of_refused(cls, record: EvidenceRecord, code: str, verifier: Verifier) -> Self:
        """A node that was refused with that code.  For collateral that was not to be had then, nobody is asked again."""
        if code != CollateralError.code:
            with suppress(AttestationError):  # not genuine: the record alone is what there is
                verified = verifier.verify(record.evidence, record.at)
                return cls((), (replace(record, evidence=verified.evidence),), (verified.collateral,))
        return cls((), (record,), ())

    def and_of(self, other: Self) -> Self:
        """Both together."""
        return type(self)(self.accepted + other.accepted, self.refused + other.refused, self.collateral + other.collateral)

    def to_json(self) -> Json:
        """As JSON, for the driver's last frame."""
        return {
            "accepted": [record.to_json() for record in self.accepted],
            "refused": [record.to_json() for record in self.refused],
            "collateral": [dict(one.to_json()) for one in self.collateral],
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ProtocolError: it has not that form.
            ParseError, CollateralError: something in it is no evidence record or no collateral.
        """
        if not isinstance(data, dict) or set(data) != set(_PARTS):
            raise ProtocolError("a failed run's evidence has not its documented form", expected=", ".join(_PARTS))
        parts = [data[name] for name in _PARTS]
        if not all(isinstance(part, list) and len(part) <= _MAX and all(isinstance(one, dict) for one in part) for part in parts):
            raise ProtocolError("a failed run's evidence is lists of objects", limit=_MAX)
        accepted, refused, collateral = parts
        return cls(
            tuple(EvidenceRecord.from_json(one) for one in accepted),
            tuple(EvidenceRecord.from_json(one) for one in refused),
            tuple(read_collateral(one) for one in collateral),
        )

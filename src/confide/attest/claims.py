"""What genuine evidence says, the same for every vendor.  Makes nothing of it: ``policy`` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    from confide.canonical import Json
    from confide.ids import ReportData, Tee

UNRATED: Final = "Unrated"
"""TCB status of platforms whose vendor gives numbers and no rating: a policy sets a minimum itself."""


class Epoch(Protocol):
    """How new a vendor's collateral is."""

    @property
    def earliest_next_update(self) -> str:
        """ISO 8601, UTC: when the first part of it goes stale."""
        ...

    @property
    def stale_from(self) -> datetime:
        """The same as a time."""
        ...

    def to_json(self) -> Json:
        """The epoch as JSON, for receipts."""
        ...


@dataclass(frozen=True, slots=True)
class Claims:
    """What genuine evidence says.  Measurements and ids in lower-case hex.

    ``measurement`` is MRENCLAVE, MRTD or SNP's MEASUREMENT; ``signer`` is MRSIGNER, MRSIGNERSEAM or SNP's ID_KEY_DIGEST; ``registers``
    are a TD's run-time measurements, or a TPM's PCRs (``measurement`` then is a digest over them).
    ``tcb`` holds the security version numbers of an SNP platform by component; of an Intel platform the vendor's own rating of them is in
    ``tcb_status``, which is ``Unrated`` for AMD, and the date of the oldest level that a part of the platform reaches in ``tcb_date``
    (ISO 8601, UTC; empty without a rating).
    ``platform`` is the FMSPC or AMD's product name; ``vendor`` has the vendor's other values under the vendor's names.
    ``evidence_digest`` is SHA-384 over the part that the quote's signature covers, which names one quote whatever surrounds it.
    """

    tee: Tee
    simulated: bool
    measurement: str
    signer: str
    registers: dict[str, str]
    report_data: ReportData
    debug: bool
    tcb_status: str
    advisory_ids: tuple[str, ...]
    tcb_eval: int
    tcb: dict[str, int]
    platform: str
    epoch: Epoch
    evidence_digest: str
    vendor: Json
    tcb_date: str = ""

    def to_json(self) -> Json:
        """The claims as JSON, for display and receipts."""
        return {
            "tee": self.tee.value,
            "simulated": self.simulated,
            "measurement": self.measurement,
            "signer": self.signer,
            "registers": dict(self.registers),
            "report_data": self.report_data.hex(),
            "debug": self.debug,
            "tcb_status": self.tcb_status,
            "advisory_ids": list(self.advisory_ids),
            "tcb_eval": self.tcb_eval,
            "tcb": dict(self.tcb),
            "platform": self.platform,
            "epoch": self.epoch.to_json(),
            "evidence_digest": self.evidence_digest,
            "vendor": dict(self.vendor),
            "tcb_date": self.tcb_date,
        }

"""Certificates of the keys that vouch for evidence which came without them: fetched from the vendor's service and remembered.

An Intel quote with certification data of type 2 or 3 names its PCK certificate (:mod:`confide.attest.pck_id`), and an SEV-SNP report its
chip and TCB.  Nothing is believed here: a certificate is remembered once evidence was found genuine with it, which ``verify`` says.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from confide.attest.pck_id import PckId
from confide.attest.snp_report import Report
from confide.errors import ParseError
from confide.ids import Tee

if TYPE_CHECKING:
    from collections.abc import Callable

    from confide.attest.evidence import Evidence

REMEMBER: Final = timedelta(days=1)
"""How long a certificate serves without being asked for again.  Whether it is valid and not revoked is checked each time it is used."""
_MAX_KNOWN: Final = 1000
_AT_ONCE: Final = 8
"""How many requests are under way at most: whoever may send evidence can make one, before anything of it is known to be genuine."""
_Name = tuple[str | bytes | int | None, ...]


class PckSource(Protocol):
    """Where PCK certificates are asked for."""

    def pck_chain(self, wanted: PckId) -> bytes:
        """PCK leaf, CA and root (PEM).  Raises ``CollateralError``."""
        ...


class ChipKeySource(Protocol):
    """Where certificates of AMD's chips are asked for."""

    def endorsement(self, report: Report) -> bytes:
        """The VCEK's certificate (DER).  Raises ``CollateralError``."""
        ...


class Endorsements:
    """What evidence lacks, fetched.  Safe to use from several threads."""

    def __init__(self, intel: PckSource, amd: ChipKeySource | None = None, *, clock: Callable[[], datetime] | None = None) -> None:
        """``amd``: None leaves reports as they are."""
        self._intel, self._amd = intel, amd
        self._clock = clock or _utc_now
        self._known: dict[_Name, tuple[bytes, datetime]] = {}
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(_AT_ONCE)

    def complete(self, evidence: Evidence) -> Evidence:
        """``evidence`` with the certificates that it names and came without; as it is if it has them, or is not to be read.

        Raises:
            CollateralError: the service does not answer, or knows none.
        """
        wanted = self._wanted(evidence)
        if wanted is None:
            return evidence
        with self._lock:
            kept = self._known.get(_name(wanted))
        if kept is not None and self._clock() < kept[1]:
            return replace(evidence, chain=kept[0])
        with self._room:
            return replace(evidence, chain=self._fetch(wanted))

    def keep(self, bare: Evidence, complete: Evidence) -> None:
        """Remember what ``bare`` was completed with: it was found genuine with it."""
        wanted = self._wanted(bare)
        if wanted is None or not complete.chain:
            return
        name, now = _name(wanted), self._clock()
        with self._lock:
            kept = self._known.pop(name, None)
            if len(self._known) >= _MAX_KNOWN:
                del self._known[next(iter(self._known))]
            # One that serves is not prolonged by being used; one that does not serve any more was asked for anew.
            self._known[name] = kept if kept is not None and now < kept[1] else (complete.chain, now + REMEMBER)

    def forget(self, bare: Evidence) -> None:
        """Ask anew next time: ``bare`` was not genuine with what is remembered."""
        wanted = self._wanted(bare)
        if wanted is not None:
            with self._lock:
                self._known.pop(_name(wanted), None)

    def _wanted(self, evidence: Evidence) -> PckId | Report | None:
        if evidence.chain or evidence.tee is Tee.TPM:
            return None
        try:
            if evidence.tee is not Tee.SNP:
                return PckId.of(evidence.quote)
            report = Report.parse(evidence.quote) if self._amd is not None else None
        except ParseError:
            return None  # the verifier says why
        # Only a VCEK is to be had, and only of a chip that says which it is; the verifier refuses the rest in words.
        return report if report is not None and report.signing_key == "vcek" and any(report.chip_id) else None

    def _fetch(self, wanted: PckId | Report) -> bytes:
        if isinstance(wanted, PckId):
            return self._intel.pck_chain(wanted)
        return b"" if self._amd is None else self._amd.endorsement(wanted)


def _name(wanted: PckId | Report) -> _Name:
    if isinstance(wanted, PckId):
        return "pck", wanted.encrypted_ppid, wanted.cpu_svn, wanted.pce_svn, wanted.pce_id, wanted.qe_id
    return "vcek", wanted.chip_id, wanted.reported_tcb, wanted.family, wanted.model


def _utc_now() -> datetime:
    return datetime.now(UTC)

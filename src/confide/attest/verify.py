"""Is evidence genuine?  One function for every kind of TEE, real and simulated; what it is *worth* is decided in ``policy``.

Intel's quotes are verified in ``intel``, AMD's reports in ``snp``, a TPM's quotes in ``tpm``.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, Any

from confide.attest.intel import IntelVerifier
from confide.attest.snp import SnpVerifier
from confide.attest.tpm import TpmCollateral, verify_tpm
from confide.errors import EvidenceInvalidError
from confide.ids import Tee

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from confide.attest.amd_collateral import AmdCollateral
    from confide.attest.claims import Claims
    from confide.attest.collateral import Collateral
    from confide.attest.collateral_sources import CollateralSource
    from confide.attest.endorsements import Endorsements
    from confide.attest.evidence import Evidence
    from confide.attest.roots import TrustRoots
    from confide.attest.tpm_trust import TpmTrust

_TOKEN = object()


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """Evidence that was genuine at ``verified_at``.  Only :meth:`Verifier.verify` can make one."""

    claims: Claims
    evidence: Evidence
    collateral: Collateral | AmdCollateral | TpmCollateral
    verified_at: datetime
    token: InitVar[object] = None

    def __post_init__(self, token: object) -> None:
        if token is not _TOKEN:
            raise TypeError("VerifiedEvidence is made by Verifier.verify only")

    def __reduce__(self) -> Any:
        raise TypeError("VerifiedEvidence does not travel: send the evidence and verify it there")


class Verifier:
    """Says whether evidence is genuine under given roots, with collateral from a given source.  Safe to use from several threads.

    ``endorsements``: where certificates of keys are had for evidence that came without; None: such evidence is refused.  ``tpm`` is asked
    for the trust in TPMs each time, so that a key which is revoked while a verifier serves is refused from then on; by default it is the
    roots'.
    """

    def __init__(
        self,
        roots: TrustRoots,
        collateral: CollateralSource,
        endorsements: Endorsements | None = None,
        *,
        tpm: Callable[[], TpmTrust] | None = None,
    ) -> None:
        self._roots = roots
        self._endorsements = endorsements
        self._tpm = tpm
        self._snp = SnpVerifier(roots.amd, collateral)
        self._intel = IntelVerifier(roots, collateral)

    def with_collateral(self, collateral: CollateralSource) -> Verifier:
        """A verifier with the same roots and other collateral, such as what was kept with old evidence.  It fetches nothing."""
        return Verifier(self._roots, collateral, tpm=self._tpm)

    def complete(self, evidence: Evidence) -> Evidence:
        """``evidence`` with the certificates of the key that vouches for it, fetched if it came without: what has to be kept with it.

        Raises:
            CollateralError: they are not to be had.
        """
        return evidence if self._endorsements is None else self._endorsements.complete(evidence)

    def verify(self, evidence: Evidence, now: datetime) -> VerifiedEvidence:
        """Check that ``evidence`` is genuine as of ``now``.  What is returned holds it as :meth:`complete` makes it.

        Does *not* check whose code it is, how good its TCB is, or which session it belongs to: ``policy.appraise`` does.

        Raises:
            EvidenceInvalidError: it is not genuine.
            CollateralError: collateral is missing, stale, or not signed by whom it must be.
        """
        whole = self.complete(evidence)
        try:
            verified = self._verify(whole, now)
        except EvidenceInvalidError:
            if self._endorsements is not None:
                self._endorsements.forget(evidence)
            raise
        if self._endorsements is not None:
            self._endorsements.keep(evidence, whole)
        return verified

    def _verify(self, evidence: Evidence, now: datetime) -> VerifiedEvidence:
        if evidence.tee is Tee.SNP:
            claims, amd = self._snp.verify(evidence, now)
            return VerifiedEvidence(claims, evidence, amd, now, token=_TOKEN)
        if evidence.tee is Tee.TPM:
            claims, tpm = verify_tpm(evidence, self._tpm() if self._tpm is not None else self._roots.tpm, now)
            return VerifiedEvidence(claims, evidence, tpm, now, token=_TOKEN)
        claims, collateral = self._intel.verify(evidence, now)
        return VerifiedEvidence(claims, evidence, collateral, now, token=_TOKEN)

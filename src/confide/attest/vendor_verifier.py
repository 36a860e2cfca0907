"""The verifier that believes the vendors alone, with collateral kept in a folder and asked for at their services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confide.attest.collateral_service import CollateralService
from confide.attest.collateral_sources import CollateralStore
from confide.attest.endorsements import Endorsements
from confide.attest.roots import TrustRoots
from confide.attest.vendor_services import open_services
from confide.attest.verify import Verifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from confide.attest.tpm_trust import TpmTrust


def vendor_verifier(
    collateral: Path, *, intel: str = "", amd: str = "", ca_file: Path | None = None, tpm: Callable[[], TpmTrust] | None = None
) -> Verifier:
    """A verifier of real evidence.  ``intel`` and ``amd``: addresses of services, empty for the vendors' own.

    ``ca_file``: certificate authorities of those services besides the system's; ``tpm``: what is trusted in TPMs.

    Raises:
        UsageError: an address is none.
    """
    services = open_services(intel, amd, ca_file)
    source = CollateralService(CollateralStore(collateral), TrustRoots(), intel=services[0], amd=services[1])
    return Verifier(TrustRoots(), source, Endorsements(*services), tpm=tpm)

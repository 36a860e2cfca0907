"""The AR4SI trustworthiness vector of an attestation result (draft-ietf-rats-ar4si, section 2.3.4).

What Confide did not look at is 0, "no assertion".  The table is in ``docs/formats/ear.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from confide.attest.claims import UNRATED
from confide.ids import Tee

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confide.attest.claims import Claims

CLAIMS: Final = (
    "instance-identity", "configuration", "executables", "file-system", "hardware", "runtime-opaque", "storage-opaque", "sourced-data",
)  # fmt: skip
_TIERS: Final = ("none", "affirming", "warning", "contraindicated")


def vector_of(claims: Claims) -> dict[str, int]:
    """The eight trustworthiness claims about evidence that a policy has accepted."""
    open_memory = claims.simulated or claims.debug or claims.tee is Tee.TPM
    return {
        **dict.fromkeys(CLAIMS, 0),
        "configuration": _configuration(claims),
        # 3: approved executables were loaded at boot.  What the host can change later, nobody can vouch for.
        "executables": 0 if open_memory else 3,
        "hardware": _hardware(claims),
        "runtime-opaque": 96 if open_memory else 2,
    }


def tier_of(value: int) -> str:
    """The tier of one value (section 2.3.2)."""
    if value in {-1, 0, 1}:
        return "none"
    size = max(value, -value - 1)
    return "affirming" if size < 32 else "warning" if size < 96 else "contraindicated"


def status_of(vector: Mapping[str, int]) -> str:
    """The worst tier in a vector; claims that say nothing do not count."""
    return max((tier_of(value) for value in vector.values()), key=_TIERS.index, default="none")


def _hardware(claims: Claims) -> int:
    if claims.simulated:
        return 97
    return 2 if claims.tcb_status in {"UpToDate", UNRATED} and not claims.advisory_ids else 32


def _configuration(claims: Claims) -> int:
    if claims.debug:
        return 96
    vendor = claims.vendor
    weak = "Configuration" in claims.tcb_status
    if claims.tee is Tee.TDX:
        movable = any(vendor.get(name) is not False for name in ("migratable", "service_td"))
        weak = weak or movable or vendor.get("sept_ve_disable") is not True
    if claims.tee is Tee.SNP:
        weak = weak or vendor.get("migration_agent") is not False
    return 32 if weak else 2

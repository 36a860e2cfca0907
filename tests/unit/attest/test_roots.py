"""The vendors' roots are those that are pinned, and a simulated one is never taken for them."""

from __future__ import annotations

import pytest

from confide.attest.roots import AMD_ROOTS, INTEL_SGX_ROOT, INTEL_SGX_ROOT_SHA256, TrustRoots
from confide.canonical import sha256_hex
from confide.errors import UsageError


def test_pinned_root_is_intels() -> None:
    assert sha256_hex(INTEL_SGX_ROOT) == INTEL_SGX_ROOT_SHA256


@pytest.mark.parametrize("simulated", [b"", INTEL_SGX_ROOT])
def test_simulated_root_must_be_its_own(simulated: bytes) -> None:
    with pytest.raises(UsageError):
        TrustRoots(simulated=simulated)


def test_intels_root_is_never_none() -> None:
    with pytest.raises(UsageError):
        TrustRoots(intel=b"")
    assert TrustRoots().intel == INTEL_SGX_ROOT


def test_roots_are_not_shown() -> None:
    shown = repr(TrustRoots(simulated=b"own"))
    for hidden in ("intel", "amd", "simulated", "own", next(iter(AMD_ROOTS))):
        assert hidden not in shown

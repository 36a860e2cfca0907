"""Fixtures of attacks on attestation."""

from __future__ import annotations

import pytest
from support.amd import Vendor
from support.attested_session import link_ends, make_world
from support.simulated_evidence import make_evidence_of, make_vendor, make_verifier, make_with_collateral
from support.tpm_world import make_machine, tpm_session

__all__ = [
    "link_ends", "make_evidence_of", "make_machine", "make_vendor", "make_verifier", "make_with_collateral", "make_world", "tpm_session",
]  # fmt: skip


@pytest.fixture(scope="module")
def amd() -> Vendor:
    """A vendor like AMD, whose every key the attacker may hold."""
    return Vendor("Genoa")

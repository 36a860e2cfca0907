"""SEV-SNP: a genuine guest that protects less than was asked for: debug, migration, another privilege level, other software.

The control of each is a policy that has the switch, or names what the guest is.
"""

from __future__ import annotations

from typing import Any

import pytest
from support.amd import Vendor, refusals, verify

WEAK = [
    ({"policy": 0x30000 | 1 << 19}, "debug", {"allow": ["debug"]}),
    ({"policy": 0x30000 | 1 << 18}, "migration-agent", {"allow": ["snp-migration-agent"]}),
    ({"vmpl": 1}, "vmpl", {"vmpls": [1]}),
    ({"measurement": b"\x5b" * 48}, "measurement", {"measurements": {"snp": ["5b" * 48]}}),
]


@pytest.mark.parametrize(("changes", "check", "lenient"), WEAK, ids=[check for _, check, _ in WEAK])
def test_guest_that_protects_less_is_refused_by_policy(amd: Vendor, changes: dict[str, Any], check: str, lenient: dict[str, Any]) -> None:
    verified = verify(amd, amd.evidence(**changes))
    assert refusals(verified) == [check]
    assert refusals(verified, **lenient) == []

"""``benchmarks.aead`` measures what it says; what the figures are is not looked at."""

from __future__ import annotations

import pytest

from benchmarks import aead

pytestmark = [pytest.mark.spark, pytest.mark.timeout(120)]


def test_openssl_python_and_the_jvm_are_measured_in_one_run() -> None:
    rows = aead.measure(rounds=1, openssl_seconds=1)
    assert len({(what, by) for what, by, _ in rows}) == len(rows) == 16
    assert all(rate > 0 for _, _, rate in rows)
    told = {"openssl speed, 1 process", "openssl speed, 2 processes together", "cryptography", "Python", "warm JVM"}
    assert told <= {by for _, by, _ in rows}

"""What is computed from files: how it is written, compared, and how much of a file is read for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from confide.attest.launch.files import read_capped
from confide.attest.launch.values import SgxValues, SnpValues, TdxValues
from confide.errors import AppraisalError, UsageError

SIGNED = SgxValues(bytes(32), b"\1" * 32, 5, 9)


def test_only_what_is_known_is_written() -> None:
    assert SgxValues(bytes(32)).to_json() == {"tee": "sgx", "mrenclave": "00" * 32}
    assert SgxValues(bytes(32), b"", 0, 0).to_json() == {
        "tee": "sgx",
        "mrenclave": "00" * 32,
        "mrsigner": "",
        "isv_prod_id": 0,
        "isv_svn": 0,
    }
    assert TdxValues(None).to_json() == {"tee": "tdx"}
    assert TdxValues(b"\1", (b"\2", b"\3")).to_json() == {"tee": "tdx", "mrtd": "01", "rtmr0": "02", "rtmr1": "03"}
    assert TdxValues(None, (b"\2",)).to_json() == {"tee": "tdx", "rtmr0": "02"}
    assert SnpValues(b"\1").to_json() == {"tee": "snp", "measurement": "01"}


@pytest.mark.parametrize("built", [SIGNED, SgxValues(bytes(32)), SgxValues(bytes(32), isv_prod_id=5), SgxValues(bytes(32), isv_svn=9)])
def test_what_is_known_of_both_is_compared(built: SgxValues) -> None:
    SIGNED.require_same(built)
    built.require_same(SIGNED)


@pytest.mark.parametrize(
    ("built", "name"),
    [
        (SgxValues(b"\1" * 32, b"\1" * 32, 5, 9), "mrenclave"), (SgxValues(b"\1" * 32), "mrenclave"),
        (SgxValues(bytes(32), bytes(32)), "mrsigner"), (SgxValues(bytes(32), isv_prod_id=0), "isv_prod_id"),
        (SgxValues(bytes(32), isv_svn=10), "isv_svn"),
    ],
)  # fmt: skip
def test_what_is_signed_and_not_built_is_refused(built: SgxValues, name: str) -> None:
    with pytest.raises(AppraisalError, match=f"not what these files make: {name}") as refused:
        SIGNED.require_same(built)
    facts = refused.value.facts
    assert (facts["check"], facts["expected"], facts["got"]) == (name, built.to_json()[name], SIGNED.to_json()[name])


def test_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    assert read_capped(tmp_path / "file", 4) == b"1234"
    assert read_capped(tmp_path / "file", 5) == b"1234"
    with pytest.raises(UsageError, match="too large"):
        read_capped(tmp_path / "file", 3)
    with pytest.raises(UsageError, match="cannot read"):
        read_capped(tmp_path / "none", 4)

"""Policies that ask enough, by kind of TEE, as what they add to one for enclaves."""

from __future__ import annotations

from typing import Any

SGX, TDX = "5a" * 32, "5a" * 48
"""Measurements."""
GOOD: dict[str, Any] = {"name": "p", "measurements": {"sgx": [SGX]}, "min_tcb_date": "2029-01-01", "roles": ["worker"]}
TD: dict[str, Any] = {"measurements": {"tdx": [TDX]}, "registers": {"rtmr0": [TDX], "rtmr1": [TDX], "rtmr2": [TDX]}}
LEAST = {"bootloader": 1, "tee": 0, "snp": 2, "microcode": 3}
AMD: dict[str, Any] = {"measurements": {"snp": [TDX]}, "min_tcb_date": None, "min_tcb": {"Genoa": LEAST}}
TPM: dict[str, Any] = {
    "measurements": {"tpm": [SGX]},
    "registers": {"pcr7": [SGX], "pcr16": [SGX]},
    "allow": ["tpm-no-memory-protection"],
}
SIGNER: dict[str, Any] = {"signers": {"sgx": [{"mrsigner": "51" * 32, "isv_prod_id": 7, "min_isv_svn": 3}]}}

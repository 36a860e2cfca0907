"""SGX quotes from Gramine's pseudo-files (Gramine documentation, "Attestation and Secret Provisioning", low-level interfaces)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from confide.attest.device_files import Files, read_file, write_file
from confide.attest.evidence import Evidence, check_report_data
from confide.errors import AttesterError
from confide.ids import ReportData, Tee

GRAMINE_ROOT = Path("/dev/attestation")


class GramineAttester:
    """SGX quotes from Gramine's pseudo-files under ``root``."""

    tee = Tee.SGX
    simulated = False

    def __init__(self, root: Path = GRAMINE_ROOT, files: Files = os) -> None:
        self._root = root
        self._files = files
        self._lock = threading.Lock()
        kind = read_file(root / "attestation_type", files).decode("ascii", "replace").strip("\0\n ")
        if kind != "dcap":
            raise AttesterError("Gramine does not give DCAP quotes here", got=kind[:40], hint='set sgx.remote_attestation = "dcap"')

    def quote(self, report_data: ReportData) -> Evidence:
        """A quote of this enclave over ``report_data``."""
        data = check_report_data(report_data)
        # The pseudo-files are state of the whole enclave: another thread's report data must not get between write and read.  Code that
        # does not take this lock can still do so; then the report data is not the session's, and the verifier refuses the quote.
        with self._lock:
            write_file(self._root / "user_report_data", data, self._files)
            raw = read_file(self._root / "quote", self._files)
        return Evidence.of_device(self.tee, raw)

"""TDX quotes and SEV-SNP reports from Linux (kernel documentation, ABI/testing/configfs-tsm-report; since Linux 6.7)."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from confide.attest.amd_certs import endorsement_in_table
from confide.attest.device_files import Files, read_file, read_when_free, write_file
from confide.attest.evidence import Evidence, check_report_data
from confide.attest.snp_report import Report
from confide.errors import AttesterError, ParseError
from confide.ids import ReportData, Tee

CONFIGFS_ROOT = Path("/sys/kernel/config/tsm/report")
_PROVIDERS: Final = {"tdx_guest": Tee.TDX, "sev_guest": Tee.SNP}
"""Kernel drivers whose reports can be verified here."""
_BUSY: Final = frozenset({errno.EBUSY, errno.EAGAIN, errno.EINTR})
"""What the kernel answers while another guest's or process's request is under way (``EAGAIN`` is ``EWOULDBLOCK``)."""


class ConfigfsAttester:
    """TDX quotes and SEV-SNP reports from the kernel's report interface under ``root``.

    A report comes with the certificate of the chip's key if the host hands it to its guests.
    """

    simulated = False

    def __init__(self, root: Path = CONFIGFS_ROOT, files: Files = os) -> None:
        self._root = root
        self._files = files
        with self._entry() as entry:
            self._tee = self._provider(entry)

    @property
    def tee(self) -> Tee:
        """What the kernel's driver gives reports of."""
        return self._tee

    def quote(self, report_data: ReportData) -> Evidence:
        """Evidence of this machine over ``report_data``, through a report entry of its own."""
        data = check_report_data(report_data)
        with self._entry() as entry:
            if self._provider(entry) is not self._tee:
                raise AttesterError("the kernel's driver for reports was exchanged")
            before = self._generation(entry)
            # The kernel takes a binary attribute when it is closed, and its answer goes nowhere: only the generation tells of a refusal.
            write_file(entry / "inblob", data, self._files)
            raw = read_when_free(entry / "outblob", self._files, busy=_BUSY)
            certificates = self._certificates(entry) if self._tee is Tee.SNP else b""
            self._check_written_once(entry, before)
        return _snp_evidence(raw, certificates) if self._tee is Tee.SNP else Evidence.of_device(self._tee, raw)

    def _certificates(self, entry: Path) -> bytes:
        """The host's certificate table; kernels that get none from it may leave the attribute out."""
        try:
            return read_when_free(entry / "auxblob", self._files, busy=_BUSY)
        except AttesterError as error:
            if error.facts.get("errno") == errno.ENOENT:
                return b""
            raise

    def _check_written_once(self, entry: Path, before: int) -> None:
        # Every write to the entry counts the generation up by one: more than one means somebody else wrote to it.
        writes = self._generation(entry) - before
        if writes == 0:
            raise AttesterError("the kernel did not take the report data")
        if writes != 1:
            raise AttesterError("another process wrote to this node's report entry", writes=writes)

    @contextmanager
    def _entry(self) -> Iterator[Path]:
        entry = self._root / f"confide-{secrets.token_hex(8)}"
        try:
            self._files.mkdir(entry)
        except OSError as cause:
            raise AttesterError(f"cannot make a report entry: {cause.strerror}", path=str(entry), errno=cause.errno or 0) from cause
        try:
            yield entry
        finally:
            # In configfs removing the entry removes its attributes; whether it works changes nothing about the quote.
            with suppress(OSError):
                self._files.rmdir(entry)

    def _provider(self, entry: Path) -> Tee:
        provider = read_file(entry / "provider", self._files).decode("ascii", "replace").strip()
        if provider not in _PROVIDERS:
            raise AttesterError("reports of this TEE cannot be verified yet", got=provider[:40])
        return _PROVIDERS[provider]

    def _generation(self, entry: Path) -> int:
        text = read_file(entry / "generation", self._files).decode("ascii", "replace").strip()
        if not text.isdecimal():
            raise AttesterError("the report entry has no generation", path=str(entry))
        return int(text)


def _snp_evidence(raw: bytes, certificates: bytes) -> Evidence:
    try:
        return Evidence(Tee.SNP, raw, endorsement_in_table(certificates, Report.parse(raw).signing_key))
    except ParseError as cause:
        raise AttesterError(f"the TEE gave something that is not a report: {cause.message}") from cause

"""Gets evidence from the TEE that this process runs in.  Knows nothing of what evidence is good for.

Interfaces: Gramine's ``/dev/attestation`` pseudo-files (Gramine documentation, "Attestation and Secret Provisioning") and Linux'
``configfs-tsm`` reports (kernel documentation, ABI/testing/configfs-tsm-report).
"""

from __future__ import annotations

import errno
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from confide.attest.amd_certs import endorsement_in_table
from confide.attest.evidence import Evidence
from confide.attest.snp_report import Report
from confide.errors import AttesterError, ParseError
from confide.ids import ReportData, Tee

GRAMINE_ROOT = Path("/dev/attestation")
CONFIGFS_ROOT = Path("/sys/kernel/config/tsm/report")
_PROVIDERS = {"tdx_guest": Tee.TDX, "sev_guest": Tee.SNP}
"""Kernel drivers whose reports can be verified here."""
_BUSY = {errno.EBUSY, errno.EAGAIN, errno.EINTR}
"""What the kernel answers while another guest's or process's request is under way."""
_TRIES = 20
_TRY_EVERY_S = 0.05


class Attester(Protocol):
    """Makes evidence over report data."""

    @property
    def tee(self) -> Tee:
        """The kind of TEE that the evidence is of."""
        ...

    @property
    def simulated(self) -> bool:
        """Whether the evidence protects nothing."""
        ...

    def quote(self, report_data: ReportData) -> Evidence:
        """Fresh evidence over exactly these 64 bytes.  Raises ``AttesterError`` if there is none to be had."""
        ...


class GramineAttester:
    """SGX quotes from Gramine's pseudo-files under ``root``."""

    tee = Tee.SGX
    simulated = False

    def __init__(self, root: Path = GRAMINE_ROOT) -> None:
        self._root = root
        self._lock = threading.Lock()
        kind = _read(root / "attestation_type").decode("ascii", "replace").strip("\0\n ")
        if kind != "dcap":
            raise AttesterError("Gramine does not give DCAP quotes here", got=kind[:40], hint='set sgx.remote_attestation = "dcap"')

    def quote(self, report_data: ReportData) -> Evidence:
        """A quote of this enclave over ``report_data``."""
        # The pseudo-files are shared state: a second thread's report data must not get between write and read.
        with self._lock:
            _write(self._root / "user_report_data", _checked(report_data))
            raw = _read(self._root / "quote")
        return _evidence(self.tee, raw)


class ConfigfsAttester:
    """TDX quotes and SEV-SNP reports from the kernel's report interface under ``root``.

    A report comes with the certificate of the chip's key if the host hands it to its guests.
    """

    simulated = False

    def __init__(self, root: Path = CONFIGFS_ROOT) -> None:
        self._root = root
        if not root.is_dir():
            raise AttesterError("the kernel offers no TEE reports here", path=str(root))
        with self._entry() as entry:
            self._tee = _provider(entry)

    @property
    def tee(self) -> Tee:
        """What the kernel's driver gives reports of."""
        return self._tee

    def quote(self, report_data: ReportData) -> Evidence:
        """Evidence of this machine over ``report_data``, through a report entry of its own."""
        data = _checked(report_data)
        with self._entry() as entry:
            if _provider(entry) is not self._tee:
                raise AttesterError("the kernel's driver for reports was exchanged")
            before = _generation(entry)
            _write(entry / "inblob", data)
            raw = _read_when_free(entry / "outblob")
            certificates = _read_when_free(entry / "auxblob") if self._tee is Tee.SNP and (entry / "auxblob").exists() else b""
            # Every write to the entry counts the generation up by one: more than one means somebody else wrote to it.
            if _generation(entry) != before + 1:
                raise AttesterError("another process wrote to this node's report entry")
        return _snp_evidence(raw, certificates) if self._tee is Tee.SNP else _evidence(self._tee, raw)

    @contextmanager
    def _entry(self) -> Iterator[Path]:
        entry = self._root / f"confide-{secrets.token_hex(8)}"
        try:
            entry.mkdir()
        except OSError as cause:
            raise AttesterError(f"cannot make a report entry: {cause.strerror}", path=str(entry)) from cause
        try:
            yield entry
        finally:
            # In configfs removing the entry removes its attributes; whether it works changes nothing about the quote.
            _remove(entry)


def find_attester(*, gramine: Path = GRAMINE_ROOT, configfs: Path = CONFIGFS_ROOT) -> Attester:
    """The attester of the TEE that this process runs in.  Never a simulated one.

    Raises:
        AttesterError: this process runs in no TEE that is known here.
    """
    if gramine.is_dir():
        return GramineAttester(gramine)
    if configfs.is_dir():
        return ConfigfsAttester(configfs)
    raise AttesterError("this process does not run in a TEE")


def _checked(report_data: ReportData) -> bytes:
    if len(report_data) != 64:
        raise AttesterError("report data must be 64 bytes", got=len(report_data))
    return bytes(report_data)


def _evidence(tee: Tee, raw: bytes) -> Evidence:
    try:
        return Evidence.from_device(tee, raw)
    except ParseError as cause:
        raise AttesterError(f"the TEE gave something that is not a quote: {cause.message}") from cause


def _snp_evidence(raw: bytes, certificates: bytes) -> Evidence:
    try:
        return Evidence(Tee.SNP, raw, endorsement_in_table(certificates, Report.parse(raw).signing_key))
    except ParseError as cause:
        raise AttesterError(f"the TEE gave something that is not a report: {cause.message}") from cause


def _provider(entry: Path) -> Tee:
    provider = _read(entry / "provider").decode("ascii", "replace").strip()
    if provider not in _PROVIDERS:
        raise AttesterError("reports of this TEE cannot be verified yet", got=provider[:40])
    return _PROVIDERS[provider]


def _read_when_free(path: Path) -> bytes:
    """Read a report, which is made now: the firmware serves one request at a time."""
    for _ in range(_TRIES):
        try:
            return path.read_bytes()
        except OSError as cause:
            if cause.errno not in _BUSY:
                raise AttesterError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause
            time.sleep(_TRY_EVERY_S)
    raise AttesterError("the TEE's firmware stayed busy", path=str(path), seconds=_TRIES * _TRY_EVERY_S)


def _generation(entry: Path) -> int:
    text = _read(entry / "generation").decode("ascii", "replace").strip()
    if not text.isdecimal():
        raise AttesterError("the report entry has no generation", path=str(entry))
    return int(text)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as cause:
        raise AttesterError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause


def _write(path: Path, data: bytes) -> None:
    try:
        with path.open("wb", buffering=0) as file:
            file.write(data)
    except OSError as cause:
        raise AttesterError(f"cannot write {path}: {cause.strerror}", path=str(path)) from cause


def _remove(entry: Path) -> None:
    try:
        entry.rmdir()
    except OSError:
        return

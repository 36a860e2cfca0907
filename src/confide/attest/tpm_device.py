"""Quotes from this machine's TPM."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from confide.attest.device_files import read_file
from confide.attest.event_log import OF_TPM, EventLog
from confide.attest.evidence import MAX_TPM_EVIDENCE_BYTES, Evidence, check_report_data
from confide.attest.tpm_format import PCR_COUNT, Attest, Public, TpmEvidence, qualifying_data
from confide.attest.tpm_tools import QUOTE_TIMEOUT_S, TpmTools
from confide.errors import AttesterError, ConfigError, ParseError
from confide.ids import ReportData, Tee

if TYPE_CHECKING:
    from confide.config import Settings

TPM_DEVICE = Path("/dev/tpmrm0")
EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
NO_LOG: Final = "none"
"""What the setting ``tpm_log`` says when quotes are to travel without the log."""
_WITHOUT_LOG: Final = 'set tpm_log = "none", and pin the PCRs by value'
_TRIES: Final = 3
"""A PCR may be extended between reading it and quoting it."""


class TpmAttester:
    """Quotes over ``pcrs`` of the SHA-256 bank by the attestation key ``key`` (a persistent handle, or a file of tpm2-tools).

    ``chain``: the key's certificate and its issuers up to the root, PEM; empty for a key that is enrolled by name.  ``log`` is sent along
    unless it is None.  ``tcti`` says where the TPM is, in the words of tpm2-tools.  A TPM is no TEE: a node takes it only if its owner
    configured it (:func:`configured`).
    """

    tee = Tee.TPM
    simulated = False

    def __init__(
        self, key: str, chain: bytes, pcrs: Iterable[int], *, log: Path | None = EVENT_LOG, tcti: str = f"device:{TPM_DEVICE}"
    ) -> None:
        self._key, self._chain, self._log = key, chain, log
        self._tools = TpmTools(tcti, timeout_s=QUOTE_TIMEOUT_S)
        self._pcrs = tuple(sorted(set(pcrs)))
        if not self._pcrs or not 0 <= self._pcrs[0] <= self._pcrs[-1] < PCR_COUNT:
            raise AttesterError("name the PCRs to quote, from 0 to 23", hint="a policy for a TPM pins them one by one")

    def quote(self, report_data: ReportData) -> Evidence:
        """A quote of this machine's TPM over ``report_data``."""
        data = check_report_data(report_data)
        log = self._read_log()
        for _ in range(_TRIES):
            try:
                found = self._once(data, log)
                quoted = Attest.parse(found.attest).pcr_digest
            except ParseError as cause:
                raise AttesterError(f"the TPM gave something that is not a quote: {cause.message}") from cause
            if quoted == hashlib.sha256(b"".join(found.pcrs)).digest():
                return _evidence(found, self._chain)
        raise AttesterError("the TPM's PCRs kept changing while they were quoted", tries=_TRIES)

    def _read_log(self) -> bytes:
        """The log, if every verifier would take it beside these PCRs: it is told here what is wrong, where it can be changed."""
        log = read_file(self._log) if self._log is not None else b""
        try:
            extended = EventLog.parse(log, OF_TPM).pcrs() if log else {}
        except ParseError as cause:
            raise AttesterError(f"the TPM's event log is none that verifiers take: {cause.message}", hint=_WITHOUT_LOG) from cause
        if missing := sorted(extended.keys() - set(self._pcrs)):
            named = ", ".join(map(str, missing))
            raise AttesterError(
                "the TPM's event log has events of PCRs that are not quoted", pcrs=named, hint=f"quote them too, or {_WITHOUT_LOG}"
            )
        return log

    def _once(self, data: bytes, log: bytes) -> TpmEvidence:
        selection = "sha256:" + ",".join(map(str, self._pcrs))
        public = self._tools.public(self._key)
        with tempfile.TemporaryDirectory(prefix="confide-tpm-") as name:
            quote, signature, values = (Path(name) / part for part in ("quote", "signature", "pcrs"))
            self._tools.run("tpm2_pcrread", selection, "-o", str(values))
            said = qualifying_data(data).hex()
            scheme = ("--scheme", Public.parse(public).scheme)
            self._tools.run("tpm2_quote", "-c", self._key, *scheme, "-l", selection, "-q", said, "-m", str(quote), "-s", str(signature))
            read = values.read_bytes()
            pcrs = tuple(read[at : at + 32] for at in range(0, len(read), 32))
            return TpmEvidence(data, quote.read_bytes(), signature.read_bytes(), public, pcrs, log)


def configured(settings: Settings) -> TpmAttester | None:
    """The attester that the settings ``tpm_…`` describe; None if they name no key.

    Raises:
        ConfigError: they name PCRs that there are not, or a chain that cannot be read.
    """
    if not settings.tpm_key:
        return None
    numbers = [number.strip() for number in settings.tpm_pcrs.split(",")]
    if not all(number.isdecimal() and len(number) <= 2 for number in numbers):
        raise ConfigError("tpm_pcrs is not a list of PCRs", setting="tpm_pcrs", hint='write "0,2,4,7"')
    log = None if settings.tpm_log == NO_LOG else Path(settings.tpm_log) if settings.tpm_log else EVENT_LOG
    try:
        chain = settings.tpm_chain_file.read_bytes() if settings.tpm_chain_file is not None else b""
    except OSError as cause:
        raise ConfigError(f"cannot read {settings.tpm_chain_file}: {cause.strerror}", setting="tpm_chain_file") from cause
    return TpmAttester(settings.tpm_key, chain, map(int, numbers), log=log, tcti=settings.tpm_tcti)


def _evidence(found: TpmEvidence, chain: bytes) -> Evidence:
    raw = found.to_bytes()
    if len(raw) > MAX_TPM_EVIDENCE_BYTES:
        raise AttesterError("the TPM's event log is too large to send", length=len(raw), limit=MAX_TPM_EVIDENCE_BYTES, hint=_WITHOUT_LOG)
    return Evidence(Tee.TPM, raw, chain)

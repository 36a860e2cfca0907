"""Quotes from this machine's TPM, through the programs of tpm2-tools (5.x), which speak to the kernel's resource manager.

Why programs and no library: ``docs/decisions/0010-tpm.md``.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from confide.attest.device_files import read_file
from confide.attest.evidence import MAX_TPM_EVIDENCE_BYTES, Evidence, check_report_data
from confide.attest.tpm_format import PCR_COUNT, Attest, Public, TpmEvidence, qualifying_data
from confide.errors import AttesterError, ParseError
from confide.ids import ReportData, Tee

TPM_DEVICE = Path("/dev/tpmrm0")
EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
_TIMEOUT_S: Final = 30
_TRIES: Final = 3
"""A PCR may be extended between reading it and quoting it."""


class TpmAttester:
    """Quotes over ``pcrs`` of the SHA-256 bank by the attestation key ``key`` (a persistent handle, or a file of tpm2-tools).

    ``chain``: the key's certificate and its issuers up to the root, PEM.  ``log`` is sent along unless it is None.  ``tcti`` says where
    the TPM is, in the words of tpm2-tools.  A TPM is no TEE: ``find_attester`` never takes it.
    """

    tee = Tee.TPM
    simulated = False

    def __init__(
        self, key: str, chain: bytes, pcrs: Iterable[int], *, log: Path | None = EVENT_LOG, tcti: str = f"device:{TPM_DEVICE}"
    ) -> None:
        self._key, self._chain, self._log, self._tcti = key, chain, log, tcti
        self._pcrs = tuple(sorted(set(pcrs)))
        if not self._pcrs or not 0 <= self._pcrs[0] <= self._pcrs[-1] < PCR_COUNT:
            raise AttesterError("name the PCRs to quote, from 0 to 23", hint="a policy for a TPM pins them one by one")

    def quote(self, report_data: ReportData) -> Evidence:
        """A quote of this machine's TPM over ``report_data``."""
        data = check_report_data(report_data)
        log = read_file(self._log) if self._log is not None else b""
        for _ in range(_TRIES):
            try:
                found = self._once(data, log)
                quoted = Attest.parse(found.attest).pcr_digest
            except ParseError as cause:
                raise AttesterError(f"the TPM gave something that is not a quote: {cause.message}") from cause
            if quoted == hashlib.sha256(b"".join(found.pcrs)).digest():
                return _evidence(found, self._chain)
        raise AttesterError("the TPM's PCRs kept changing while they were quoted", tries=_TRIES)

    def _once(self, data: bytes, log: bytes) -> TpmEvidence:
        selection = "sha256:" + ",".join(map(str, self._pcrs))
        with tempfile.TemporaryDirectory(prefix="confide-tpm-") as name:
            quote, signature, public, values = (Path(name) / part for part in ("quote", "signature", "public", "pcrs"))
            self._run("tpm2_readpublic", "-c", self._key, "-f", "tpmt", "-o", str(public))
            self._run("tpm2_pcrread", selection, "-o", str(values))
            said = qualifying_data(data).hex()
            scheme = ("--scheme", Public.parse(public.read_bytes()).scheme)
            self._run("tpm2_quote", "-c", self._key, *scheme, "-l", selection, "-q", said, "-m", str(quote), "-s", str(signature))
            read = values.read_bytes()
            pcrs = tuple(read[at : at + 32] for at in range(0, len(read), 32))
            return TpmEvidence(data, quote.read_bytes(), signature.read_bytes(), public.read_bytes(), pcrs, log)

    def _run(self, *command: str) -> None:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "TPM2TOOLS_TCTI": self._tcti}
        try:
            subprocess.run(command, env=environment, capture_output=True, check=True, timeout=_TIMEOUT_S)
        except FileNotFoundError as cause:
            raise AttesterError(f"{command[0]} is not installed", hint="install tpm2-tools") from cause
        except subprocess.TimeoutExpired as cause:
            raise AttesterError(f"the TPM did not answer {command[0]}", seconds=_TIMEOUT_S) from cause
        except subprocess.CalledProcessError as cause:
            said = cause.stderr.decode("utf-8", "replace").strip().splitlines()
            raise AttesterError(f"{command[0]} failed: {said[-1][:200] if said else 'it does not say why'}") from cause


def _evidence(found: TpmEvidence, chain: bytes) -> Evidence:
    raw = found.to_bytes()
    if len(raw) > MAX_TPM_EVIDENCE_BYTES:
        raise AttesterError("the TPM's event log is too large to send", length=len(raw), limit=MAX_TPM_EVIDENCE_BYTES, hint="leave the log out")
    return Evidence(Tee.TPM, raw, chain)

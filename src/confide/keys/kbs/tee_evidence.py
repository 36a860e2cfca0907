"""Evidence in the forms in which guests' attesters send it (``primary_evidence``), to and from ours.  Pure; trusts nothing.

========== ============================================================ =======================================================
sgx        ``quote``: base64                                            an enclave's quote
tdx        ``quote``, ``cc_eventlog``, ``aa_eventlog``: base64 or null  a TD's quote; logs are measured by registers, not read
snp        ``attestation_report``: fields; ``cert_chain``: list or null the report, and the certificate of the key that signed it
tpm        ``quote``, ``chain``: base64                                 Confide's container (docs/formats/tpm-evidence.md) and chain
sample     ``svn``, ``report_data``: text                               no evidence of anything
========== ============================================================ =======================================================

Trustee's own TPM form comes without a certificate of its attestation key, so that nothing says whose TPM it was: it is refused, and so
are ``az-snp-vtpm`` and ``az-tdx-vtpm``, whose reports are bound to a virtual TPM that is not verified here.
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass
from typing import Any, Final

from confide.attest.certs import der, parse_chain
from confide.attest.evidence import MAX_EVIDENCE_BYTES, Evidence
from confide.canonical import Json
from confide.errors import BindingError, EvidenceInvalidError, ParseError
from confide.ids import ReportData, Tee
from confide.keys.kbs.messages import GuestTee, from_base64
from confide.keys.kbs.snp_json import json_of_report, report_of_json

_MAX_LOG_BYTES: Final = 1024 * 1024
_MAX_CERTIFICATE: Final = 8192
_MAX_ENTRIES: Final = 16
_LOGS: Final = {"cc_eventlog", "aa_eventlog"}


@dataclass(frozen=True, slots=True)
class SampleEvidence:
    """What the attester ``sample`` says.  Anyone can write it: it proves nothing, and is no :class:`~confide.attest.evidence.Evidence`."""

    svn: str
    report_data: bytes

    def check_bound(self, expected: ReportData) -> None:
        """Check that it names this session's report data (48 bytes, or 64 with zeros behind them), as a real attester's would hold.

        Raises:
            BindingError: it names another.
        """
        if not hmac.compare_digest(self.report_data.ljust(64, b"\0"), expected):
            raise BindingError("the sample evidence is not bound to this session")


def evidence_of_json(tee: GuestTee, data: Json) -> Evidence | SampleEvidence:
    """Read ``primary_evidence`` of a kind of TEE.

    Raises:
        ParseError: it is not of that kind's form.
        EvidenceInvalidError: evidence of that kind is not verified here.
    """
    match tee:
        case GuestTee.SGX:
            return Evidence(Tee.SGX, _quote(data, set()))
        case GuestTee.TDX:
            return Evidence(Tee.TDX, _quote(data, _LOGS))
        case GuestTee.SNP:
            return _snp(data)
        case GuestTee.TPM:
            return _tpm(data)
        case GuestTee.SAMPLE:
            return _sample(data)
    raise unverified_kind(tee)


def unverified_kind(tee: GuestTee) -> EvidenceInvalidError:
    """The error for a kind of TEE that the protocol names and whose evidence is not verified here."""
    return EvidenceInvalidError("evidence of this kind of TEE is not verified here", tee=tee.value)


def json_of_evidence(evidence: Evidence) -> Json:
    """Evidence as an attester of the protocol would send it.

    Raises:
        ParseError: an SEV-SNP report that is none.
    """
    match evidence.tee:
        case Tee.TDX:
            return {"cc_eventlog": None, "aa_eventlog": None, "quote": _text(evidence.quote)}
        case Tee.SNP:
            entries = [{"cert_type": _kind_of(evidence.quote), "data": list(evidence.chain)}] if evidence.chain else None
            return {"attestation_report": json_of_report(evidence.quote), "cert_chain": entries}
        case Tee.TPM:
            return {"quote": _text(evidence.quote), "chain": _text(evidence.chain)}
        case Tee.SGX:
            return {"quote": _text(evidence.quote)}


def _quote(data: Json, logs: set[str]) -> bytes:
    if "quote" not in data or not set(data) <= {"quote", *logs}:
        raise ParseError("evidence of another form than its kind of TEE has")
    for name in logs & set(data):
        if data[name] is not None:
            from_base64(_string(data[name]), _MAX_LOG_BYTES)
    return from_base64(_string(data["quote"]), MAX_EVIDENCE_BYTES)


def _snp(data: Json) -> Evidence:
    if set(data) - {"cert_chain"} != {"attestation_report"}:
        raise ParseError("SEV-SNP evidence has a report and the certificates that the host gave")
    raw = report_of_json(data["attestation_report"])
    entries = data.get("cert_chain")
    if entries is None:
        return Evidence(Tee.SNP, raw)
    if not isinstance(entries, list) or len(entries) > _MAX_ENTRIES:
        raise ParseError("a list of certificates of a host is too long, or none")
    return Evidence(Tee.SNP, raw, _endorsement(entries, _kind_of(raw)))


def _endorsement(entries: list[Any], kind: str) -> bytes:
    """The one certificate of the key that signed the report; the ones above it are the verifier's own."""
    found = []
    for entry in entries:
        match entry:
            case {"cert_type": str() | dict() as name, "data": list(octets)} if set(entry) == {"cert_type", "data"}:
                if len(octets) > _MAX_CERTIFICATE or not all(type(item) is int and 0 <= item < 256 for item in octets):
                    raise ParseError("a certificate of a host is too large, or not bytes")
                found += [bytes(octets)] if name == kind else []
            case _:
                raise ParseError("a certificate of a host has a type and bytes")
    if len(found) > 1:
        raise ParseError("a host gave two certificates for the key that signed a report")
    if not found:
        return b""
    return der(parse_chain(found[0])[0]) if found[0].startswith(b"-----BEGIN") else found[0]


def _kind_of(raw: bytes) -> str:
    """``VCEK`` or ``VLEK``: bits 2 to 4 of the report's flags (AMD 56860, "SIGNING_KEY").  What else it says, the verifier refuses."""
    return "VLEK" if raw[0x48] >> 2 & 7 == 1 else "VCEK"


def _tpm(data: Json) -> Evidence:
    if set(data) != {"quote", "chain"}:
        raise ParseError(
            "a TPM's evidence is Confide's container and the chain of its attestation key",
            hint="without a certificate of that key nothing says whose TPM it was: docs/formats/tpm-evidence.md",
        )
    quote, chain = (from_base64(_string(data[name]), MAX_EVIDENCE_BYTES) for name in ("quote", "chain"))
    return Evidence(Tee.TPM, quote, chain)


def _sample(data: Json) -> SampleEvidence:
    match data:
        case {"svn": str(svn), "report_data": str(text), **rest} if not rest:
            return SampleEvidence(svn[:64], from_base64(text, 64))
    raise ParseError("sample evidence has svn and report_data")


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ParseError("a field of evidence is not text")
    return value


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()

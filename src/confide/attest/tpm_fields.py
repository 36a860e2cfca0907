"""A TPM's evidence field by field, for people: name, offset, value and what it means.  Verifies nothing; the log has its own view."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from confide.attest.event_log import OF_TPM, EventLog
from confide.attest.tpm_format import (
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    MAGIC,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    Attest,
    Public,
    Reader,
    Signature,
    TpmEvidence,
    qualifying_data,
)

Row = tuple[str, int | None, str, str]
_ATTRIBUTES: Final = {
    FIXED_TPM: "fixedTPM", FIXED_PARENT: "fixedParent", SENSITIVE_DATA_ORIGIN: "sensitiveDataOrigin", RESTRICTED: "restricted",
    DECRYPT: "DECRYPT: no attestation key", SIGN: "sign",
}  # fmt: skip
_QUOTE: Final = (
    ("magic", 4, "TPM_GENERATED_VALUE: made by the TPM itself"),
    ("type", 2, "TPM_ST_ATTEST_QUOTE"),
    ("qualifiedSigner", None, "the key's name with its parents'"),
    ("extraData", None, ""),
    ("clock", 8, "milliseconds that the TPM has been on"),
    ("resetCount", 4, "restarts of the machine"),
    ("restartCount", 4, "resumptions since the last restart"),
    ("safe", 1, "whether the clock never was higher"),
    ("firmwareVersion", 8, "as the TPM's vendor numbers it"),
    ("PCR banks", 4, "one"),
    ("PCR bank", 2, "SHA-256"),
)
"""TPMS_ATTEST with TPMS_QUOTE_INFO (Part 2, 10.12.8 and 10.12.1), as far as the selection of PCRs: name, bytes and meaning.

Without a number of bytes, a field stands behind its length, which has two."""


def rows(data: bytes) -> Iterator[Row]:
    """The fields of a container, without those of its log.

    Raises:
        ParseError: it is none.
    """
    found = TpmEvidence.parse(data)
    at = len(MAGIC)
    yield "report data", at, found.report_data.hex(), "what the machine said about itself: a session's binding"
    at += len(found.report_data) + 4
    yield from _quote(found, at)
    at += len(found.attest) + 4
    signature = Signature.parse(found.signature)
    yield "signature", at, found.signature.hex(), f"by the attestation key, over the quote: {signature.scheme} with {signature.hash.name}"
    at += len(found.signature) + 4
    yield from _key(found.public, at)
    at += len(found.public) + 4
    replayed = EventLog.parse(found.log, OF_TPM).pcrs() if found.log else {}
    for number, value in zip(Attest.parse(found.attest).pcrs, found.pcrs, strict=False):
        yield f"PCR{number} quoted", at, value.hex(), _as_logged(replayed.get(number), value)
        at += len(value)
    yield "event log size", at, str(len(found.log)), "" if found.log else "no log came with the quote"


def log_offset(data: bytes) -> int:
    """Where the log begins: it is the last part."""
    return len(data) - len(TpmEvidence.parse(data).log)


def _quote(found: TpmEvidence, start: int) -> Iterator[Row]:
    parsed = Attest.parse(found.attest)
    same = parsed.extra_data == qualifying_data(found.report_data)
    said = {"extraData": "the digest of the report data" if same else "NOT the digest of the report data"}
    reader = Reader(found.attest, "TPM quote")
    for name, size, meaning in _QUOTE:
        at = reader.at + (2 if size is None else 0)
        value = reader.sized() if size is None else reader.take(size)
        yield name, start + at, value.hex(), said.get(name, meaning)
    at = reader.at
    selected = reader.sized(1)
    yield "PCRs selected", start + at + 1, selected.hex(), ", ".join(map(str, parsed.pcrs))
    agrees = parsed.pcr_digest == hashlib.sha256(b"".join(found.pcrs)).digest()
    meaning = "over the values that came with it" if agrees else "NOT over the values that came with it"
    yield "pcrDigest", start + reader.at + 2, parsed.pcr_digest.hex(), meaning


def _key(public: bytes, at: int) -> Iterator[Row]:
    parsed = Public.parse(public)
    words = ", ".join(word for bit, word in _ATTRIBUTES.items() if parsed.attributes & bit)
    missing = "" if parsed.attributes & RESTRICTED else "; NOT RESTRICTED: signs anything"
    yield "attestation key", at, public.hex(), f"{parsed.key.key_size} bit, {parsed.scheme} with {parsed.hash.name}"
    yield "attestation key attributes", at + 4, f"{parsed.attributes:08x}", words + missing
    yield "attestation key name", None, parsed.name.hex(), "as owners enrol and revoke it"


def _as_logged(replayed: bytes | None, quoted: bytes) -> str:
    if replayed is None:
        return "no event in the log"
    return "what the log leads to" if replayed == quoted else "NOT what the log leads to"

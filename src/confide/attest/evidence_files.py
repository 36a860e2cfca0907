"""Evidence as people have it in files: raw, in hex or base64, or as this project's JSON."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from confide.attest.amd_certs import endorsement_in_table
from confide.attest.certs import CA_KINDS, common_name, der
from confide.attest.collateral import Collateral
from confide.attest.collateral_forms import pem_blocks, pem_of
from confide.attest.evidence import MAX_TPM_EVIDENCE_BYTES, Evidence
from confide.attest.pck_id import PckId
from confide.attest.quote import split_quote, without_padding
from confide.attest.snp_report import REPORT_BYTES
from confide.attest.tpm_format import MAGIC
from confide.canonical import parse_object
from confide.errors import ParseError, UsageError
from confide.ids import Tee
from confide.regular_file import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from confide.attest.collateral_sources import AnyCollateral
    from confide.canonical import Json

_HEX = re.compile(rb"(?:0x)?((?:[0-9a-fA-F]{2}\s*)+)")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_=\s-]+")
_MAX_FILE = 4 * MAX_TPM_EVIDENCE_BYTES
"""The largest evidence in hex, with room for line ends.  What is in the file has the cap of its own kind."""
_FLAGS_AT = 0x48
_LEAVES = {"SEV-VCEK", "SEV-VLEK"}


def read_file(path: Path) -> bytes:
    """A file's bytes, out of hex or base64 if it is text of that form.

    Raises:
        UsageError: it cannot be read, or is too large to be evidence.
    """
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as cause:
        raise UsageError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause
    if len(data) > _MAX_FILE:
        raise UsageError("the file is too large to be evidence", path=str(path), limit=_MAX_FILE)
    return _decoded(data)


def load_evidence(path: Path, endorsement: bytes = b"") -> Evidence:
    """Read a quote, a report, a TPM's container, or JSON that holds evidence.

    ``endorsement``: the certificate of a report's key, a PCK chain, or the chain of a TPM's attestation key.

    Raises:
        UsageError: the file cannot be read.
        ParseError: it holds no evidence.
    """
    data = read_file(path)
    if data.lstrip().startswith(b"{"):
        found = parse_object(data)
        if (quote := _quote_in(found)) is None:
            return Evidence.from_json(found.get("evidence", found))
        data = quote
    if len(data) == REPORT_BYTES:
        return Evidence(Tee.SNP, data, _endorsement(endorsement, data[_FLAGS_AT] >> 2 & 7))
    if data.startswith(MAGIC):
        return Evidence(Tee.TPM, data, endorsement)
    raw = without_padding(data)
    return Evidence(split_quote(raw).tee, raw, _pck_chain(endorsement))


def _quote_in(found: Json) -> bytes | None:
    """The quote in another tool's JSON, hex or base64 under ``quote`` at the top or in the kind of TEE.  None if the JSON is ours."""
    inner = [value for name in ("tdx", "sgx") if isinstance(value := found.get(name), dict)]
    quotes = [one["quote"] for one in (found, *inner) if "tee" not in one and isinstance(one.get("quote"), str)]
    if len(quotes) > 1:
        raise ParseError("the JSON holds several quotes", count=len(quotes))
    return _decoded(quotes[0].encode()) if quotes else None


def with_given_chain(evidence: Evidence, sets: Iterable[AnyCollateral]) -> Evidence:
    """An Intel quote that carries no PCK chain, with the one that came with its collateral, if one did."""
    if evidence.tee in {Tee.SNP, Tee.TPM} or evidence.chain or PckId.of(evidence.quote) is None:
        return evidence
    chains = [one.pck_certificate_chain for one in sets if isinstance(one, Collateral) and one.pck_certificate_chain]
    return replace(evidence, chain=chains[0].encode()) if chains else evidence


def _endorsement(data: bytes, signing_key: int) -> bytes:
    """A VCEK's or VLEK's certificate (DER) as hosts and clouds give it: DER, PEM with or without its issuers, a table, or JSON with PEM.

    ``signing_key``: of a table that has both, the report's is taken (AMD publication 56860, ATTESTATION_REPORT, SIGNING_KEY).

    Raises:
        ParseError: it is none of that, or holds no certificate.
    """
    if not data or data.startswith(b"\x30"):
        return data
    if data.lstrip().startswith(b"{"):
        data = str(parse_object(data).get("vcekCert", "")).encode()
    if b"-----BEGIN" in data:
        certificates, _ = pem_blocks(data)
        return der(next((one for one in certificates if common_name(one.subject) in _LEAVES), certificates[0]))
    if found := endorsement_in_table(data, "vlek" if signing_key == 1 else "vcek"):
        return found
    raise ParseError("the endorsement is no certificate, and no table of a host that has the one of the report's key")


def _pck_chain(data: bytes) -> bytes:
    """A PCK chain of a file, leaf first and the root last, without what may be between the certificates."""
    if b"-----BEGIN" not in data:
        return data
    certificates, _ = pem_blocks(data)
    return pem_of(sorted(certificates, key=lambda one: (one.subject == one.issuer, common_name(one.subject) in CA_KINDS))).encode()


def _decoded(data: bytes) -> bytes:
    text = data.strip()
    if found := _HEX.fullmatch(text):
        return bytes.fromhex(found[1].decode())
    if _BASE64.fullmatch(text) and not text.startswith(b"-----"):
        try:
            return base64.b64decode(re.sub(rb"\s", b"", text).translate(bytes.maketrans(b"-_", b"+/")), validate=True)
        except binascii.Error as cause:
            raise ParseError("the file is text, but neither hex nor base64") from cause
    return data

"""Any quote, report, certificate, enclave signature or event log, field by field: name, offset, value and what it means.

Shows what is claimed; verifies nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from confide.attest import amd_certs, certs, tpm_fields
from confide.attest.event_log import OF_TD, OF_TPM, EventLog
from confide.attest.launch.sigstruct import HEADER, SIGSTRUCT_BYTES, Sigstruct
from confide.attest.layouts import QUOTE_HEADER, SGX_BODY, SIGSTRUCT, TD15_BODY, TD_BODY, Field, Layout, as_number, snp_report, walk
from confide.attest.pck_id import PckId
from confide.attest.quote import (
    HEADER_BYTES,
    SGX_BODY_BYTES,
    Parts,
    split_quote,
    without_padding,
)
from confide.attest.ratls import RatlsCertificate
from confide.attest.snp_report import REPORT_BYTES, Report
from confide.attest.tokens.jwt import UnverifiedJwt
from confide.attest.tpm_format import MAGIC
from confide.canonical import canonical
from confide.errors import BindingError, ParseError, TokenInvalidError
from confide.ids import Tee

if TYPE_CHECKING:
    from confide.attest.evidence import Evidence
    from confide.canonical import Json

@dataclass(frozen=True, slots=True)
class Annotated:
    """What the bytes are, and their fields in order."""

    kind: str
    fields: tuple[Field, ...]

    def to_json(self) -> Json:
        """The view as JSON."""
        return {"kind": self.kind, "verified": False, "fields": [field.to_json() for field in self.fields]}


def annotate_evidence(evidence: Evidence) -> Annotated:
    """The same of evidence: its quote or report, and the chain that came with it in PEM.

    Raises:
        ParseError: it is none.
    """
    found = annotate(evidence.quote)
    if not evidence.chain.startswith(b"-----BEGIN"):
        return found
    return Annotated(found.kind, (*found.fields, *_chain(certs.parse_chain(evidence.chain))))


def annotate(data: bytes) -> Annotated:
    """Read a quote (SGX v3, TDX v4 and v5, a TPM's), report, certificates (DER or PEM, RA-TLS too), token, SIGSTRUCT, or event log.

    Raises:
        ParseError: it is none of these.
    """
    if data.startswith(MAGIC):
        return Annotated("TPM 2.0 evidence", tuple(_tpm(data)))
    if data.startswith(b"-----BEGIN CERTIFICATE-----"):
        chain = certs.parse_chain(data)
        return Annotated(f"{len(chain)} certificates, PEM" if len(chain) > 1 else "certificate, PEM", tuple(_chain(chain)))
    if data.startswith(b"eyJ"):
        return Annotated("signed token (JWT)", tuple(_token(data)))
    if data[:2] == b"\x30\x82":
        return _der(data)
    if len(data) == REPORT_BYTES:
        report = Report.parse(data)
        return Annotated(f"AMD SEV-SNP report, version {report.version}", tuple(walk(data, 0, snp_report(report.version))))
    if len(data) == SIGSTRUCT_BYTES and data.startswith(HEADER):
        return Annotated("Intel SGX SIGSTRUCT", tuple(_sigstruct(Sigstruct.parse(data), data)))
    if EventLog.begins(data):
        log = EventLog.parse_any(data)
        return Annotated("event log of a TDX guest" if log.registers is OF_TD else "event log of a TPM", tuple(_events(log)))
    return _quote(without_padding(data))


# --- Intel ------------------------------------------------------------------------------------------------------------

_NAMED: Final = "names its PCK certificate: a PCCS has the chain"
_CERTIFICATION: Final = {2: _NAMED, 3: _NAMED, 5: "PCK leaf, PCK CA and root, PEM"}


def _sigstruct(parsed: Sigstruct, raw: bytes) -> Iterator[Field]:
    yield from walk(raw, 0, SIGSTRUCT)
    yield Field("MRSIGNER", None, parsed.mr_signer.hex(), "who signed, as quotes name it")
    yield Field("debug", None, parsed.debug, "whether it may be started so that it can be read from outside")


def _events(log: EventLog, at: int = 0) -> Iterator[Field]:
    for event in log.events:
        yield Field(log.name_of(event), at + event.offset, event.digest.hex(), event.text)
    values = dict(enumerate(log.rtmrs(), 1)) if log.registers is OF_TD else log.pcrs()
    for number, value in sorted(values.items()):
        yield Field(log.registers.name(number), None, value.hex(), "after all events")


def _tpm(data: bytes) -> Iterator[Field]:
    yield from (Field(*row) for row in tpm_fields.rows(data))
    at = tpm_fields.log_offset(data)
    if data[at:]:
        yield from _events(EventLog.parse(data[at:], OF_TPM), at)


def _quote(raw: bytes) -> Annotated:
    parts = split_quote(raw)
    return Annotated(f"Intel {parts.tee.value.upper()} quote, version {parts.header.version}", tuple(_quote_fields(parts)))


def _quote_fields(parts: Parts) -> Iterator[Field]:
    signed, version = parts.signed_bytes, parts.header.version
    yield from walk(signed, 0, QUOTE_HEADER)
    at = HEADER_BYTES
    if version == 5:
        yield from walk(signed, at, (("body type", 2, as_number), ("body size", 4, as_number)))
        at += 6
    longer = len(signed) - at > sum(size for _, size, _ in TD_BODY)
    td_body = (*TD_BODY, *TD15_BODY) if longer else TD_BODY
    yield from walk(signed, at, SGX_BODY if parts.tee is Tee.SGX else td_body)
    signature, at = parts.whole_signature, len(signed)
    yield Field("signature data size", at, str(len(parts.signature) + len(parts.vouching)), "")
    yield Field("signature", at + 4, parts.signature.hex(), "by the attestation key, over everything before")
    yield Field("attestation key", at + 68, signature.attestation_key.hex(), "made by the quoting enclave")
    at += 132 + (6 if version > 3 else 0)
    for field in walk(signature.qe_report.to_bytes(), 0, SGX_BODY, base=at):
        yield Field(f"QE {field.name}", field.offset, field.value, field.meaning)
    at += SGX_BODY_BYTES
    yield Field("QE report signature", at, signature.qe_report_signature.hex(), "by the platform's PCK")
    yield Field("authentication data", at + 66, signature.auth_data.hex(), "hashed with the attestation key into the QE's REPORTDATA")
    at += 66 + len(signature.auth_data)
    kind = _CERTIFICATION.get(signature.cert_type, "no certificate chain")
    yield Field("certification data type", at, str(signature.cert_type), kind)
    yield Field("certification data size", at + 2, str(len(signature.cert_data)), "")
    if signature.cert_type == 5:
        yield from _chain(certs.parse_chain(signature.cert_data))
    elif signature.cert_type in {2, 3}:
        named = PckId.parse(parts, signature.cert_type, signature.cert_data)
        yield from walk(signature.cert_data, 0, _pck_id(len(named.encrypted_ppid)), base=at + 6)


def _pck_id(ppid: int) -> Layout:
    return (
        ("encrypted PPID", ppid, f"names the chip, in RSA-{8 * ppid} to Intel's provisioning service: a PCCS knows it"),
        ("CPUSVN", 16, "security version that the PCK certificate is for"),
        ("PCESVN", 2, as_number),
        ("PCEID", 2, "provisioning certification enclave; has to be the PCK certificate's"),
    )


# --- certificates -----------------------------------------------------------------------------------------------------


def _chain(chain: Sequence[x509.Certificate]) -> Iterator[Field]:
    for number, certificate in enumerate(chain, 1):
        yield from _certificate(certificate, f"certificate {number} " if len(chain) > 1 else "")


def _certificate(certificate: x509.Certificate, prefix: str) -> Iterator[Field]:
    def field(name: str, value: str, meaning: str = "") -> Field:
        return Field(prefix + name, None, value, meaning)

    yield field("subject", certs.common_name(certificate.subject))
    yield field("issuer", certs.common_name(certificate.issuer))
    yield field("serial number", f"{certificate.serial_number:x}")
    yield field("valid", f"{certificate.not_valid_before_utc.isoformat()} to {certificate.not_valid_after_utc.isoformat()}")
    yield field("key", _key(certificate))
    for parse, rows in ((_pck_rows, "PCK: what it says of its platform"), (_amd_rows, "AMD: what it says of its chip")):
        try:
            found = parse(certificate)
        except ParseError:
            continue
        for name, value in found.items():
            yield field(name, value, rows)


def _key(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}"
    return f"RSA {key.key_size}" if isinstance(key, rsa.RSAPublicKey) else type(key).__name__


def _pck_rows(certificate: x509.Certificate) -> dict[str, str]:
    found = certs.SgxExtension.of(certificate)
    svns = ", ".join(map(str, found.tcb))
    rows = {"FMSPC": found.fmspc.hex(), "PPID": found.ppid.hex(), "PCEID": found.pce_id.hex(), "PCESVN": str(found.pce_svn)}
    return {**rows, "TCB components": svns, "CPUSVN": found.cpu_svn.hex()}


def _amd_rows(certificate: x509.Certificate) -> dict[str, str]:
    found = amd_certs.Endorsement.parse(certs.der(certificate))
    rows = {"product": found.product, "TCB": ", ".join(f"{name} {number}" for name, number in found.tcb.items())}
    return {**rows, "chip id": found.chip_id.hex()} if found.kind == "vcek" else {**rows, "provider": found.csp_id}


# --- tokens and RA-TLS ------------------------------------------------------------------------------------------------

_TOKEN_MEANINGS: Final = {
    "alg": "the signature's algorithm, if the reader allows it",
    "jku": "a place of keys: never followed",
    "x5u": "a place of certificates: never followed",
    "iss": "who claims to have issued it",
    "aud": "whom it is for",
    "eat_nonce": "the reader's nonce",
    "cnf": "key that the bearer has to prove to hold",
    "submods": "one appraisal for each TEE",
}


def _token(data: bytes) -> Iterator[Field]:
    try:
        parsed = UnverifiedJwt.parse(data.decode("ascii").strip())
    except (UnicodeDecodeError, TokenInvalidError) as cause:
        raise ParseError("not a signed token") from cause
    for part, values in (("header", parsed.header), ("claim", parsed.unverified_claims())):
        for name, value in _flat(values, ""):
            yield Field(f"{part} {name}", None, value, _TOKEN_MEANINGS.get(name.partition(".")[0], ""))


def _flat(value: object, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for inner, item in value.items():
            yield from _flat(item, f"{name}.{inner}" if name else str(inner))
    else:
        yield name, value if isinstance(value, str) else canonical(value).decode()


def _der(data: bytes) -> Annotated:
    try:
        found = RatlsCertificate.parse(data)
    except (ParseError, BindingError):
        return Annotated("certificate, DER", tuple(_certificate(amd_certs.load_der(data), "")))
    return Annotated(f"RA-TLS certificate, {found.format} format", tuple(_ratls_fields(found)))


def _ratls_fields(found: RatlsCertificate) -> Iterator[Field]:
    yield from _certificate(found.certificate, "")
    yield Field("report data expected", None, found.report_data.hex(), "binds the quote to the certificate's key, and to no session")
    if found.nonce is not None:
        yield Field("nonce", None, found.nonce.hex(), "in the claims buffer")
    yield from _quote_fields(split_quote(found.evidence.quote))

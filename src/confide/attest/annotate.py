"""Any quote, report, certificate, enclave signature or event log, field by field: name, offset, value and what it means.

Shows what is claimed; verifies nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from confide.attest import amd_certs, certs, tpm_fields
from confide.attest.event_log import OF_TD, OF_TPM, EventLog
from confide.attest.launch.sigstruct import HEADER, SIGSTRUCT_BYTES, Sigstruct
from confide.attest.pck_id import PckId
from confide.attest.quote import (
    HEADER_BYTES,
    SGX_BODY_BYTES,
    SGX_DEBUG,
    TD_DEBUG,
    TD_MIGRATABLE,
    TD_SEPT_VE_DISABLE,
    Parts,
    split_quote,
    without_padding,
)
from confide.attest.ratls import RatlsCertificate
from confide.attest.snp_report import POLICY_DEBUG, POLICY_MIGRATE_MA, REPORT_BYTES, Report
from confide.attest.tokens.jwt import UnverifiedJwt
from confide.attest.tpm_format import MAGIC
from confide.canonical import canonical
from confide.errors import BindingError, ParseError, TokenInvalidError
from confide.ids import Tee

if TYPE_CHECKING:
    from confide.attest.evidence import Evidence
    from confide.canonical import Json

_Meaning = str | Callable[[bytes], str]
_Layout = Sequence[tuple[str, int, _Meaning]]


@dataclass(frozen=True, slots=True)
class Field:
    """One field.  ``offset`` is None inside a certificate, whose fields have no fixed place."""

    name: str
    offset: int | None
    value: str
    meaning: str

    def to_json(self) -> Json:
        """The field as JSON."""
        return {"name": self.name, "offset": self.offset, "value": self.value, "meaning": self.meaning}


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
        return Annotated(f"AMD SEV-SNP report, version {report.version}", tuple(_walk(data, 0, _snp(report.version))))
    if len(data) == SIGSTRUCT_BYTES and data.startswith(HEADER):
        return Annotated("Intel SGX SIGSTRUCT", tuple(_sigstruct(Sigstruct.parse(data), data)))
    if EventLog.begins(data):
        log = EventLog.parse_any(data)
        return Annotated("event log of a TDX guest" if log.registers is OF_TD else "event log of a TPM", tuple(_events(log)))
    return _quote(without_padding(data))


# --- Intel ------------------------------------------------------------------------------------------------------------


def _number(data: bytes) -> str:
    return str(int.from_bytes(data, "little"))


def _flags(*bits: tuple[int, str]) -> Callable[[bytes], str]:
    def say(data: bytes) -> str:
        number = int.from_bytes(data, "little")
        return ", ".join(text for bit, text in bits if number & bit) or "nothing set that matters here"

    return say


_HEADER: Final[_Layout] = (
    ("version", 2, _number),
    ("attestation key type", 2, "2: ECDSA over SHA-256 with P-256"),
    ("TEE type", 4, lambda data: "TDX" if data[0] == 0x81 else "SGX"),
    ("QE SVN", 2, _number),
    ("PCE SVN", 2, _number),
    ("QE vendor", 16, "Intel's, or the quote would not parse"),
    ("user data", 20, "of the quoting enclave; its first 16 bytes tell platforms apart"),
)
_SGX_FLAGS = _flags(
    (1, "initialised"), (SGX_DEBUG, "DEBUG: protects nothing"), (4, "64 bit"), (0x10, "provisioning key"), (0x20, "EINIT token key"),
)  # fmt: skip
_SGX: Final[_Layout] = (
    ("CPUSVN", 16, "security version of processor and microcode"),
    ("MISCSELECT", 4, "what an exception tells the enclave"),
    ("reserved", 28, ""),
    ("ATTRIBUTES", 16, _SGX_FLAGS),
    ("MRENCLAVE", 32, "the measurement: the enclave's code and initial data"),
    ("reserved", 32, ""),
    ("MRSIGNER", 32, "SHA-256 of the key that signed the enclave"),
    ("reserved", 96, ""),
    ("ISVPRODID", 2, _number),
    ("ISVSVN", 2, _number),
    ("reserved", 60, ""),
    ("REPORTDATA", 64, "what the enclave said about itself: a session's binding"),
)
_TD_FLAGS = _flags(
    (TD_DEBUG, "DEBUG: protects nothing"), (TD_SEPT_VE_DISABLE, "SEPT_VE_DISABLE"), (TD_MIGRATABLE, "migratable"), (1 << 30, "PKS"),
    (1 << 31, "key locker"), (1 << 63, "PERFMON"),
)  # fmt: skip
_TD: Final[_Layout] = (
    ("TEE_TCB_SVN", 16, "security versions: TDX module minor, major, microcode"),
    ("MRSEAM", 48, "the TDX module"),
    ("MRSIGNERSEAM", 48, "who signed the TDX module; zeros: Intel"),
    ("SEAMATTRIBUTES", 8, "zeros for a production module"),
    ("TDATTRIBUTES", 8, _TD_FLAGS),
    ("XFAM", 8, "processor features that the TD may use"),
    ("MRTD", 48, "the measurement: the TD's initial memory, its firmware"),
    ("MRCONFIGID", 48, "chosen by who started the TD"),
    ("MROWNER", 48, "chosen by who started the TD"),
    ("MROWNERCONFIG", 48, "chosen by who started the TD"),
    ("RTMR0", 48, "firmware's configuration and devices"),
    ("RTMR1", 48, "boot loader and kernel"),
    ("RTMR2", 48, "kernel's command line and initial file system"),
    ("RTMR3", 48, "left to software"),
    ("REPORTDATA", 64, "what the TD said about itself: a session's binding"),
)
_TD15: Final[_Layout] = (
    ("TEE_TCB_SVN_2", 16, "security versions now; TEE_TCB_SVN has those of the launch"),
    ("MRSERVICETD", 48, "service TD bound to this one; zeros: none"),
)


_SIGSTRUCT: Final[_Layout] = (
    ("HEADER", 16, ""),
    ("VENDOR", 4, lambda data: "Intel" if any(data) else "not Intel"),
    ("DATE", 4, "of the signature, as its signer wrote it"),
    ("HEADER2", 16, ""),
    ("SWDEFINED", 4, ""),
    ("reserved", 84, ""),
    ("MODULUS", 384, "of the signer's key; its SHA-256 is MRSIGNER"),
    ("EXPONENT", 4, _number),
    ("SIGNATURE", 384, "over what is before the modulus, and from MISCSELECT to ISVSVN"),
    ("MISCSELECT", 4, "what an exception tells the enclave"),
    ("MISCMASK", 4, "bits of MISCSELECT that have to be so"),
    ("CET_ATTRIBUTES", 1, ""),
    ("CET_ATTRIBUTES_MASK", 1, ""),
    ("reserved", 2, ""),
    ("ISVFAMILYID", 16, ""),
    ("ATTRIBUTES", 16, _SGX_FLAGS),
    ("ATTRIBUTEMASK", 16, "bits of ATTRIBUTES that have to be so"),
    ("ENCLAVEHASH", 32, "the measurement: MRENCLAVE"),
    ("reserved", 16, ""),
    ("ISVEXTPRODID", 16, ""),
    ("ISVPRODID", 2, _number),
    ("ISVSVN", 2, _number),
    ("reserved", 12, ""),
    ("Q1", 384, "speeds up the check of the signature"),
    ("Q2", 384, "speeds up the check of the signature"),
)


_NAMED: Final = "names its PCK certificate: a PCCS has the chain"
_CERTIFICATION: Final = {2: _NAMED, 3: _NAMED, 5: "PCK leaf, PCK CA and root, PEM"}


def _sigstruct(parsed: Sigstruct, raw: bytes) -> Iterator[Field]:
    yield from _walk(raw, 0, _SIGSTRUCT)
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
    yield from _walk(signed, 0, _HEADER)
    at = HEADER_BYTES
    if version == 5:
        yield from _walk(signed, at, (("body type", 2, _number), ("body size", 4, _number)))
        at += 6
    body = _SGX if parts.tee is Tee.SGX else (*_TD, *_TD15) if len(signed) - at > sum(size for _, size, _ in _TD) else _TD
    yield from _walk(signed, at, body)
    signature, at = parts.whole_signature, len(signed)
    yield Field("signature data size", at, str(len(parts.signature) + len(parts.vouching)), "")
    yield Field("signature", at + 4, parts.signature.hex(), "by the attestation key, over everything before")
    yield Field("attestation key", at + 68, signature.attestation_key.hex(), "made by the quoting enclave")
    at += 132 + (6 if version > 3 else 0)
    for field in _walk(signature.qe_report.to_bytes(), 0, _SGX, base=at):
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
        yield from _walk(signature.cert_data, 0, _pck_id(len(named.encrypted_ppid)), base=at + 6)


def _pck_id(ppid: int) -> _Layout:
    return (
        ("encrypted PPID", ppid, f"names the chip, in RSA-{8 * ppid} to Intel's provisioning service: a PCCS knows it"),
        ("CPUSVN", 16, "security version that the PCK certificate is for"),
        ("PCESVN", 2, _number),
        ("PCEID", 2, "provisioning certification enclave; has to be the PCK certificate's"),
    )


# --- AMD --------------------------------------------------------------------------------------------------------------


def _snp(version: int) -> _Layout:
    policy = _flags(
        (1 << 16, "SMT"), (POLICY_MIGRATE_MA, "migration agent"), (POLICY_DEBUG, "DEBUG: protects nothing"), (1 << 20, "single socket"),
        (1 << 21, "CXL"), (1 << 22, "AES-256-XTS"), (1 << 23, "RAPL off"), (1 << 24, "ciphertext hiding"),
        (1 << 25, "no page swapping"),
    )  # fmt: skip
    platform = _flags(
        (1, "SMT"), (2, "TSME"), (4, "ECC"), (8, "RAPL off"), (16, "ciphertext hiding"), (32, "alias check"), (128, "TIO"),
    )  # fmt: skip
    processor: _Layout = (("CPUID family, model, stepping", 3, ""), ("reserved", 21, "")) if version > 2 else (("reserved", 24, ""),)
    vectors: _Layout = (("LAUNCH_MIT_VECTOR", 8, ""), ("CURRENT_MIT_VECTOR", 8, ""), ("reserved", 152, ""))
    tail: _Layout = vectors if version > 4 else (("reserved", 168, ""),)
    return (
        ("VERSION", 4, _number),
        ("GUEST_SVN", 4, _number),
        ("POLICY", 8, policy),
        ("FAMILY_ID", 16, "chosen by the guest's owner"),
        ("IMAGE_ID", 16, "chosen by the guest's owner"),
        ("VMPL", 4, _number),
        ("SIGNATURE_ALGO", 4, "1: ECDSA P-384 with SHA-384"),
        ("CURRENT_TCB", 8, "firmware now"),
        ("PLATFORM_INFO", 8, platform),
        ("SIGNING_KEY and flags", 4, lambda data: {0: "VCEK", 1: "VLEK", 7: "none"}.get(data[0] >> 2 & 7, "unknown")),
        ("reserved", 4, ""),
        ("REPORT_DATA", 64, "what the guest said about itself: a session's binding"),
        ("MEASUREMENT", 48, "the measurement: the guest's initial memory and state"),
        ("HOST_DATA", 32, "chosen by the host at launch"),
        ("ID_KEY_DIGEST", 48, "key that signed the guest's identity block"),
        ("AUTHOR_KEY_DIGEST", 48, "key that certified the identity key"),
        ("REPORT_ID", 32, "this guest, until it ends"),
        ("REPORT_ID_MA", 32, "its migration agent; all ones: none"),
        ("REPORTED_TCB", 8, "firmware that the signing key is for"),
        *processor,
        ("CHIP_ID", 64, "zeros: masked"),
        ("COMMITTED_TCB", 8, "firmware below which the platform cannot go back"),
        ("CURRENT build, minor, major", 4, ""),
        ("COMMITTED build, minor, major", 4, ""),
        ("LAUNCH_TCB", 8, "firmware when the guest was started"),
        *tail,
        ("SIGNATURE r, s", 144, "by the VCEK or VLEK, little-endian"),
        ("reserved", 368, ""),
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


def _walk(data: bytes, at: int, layout: _Layout, *, base: int = 0) -> Iterator[Field]:
    for name, size, meaning in layout:
        value = data[at : at + size]
        said = meaning if isinstance(meaning, str) else meaning(value)
        if name != "reserved" or any(value):
            yield Field(name, base + at, value.hex(), said)
        at += size

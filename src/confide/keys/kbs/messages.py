"""The messages of KBS protocol 0.4.0, as frozen values: requests read totally, answers and problems written.

Pure.  Names and forms: "KBS Attestation Protocol" of github.com/confidential-containers/trustee, ``kbs/docs``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from confide.attest.init_data import InitData
from confide.canonical import Json, canonical, parse_object
from confide.errors import ParseError, ProtocolError
from confide.ids import ReportData, Tee
from confide.keys.kbs.tee_key import TeePublicKey

VERSION: Final = "0.4.0"
COOKIE: Final = "kbs-session-id"
ERRORS: Final = "https://github.com/confidential-containers/kbs/errors/"
"""The namespace of problem types ("Error information"): names, not pages."""
REPORT_DATA_BYTES: Final = 64
_MAX_VERSION: Final = 32
_MAX_NONCE: Final = 128
_MAX_ADDITIONAL: Final = 64 * 1024


class GuestTee(StrEnum):
    """The kinds of TEE that the protocol names and that this broker knows of."""

    SGX = "sgx"
    TDX = "tdx"
    SNP = "snp"
    TPM = "tpm"
    SAMPLE = "sample"
    AZ_SNP_VTPM = "az-snp-vtpm"
    AZ_TDX_VTPM = "az-tdx-vtpm"

    @property
    def tee(self) -> Tee | None:
        """The kind of TEE whose evidence is verified, or ``None`` for ``sample``, which proves nothing, and for what is not verified."""
        return Tee(self.value) if self.value in set(Tee) else None


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """``POST auth``: which kind of TEE asks.  ``extra-params`` choose nothing here."""

    tee: GuestTee

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """Read a request.

        Raises:
            ProtocolError: another version: the protocol has no compatible ones (each changes what is signed).
            ParseError: not a request, or of a kind of TEE that is not known here.
        """
        match data:
            case {"version": str(version), "tee": str(tee), **rest} if set(rest) <= {"extra-params"}:
                if version != VERSION:
                    raise ProtocolError("another version of the KBS protocol", expected=VERSION, got=version[:_MAX_VERSION])
                if tee not in set(GuestTee):
                    raise ParseError("a kind of TEE that is not known here", got=tee[:40])
                _check_extra(rest.get("extra-params"), tee)
                return cls(GuestTee(tee))
        raise ParseError("not an auth request of the KBS protocol: version, tee and extra-params")

    def to_json(self) -> Json:
        """The request as JSON."""
        return {"version": VERSION, "tee": self.tee.value, "extra-params": {"supported-hash-algorithms": ["sha384"]}}


@dataclass(frozen=True, slots=True)
class AttestRequest:
    """``POST attest``: nonce, key, evidence and init-data of a guest, taken apart and not believed.

    ``primary`` is the evidence in the form of its attester (``keys.kbs.tee_evidence``).
    """

    nonce: str
    key: TeePublicKey
    primary: Json = field(repr=False, hash=False)
    additional: str = field(default="", repr=False)
    init_data: InitData | None = None

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """Read a request.

        Raises:
            ParseError: a field is missing, unknown or of another form, or there is evidence of further devices, which is not verified here.
        """
        match data:
            case {
                "runtime-data": {"nonce": str(nonce), "tee-pubkey": dict(key), **more},
                "tee-evidence": {"primary_evidence": dict(primary), "additional_evidence": str(additional), **other},
                **rest,
            } if not more and not other and set(rest) <= {"init-data"} and 0 < len(nonce) <= _MAX_NONCE:
                _check_additional(additional)
                found = rest.get("init-data")
                init_data = None if found is None else InitData.from_json(found)
                return cls(nonce, TeePublicKey.from_json(key), primary, additional, init_data)
        raise ParseError("not an attest request of KBS protocol 0.4.0: runtime-data, tee-evidence and optional init-data")

    @property
    def report_data(self) -> ReportData:
        """What the evidence has to be over."""
        return report_data(self.nonce, self.key, self.additional)

    def to_json(self) -> Json:
        """The request as JSON."""
        message: Json = {
            "runtime-data": {"nonce": self.nonce, "tee-pubkey": dict(self.key.jwk)},
            "tee-evidence": {"primary_evidence": self.primary, "additional_evidence": self.additional},
        }
        return message if self.init_data is None else {"init-data": self.init_data.to_json(), **message}


def report_data(nonce: str, key: TeePublicKey, additional: str = "") -> ReportData:
    """SHA-384 of the RFC 8785 form of nonce, key and additional evidence, with zeros behind it: 64 bytes.

    Attesters of the protocol pad so; no other length is ever used, so that one digest is one report data.
    """
    signed = canonical({"additional-evidence": additional, "nonce": nonce, "tee-pubkey": dict(key.jwk)})
    return ReportData(hashlib.sha384(signed).digest().ljust(REPORT_DATA_BYTES, b"\0"))


def from_base64(text: str, limit: int) -> bytes:
    """Strict standard base64 (RFC 4648, section 4, with padding), as the attesters write.

    Raises:
        ParseError: it is none, or of more than ``limit`` bytes.
    """
    if len(text) > (limit + 2) // 3 * 4:
        raise ParseError("base64 of too many bytes", limit=limit)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as cause:
        raise ParseError("not base64") from cause
    if base64.b64encode(data).decode() != text:
        raise ParseError("not canonical base64")
    return data


def _check_extra(extra: object, tee: str) -> None:
    """The protocol has KBS compare the primary TEE that ``tee-metadata`` names with the request's."""
    if isinstance(extra, dict) and "tee-metadata" in extra:
        match extra["tee-metadata"]:
            case {"primary_tee": {"tee": str(primary)}} if primary == tee:
                return
        raise ParseError("tee-metadata names another primary TEE than the request")
    if isinstance(extra, dict) and "attestation-policy-selector" in extra:
        raise ParseError("this broker has no selectable attestation policies", hint="owners' resource policies decide")


def _check_additional(text: str) -> None:
    if text in {"", "{}"}:
        return
    if len(text) > _MAX_ADDITIONAL or parse_object(text):
        raise ParseError("evidence of further devices is not verified here", hint="attest without additional evidence")

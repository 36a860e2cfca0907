"""What tokens of Intel Trust Authority and Azure Attestation say of a node, as :class:`Claims`.

What a token does not say is filled with what a policy refuses: no status is "unknown", no evaluation number is 0, no switch is off.
Names: Intel Trust Authority EAT profile (versions 1 and 2), Azure Attestation claim sets and its TDX EAT profile.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from confide.attest.claims import UNRATED, Claims
from confide.attest.quote import TD_MIGRATABLE
from confide.attest.tokens import held_data
from confide.canonical import Json, digest_of
from confide.errors import TokenInvalidError
from confide.ids import ReportData, Tee

if TYPE_CHECKING:
    from confide.attest.tokens.issuers import TokenIssuer

_UNKNOWN: Final = "unknown"
_HEX: Final = re.compile(r"[0-9a-f]*")
_ADVISORY_LIMIT: Final = 200
_SVNS: Final = {"bootloader": "bootloader", "tee": "tee", "snp": "snpfw", "microcode": "microcode"}
"""Component to the word in Azure's ``x-ms-sevsnpvm-*-svn``."""


@dataclass(frozen=True, slots=True)
class TokenEpoch:
    """How long a token's verifier stands by it: collateral behind it is the issuer's business."""

    expires_at: datetime

    @property
    def earliest_next_update(self) -> str:
        """When the token expires, ISO 8601."""
        return self.expires_at.isoformat()

    @property
    def stale_from(self) -> datetime:
        """The same as a time."""
        return self.expires_at

    def to_json(self) -> Json:
        """The epoch as JSON."""
        return {"token_expires": self.earliest_next_update}


def read_statement(payload: Json, issuer: TokenIssuer, expires_at: datetime) -> Claims:
    """The claims of a genuine token.

    Raises:
        TokenInvalidError: it speaks of no TEE that is known here, or a claim is missing or of the wrong form.
    """
    if issuer.kind == "ita":
        # Version 2 tokens hold each TEE's claims in an object of its own.
        modules = [name for name in ("tdx", "sgx") if isinstance(payload.get(name), dict)]
        if len(modules) > 1:
            raise TokenInvalidError("a token speaks of more than one TEE")
        flat = {**payload, **payload[modules[0]]} if modules else payload
        tee = modules[0] if modules else str(payload.get("attester_type")).lower()
        readers = {"tdx": _tdx, "sgx": _ita_sgx}
    else:
        nested = payload.get("x-ms-isolation-tee")
        flat = {**payload, **nested} if isinstance(nested, dict) else payload
        tee = str(flat.get("x-ms-attestation-type"))
        readers = {"sgx": _maa_sgx, "tdxvm": _tdx, "sevsnpvm": _maa_snp}
    if tee not in readers:
        raise TokenInvalidError("a token speaks of no TEE that is known here", got=tee[:40])
    return readers[tee](flat, issuer, TokenEpoch(expires_at))


def _tdx(claims: Json, issuer: TokenIssuer, epoch: TokenEpoch) -> Claims:
    attributes = int.from_bytes(bytes.fromhex(_hex(claims, "tdx_td_attributes", 8)), "little")
    debug = _flag(claims, "tdx_td_attributes_debug") or _flag(claims, "tdx_is_debuggable", default=False) or bool(attributes & 0xFF)
    service = _hex(claims, "tdx_mrservicetd", 48).strip("0") != "" if "tdx_mrservicetd" in claims else None
    vendor = {
        "sept_ve_disable": _flag(claims, "tdx_td_attributes_septve_disable") and bool(attributes >> 28 & 1),
        "migratable": bool(attributes & TD_MIGRATABLE),
        "service_td": service,
    }
    return _claims(
        claims, issuer, epoch, Tee.TDX, debug, vendor,
        measurement=_hex(claims, "tdx_mrtd", 48), signer=_hex(claims, "tdx_mrsignerseam", 48),
        report_data=_hex(claims, "tdx_report_data", 64), registers={f"rtmr{n}": _hex(claims, f"tdx_rtmr{n}", 48) for n in range(4)},
    )  # fmt: skip


def _ita_sgx(claims: Json, issuer: TokenIssuer, epoch: TokenEpoch) -> Claims:
    return _claims(
        claims, issuer, epoch, Tee.SGX, _flag(claims, "sgx_is_debuggable"), {},
        measurement=_hex(claims, "sgx_mrenclave", 32), signer=_hex(claims, "sgx_mrsigner", 32),
        report_data=_hex(claims, "sgx_report_data", 64),
    )  # fmt: skip


def _maa_sgx(claims: Json, issuer: TokenIssuer, epoch: TokenEpoch) -> Claims:
    return _claims(
        claims, issuer, epoch, Tee.SGX, _flag(claims, "x-ms-sgx-is-debuggable"), {},
        measurement=_hex(claims, "x-ms-sgx-mrenclave", 32), signer=_hex(claims, "x-ms-sgx-mrsigner", 32),
        report_data=_hex(claims, "x-ms-sgx-report-data", 64),
    )  # fmt: skip


def _maa_snp(claims: Json, issuer: TokenIssuer, epoch: TokenEpoch) -> Claims:
    prefix = "x-ms-sevsnpvm-"
    agent = _flag(claims, f"{prefix}migration-allowed")
    vendor = {"vmpl": _number(claims, f"{prefix}vmpl"), "migration_agent": agent, "revocation_list": False}
    return _claims(
        claims, issuer, epoch, Tee.SNP, _flag(claims, f"{prefix}is-debuggable"), vendor,
        measurement=_hex(claims, f"{prefix}launchmeasurement", 48), signer=_hex(claims, f"{prefix}idkeydigest", 48),
        report_data=_hex(claims, f"{prefix}reportdata", 64),
        tcb={name: _number(claims, f"{prefix}{word}-svn") for name, word in _SVNS.items()},
    )  # fmt: skip


def _claims(  # noqa: PLR0917
    claims: Json, issuer: TokenIssuer, epoch: TokenEpoch, tee: Tee, debug: bool, vendor: Json,  # noqa: FBT001
    *, measurement: str, signer: str, report_data: str, registers: dict[str, str] | None = None, tcb: dict[str, int] | None = None,
) -> Claims:  # fmt: skip
    snp = tee is Tee.SNP
    hardware = bytes.fromhex(report_data)
    held = held_data.of_intel(claims, tee, hardware) if issuer.kind == "ita" else held_data.of_azure(claims, hardware)
    advisories = claims.get("attester_advisory_ids", [])
    if not isinstance(advisories, list) or len(advisories) > _ADVISORY_LIMIT or not all(isinstance(name, str) for name in advisories):
        raise TokenInvalidError("a token's advisories are no list of names")
    collateral = claims.get(f"{tee.value}_collateral")
    collateral = collateral if isinstance(collateral, dict) else {}
    status = claims.get("attester_tcb_status", _UNKNOWN)
    return Claims(
        tee=tee,
        simulated=False,
        measurement=measurement,
        signer=signer,
        registers=registers or {},
        report_data=ReportData(held),
        debug=debug,
        tcb_status=UNRATED if snp else status if isinstance(status, str) else _UNKNOWN,
        advisory_ids=tuple(sorted(set(advisories))),
        tcb_eval=_number(collateral, "tcbevaluationdatanumber") if "tcbevaluationdatanumber" in collateral else 0,
        tcb=tcb or {},
        platform=(issuer.snp_product or "") if snp else str(collateral.get("fmspc", "")),
        epoch=epoch,
        evidence_digest=digest_of(claims),
        vendor={**vendor, "token_issuer": issuer.issuer},
    )


def _hex(claims: Json, name: str, length: int) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or len(value) != 2 * length or not _HEX.fullmatch(value.lower()):
        raise TokenInvalidError("a token lacks a measurement, or it has the wrong length", claim=name, bytes=length)
    return value.lower()


def _flag(claims: Json, name: str, *, default: bool | None = None) -> bool:
    value = claims.get(name, default)
    if not isinstance(value, bool):
        raise TokenInvalidError("a token lacks a claim that must be true or false", claim=name)
    return value


def _number(claims: Json, name: str) -> int:
    value = claims.get(name)
    if type(value) is not int or not 0 <= value <= 0xFFFF:
        raise TokenInvalidError("a token lacks a claim that must be a small number", claim=name)
    return value

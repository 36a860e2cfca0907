"""Trustee's Rego policies, unchanged: what one says of verified evidence, as AR4SI trust claims.

Beside a policy of ours, never instead of one: a program can be neither linted nor compared (docs/decisions/0008-rego.md).
Input: the claims of Trustee's verifiers for TDX, SEV-SNP and SGX (github.com/confidential-containers/trustee,
``ear_default_policy_cpu.rego``).
Output: draft-ietf-rats-ar4si section 2.3.  Reference values are read by ``query_reference_value``, which a policy calls and we define.
Owns ``regopy`` (the extra ``rego``), which has neither network nor file access; it does know the process's clock and environment, of
which a policy can say no more than the numbers that it answers.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from confide.attest.policy_checks import Check
from confide.attest.quote import TD_SEPT_VE_DISABLE, SgxBody, TdBody, parse_quote
from confide.attest.snp_report import POLICY_DEBUG, POLICY_MIGRATE_MA, Report
from confide.errors import ExtraMissingError, PolicyError
from confide.ids import Tee

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from confide.attest.quote import Quote
    from confide.attest.verify import VerifiedEvidence
    from confide.canonical import Json

MAX_POLICY_BYTES: Final = 256 * 1024
TRUST_CLAIMS: Final = (
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
)
"""AR4SI's vector, draft-ietf-rats-ar4si section 2.3.5."""
_ALWAYS: Final = ("configuration", "executables", "hardware")
"""What every policy of Trustee's says."""
_REFERENCE: Final = "package policy\n\nquery_reference_value(name) := data.reference[name]\n"
_SMT_ALLOWED, _SINGLE_SOCKET = 1 << 16, 1 << 20
"""Bits of the guest policy: AMD 56860, "Guest Policy"."""
_SMT_ENABLED, _TSME_ENABLED = 0b01, 0b10
"""Bits of PLATFORM_INFO: AMD 56860, "ATTESTATION_REPORT"."""


@dataclass(frozen=True, slots=True)
class TrustVector:
    """What a policy says, by trust claim: AR4SI's numbers."""

    claims: Mapping[str, int]

    def checks(self) -> list[Check]:
        """One line for each trust claim that says something; the policy accepts exactly if all of them are ok.

        Configuration, executables and hardware must be affirmed; what the policy says nothing of (0) otherwise has no line.
        """
        names = [name for name in TRUST_CLAIMS if self.claims.get(name, 0) or name in _ALWAYS]
        return [Check(name, "affirming", f"{self.claims[name]}, {tier(self.claims[name])}", ok=tier(self.claims[name]) == "affirming")
                for name in names]  # fmt: skip


def tier(value: int) -> str:
    """The tier of a trust claim's number (section 2.3.2): those from -1 to 1 say nothing that could be relied on."""
    if -1 <= value <= 1:
        return "none"
    size = max(value, -value - 1)  # -32 to -2 affirm as 2 to 31 do, and so on
    return "affirming" if size < 32 else "warning" if size < 96 else "contraindicated"


def evaluate(policy: str, verified: VerifiedEvidence, reference: Mapping[str, Any], now: datetime) -> TrustVector:
    """What ``policy`` says of ``verified`` with these reference values.

    Raises:
        ExtraMissingError: regopy is not installed.
        PolicyError: the policy is no Rego, fails, or says no trust claims.
    """
    if len(policy.encode()) > MAX_POLICY_BYTES:
        raise PolicyError("the Rego policy is too large", limit=MAX_POLICY_BYTES)
    said = _run(policy, trustee_input(verified, now), reference)
    claims = said.get("trust_claims", {name: said.get(name.replace("-", "_"), 0) for name in TRUST_CLAIMS})
    if not isinstance(claims, dict) or not set(_ALWAYS) <= set(claims) or not set(claims) <= set(TRUST_CLAIMS):
        raise PolicyError("the Rego policy says no trust claims")
    if not all(type(value) is int and -128 <= value <= 127 for value in claims.values()):
        raise PolicyError("a trust claim of the Rego policy is no number of AR4SI")
    return TrustVector(claims)


def _run(policy: str, given: Json, reference: Mapping[str, Any]) -> Json:
    try:
        regopy: Any = importlib.import_module("regopy")
    except ImportError as cause:
        raise ExtraMissingError("regopy is not installed", hint="pip install 'confide[rego]'") from cause
    interpreter = regopy.Interpreter()
    interpreter.log_level = regopy.LogLevel.NONE  # it writes to standard output
    try:
        interpreter.add_module("policy", policy)
        interpreter.add_module("reference", _REFERENCE)
        interpreter.add_data({"reference": dict(reference)})
        interpreter.set_input(given)
        output = interpreter.query("data.policy")
        found = json.loads(str(output)) if output.ok() else None
    except (regopy.RegoError, ValueError, RecursionError) as cause:
        raise PolicyError("the Rego policy cannot be evaluated") from cause
    match found:
        case {"expressions": [dict(said)]}:
            return said
    raise PolicyError("the Rego policy failed")


def trustee_input(verified: VerifiedEvidence, now: datetime) -> Json:
    """The evidence as Trustee's verifiers present it to policies; bytes in hex, in the order that they have in the evidence.

    Raises:
        PolicyError: Trustee's form of this kind of evidence is not known here.
    """
    claims = verified.claims
    if claims.tee is Tee.SNP:
        return {"snp": _snp(Report.parse(verified.evidence.quote), claims.tcb)}
    if claims.tee not in {Tee.SGX, Tee.TDX}:
        raise PolicyError("Rego policies have no input for this kind of TEE", tee=claims.tee.value)
    quote = parse_quote(verified.evidence.quote)
    expired = now >= claims.epoch.stale_from
    shared: Json = {
        "tcb_status": claims.tcb_status,
        "tcb_date": claims.tcb_date,
        "advisory_ids": list(claims.advisory_ids),
        "collateral_expiration_status": "1" if expired else "0",
    }
    return {claims.tee.value: {**_intel(quote), **shared}}


def _intel(quote: Quote) -> Json:
    header, body = quote.header, quote.body
    head = {
        "version": header.version.to_bytes(2, "little").hex(),
        "tee_type": header.tee_type.to_bytes(4, "little").hex(),
        "vendor_id": header.vendor.hex(),
    }
    if isinstance(body, SgxBody):
        return {"header": head, "body": _sgx(body)}
    attributes = {"debug": body.debug, "septve_disable": bool(body.flags & TD_SEPT_VE_DISABLE)}
    return {"quote": {"header": head, "body": _tdx(body)}, "td_attributes": attributes}


def _sgx(body: SgxBody) -> Json:
    numbers = {"isv_prod_id": body.isv_prod_id, "isv_svn": body.isv_svn}
    values = {"mr_enclave": body.mr_enclave, "mr_signer": body.mr_signer, "attributes": body.attributes, "report_data": body.report_data}
    found = {name: number.to_bytes(2, "little").hex() for name, number in numbers.items()}
    return {**found, **{name: value.hex() for name, value in values.items()}}


def _tdx(body: TdBody) -> Json:
    named = {
        "mr_td": body.mr_td,
        "mr_seam": body.mr_seam,
        "mrsigner_seam": body.mr_signer_seam,
        "mr_config_id": body.mr_config_id,
        "mr_owner": body.mr_owner,
        "mr_owner_config": body.mr_owner_config,
        "td_attributes": body.td_attributes,
        "tcb_svn": body.tee_tcb_svn,
        "xfam": body.xfam,
        "report_data": body.report_data,
    }
    registers = {f"rtmr_{number}": value for number, value in enumerate((body.rtmr0, body.rtmr1, body.rtmr2, body.rtmr3))}
    return {name: value.hex() for name, value in (named | registers).items()}


def _snp(report: Report, tcb: Mapping[str, int]) -> Json:
    guest, platform = report.policy, report.platform_info
    return {
        "evidence": {
            "measurement": report.measurement.hex(),
            "report_data": report.report_data.hex(),
            "host_data": report.host_data.hex(),
            "vmpl": report.vmpl,
            "reported_tcb": dict(tcb),
            "policy": {
                "abi_minor": guest & 0xFF,
                "abi_major": guest >> 8 & 0xFF,
                "smt_allowed": bool(guest & _SMT_ALLOWED),
                "migrate_ma_allowed": bool(guest & POLICY_MIGRATE_MA),
                "debug_allowed": bool(guest & POLICY_DEBUG),
                "single_socket_required": bool(guest & _SINGLE_SOCKET),
            },
            "plat_info": {"smt_enabled": bool(platform & _SMT_ENABLED), "tsme_enabled": bool(platform & _TSME_ENABLED)},
        }
    }

"""A policy's first version, from verified evidence or from reference values.  What it says is for a person to read before it is used."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from confide.attest.init_data import JOB_DIGEST_NAME, job_init_data
from confide.attest.quote import SgxBody, parse_quote
from confide.attest.snp_report import Report
from confide.attest.tpm import pcr_measurement
from confide.attest.tpm_format import PCR_COUNT, TpmEvidence
from confide.errors import ParseError
from confide.ids import JobDigest, Tee

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confide.attest.claims import Claims
    from confide.attest.evidence import Evidence
    from confide.attest.init_data import InitData
    from confide.attest.policy_tree import Policy
    from confide.canonical import Json

_MEASUREMENT: Final = {"sgx": "mrenclave", "tdx": "mrtd", "snp": "measurement", "tpm": "measurement"}
"""What reference values call the measurement of each kind of TEE."""
_REGISTERS: Final = ("rtmr0", "rtmr1", "rtmr2")
"""RTMR3 is left out: what a TD extends it with at run time is known to no build."""
_BARE_KEY: Final = re.compile("[A-Za-z0-9_-]+")
_PCRS: Final = tuple(f"pcr{number}" for number in range(PCR_COUNT))


def of_claims(claims: Claims) -> Json:
    """What accepts the software of this evidence, on platforms that are at least as new.

    A rating, advisory or weakness of this one platform is not carried over: the draft then refuses the evidence it was made of, and
    ``explain`` says by which line.
    """
    found: Json = {"measurements": {claims.tee.value: [claims.measurement]}}
    if claims.simulated:
        found["allow"] = ["simulated"]
    if claims.tee is Tee.SNP:
        return {**found, "min_tcb": {claims.platform: dict(claims.tcb)}}
    if claims.tee is Tee.TPM:  # no policy for a TPM can be without the switch
        return {**found, "allow": ["tpm-no-memory-protection"], "registers": _pins(claims.registers)}
    found["min_tcb_eval"] = claims.tcb_eval
    if claims.tcb_date:
        found["min_tcb_date"] = claims.tcb_date[:10]
    if claims.tee is Tee.TDX:
        found["registers"] = _pins({name: claims.registers.get(name, "") for name in _REGISTERS})
    return found


def _pins(registers: Mapping[str, str]) -> dict[str, list[str]]:
    """Registers that something was measured into."""
    return {name: [value] for name, value in registers.items() if value.strip("0")}


def of_reference(values: Mapping[str, Any]) -> Json:
    """What accepts the software of a build's reference values: ``{"tee": ..., "mrenclave" | "mrtd" | "measurement": hex, "rtmr0": ...}``.

    Those of a TPM have ``pcr0`` to ``pcr23``.  Says nothing of platforms: the minimum TCB has to be added.

    Raises:
        ParseError: they are none, or of a kind of TEE without rules.
    """
    tee = values.get("tee")
    name = _MEASUREMENT.get(tee) if isinstance(tee, str) else None
    measured = values.get(name) if name else None
    if not isinstance(measured, str):
        raise ParseError("not reference values: tee, and mrenclave, mrtd or measurement, are needed", expected=name)
    found: Json = {"measurements": {tee: [measured]}}
    names = _REGISTERS if tee == "tdx" else _PCRS if tee == "tpm" else ()
    registers = {register: values[register] for register in names if values.get(register) is not None}
    if not all(isinstance(value, str) for value in registers.values()):
        raise ParseError("a register of the reference values is not hex")
    if tee == "tpm":
        return {**found, "allow": ["tpm-no-memory-protection"], "registers": _pins(registers)}
    return {**found, "registers": {register: [value] for register, value in registers.items()}} if registers else found


def of_init_data(document: InitData, tee: Tee) -> Json:
    """What accepts guests that were started with this document, and no others."""
    return {"init_data": {tee.value: [document.bound_value(tee).hex()]}}


def of_job_init_data(document: InitData, tee: Tee) -> Json:
    """What accepts guests of each job that were started with that job's document, if ``document`` is the one of any job.

    Raises:
        ParseError: it is not what nodes of that kind are given for a job.
    """
    entries = dict(document.data)
    job = entries.pop(JOB_DIGEST_NAME, "")
    if not entries or job_init_data(JobDigest(job), tee, entries).body != document.body:
        message = "not the init-data of a job that others can write anew from its entries"
        raise ParseError(message, hint="take what confide job init-data prints, or ask for this very document: --init-data")
    return {"job_init_data": entries}


def unverified_reference(evidence: Evidence) -> Json:
    """The reference values that evidence *claims*, genuine or not.

    Raises:
        ParseError: it is no evidence.
    """
    if evidence.tee is Tee.SNP:
        return {"tee": "snp", "measurement": Report.parse(evidence.quote).measurement.hex()}
    if evidence.tee is Tee.TPM:
        registers = TpmEvidence.parse(evidence.quote).registers()
        return {"tee": "tpm", "measurement": pcr_measurement(registers), **registers}
    body = parse_quote(evidence.quote).body
    if isinstance(body, SgxBody):
        return {"tee": "sgx", "mrenclave": body.mr_enclave.hex()}
    return {"tee": "tdx", "mrtd": body.mr_td.hex(), **{name: getattr(body, name).hex() for name in _REGISTERS}}


def to_toml(policy: Policy) -> str:
    """The policy as a TOML file that reads as the same policy; fields that ask nothing are left out."""
    return "\n".join(_table(_asked(policy), "")) + "\n"


def _asked(policy: Policy) -> Json:
    if policy.members:
        (word,) = {"all_of", "any_of"} & set(policy.to_json())
        return {"name": policy.name, word: [_asked(member) for member in policy.members]}
    values = policy.to_json()
    keep = {name: value for name, value in values.items() if value not in (None, [], {}) and name not in {"format", "tees"}}
    if keep.get("vmpls") == [0]:
        del keep["vmpls"]
    for name in ("signers", "platforms"):
        keep[name] = {word: entries for word, entries in keep[name].items() if entries}
    return {name: value for name, value in keep.items() if value != {}}


def _table(values: Json, path: str) -> list[str]:
    """TOML 1.0: plain values first, then tables, then tables that repeat.  Keys are bare ones but for the names of init-data's entries."""
    lines = [f"{name} = {_value(value)}" for name, value in values.items() if not isinstance(value, dict) and not _is_members(name)]
    for name, value in values.items():
        if isinstance(value, dict):
            lines += ["", f"[{path}{name}]", *(f"{_key(inner)} = {_value(one)}" for inner, one in value.items())]
    for name, value in values.items():
        if _is_members(name):
            for member in value:
                lines += ["", f"[[{path}{name}]]", *_table(member, f"{path}{name}.")]
    return lines


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _value(name)


def _is_members(name: str) -> bool:
    return name in {"all_of", "any_of"}


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_value(one)}" for name, one in value.items() if one is not None) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    # TOML has JSON's escapes, but no pairs of surrogates, and does not take DEL as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

"""What a genuine token says is read to the last claim; what it does not say is what policies refuse."""

from __future__ import annotations

from typing import Any

import pytest
from support.foreign_tokens import ITA, ITA_ENTRY, MAA, MAA_ENTRY, NOW, SNP_CLAIMS, ita, maa_snp, tdx, times

from confide.attest.binding import SessionBinding
from confide.attest.claims import UNRATED, Claims
from confide.attest.tokens.issuers import TokenIssuer
from confide.attest.tokens.statement import read_statement
from confide.errors import TokenInvalidError
from confide.ids import Tee

SGX: dict[str, Any] = {
    "sgx_mrenclave": "5a" * 32,
    "sgx_mrsigner": "6b" * 32,
    "sgx_report_data": "01" * 64,
    "sgx_is_debuggable": False,
}


def read(claims: dict[str, Any], issuer: TokenIssuer = ITA_ENTRY) -> Claims:
    return read_statement(claims, issuer, NOW)


def azure(claims: dict[str, Any]) -> dict[str, Any]:
    return {**times(MAA), **{f"x-ms-{name.replace('_', '-')}": value for name, value in claims.items()}}


@pytest.mark.parametrize("claims", [
    {"tdx": tdx(bytes(64)), "sgx": SGX}, {}, {"attester_type": "SEV"}, {"tdx": "text"}, {"attester_type": "SGX"}, {"attester_type": None},
])  # fmt: skip
def test_intels_token_is_of_one_kind_of_tee(claims: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalidError):
        read({**times(ITA), **claims})


def test_azures_token_is_of_one_kind_of_tee(binding: SessionBinding) -> None:
    nested = read(maa_snp(binding), MAA_ENTRY)
    assert (nested.tee, nested.platform, nested.tcb_status) == (Tee.SNP, "Milan", UNRATED)
    assert nested.tcb == {"bootloader": 4, "tee": 0, "snp": 8, "microcode": 115}
    assert nested.vendor == {"vmpl": 0, "migration_agent": False, "revocation_list": False, "token_issuer": MAA}
    assert read(maa_snp(binding), MAA_ENTRY.model_copy(update={"snp_product": None})).platform == ""
    flat = {**times(MAA), **SNP_CLAIMS, "x-ms-sevsnpvm-reportdata": "02" * 64}
    assert read({**flat, "x-ms-isolation-tee": "text"}, MAA_ENTRY).report_data == b"\2" * 64
    for kind in ("azurevm", None, 7, "tdx"):
        with pytest.raises(TokenInvalidError, match="no TEE that is known"):
            read({**flat, "x-ms-attestation-type": kind}, MAA_ENTRY)


def test_td_of_azure_is_read_as_one_of_intel() -> None:
    found = read({**times(MAA), "x-ms-attestation-type": "tdxvm", **tdx(b"\3" * 64)}, MAA_ENTRY)
    assert (found.tee, found.measurement, found.report_data) == (Tee.TDX, "aa" * 48, b"\3" * 64)
    assert found.registers == {f"rtmr{n}": f"{n}b" * 48 for n in range(4)}


def test_what_a_token_does_not_say_is_what_policies_refuse(binding: SessionBinding) -> None:
    silent = {name: value for name, value in tdx(bytes(64)).items() if not name.startswith(("tdx_collateral", "attester"))}
    found = read({**times(ITA), "tdx": {name: value for name, value in silent.items() if name != "tdx_mrservicetd"}})
    assert (found.tcb_status, found.tcb_eval, found.platform, found.advisory_ids) == ("unknown", 0, "", ())
    assert found.vendor["service_td"] is None
    assert (found.simulated, found.tcb, found.epoch.stale_from) == (False, {}, NOW)
    said = read(ita(binding, attester_tcb_status=["UpToDate"], tdx_collateral="text"))
    assert (said.tcb_status, said.tcb_eval, said.platform) == ("unknown", 0, "")
    whole = read(ita(binding))
    assert (whole.tcb_status, whole.tcb_eval, whole.platform, whole.vendor["service_td"]) == ("UpToDate", 20, "50806f000000", False)


@pytest.mark.parametrize(("changes", "debug", "safe"), [
    ({}, False, True),
    ({"tdx_td_attributes_debug": True}, True, True), ({"tdx_is_debuggable": True}, True, True),
    ({"tdx_td_attributes": "0100001000000000"}, True, True), ({"tdx_td_attributes": "8000001000000000"}, True, True),
    ({"tdx_td_attributes": "0001001000000000"}, False, True),
    ({"tdx_td_attributes": "0000002000000000"}, False, False), ({"tdx_td_attributes": "0000000800000000"}, False, False),
    ({"tdx_td_attributes_septve_disable": False}, False, False),
])  # fmt: skip
def test_attributes_of_a_td_are_its_bits_and_its_flags(binding: SessionBinding, changes: dict[str, Any], debug: bool, safe: bool) -> None:
    """The stricter of the two counts: debugging if either says so, no interruptions only if both do."""
    found = read(ita(binding, **changes))
    assert (found.debug, found.vendor["sept_ve_disable"]) == (debug, safe)


def test_flag_of_debugging_may_be_missing_and_nothing_else(binding: SessionBinding) -> None:
    claims = ita(binding)
    for name in list(claims["tdx"]):
        rest = {**claims, "tdx": {other: value for other, value in claims["tdx"].items() if other != name}}
        if name in {"tdx_is_debuggable", "tdx_mrservicetd", "attester_tcb_status", "tdx_collateral"}:
            assert read(rest).debug is False
        else:
            with pytest.raises(TokenInvalidError):
                read(rest)


@pytest.mark.parametrize(("module", "issuer"), [(SGX, ITA_ENTRY), (SGX, MAA_ENTRY), (SNP_CLAIMS, MAA_ENTRY)], ids=["ita", "maa", "snp"])
def test_every_claim_is_needed(module: dict[str, Any], issuer: TokenIssuer) -> None:
    if module is SGX:
        whole = {**times(ITA), "attester_type": "SGX", **SGX} if issuer is ITA_ENTRY else azure({"attestation_type": "sgx", **SGX})
    else:
        whole = {**times(MAA), **SNP_CLAIMS, "x-ms-sevsnpvm-reportdata": "02" * 64}
    assert (read(whole, issuer).debug, read(whole, issuer).registers) == (False, {})
    flag = next(name for name in whole if name.endswith("debuggable"))
    assert read({**whole, flag: True}, issuer).debug is True
    for name in whole.keys() - times(ITA).keys():
        with pytest.raises(TokenInvalidError):
            read({other: value for other, value in whole.items() if other != name}, issuer)


def test_service_td_is_one_whose_measurement_is_not_zero(binding: SessionBinding) -> None:
    assert read(ita(binding, tdx_mrservicetd="00" * 47 + "01")).vendor["service_td"] is True
    assert read(ita(binding, tdx_td_attributes="0000003000000000")).vendor["migratable"] is True
    assert read(ita(binding)).vendor["migratable"] is False


@pytest.mark.parametrize("number", [0, 0xFFFF])
def test_number_is_a_small_one(binding: SessionBinding, number: int) -> None:
    assert read(maa_snp(binding, **{"x-ms-sevsnpvm-vmpl": number}), MAA_ENTRY).vendor["vmpl"] == number
    assert read(ita(binding, tdx_collateral={"tcbevaluationdatanumber": number})).tcb_eval == number


@pytest.mark.parametrize("number", [-1, 0x10000, True, "1", 1.0, None])
def test_what_is_no_small_number_is_refused(binding: SessionBinding, number: Any) -> None:
    with pytest.raises(TokenInvalidError, match="small number"):
        read(maa_snp(binding, **{"x-ms-sevsnpvm-vmpl": number}), MAA_ENTRY)


def test_advisories_are_a_list_of_names_with_an_end(binding: SessionBinding) -> None:
    many = [f"INTEL-SA-{number:05}" for number in range(201)]
    assert read(ita(binding, attester_advisory_ids=[many[1], many[0], many[1]])).advisory_ids == (many[0], many[1])
    assert len(read(ita(binding, attester_advisory_ids=many[:200])).advisory_ids) == 200
    for wrong in (many, "INTEL-SA-00001", [7], [many[0], 7], None, {}):
        with pytest.raises(TokenInvalidError, match="advisories"):
            read(ita(binding, attester_advisory_ids=wrong))


@pytest.mark.parametrize("text", ["aa" * 47, "aa" * 49, "a" * 95, "zz" * 48, 7, None, " " + "aa" * 47 + "a"])
def test_measurement_has_its_length(binding: SessionBinding, text: Any) -> None:
    assert read(ita(binding, tdx_mrtd="AA" * 48)).measurement == "aa" * 48
    with pytest.raises(TokenInvalidError, match="measurement"):
        read(ita(binding, tdx_mrtd=text))

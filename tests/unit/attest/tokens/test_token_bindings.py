"""A token is of a session if its report data is, or is the hash of what the token says was held; computed here, never believed."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from support.foreign_tokens import ITA_ENTRY, MAA_ENTRY, NOW, checked, maa_snp, policy, tdx, times

from confide.attest.binding import SessionBinding
from confide.attest.policy import Rules, appraise
from confide.attest.tokens.held_data import RUNTIME_MEMBER
from confide.canonical import canonical
from confide.errors import BindingError, TokenInvalidError
from confide.ids import Tee

VAL, IAT = b"v" * 64, b"2030-01-01 00:00:00 +0000 UTC"
NONCE = {"val": base64.b64encode(VAL).decode(), "iat": base64.b64encode(IAT).decode(), "signature": "c2ln"}
FRESH = VAL + IAT
HCL = {
    "keys": [{"kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": "AA", "key_ops": ["sign"]}],
    "vm-configuration": {"secure-boot": True},
    "user-data": "00" * 64,
}


def held(data: bytes, **changes: Any) -> dict[str, Any]:
    """An ITA token of a TD that held ``data`` and used Intel's nonce."""
    claims = tdx(hashlib.sha512(FRESH + data).digest(), attester_held_data=base64.b64encode(data).decode())
    return {**times(ITA_ENTRY.issuer), "tdx": {**claims, "verifier_nonce": NONCE, **changes}}


def test_ita_token_is_of_the_session_that_its_held_data_is(binding: SessionBinding) -> None:
    claims = held(binding.report_data)
    assert appraise(checked(claims), policy(ITA_ENTRY), binding, now=NOW).claims.report_data == binding.report_data
    flat = {**times(ITA_ENTRY.issuer), "attester_type": "TDX", **claims["tdx"]}
    assert appraise(checked(flat), policy(ITA_ENTRY), binding, now=NOW)
    without = held(binding.report_data, verifier_nonce=None, tdx_report_data=hashlib.sha512(binding.report_data).hexdigest())
    assert appraise(checked(without), policy(ITA_ENTRY), binding, now=NOW)


def test_enclaves_hash_with_sha256(binding: SessionBinding) -> None:
    def enclave(digest: bytes) -> dict[str, Any]:
        claims = {"sgx_mrenclave": "5a" * 32, "sgx_mrsigner": "6b" * 32, "sgx_report_data": digest.hex(), "sgx_is_debuggable": False}
        claims |= {"attester_held_data": base64.b64encode(binding.report_data).decode(), "verifier_nonce": NONCE}  # type: ignore[dict-item]
        return {**times(ITA_ENTRY.issuer), "sgx": {**claims, "attester_tcb_status": "UpToDate"}}

    accepting = Rules(name="p", measurements={Tee.SGX: ("5a" * 32,)}, token_issuers=(ITA_ENTRY,))
    right = hashlib.sha256(FRESH + binding.report_data).digest() + bytes(32)
    assert appraise(checked(enclave(right)), accepting, binding, now=NOW)
    for wrong in (right[:32] + b"\1" * 32, hashlib.sha512(FRESH + binding.report_data).digest()):
        with pytest.raises(TokenInvalidError, match="not the hash"):
            checked(enclave(wrong))


@pytest.mark.parametrize("other", [b"another session" * 4, b"", b"\0" * 64])
def test_held_data_of_another_session_is_refused(binding: SessionBinding, other: bytes) -> None:
    """Genuine, and of somebody else: bound to the nonce of another session."""
    with pytest.raises(BindingError):
        appraise(checked(held(other)), policy(ITA_ENTRY), binding, now=NOW)


@pytest.mark.parametrize("changes", [
    {"tdx_report_data": "00" * 64},
    {"verifier_nonce": None},
    {"verifier_nonce": {**NONCE, "val": base64.b64encode(b"w" * 64).decode()}},
    {"verifier_nonce": {**NONCE, "val": NONCE["iat"], "iat": NONCE["val"]}},
    {"verifier_nonce": {"val": NONCE["val"]}}, {"verifier_nonce": "text"}, {"verifier_nonce": {**NONCE, "iat": "not base64!"}},
    {"verifier_nonce": {**NONCE, "iat": NONCE["iat"] + "\n"}}, {"verifier_nonce": {**NONCE, "val": " " + NONCE["val"]}},
    {"attester_held_data": "not base64!"}, {"attester_held_data": 7}, {"attester_held_data": "é"},
], ids=str)  # fmt: skip
def test_report_data_that_is_not_the_hash_of_what_was_held_is_refused(binding: SessionBinding, changes: dict[str, Any]) -> None:
    """Otherwise a token whose hardware said anything would be of the session that its held data names."""
    with pytest.raises(TokenInvalidError):
        checked(held(binding.report_data, **changes))


def azure(runtime: Any, report_data: bytes | None = None, **changes: Any) -> dict[str, Any]:
    digest = hashlib.sha256(canonical(runtime)).digest() + bytes(32) if report_data is None else report_data
    claims = {"x-ms-runtime": runtime, "x-ms-sevsnpvm-reportdata": digest.hex(), **changes}
    module = maa_snp_module(claims)
    return {**times(MAA_ENTRY.issuer), **module}


def maa_snp_module(changes: dict[str, Any]) -> dict[str, Any]:
    """Claims of a guest without a paravisor (such as a container group's), which are not nested."""
    from support.foreign_tokens import SNP_CLAIMS

    return {**SNP_CLAIMS, **changes}


def accepting() -> Rules:
    least = {"bootloader": 4, "tee": 0, "snp": 8, "microcode": 115}
    told: dict[str, Any] = {"name": "p", "measurements": {Tee.SNP: ("cc" * 48,)}, "min_tcb": {"Milan": least}}
    return Rules(**told, token_issuers=(MAA_ENTRY,), allow=("snp-no-revocation-list",))


def test_azure_token_is_of_the_session_that_its_runtime_data_names(binding: SessionBinding) -> None:
    ours = {RUNTIME_MEMBER: binding.report_data.hex()}
    assert appraise(checked(azure(ours), MAA_ENTRY), accepting(), binding, now=NOW).claims.report_data == binding.report_data
    other = {RUNTIME_MEMBER: "00" * 64}
    with pytest.raises(BindingError):
        appraise(checked(azure(other), MAA_ENTRY), accepting(), binding, now=NOW)
    with pytest.raises(BindingError):
        appraise(checked(azure({"theirs": 1}), MAA_ENTRY), accepting(), binding, now=NOW)


@pytest.mark.parametrize("report_data", [bytes(64), hashlib.sha512(b"x").digest(), None], ids=["zeros", "other", "tail"])
def test_azure_report_data_that_is_not_the_hash_of_the_runtime_data_is_refused(binding: SessionBinding, report_data: bytes | None) -> None:
    ours = {RUNTIME_MEMBER: binding.report_data.hex()}
    wrong = hashlib.sha256(canonical(ours)).digest() + b"\1" * 32 if report_data is None else report_data
    with pytest.raises(TokenInvalidError, match="not the hash"):
        checked(azure(ours, wrong), MAA_ENTRY)


@pytest.mark.parametrize("runtime", [
    {RUNTIME_MEMBER: "AA" * 64}, {RUNTIME_MEMBER: "aa" * 63}, {RUNTIME_MEMBER: 7}, {RUNTIME_MEMBER: "aa" * 64, "more": 1},
])  # fmt: skip
def test_azure_runtime_data_of_another_form_is_refused(runtime: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalidError, match="form"):
        checked(azure(runtime), MAA_ENTRY)


def test_guest_behind_a_paravisor_is_refused_in_words(binding: SessionBinding) -> None:
    """Its measurement is the paravisor's, which any guest of that cloud has, and its report data is of the paravisor's keys."""
    ours = binding.report_data.hex()
    hcl = {**HCL, "user-data": ours}
    cases = [
        checked_error(azure(hcl), MAA_ENTRY),
        checked_error(azure({"vm-configuration": {}, RUNTIME_MEMBER: ours}), MAA_ENTRY),
        checked_error(maa_snp(binding, **{"x-ms-runtime": hcl}), MAA_ENTRY),
        checked_error({**maa_snp(binding), "x-ms-runtime": {"keys": [{"kid": "HCLEkPub"}]}}, MAA_ENTRY),
        checked_error(held(binding.report_data, attester_runtime_data=hcl), ITA_ENTRY),
    ]
    assert all("paravisor" in message for message in cases)


def checked_error(claims: dict[str, Any], entry: Any) -> str:
    with pytest.raises(TokenInvalidError) as refused:
        checked(claims, entry)
    return refused.value.message


def test_hash_is_the_one_of_a_genuine_token() -> None:
    """Nonce, held data (an enclave's public key) and report data of a token that Intel's service issued on 2024-04-30."""
    held_data = (
        "AQABADlv1PbS1x7IfABDWhiRefEW3gL/2sh7jDxJPwpTFIpEjgbNTkmSAPC/oT/3hhKI5PERYnpC4fwZycYWl9vYyv4YC4Ogjy7xjMmOuE3Eizqothe/Gb4nHa0K"
        "hVgq2vLYAd6O/jvvDD1X3MKtJs/wJDVBFWzt++ndN9bxdG12cjida5TBihJyACdDwbwDLV3fTGtPaHCIT6f/FV5C3dwqUwkE/hfHR2ykImp7kKGldPkQt3XRlv/O"
        "t4fgU2seWqv6uJ0EDf6dWrdyFYumF3RvrzFEhz2Xf0pQyXCJjKEFTJTdhktDd1qLmyccyz0NBz5SVbh/sk4WzUllhsSrmYmpGxClNZRn84sv8JRGMxYM6FZzSgiP"
        "O67HPkg5+S/My4+AaRvaqyZgiqADzQkE61IRpyFGk+KePGKuS9/jwe3/6i6/8SM0aXRyE3E2CwjorfIZ0As5VhdMzH/duvIuAoyzVOSy+Qj1+cC64g3t6sAAonC8"
        "7V9c3w+4nhPbj/lslGTp1Q=="
    )
    claims = {
        "sgx_mrenclave": "69a8788a94e77a4d0cb91a5974022c4fa3422fb6fad96d576af38ff42a7a9f3d",
        "sgx_mrsigner": "d412a4f07ef83892a5915fb2ab584be31e186e5a4f95ab5f6950fd4eb8694d7b",
        "sgx_report_data": "5446be95dcffa3c875fd6f5611122241c2997bf1fafa575ce7bc9ad26d52d4b8" + "00" * 32,
        "sgx_is_debuggable": False,
        "attester_held_data": held_data,
        "verifier_nonce": {
            "iat": "MjAyNC0wNC0zMCAwMjoxNjoxMiArMDAwMCBVVEM=",
            "val": (
                "VVJTM1duVXBGbS9XVEc1cG82WXl3MlVpWGRSM3VJL20wUnUrZ3UvSVBKbGN4bUZjd0Z2ekxvNjlUcy9VZHIvQjEvRzRhSXFLY3Z5QjhraFNrc3RlS3c9PQ=="
            ),
        },
    }
    found = checked({**times(ITA_ENTRY.issuer), "attester_type": "SGX", **claims})
    assert found.claims.report_data == base64.b64decode(held_data)

"""Tokens as Intel Trust Authority and Azure Attestation issue them, signed with keys made here."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric import rsa
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS

from confide.attest.binding import SessionBinding
from confide.attest.policy import Policy, Rules
from confide.attest.tokens.issuers import TokenIssuer
from confide.attest.tokens.jwks import IssuerKeys
from confide.attest.tokens.verified import VerifiedToken, verify_token
from confide.ids import Tee

NOW = datetime(2030, 1, 1, tzinfo=UTC)
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ITA, MAA = "https://portal.trustauthority.intel.com", "https://shared.attest.azure.net"


def jwk(kid: str = "one", key: rsa.RSAPrivateKey = KEY) -> dict[str, Any]:
    return {**JWK.from_pyca(key.public_key()).export_public(as_dict=True), "kid": kid}


def jwks(*keys: dict[str, Any]) -> str:
    return json.dumps({"keys": list(keys or [jwk()])})


def sign(claims: dict[str, Any], *, alg: str = "PS384", kid: str | None = "one", key: rsa.RSAPrivateKey = KEY, **header: Any) -> str:
    made = JWS(json.dumps(claims))
    head = {"alg": alg, "typ": "JWT", **({} if kid is None else {"kid": kid}), **header}
    made.add_signature(JWK.from_pyca(key), protected=json.dumps(head))
    return cast(str, made.serialize(compact=True))


def times(issuer: str) -> dict[str, Any]:
    seconds = int(NOW.timestamp())
    return {"iss": issuer, "iat": seconds, "nbf": seconds, "exp": seconds + 300, "jti": "id-1"}


def tdx(report_data: bytes, **changes: Any) -> dict[str, Any]:
    return {
        "tdx_mrtd": "aa" * 48, "tdx_mrsignerseam": "00" * 48, "tdx_report_data": report_data.hex(), "tdx_mrservicetd": "00" * 48,
        **{f"tdx_rtmr{n}": f"{n}b" * 48 for n in range(4)}, "tdx_td_attributes": "0000001000000000", "tdx_td_attributes_debug": False,
        "tdx_td_attributes_septve_disable": True, "tdx_is_debuggable": False, "attester_tcb_status": "UpToDate",
        "tdx_collateral": {"fmspc": "50806f000000", "tcbevaluationdatanumber": 20}, **changes,
    }  # fmt: skip


def ita(binding: SessionBinding, **changes: Any) -> dict[str, Any]:
    return {**times(ITA), "ver": "2.0.0", "tdx": tdx(binding.report_data, **changes)}


SNP_CLAIMS: dict[str, Any] = {
    "x-ms-attestation-type": "sevsnpvm", "x-ms-sevsnpvm-launchmeasurement": "cc" * 48, "x-ms-sevsnpvm-idkeydigest": "dd" * 48,
    "x-ms-sevsnpvm-is-debuggable": False, "x-ms-sevsnpvm-migration-allowed": False, "x-ms-sevsnpvm-vmpl": 0,
    "x-ms-sevsnpvm-bootloader-svn": 4, "x-ms-sevsnpvm-tee-svn": 0, "x-ms-sevsnpvm-snpfw-svn": 8, "x-ms-sevsnpvm-microcode-svn": 115,
}  # fmt: skip


def maa_snp(binding: SessionBinding, **changes: Any) -> dict[str, Any]:
    module = {**SNP_CLAIMS, "x-ms-sevsnpvm-reportdata": binding.report_data.hex(), **changes}
    return {**times(MAA), "x-ms-attestation-type": "azurevm", "x-ms-isolation-tee": module}


ITA_ENTRY = TokenIssuer(kind="ita", issuer=ITA, jwks=jwks())
MAA_ENTRY = TokenIssuer(kind="maa", issuer=MAA, jwks=jwks(), snp_product="Milan")
KEYS = IssuerKeys()


def policy(*issuers: TokenIssuer) -> Policy:
    registers = {"rtmr1": ("1b" * 48,), "rtmr2": ("2b" * 48,)}
    return Rules(name="p", measurements={Tee.TDX: ("aa" * 48,)}, registers=registers, token_issuers=issuers)


def checked(claims: dict[str, Any], entry: TokenIssuer = ITA_ENTRY, **options: Any) -> VerifiedToken:
    alg = "PS384" if entry.kind == "ita" else "RS256"
    return verify_token(sign(claims, alg=alg, **options), entry, KEYS, now=NOW)

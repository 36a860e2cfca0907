"""What a token's report data was made from, where that is not a session's binding itself.

A verifier lets a client put a *hash* into the report data, and repeats in the token what was hashed.  The hash is computed again here, so
that the binding rests on the hardware's signature as the verifier states it, and not on the verifier having compared anything.

* Intel Trust Authority ("Attestation tokens and claims"; its clients' "Evidence adapters"): ``attester_held_data`` and, if its nonce was
  asked for, ``verifier_nonce`` (``val``, ``iat``, ``signature``), all base64.  A TD's report data is SHA-512 over ``val``, ``iat`` and held
  data, in this order; an enclave's is SHA-256 over the same, then 32 zero bytes.
* Azure Attestation (REST API, "Attest", ``runtimeData``): report data is SHA-256 over the bytes of the runtime data, then 32 zero bytes;
  the token has them parsed, as ``x-ms-runtime``.  Only bytes that can be made again from that can be checked: RFC 8785 form, one member.
* Guests behind Azure's paravisor ("Confidential VM guest attestation design detail") do not make their report data: the paravisor does, of
  its keys.  Neither its bytes nor the guest's measurements are in a token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import Any, Final

from confide.canonical import Json, canonical
from confide.errors import TokenInvalidError
from confide.ids import Tee

RUNTIME_MEMBER: Final = "confide-report-data"
"""The one member of runtime data that a node gives to Azure Attestation: a session's report data in lower-case hex."""
_PARAVISOR_KEYS: Final = {"HCLAkPub", "HCLEkPub"}
_HEX: Final = re.compile(r"[0-9a-f]{128}")


def of_intel(claims: Json, tee: Tee, report_data: bytes) -> bytes:
    """What the attester holds, if its report data is the hash of it and of Intel's nonce; else the report data itself.

    Raises:
        TokenInvalidError: it is not, or the guest is behind a paravisor.
    """
    _refuse_paravisor(claims.get("attester_runtime_data"))
    text, nonce = claims.get("attester_held_data"), claims.get("verifier_nonce")
    if text is None:
        return report_data
    held, fresh = _base64(text, "attester_held_data"), b""
    if nonce is not None:
        if not isinstance(nonce, dict):
            raise TokenInvalidError("a token's nonce is no object", claim="verifier_nonce")
        fresh = _base64(nonce.get("val"), "verifier_nonce.val") + _base64(nonce.get("iat"), "verifier_nonce.iat")
    _check(report_data, fresh + held, wide=tee is Tee.TDX)
    return held


def of_azure(claims: Json, report_data: bytes) -> bytes:
    """The report data that a node gave as runtime data, if the hardware's is the hash of it; else the report data itself.

    Raises:
        TokenInvalidError: it is not, or the guest is behind a paravisor.
    """
    runtime = claims.get("x-ms-runtime")
    _refuse_paravisor(runtime)
    if not isinstance(runtime, dict) or RUNTIME_MEMBER not in runtime:
        return report_data
    value = runtime[RUNTIME_MEMBER]
    if set(runtime) != {RUNTIME_MEMBER} or not isinstance(value, str) or not _HEX.fullmatch(value):
        raise TokenInvalidError("a token's runtime data is not of the form that can be checked", claim="x-ms-runtime")
    _check(report_data, canonical(runtime), wide=False)
    return bytes.fromhex(value)


def _check(report_data: bytes, data: bytes, *, wide: bool) -> None:
    expected = hashlib.sha512(data).digest() if wide else hashlib.sha256(data).digest() + bytes(32)
    if not hmac.compare_digest(expected, report_data):
        raise TokenInvalidError("a token's report data is not the hash of the data that it says was held")


def _refuse_paravisor(runtime: Any) -> None:
    keys = runtime.get("keys") if isinstance(runtime, dict) else None
    names = {str(key.get("kid")) for key in keys if isinstance(key, dict)} if isinstance(keys, list) else set()
    if names & _PARAVISOR_KEYS or (isinstance(runtime, dict) and "vm-configuration" in runtime):
        raise TokenInvalidError(
            "the token is of a guest behind a paravisor: what its report data is the hash of is not in it, nor what the guest runs",
            hint="measurements name the paravisor, which every guest of that cloud shares; use a TEE that the guest itself attests from",
        )


def _base64(value: Any, name: str) -> bytes:
    try:
        return base64.b64decode(value.encode("ascii") if isinstance(value, str) else b"!", validate=True)
    except (UnicodeEncodeError, binascii.Error) as cause:
        raise TokenInvalidError("a token lacks a claim that must be base64", claim=name) from cause

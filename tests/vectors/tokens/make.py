"""Writes the vectors of EAR tokens from ``docs/formats/ear.md`` alone; knows nothing of Confide's code.

``python tests/vectors/tokens/make.py`` writes every file anew (ECDSA is random: signatures change, verdicts do not).  The keys are the
scalars 2 and 3, which anybody has.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

FOLDER = Path(__file__).parent
NOW = 1_893_456_000  # 2030-01-01T00:00:00Z
KEY, OTHER = (ec.derive_private_key(scalar, ec.SECP256R1()) for scalar in (2, 3))
KEY384 = ec.derive_private_key(2, ec.SECP384R1())
PROFILE = "tag:github.com,2024:confidential-containers/Trustee"
VECTOR = {
    "instance-identity": 0, "configuration": 2, "executables": 3, "file-system": 0,
    "hardware": 2, "runtime-opaque": 2, "storage-opaque": 0, "sourced-data": 0,
}  # fmt: skip


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    numbers, size = key.public_key().public_numbers(), (key.curve.key_size + 7) // 8
    name = {"secp256r1": "P-256", "secp384r1": "P-384"}[key.curve.name]
    return {"kty": "EC", "crv": name, "x": b64(numbers.x.to_bytes(size, "big")), "y": b64(numbers.y.to_bytes(size, "big"))}


def payload(**changes: Any) -> dict[str, Any]:
    module = {
        "ear.status": "affirming",
        "ear.trustworthiness-vector": VECTOR,
        "ear.appraisal-policy-id": "confide:" + "5a" * 48,
        "ear.veraison.annotated-evidence": {"tee": "tdx", "measurement": "aa" * 48},
        "confide.policy-digest": "5a" * 48,
        "confide.collateral-epoch": {"tcb_eval": 20},
    }
    module = {name: value for name, value in (module | changes.pop("module", {})).items() if value is not None}
    found = {
        "eat_profile": PROFILE, "iss": "broker.example", "aud": "analyst.example", "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 290,
        "jti": "00112233445566778899aabbccddeeff", "eat_nonce": "nonce-of-the-analyst", "cnf": {"jwk": jwk(OTHER)},
        "ear.verifier-id": {"developer": "confide", "build": "confide 1"}, "submods": {"cpu0": module},
    }  # fmt: skip
    return {name: value for name, value in (found | changes).items() if value is not None}


def sign(body: str, key: ec.EllipticCurvePrivateKey = KEY, **header: Any) -> str:
    algorithm, digest, size = ("ES256", hashes.SHA256(), 32) if key.curve.name == "secp256r1" else ("ES384", hashes.SHA384(), 48)
    signed = f"{b64(json.dumps({'alg': algorithm, 'typ': 'JWT'} | header).encode())}.{b64(body.encode())}"
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(digest)))
    return f"{signed}.{b64(r.to_bytes(size, 'big') + s.to_bytes(size, 'big'))}"


def token(key: ec.EllipticCurvePrivateKey = KEY, *, header: dict[str, Any] | None = None, **changes: Any) -> str:
    return sign(json.dumps(payload(**changes)), key, **(header or {}))


def unsigned(algorithm: str) -> str:
    return f"{b64(json.dumps({'alg': algorithm, 'typ': 'JWT'}).encode())}.{b64(json.dumps(payload()).encode())}"


def with_hmac() -> str:
    """The public key, which everybody has, used as the secret of an HMAC (CVE-2015-9235)."""
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    head = unsigned("HS256")
    return f"{head}.{b64(hmac.digest(KEY.public_key().public_bytes(encoding, form), head.encode(), hashlib.sha256))}"


def with_byte_changed(part: int) -> str:
    parts = token().split(".")
    raw = bytearray(base64.urlsafe_b64decode(parts[part] + "=" * (-len(parts[part]) % 4)))
    raw[len(raw) // 2] ^= 1
    parts[part] = b64(bytes(raw))
    return ".".join(parts)


def two_modules() -> dict[str, Any]:
    module = payload()["submods"]["cpu0"]
    return {"submods": {"cpu0": module, "gpu0": module}}


ACCEPTED = {
    "accepted": token(),
    "accepted-by-trustee": token(module={"confide.policy-digest": None, "confide.collateral-epoch": None}),
    "accepted-last-second-of-leeway": token(iat=NOW - 300, nbf=NOW - 300, exp=NOW - 29),
}
INVALID = {
    "payload-changed": with_byte_changed(1),
    "signature-changed": with_byte_changed(2),
    "header-changed": with_byte_changed(0),
    "no-signature": unsigned("none") + ".",
    "hmac-with-the-public-key": with_hmac(),
    "signed-by-another": token(OTHER),
    "brings-its-own-key": token(OTHER, header={"jwk": jwk(OTHER)}),
    "another-curve": token(KEY384),
    "critical-header": token(header={"crit": ["exp"], "exp": NOW}),
    "another-type": token(header={"typ": "dpop+jwt"}),
    "padded": token() + "==",
    "member-twice": sign(json.dumps(payload())[:-1] + ', "aud": "analyst.example"}'),
    "no-id": token(jti=None),
    "no-confirmation-key": token(cnf=None),
    "no-end": token(exp=None),
    "status-better-than-the-vector": token(module={"ear.trustworthiness-vector": VECTOR | {"hardware": 97}}),
    "claim-that-does-not-exist": token(module={"ear.trustworthiness-vector": VECTOR | {"luck": 2}}),
    "value-out-of-range": token(module={"ear.trustworthiness-vector": VECTOR | {"hardware": 128}}),
    "two-tees": token(**two_modules()),
}
EXPIRED = {
    "ended": token(iat=NOW - 300, nbf=NOW - 300, exp=NOW - 31),
    "not-valid-yet": token(nbf=NOW + 600, iat=NOW + 600, exp=NOW + 900),
    "valid-for-too-long": token(exp=NOW + 4000),
}
MISDIRECTED = {
    "another-audience": token(aud="somebody.example"),
    "another-issuer": token(iss="somebody.example"),
    "another-profile": token(eat_profile="tag:example.org,2024:other"),
    "another-nonce": token(eat_nonce="nonce-of-somebody"),
    "no-nonce": token(eat_nonce=None),
}
SCENARIOS = {"accepted": ACCEPTED, "token-invalid": INVALID, "token-expired": EXPIRED, "token-misdirected": MISDIRECTED}


def main() -> None:
    """Write every scenario to a file of its name."""
    for expect, scenes in SCENARIOS.items():
        for name, text in scenes.items():
            wanted = {"issuer": "broker.example", "key": jwk(KEY), "audience": "analyst.example", "nonce": "nonce-of-the-analyst"}
            vector = {"scenario": name, "expect": expect, "at": NOW, **wanted, "token": text}
            (FOLDER / f"{name}.json").write_text(json.dumps(vector, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""``confide attest token verify``: what it accepts, refuses and says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS

VECTORS = Path(__file__).parents[1] / "vectors" / "tokens"
AT = "2030-01-01T00:00:00Z"
ITA = "https://portal.trustauthority.intel.com"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def ear(tmp_path: Path, name: str) -> tuple[Any, ...]:
    """What reads the vector ``name``."""
    vector = json.loads((VECTORS / f"{name}.json").read_text())
    (tmp_path / "ear.jwt").write_text(vector["token"] + "\n")
    (tmp_path / "key.json").write_text(json.dumps(vector["key"]))
    wanted = ("--issuer", vector["issuer"], "--issuer-key", tmp_path / "key.json", "--audience", vector["audience"])
    return ("attest", "token", "verify", tmp_path / "ear.jwt", *wanted, "--nonce", vector["nonce"], "--at", AT)


@pytest.fixture
def intels(tmp_path: Path) -> Path:
    """A token as Intel Trust Authority makes them."""
    claims = {
        "attester_type": "TDX",
        "tdx_mrtd": "aa" * 48, "tdx_mrsignerseam": "00" * 48, "tdx_report_data": "ab" * 64, "tdx_mrservicetd": "00" * 48,
        **{f"tdx_rtmr{n}": f"{n}b" * 48 for n in range(4)}, "tdx_td_attributes": "0000001000000000", "tdx_td_attributes_debug": False,
        "tdx_td_attributes_septve_disable": True, "tdx_is_debuggable": False, "attester_tcb_status": "UpToDate",
        "tdx_collateral": {"fmspc": "50806f000000", "tcbevaluationdatanumber": 20},
        "iss": ITA, "iat": 1893456000, "nbf": 1893456000, "exp": 1893456300, "jti": "id-1",
    }  # fmt: skip
    token = JWS(json.dumps(claims))
    token.add_signature(JWK.from_pyca(KEY), protected=json.dumps({"alg": "PS384", "typ": "JWT", "kid": "one"}))
    (tmp_path / "ita.jwt").write_text(token.serialize(compact=True))
    return tmp_path / "ita.jwt"


def policy(tmp_path: Path, *, mrtd: str = "aa", named: bool = True) -> Path:
    keys = json.dumps({"keys": [{**JWK.from_pyca(KEY.public_key()).export_public(as_dict=True), "kid": "one"}]})
    registers = {f"rtmr{n}": [f"{n}b" * 48] for n in (1, 2)}
    form: dict[str, Any] = {"name": "p", "measurements": {"tdx": [mrtd * 48]}, "registers": registers}
    if named:
        form["token_issuers"] = [{"kind": "ita", "issuer": ITA, "jwks": keys}]
    (tmp_path / "p.json").write_text(json.dumps(form))
    return tmp_path / "p.json"


def test_ear_is_read(confide: Any, tmp_path: Path) -> None:
    said = confide(*ear(tmp_path, "accepted"))
    assert said.status == 0
    assert said.out.startswith("genuine: an EAR of broker.example for analyst.example, status affirming; bound to no session here\n")
    found = confide(*ear(tmp_path, "accepted"), "--json").json
    assert (found["genuine"], found["claims"]["session_bound"]) == (True, False)


@pytest.mark.parametrize("name", ["signed-by-another", "no-signature", "ended", "another-audience", "another-nonce"])
def test_ear_that_is_wrong_is_refused(confide: Any, tmp_path: Path, name: str) -> None:
    said = confide(*ear(tmp_path, name), "--json")
    assert said.status == 3
    assert said.json["error"]["code"] == json.loads((VECTORS / f"{name}.json").read_text())["expect"]


def test_token_of_a_named_issuer_is_held_to_the_policy(confide: Any, tmp_path: Path, intels: Path) -> None:
    said = confide("attest", "token", "verify", intels, "--policy", policy(tmp_path), "--at", AT, "--offline", "--json")
    assert (said.status, said.json["accepted"], said.json["issuer"]) == (0, True, ITA)
    said = confide("attest", "token", "verify", intels, "--policy", policy(tmp_path, mrtd="bb"), "--at", AT, "--offline")
    assert said.status == 3
    assert "NO    measurement" in said.out
    assert "yes   token-issuer" in said.out


def test_token_of_an_issuer_that_the_policy_does_not_name_is_refused(confide: Any, tmp_path: Path, intels: Path) -> None:
    said = confide("attest", "token", "verify", intels, "--policy", policy(tmp_path, named=False), "--at", AT, "--offline", "--json")
    assert (said.status, said.json["error"]["code"]) == (3, "token-misdirected")


def test_what_reads_the_token_has_to_be_said(confide: Any, tmp_path: Path, intels: Path) -> None:
    assert confide("attest", "token", "verify", intels).status == 2
    assert confide("attest", "token", "verify", intels, "--policy", policy(tmp_path), "--audience", "me").status == 2


def test_secret_key_is_no_key_to_verify_with(confide: Any, tmp_path: Path) -> None:
    words = ear(tmp_path, "accepted")
    (tmp_path / "key.json").write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    said = confide(*words)
    assert said.status == 2
    assert "secret key" in said.err
    (tmp_path / "key.json").write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert confide(*words).status == 3  # an RSA key for an elliptic curve's signature
    (tmp_path / "key.json").write_text("no key")
    assert confide(*words).status == 5


def test_file_that_holds_no_token_is_refused(confide: Any, tmp_path: Path) -> None:
    words = ear(tmp_path, "accepted")
    for data in (b"\xff\xfe", b"", b"eyJ"):
        (tmp_path / "ear.jwt").write_bytes(data)
        assert confide(*words).status in {3, 5}

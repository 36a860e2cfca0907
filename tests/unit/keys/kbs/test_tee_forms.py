"""Keys, encrypted answers, attesters' forms of evidence, names and init-data: read totally, without a server."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from confide.attest.evidence import Evidence
from confide.attest.init_data import InitData
from confide.canonical import b64url, canonical, from_b64url
from confide.crypto.secret import SecretBytes
from confide.errors import BindingError, ConfideError, EvidenceInvalidError, ParseError, SecretLeakError, UnwrapError
from confide.ids import Tee
from confide.keys.kbs.messages import AttestRequest, AuthRequest, GuestTee, report_data
from confide.keys.kbs.resources import Pattern, ResourceName
from confide.keys.kbs.snp_json import json_of_report, report_of_json
from confide.keys.kbs.tee_evidence import evidence_of_json, json_of_evidence
from confide.keys.kbs.tee_key import KeyKind, TeeKey, TeePublicKey

SNP = Path(__file__).parents[3] / "vectors" / "snp"
SECRET = b"a resource"


# --- keys and answers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=list(KeyKind))
def key(request: pytest.FixtureRequest) -> TeeKey:
    return TeeKey.generate(request.param)


def test_answer_opens_with_the_guests_key_only(key: TeeKey) -> None:
    answer = key.public.encrypt(SecretBytes(SECRET))
    assert set(answer) == {"protected", "encrypted_key", "iv", "ciphertext", "tag"}
    assert key.open(answer).reveal() == SECRET
    for other in KeyKind:
        with pytest.raises(UnwrapError):
            TeeKey.generate(other).open(answer)


def test_every_header_field_is_protected_and_spelt_so_that_reading_and_writing_it_anew_changes_nothing(key: TeeKey) -> None:
    header = from_b64url(key.public.encrypt(SecretBytes(SECRET))["protected"])
    fields = json.loads(header)
    assert list(fields) == (["alg", "enc"] if fields["alg"] == "RSA-OAEP-256" else ["alg", "enc", "epk"])
    assert fields["alg"] == key.public.jwk["alg"]
    assert header == json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()
    assert list(fields.get("epk", {})) == sorted(fields.get("epk", {}))
    assert set(fields.get("epk", {})) <= {"kty", "crv", "x", "y"}


def test_any_changed_part_of_an_answer_is_refused(key: TeeKey) -> None:
    answer = key.public.encrypt(SecretBytes(SECRET))
    for name, part in answer.items():
        data = bytearray(from_b64url(part))
        for at in {0, len(data) // 2, len(data) - 1}:
            changed = bytearray(data)
            changed[at] ^= 1
            with pytest.raises(UnwrapError):
                key.open({**answer, name: b64url(bytes(changed))})


@pytest.mark.parametrize(
    "change",
    [
        {"aad": "AAAA"}, {"tag": ""}, {"iv": 3}, {"protected": "é"}, {"recipients": []}, {"header": {"alg": "dir"}},
        {"protected": b64url(b'{"alg":"dir","enc":"A256GCM"}')},
        {"protected": b64url(b'{"alg":"ECDH-ES+A256KW","enc":"A256GCM","zip":"DEF"}')},
        {"protected": b64url(b'{"alg":"ECDH-ES+A256KW","enc":"A128CBC-HS256"}')},
        {"protected": b64url(b'{"alg":"RSA1_5","enc":"A256GCM"}')},
    ],
)  # fmt: skip
def test_answer_of_another_form_is_refused(change: dict[str, Any]) -> None:
    key = TeeKey.generate()
    with pytest.raises(UnwrapError):
        key.open({**key.public.encrypt(SecretBytes(SECRET)), **change})
    for other in (None, [], "text", {}, {"error": "no"}):
        with pytest.raises(UnwrapError):
            key.open(other)


def test_answer_of_another_library_run_opens_too(key: TeeKey) -> None:
    """As other servers write it: header by hand, ``aad`` empty."""
    public = {name: value for name, value in key.public.jwk.items() if name != "alg"}
    header = json.dumps({"alg": key.public.jwk["alg"], "enc": "A256GCM"})  # with spaces: another spelling of the same
    token = JWE(SECRET, protected=header, algs=[key.public.jwk["alg"], "A256GCM"], recipient=JWK(**public))
    parts = token.serialize(compact=True).split(".")
    names = ("protected", "encrypted_key", "iv", "ciphertext", "tag")
    assert key.open({**dict(zip(names, parts, strict=True)), "aad": ""}).reveal() == SECRET


@pytest.mark.parametrize("header", [{"zip": "DEF"}, {"kid": "x"}, {"apu": "AAAA"}])
def test_answer_that_opens_and_says_more_than_agreed_is_refused(header: dict[str, str]) -> None:
    """A genuine encryption to this key, whose header compresses it, or has anything else that was not agreed."""
    key = TeeKey.generate()
    public = {name: value for name, value in key.public.jwk.items() if name != "alg"}
    fields = json.dumps({"alg": "ECDH-ES+A256KW", "enc": "A256GCM", **header})
    token = JWE(SECRET, protected=fields, algs=["ECDH-ES+A256KW", "A256GCM"], recipient=JWK(**public))
    names = ("protected", "encrypted_key", "iv", "ciphertext", "tag")
    with pytest.raises(UnwrapError, match="another way"):
        key.open(dict(zip(names, token.serialize(compact=True).split("."), strict=True)))


def test_private_key_does_not_travel(key: TeeKey) -> None:
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises(SecretLeakError):
            leak(key)
    assert key.public.jwk["kty"] in repr(key)
    assert "d=" not in repr(key)


GOOD = dict(TeeKey.generate().public.jwk)


@pytest.mark.parametrize(
    "jwk",
    [
        {**GOOD, "d": "AAAA"}, {**GOOD, "kid": "x"}, {**GOOD, "crv": "P-384"}, {**GOOD, "alg": "ECDH-ES"}, {**GOOD, "x": GOOD["y"]},
        {**GOOD, "x": GOOD["x"] + "="}, {**GOOD, "x": GOOD["x"][:-4]}, {"kty": "OKP"}, {"kty": "oct", "k": "AAAA"}, {}, [], "text",
        {"kty": "RSA", "alg": "RSA1_5", "n": b64url(b"\xff" * 256), "e": "AQAB"},
        {"kty": "RSA", "alg": "RSA-OAEP-256", "n": b64url(b"\xff" * 128), "e": "AQAB"},
        {"kty": "RSA", "alg": "RSA-OAEP-256", "n": b64url(b"\xff" * 1024), "e": "AQAB"},
        {"kty": "RSA", "alg": "RSA-OAEP-256", "n": b64url(b"\xff" * 256), "e": "Aw"},
        {"kty": "RSA", "alg": "RSA-OAEP-256", "n": b64url(b"\x00" + b"\xff" * 256), "e": "AQAB"},
    ],
)  # fmt: skip
def test_key_of_another_kind_size_or_spelling_is_refused(jwk: Any) -> None:
    with pytest.raises(ParseError):
        TeePublicKey.from_json(jwk)


# --- report data -------------------------------------------------------------------------------------------------------


def test_report_data_is_sha384_of_the_canonical_runtime_data_with_zeros_behind_it() -> None:
    """Computed by hand from the protocol's words, with fixed values."""
    import hashlib

    jwk = {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": GOOD["x"], "y": GOOD["y"]}
    text = (
        '{"additional-evidence":"","nonce":"bm9uY2U=","tee-pubkey":{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC",'
        f'"x":"{GOOD["x"]}","y":"{GOOD["y"]}"}}}}'
    )
    assert report_data("bm9uY2U=", TeePublicKey.from_json(jwk)) == hashlib.sha384(text.encode()).digest() + bytes(16)


# --- evidence ----------------------------------------------------------------------------------------------------------


def _report(name: str = "milan-vcek-valid") -> tuple[bytes, bytes]:
    certificate = next(SNP.glob(f"{name}.v*ek.der"))
    return (SNP / f"{name}.report").read_bytes(), certificate.read_bytes()


@pytest.mark.parametrize("name", ["milan-vcek-valid", "milan-vlek-valid", "milan-azure"])
def test_real_snp_report_survives_the_attesters_form(name: str) -> None:
    raw, certificate = _report(name)
    evidence = Evidence(Tee.SNP, raw, certificate)
    form = json.loads(json.dumps(json_of_evidence(evidence)))
    assert evidence_of_json(GuestTee.SNP, form) == evidence


@pytest.mark.parametrize("tee", [Tee.SGX, Tee.TDX, Tee.TPM])
def test_quotes_survive_the_attesters_form(tee: Tee) -> None:
    evidence = Evidence(tee, b"a quote", b"a chain" if tee is Tee.TPM else b"")
    assert evidence_of_json(GuestTee(tee.value), json.loads(json.dumps(json_of_evidence(evidence)))) == evidence


def _older(form: dict[str, Any]) -> dict[str, Any]:
    """The older spelling of the same report."""
    found = {name: value for name, value in form.items() if name not in {"key_info", "current", "committed"}}
    for name in ("current", "committed"):
        found |= {f"{name}_{part}": form[name][part] for part in ("build", "minor", "major")}
    for name in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"):
        found[name] = {**{part: value for part, value in form[name].items() if part != "fmc"}, "_reserved": [0, 0, 0, 0]}
    for name in ("cpuid_fam_id", "cpuid_mod_id", "cpuid_step", "launch_mit_vector", "current_mit_vector"):
        if found[name] is None:
            del found[name]
    reserved = {"_reserved_0": 0, "_reserved_2": 0, "_reserved_3": 0, "_reserved_4": [0] * 168}
    return {**found, "_author_key_en": form["key_info"], **reserved, "signature": {**form["signature"], "_reserved": [0] * 368}}


def test_older_spelling_of_a_report_is_the_same_report() -> None:
    raw, _ = _report()
    assert report_of_json(_older(json_of_report(raw))) == raw


@pytest.mark.parametrize("older", [False, True])
def test_report_with_a_field_missing_unknown_or_out_of_range_is_refused(older: bool) -> None:
    raw, _ = _report()
    form = _older(json_of_report(raw)) if older else json_of_report(raw)
    optional = {"cpuid_fam_id", "cpuid_mod_id", "cpuid_step", "launch_mit_vector", "current_mit_vector"}
    for name in set(form) - optional - {n for n in form if n.startswith("_reserved")}:
        with pytest.raises(ParseError):
            report_of_json({n: v for n, v in form.items() if n != name})
        for value in ("text", -1, 1 << 64, [256], None, True, 1.5, {}):
            with pytest.raises(ParseError):
                report_of_json({**form, name: value})
    for change in ({"more": 1}, {"_reserved_9": 0}, {"_reserved_1": [1]}, {"_reserved_4": 7}):
        with pytest.raises(ParseError):
            report_of_json({**form, **change})


QUOTE = base64.b64encode(b"quote").decode()


@pytest.mark.parametrize(
    ("tee", "form"),
    [
        (GuestTee.SGX, {}), (GuestTee.SGX, {"quote": 3}), (GuestTee.SGX, {"quote": "%%%"}), (GuestTee.SGX, {"quote": "cXVvdGU"}),
        (GuestTee.SGX, {"quote": QUOTE, "cc_eventlog": None}), (GuestTee.SGX, {"quote": ""}), (GuestTee.SGX, {"quote": "A" * 100_000}),
        (GuestTee.TDX, {"quote": QUOTE, "cc_eventlog": 1}), (GuestTee.TDX, {"quote": QUOTE, "more": ""}),
        (GuestTee.TDX, {"quote": QUOTE, "cc_eventlog": "A" * 2_000_000}), (GuestTee.TDX, {"cc_eventlog": None}),
        (GuestTee.SNP, {}), (GuestTee.SNP, {"attestation_report": []}), (GuestTee.SNP, {"attestation_report": {}, "x": 1}),
        (GuestTee.TPM, {"quote": QUOTE}), (GuestTee.TPM, {"report_data": QUOTE, "tpm_quote": {}, "ak_public": QUOTE}),
        (GuestTee.SAMPLE, {"svn": 1, "report_data": QUOTE}), (GuestTee.SAMPLE, {"svn": "1", "report_data": "A" * 200}),
    ],
)  # fmt: skip
def test_evidence_of_another_form_is_refused(tee: GuestTee, form: dict[str, Any]) -> None:
    with pytest.raises(ParseError):
        evidence_of_json(tee, form)


@pytest.mark.parametrize(
    "chain",
    [
        "x", [1], [{}], [{"cert_type": "VCEK"}], [{"cert_type": "VCEK", "data": "AAAA"}], [{"cert_type": "VCEK", "data": [256]}],
        [{"cert_type": "VCEK", "data": [1] * 10_000}], [{"cert_type": "VCEK", "data": [1], "x": 1}], [{"cert_type": 3, "data": [1]}],
        [{"cert_type": "VCEK", "data": [1]}, {"cert_type": "VCEK", "data": [2]}], [{"cert_type": "ASK", "data": [1]}] * 17,
    ],
)  # fmt: skip
def test_hosts_certificates_of_another_form_are_refused(chain: Any) -> None:
    raw, _ = _report()
    with pytest.raises(ParseError):
        evidence_of_json(GuestTee.SNP, {"attestation_report": json_of_report(raw), "cert_chain": chain})


def test_only_the_signing_keys_certificate_is_taken_and_none_is_none() -> None:
    raw, certificate = _report()
    form = json_of_report(raw)
    others = [{"cert_type": "ASK", "data": [1]}, {"cert_type": {"OTHER": "x"}, "data": []}, {"cert_type": "VLEK", "data": [2]}]
    mine = {"cert_type": "VCEK", "data": list(certificate)}
    found = evidence_of_json(GuestTee.SNP, {"attestation_report": form, "cert_chain": [*others, mine]})
    assert isinstance(found, Evidence)
    assert found.chain == certificate
    for chain in (None, others):
        found = evidence_of_json(GuestTee.SNP, {"attestation_report": form, "cert_chain": chain})
        assert isinstance(found, Evidence)
        assert found.chain == b""


def test_kinds_that_are_not_verified_say_so() -> None:
    for tee in (GuestTee.AZ_SNP_VTPM, GuestTee.AZ_TDX_VTPM):
        with pytest.raises(EvidenceInvalidError):
            evidence_of_json(tee, {"quote": QUOTE})


# --- messages ----------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["version", "tee", "extra-params", "runtime-data", "tee-evidence", "init-data", "x"]), JSON))
def test_any_json_is_a_message_or_an_error_of_ours(message: dict[str, Any]) -> None:
    for read in (AuthRequest.from_json, AttestRequest.from_json):
        try:
            read(message)
        except ConfideError:
            continue


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=12), JSON), st.sampled_from(list(GuestTee)))
def test_any_json_is_evidence_or_an_error_of_ours(form: dict[str, Any], tee: GuestTee) -> None:
    try:
        evidence_of_json(tee, form)
    except ConfideError:
        return


def test_attest_request_round_trips_and_evidence_of_further_devices_is_refused() -> None:
    key = TeePublicKey.from_json(GOOD)
    request = AttestRequest("bm9uY2U=", key, {"quote": QUOTE}, "", InitData.parse(_init_data()))
    assert AttestRequest.from_json(request.to_json()) == request
    for text in ("{}", ""):
        AttestRequest.from_json(AttestRequest("x", key, {}, text).to_json())
    for text in ('{"nvidia":{}}', "[]", "x", "{" * 100_000):
        with pytest.raises(ParseError):
            AttestRequest.from_json(AttestRequest("x", key, {}, text).to_json())


# --- names -------------------------------------------------------------------------------------------------------------

HOSTILE = [
    "", "a/b", "a/b/c/d", "/a/b", "a//b", "../b/c", "a/../c", "a/b/..", "a/b/.", ".a/b/c", "a/b/c/", "a/b/%2e%2e", "a/b/c%00", "a/b/c\0",
    "a/b/'; DROP TABLE records; --", 'a/b/"', "a/b/c d", "a/b/é", "a/b/*", "a/b\\c/d", "a/b/" + "c" * 65, "a/b/c\n", "a/b/c?x", "a/b/%",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_name_is_none(text: str) -> None:
    with pytest.raises(ParseError):
        ResourceName.parse(text)


@pytest.mark.parametrize("text", ["default/key/1", "a-b_c/1.0/3...", "A/_/-"])
def test_plain_name_is_one(text: str) -> None:
    assert ResourceName.parse(text).path == text


@pytest.mark.parametrize(("pattern", "yes", "no"), [
    ("a/b/c", ["a/b/c"], ["a/b/d", "a/x/c", "x/b/c"]),
    ("a/*/c", ["a/b/c", "a/x/c"], ["a/b/d"]),
    ("a/*/*", ["a/b/c", "a/x/y"], ["b/b/c"]),
])  # fmt: skip
def test_pattern_stands_for_whole_words_of_one_repository(pattern: str, yes: list[str], no: list[str]) -> None:
    found = Pattern.parse(pattern)
    assert all(found.matches(ResourceName.parse(name)) for name in yes)
    assert not any(found.matches(ResourceName.parse(name)) for name in no)
    assert str(found) == pattern


# --- init-data ---------------------------------------------------------------------------------------------------------


def _init_data(**changes: Any) -> str:
    fields = {"version": '"0.1.0"', "algorithm": '"sha384"', **changes}
    return "\n".join(f"{name} = {value}" for name, value in fields.items()) + '\n\n[data]\n"aa.toml" = "x"\n'


@pytest.mark.parametrize(("algorithm", "size"), [("sha256", 32), ("sha-384", 48), ("sha512", 64)])
def test_init_data_digest_is_over_the_document_as_it_was_sent(algorithm: str, size: int) -> None:
    import hashlib

    body = _init_data(algorithm=f'"{algorithm}"')
    found = InitData.parse(body)
    assert found.digest == hashlib.new(algorithm.replace("-", ""), body.encode()).digest()
    assert len(found.digest) == size
    assert found.data == {"aa.toml": "x"}
    assert InitData.parse(body + "\n").digest != found.digest
    as_json = canonical({"version": "0.1.0", "algorithm": algorithm, "data": {"k": "v"}}).decode()
    assert InitData.parse(as_json, "json").data == {"k": "v"}


@pytest.mark.parametrize(
    "message",
    [
        {"format": "yaml", "body": _init_data()}, {"format": "toml"}, {"format": "toml", "body": 3}, {"format": "toml", "body": "= ="},
        {"format": "toml", "body": _init_data(version='"0.2.0"')}, {"format": "toml", "body": _init_data(algorithm='"md5"')},
        {"format": "toml", "body": _init_data(more="1")}, {"format": "toml", "body": _init_data() + "n = 1\n"}, None,
        {"format": "toml", "body": _init_data(), "x": 1}, {"format": "toml", "body": "#" * 300_000}, {"format": "toml", "body": "\ud800"},
        {"format": "json", "body": "[]"},
    ],
)  # fmt: skip
def test_init_data_of_another_form_is_refused(message: Any) -> None:
    with pytest.raises(ParseError):
        InitData.from_json(message)


def test_init_data_is_bound_to_the_field_of_each_kind_of_tee() -> None:
    """SEV-SNP and TPM, whose evidence is not simulated: the field's value as genuine claims have it."""
    import hashlib
    from types import SimpleNamespace

    found = InitData.parse(_init_data())
    cut = found.digest[:32]
    snp: Any = SimpleNamespace(claims=SimpleNamespace(tee=Tee.SNP, vendor={"host_data": cut.hex()}, registers={}))
    found.check_bound(snp)
    pcr = hashlib.sha256(bytes(32) + cut).hexdigest()
    tpm: Any = SimpleNamespace(claims=SimpleNamespace(tee=Tee.TPM, vendor={}, registers={"pcr8": pcr}))
    found.check_bound(tpm)
    for bad in (
        SimpleNamespace(claims=SimpleNamespace(tee=Tee.SNP, vendor={"host_data": "00" * 32}, registers={})),
        SimpleNamespace(claims=SimpleNamespace(tee=Tee.TPM, vendor={}, registers={"pcr7": pcr})),
        SimpleNamespace(claims=SimpleNamespace(tee=Tee.TPM, vendor={}, registers={"pcr8": cut.hex()})),
    ):
        with pytest.raises(BindingError):
            found.check_bound(bad)  # type: ignore[arg-type]

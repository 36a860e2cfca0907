"""Collateral in the forms that other tools and the vendors' services write: read when it can be meant in one way, else refused in words."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from support.amd import Vendor

from confide.attest.amd_collateral import AmdCollateral
from confide.attest.certs import parse_chain
from confide.attest.collateral import Collateral
from confide.attest.collateral_files import load_sets
from confide.attest.collateral_forms import pem_of
from confide.attest.collateral_service import bundle
from confide.attest.collateral_sources import FixedCollateral, load_collateral
from confide.attest.evidence import Evidence
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.errors import CollateralError
from confide.ids import Tee

VECTORS = Path(__file__).parents[2] / "vectors"
ENTRY = next(e for e in json.loads((VECTORS / "intel" / "manifest.json").read_text()) if e["id"] == "tdx-v4-uptodate")
NOW = datetime.fromtimestamp(ENTRY["now"], UTC)
SET = load_collateral(VECTORS / ENTRY["collateral"])
assert isinstance(SET, Collateral)
PLAIN = SET.to_json()
SGX = load_collateral(VECTORS / "intel" / "collateral" / "sgx-A067-2025-06.json")
assert isinstance(SGX, Collateral)
Change = Callable[[dict[str, str]], dict[str, Any]]


def pem_list(der: bytes) -> str:
    return x509.load_der_x509_crl(der).public_bytes(Encoding.PEM).decode()


def answer(name: str, text: str, signature: str) -> str:
    """What Intel's service answers."""
    return f'{{"{name}":{text},"signature":"{signature}"}}'


TCB = answer("tcbInfo", SET.tcb_info, SET.tcb_info_signature.hex())
IDENTITY = answer("enclaveIdentity", SET.qe_identity, SET.qe_identity_signature.hex())


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def in_lists(data: dict[str, str]) -> dict[str, Any]:
    binary = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
    return {name: list(bytes.fromhex(text)) if name in binary else text for name, text in data.items()}


def in_base64(data: dict[str, str]) -> dict[str, Any]:
    return {name: base64.b64encode(bytes(v)).decode() if isinstance(v, list) else v for name, v in in_lists(data).items()}


def of_intels_library(data: dict[str, str]) -> dict[str, Any]:
    """Signed documents with their signatures in them; lists as the library hands them out, a C string's end included."""
    kept = {name: text for name, text in data.items() if not name.endswith("_signature")}
    lists = {"root_ca_crl": data["root_ca_crl"].encode().hex() + "00", "pck_crl": pem_list(SET.pck_crl) + "\0"}
    return {**kept, **lists, "version": 3, "tee_type": 0x81, "tcb_info": TCB + "\0", "qe_identity": IDENTITY}


def chains(change: Callable[[str], str]) -> Change:
    return lambda data: {name: change(text) if name.endswith("_chain") else text for name, text in data.items()}


def root_first(pem: str) -> str:
    child, root = ("-----BEGIN" + block for block in pem.split("-----BEGIN")[1:])
    return root.rstrip("\n") + "\n" + child


FORMS: dict[str, Change] = {
    "our own": dict,
    "camel case": lambda data: {camel(name): text for name, text in data.items()},
    "lists of bytes": in_lists,
    "base64": in_base64,
    "upper-case hex": lambda data: {**data, "pck_crl": data["pck_crl"].upper(), "tcb_info_signature": data["tcb_info_signature"].upper()},
    "lists in PEM": lambda data: {**data, "pck_crl": pem_list(SET.pck_crl), "root_ca_crl": pem_list(SET.root_ca_crl)},
    "Intel's library": of_intels_library,
    "documents as objects": lambda data: {**data, "tcb_info": json.loads(SET.tcb_info), "qe_identity": json.loads(SET.qe_identity)},
    "answers as objects": lambda data: {**data, "tcb_info": json.loads(TCB), "qe_identity": json.loads(IDENTITY)},
    "no PCK chain": lambda data: {**data, "pck_certificate_chain": None},
    "root first": chains(root_first),
    "blank lines and words": chains(lambda pem: "# issuer\r\n" + pem.replace("-----BEGIN", "\n\n-----BEGIN") + "\n\n"),
    "percent-encoded": chains(urllib.parse.quote),
}


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., list[Path]]:
    """Files with these contents."""

    def make(*contents: Any) -> list[Path]:
        paths = []
        for number, content in enumerate(contents):
            paths.append(tmp_path / f"file-{number}")
            data = content if isinstance(content, str | bytes) else json.dumps(content)
            paths[-1].write_bytes(data.encode() if isinstance(data, str) else data)
        return paths

    return make


def verify(*sets: Any) -> str:
    raw = (VECTORS / ENTRY["quote"]).read_bytes()
    return Verifier(TrustRoots(), FixedCollateral(*sets)).verify(Evidence.from_device(Tee.TDX, raw), NOW).claims.tcb_status


# --- whole sets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_version_3_object_is_read_as_other_tools_write_it(files: Any, form: str) -> None:
    found = load_sets(files(FORMS[form](PLAIN)))
    assert found == [SET]
    assert verify(*found) == ENTRY["tcb_status"]


def test_what_a_form_hides_is_not_believed(files: Any) -> None:
    changed = {**PLAIN, "tcb_info": json.loads(SET.tcb_info) | {"tcbEvaluationDataNumber": 99}}
    found = load_sets(files(changed))
    with pytest.raises(CollateralError, match="signature of the TCB info"):
        verify(*found)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"more": "x"}, "not known"),
        ({"pckCrl": PLAIN["pck_crl"]}, "two spellings"),
        ({"tee_type": 0}, "tee_type"),
        ({"tee_type": "what"}, "tee_type"),
        ({"tcb_info": TCB, "tcb_info_signature": "00" * 64}, "two signatures"),
        ({"tcb_info_signature": None}, "missing"),
        ({"tcb_info_signature": "not hex!"}, "neither hex nor base64"),
        ({"tcb_info_signature": [1, 256]}, "neither hex nor base64"),
        ({"pck_crl": ""}, "neither hex nor base64"),
        ({"pck_crl": "aaaa"}, "no revocation list"),
        ({"tcb_info": "{"}, "not JSON"),
        ({"tcb_info": 7}, "not JSON"),
        ({"pck_crl_issuer_chain": 7}, "not text"),
        ({"pck_crl_issuer_chain": pem_list(SET.pck_crl)}, "revocation list is where"),
        ({"pck_crl_issuer_chain": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"}, "does not parse"),
    ],
    ids=str,
)
def test_version_3_object_with_anything_else_is_refused(files: Any, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(CollateralError, match=says) as caught:
        load_sets(files({**PLAIN, **changes}))
    assert caught.value.facts["path"]


@pytest.mark.parametrize("name", ["pck_crl", "tcb_info", "qe_identity_issuer_chain"])
def test_missing_field_is_named(files: Any, name: str) -> None:
    with pytest.raises(CollateralError, match="missing") as caught:
        load_sets(files({key: text for key, text in PLAIN.items() if key != name}))
    assert caught.value.facts["field"] == name


def test_tcb_info_of_version_2_is_refused_with_what_to_do(files: Any) -> None:
    """What Intel's API gave until its version 3: it says nothing of TDX and is not renewed."""
    old = json.loads(SET.tcb_info) | {"version": 2}
    tool = client_tool(SET, tcb={"tcbinfo": {"tcbInfo": old, "signature": "00"}})
    for data in ({**PLAIN, "tcb_info": json.dumps(old)}, {"collaterals": tool}):
        with pytest.raises(CollateralError, match="not of version 3") as caught:
            load_sets(files(data))
        assert "version 4 of Intel's API" in (caught.value.hint or "")
        assert (caught.value.code, caught.value.facts["got"]) == ("collateral-invalid", "2")


def test_exported_bundle_is_read(files: Any) -> None:
    assert load_sets(files(bundle([SET, SGX]))) == [SET, SGX]


def client_tool(*sets: Collateral, tcb: dict[str, Any] | None = None) -> dict[str, Any]:
    """What ``platform_collaterals.json`` holds: documents read and written again, identities as text, lists in hex, chains by header."""
    infos = [{"fmspc": s.fmspc, f"{s.tee}_tcbinfo": {"tcbInfo": s.tcb, "signature": s.tcb_info_signature.hex()}} for s in sets]
    found: dict[str, Any] = {"version": 4, "pck_certs": [], "tcbinfos": infos, "qeidentity": "", "tdqeidentity": "", "qveidentity": "{}"}
    for one in sets:
        text = answer("enclaveIdentity", one.qe_identity, one.qe_identity_signature.hex())
        found["tdqeidentity" if one.tee is Tee.TDX else "qeidentity"] = text
    names = {"platform": "platformCrl", "processor": "processorCrl"}
    found["pckcacrl"] = {names[s.ca]: s.pck_crl.hex() for s in sets}
    issuers = {s.ca.upper(): s.pck_crl_issuer_chain for s in sets}
    headers = {"SGX-PCK-Certificate-Issuer-Chain": issuers, "TCB-Info-Issuer-Chain": urllib.parse.quote(sets[0].tcb_info_issuer_chain)}
    found |= {"certificates": headers, "rootcacrl": sets[0].root_ca_crl.hex()}
    if tcb is not None:
        found["tcbinfos"] = [{"fmspc": sets[0].fmspc, **tcb}]
    return found


def test_file_of_intels_client_tool_gives_its_sets(files: Any) -> None:
    [tdx] = load_sets(files({"platforms": [], "collaterals": client_tool(SET)}))
    assert verify(tdx) == ENTRY["tcb_status"]
    tool = client_tool(SET)
    tool["tcbinfos"][0]["tdx_tcbinfo_early"] = {"tcbInfo": {"id": "TDX"}, "signature": "00"}
    assert load_sets(files({"platforms": [], "collaterals": tool})) == [tdx]


# --- parts ------------------------------------------------------------------------------------------------------------


def parts() -> dict[str, str | bytes]:
    """What Intel's service answers, each kept as a file."""
    return {
        "the TCB info": TCB,
        "identity": IDENTITY,
        "the root's revocation list": SET.root_ca_crl,
        "PCK CA's revocation list": pem_list(SET.pck_crl),
        "issuer chain of the TCB info": urllib.parse.quote(SET.tcb_info_issuer_chain),
        "PCK CA's revocation list, with its issuer chain": SET.pck_crl_issuer_chain,
    }


def test_answers_of_intels_service_are_put_together(files: Any) -> None:
    found = load_sets(files(*parts().values()))
    assert found == [SET]
    assert verify(*found) == ENTRY["tcb_status"]
    assert load_sets(files(*parts().values(), SET.qe_identity_issuer_chain, IDENTITY)) == [SET]


@pytest.mark.parametrize("left_out", [name for name in parts() if name != "the TCB info"])
def test_missing_part_is_named(files: Any, left_out: str) -> None:
    given = parts()
    del given[left_out]
    with pytest.raises(CollateralError, match="part of the collateral is missing") as caught:
        load_sets(files(*given.values()))
    assert left_out in caught.value.facts["missing"]
    assert "issuer chains" in (caught.value.hint or "")


def test_parts_that_could_be_meant_in_two_ways_are_refused(files: Any) -> None:
    newer = load_collateral(VECTORS / "intel" / "collateral" / "tdx-B0C0-2026-08.json")
    assert isinstance(newer, Collateral)
    for extra, says in (
        (newer.pck_crl, "two revocation lists"),
        (answer("enclaveIdentity", newer.qe_identity, newer.qe_identity_signature.hex()), "two enclave identities"),
        (answer("tcbInfo", newer.tcb_info, newer.tcb_info_signature.hex()), "two sets"),
        (PLAIN, "two sets"),
    ):
        with pytest.raises(CollateralError, match=says):
            load_sets(files(*parts().values(), extra))


def test_file_may_have_eight_megabytes(files: Any) -> None:
    most = 8 * 1024 * 1024
    assert load_sets(files(json.dumps(PLAIN).ljust(most))) == [SET]
    with pytest.raises(CollateralError, match="too large") as caught:
        load_sets(files(json.dumps(PLAIN).ljust(most + 1)))
    assert caught.value.facts["limit"] == most


def test_chain_of_a_signer_is_itself_and_its_root(files: Any) -> None:
    """The root is the one that it names: neither none, nor a signer or CA in its place, nor another root of that name."""
    signer, root = (pem_of([one]) for one in parse_chain(SET.tcb_info_issuer_chain.encode()))
    ca, _ = (pem_of([one]) for one in parse_chain(SET.pck_crl_issuer_chain.encode()))
    rest = (TCB, IDENTITY, SET.root_ca_crl, SET.pck_crl)
    assert load_sets(files(*rest, signer, root, ca)) == [SET]
    for certificates in ((root, ca), (signer, ca), (signer,), (ca,), (root,)):
        with pytest.raises(CollateralError, match="part of the collateral is missing") as caught:
            load_sets(files(*rest, *certificates))
        assert "issuer chain of the TCB info" in caught.value.facts["missing"]
    key, name = ec.generate_private_key(ec.SECP256R1()), parse_chain(root.encode())[0].subject
    own = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    own = own.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    with pytest.raises(CollateralError, match="two certificates of one name"):
        load_sets(files(*rest, signer, pem_of([own.sign(key, SHA256())]), root, ca))


def test_signed_document_inside_a_tools_file_has_no_member_twice(files: Any) -> None:
    tool = client_tool(SET)
    tool["tdqeidentity"] = tool["tdqeidentity"].replace('{"id":', '{"id":"QE","id":')
    assert tool["tdqeidentity"].count('"id"') == 2
    with pytest.raises(CollateralError, match="signed document of the collateral is not JSON"):
        load_sets(files({"platforms": [], "collaterals": tool}))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"hello": "world"}, "no form"),
        ([1], "no form"),
        (b"\x00\x01", "no form"),
        (b"", "no form"),
        (b"{", "does not parse"),
        (b'{"\xff": 1}', "not in UTF-8"),
        (b'{"tcbInfo":{},"tcbInfo":{}}', "does not parse"),
        ({"tcbInfo": {}, "signature": 7}, "not known"),
        ({"format": "confide-collateral-v1"}, "not a bundle"),
        ({"collaterals": {}}, "hold no set"),
        ({"collaterals": {"tcbinfos": 5, "pckcacrl": 7, "certificates": [1]}}, "hold no set"),
        ({"collaterals": {"tcbinfos": [5, {"sgx_tcbinfo": 5}]}}, "hold no set"),
        (bundle([]), "hold no set"),
    ],
    ids=str,
)
def test_file_of_no_known_form_is_refused_with_the_forms_that_are(files: Any, content: Any, says: str) -> None:
    with pytest.raises(CollateralError, match=says) as caught:
        load_sets(files(content))
    assert "version 3 collateral object" in (caught.value.hint or "")


def test_no_files_hold_nothing() -> None:
    assert load_sets([]) == []


def test_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CollateralError, match="cannot read"):
        load_sets([tmp_path / "none"])


# --- AMD --------------------------------------------------------------------------------------------------------------


def test_amds_certificates_make_a_set_for_each_kind_of_key(files: Any) -> None:
    """In one file, in any order, as the KDS and clouds give them, with the chip's own certificate or without."""
    vcek, vlek = load_sets([VECTORS / "snp" / "certs" / "milan_ask_ark_asvk.pem"])
    assert isinstance(vcek, AmdCollateral)
    assert isinstance(vlek, AmdCollateral)
    assert (vcek.platform, vlek.platform) == (("Milan", "vcek", Tee.SNP), ("Milan", "vlek", Tee.SNP))
    turin = load_sets([VECTORS / "snp" / "certs" / "turin_ask_ark.pem"])
    evidence = Evidence(Tee.SNP, *((VECTORS / "snp" / f"turin-v5.{end}").read_bytes() for end in ("report", "vcek.der")))
    verified = Verifier(TrustRoots(), FixedCollateral(*turin)).verify(evidence, datetime(2026, 1, 1, tzinfo=UTC))
    assert verified.claims.platform == "Turin"


@pytest.mark.parametrize("pem", [True, False], ids=["PEM", "DER"])
def test_amds_revocation_list_belongs_to_its_root(files: Any, pem: bool) -> None:
    vendor = Vendor("Genoa")
    wanted = vendor.collateral()
    other = Vendor("Milan").collateral()
    listed = pem_list(wanted.crl).encode() if pem else wanted.crl
    genoa, milan = sorted(load_sets(files(wanted.chain, listed, other.chain)), key=lambda one: one.platform)
    assert genoa == wanted
    assert milan == AmdCollateral("Milan", "vcek", other.chain, b"")
    verified = Verifier(TrustRoots(amd=vendor.roots), FixedCollateral(genoa)).verify(vendor.evidence(), vendor.now)
    assert verified.claims.vendor["revocation_list"]


def test_answer_of_a_clouds_cache_is_read(files: Any) -> None:
    wanted = Vendor("Genoa").collateral(crl=b"")
    leaf = x509.load_der_x509_certificate(Vendor("Genoa").leaf()).public_bytes(Encoding.PEM).decode()
    found = load_sets(files({"vcekCert": leaf, "tcbm": "00", "certificateChain": wanted.chain, "cacheControl": "86400"}))
    assert found == [wanted]


def test_half_a_chain_of_amds_is_refused(files: Any) -> None:
    vendor = Vendor("Genoa")
    for certificate in (vendor.root(), vendor.issuer()):
        with pytest.raises(CollateralError, match="missing") as caught:
            load_sets(files(certificate.public_bytes(Encoding.PEM)))
        assert "ARK-Genoa" in caught.value.facts["missing"]
    with pytest.raises(CollateralError, match="make no set"):
        load_sets(files(vendor.crl()))
    again = vendor.root(end=vendor.now + timedelta(days=9)).public_bytes(Encoding.PEM)
    with pytest.raises(CollateralError, match="two certificates of one name"):
        load_sets(files(vendor.collateral().chain, again))

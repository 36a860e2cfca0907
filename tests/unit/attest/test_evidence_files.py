"""The certificate of the key that vouches for evidence, in the forms that hosts and clouds give it."""

from __future__ import annotations

import base64
import json
import struct
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.amd import Vendor

from confide.attest.certs import common_name
from confide.attest.collateral_sources import FixedCollateral
from confide.attest.evidence import Evidence
from confide.attest.evidence_files import load_evidence, read_file
from confide.attest.insecure import InsecureAttester, Installation
from confide.attest.quote import parse_quote
from confide.attest.roots import TrustRoots
from confide.attest.tpm_format import MAGIC
from confide.attest.verify import Verifier
from confide.errors import ParseError, UsageError
from confide.ids import ReportData, Tee

VECTORS = Path(__file__).parents[2] / "vectors"
GUIDS = {"vcek": uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd"), "vlek": uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")}


@pytest.fixture(scope="module")
def vendor() -> Vendor:
    return Vendor("Genoa")


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def table(vendor: Vendor, *kinds: str, big_endian: bool = True) -> bytes:
    """A host's table of certificates (AMD publication 56421)."""
    entries, data, at = b"", b"", 24 * (len(kinds) + 1)
    for kind in kinds:
        leaf = vendor.leaf(kind)
        entries += (GUIDS[kind].bytes if big_endian else GUIDS[kind].bytes_le) + struct.pack("<II", at + len(data), len(leaf))
        data += leaf
    return entries + bytes(24) + data


def verify(vendor: Vendor, folder: Path, endorsement: bytes, **changes: Any) -> str:
    (folder / "report").write_bytes(vendor.report(**changes))
    evidence = load_evidence(folder / "report", endorsement)
    sets = FixedCollateral(vendor.collateral("vcek"), vendor.collateral("vlek"))
    claims = Verifier(TrustRoots(amd=vendor.roots), sets).verify(evidence, vendor.now).claims
    return str(claims.vendor["signing_key"])


def test_certificate_of_a_chips_key_is_read_as_hosts_and_clouds_give_it(vendor: Vendor, tmp_path: Path) -> None:
    leaf = x509.load_der_x509_certificate(vendor.leaf())
    whole = pem(leaf, vendor.issuer(), vendor.root())
    cache = {"vcekCert": pem(leaf).decode(), "tcbm": "00", "certificateChain": pem(vendor.issuer(), vendor.root()).decode()}
    for form in (
        vendor.leaf(),
        pem(leaf),
        whole,
        pem(vendor.root(), vendor.issuer(), leaf),
        whole.replace(b"-----BEGIN", b"# words\r\n\r\n-----BEGIN"),
        json.dumps(cache).encode(),
        table(vendor, "vcek"),
        table(vendor, "vcek", big_endian=False),
    ):
        assert verify(vendor, tmp_path, form) == "vcek"


def test_of_a_table_with_both_keys_the_reports_is_taken(vendor: Vendor, tmp_path: Path) -> None:
    both = table(vendor, "vcek", "vlek")
    assert verify(vendor, tmp_path, both) == "vcek"
    assert verify(vendor, tmp_path, both, flags=1 << 2) == "vlek"


@pytest.mark.parametrize(
    "endorsement", [b"junk", bytes(100), b'{"vcekCert": "junk"}', b'{"x": 1}', b"-----BEGIN EC PRIVATE KEY-----\n"], ids=str
)
def test_endorsement_that_is_no_certificate_is_refused(vendor: Vendor, tmp_path: Path, endorsement: bytes) -> None:
    with pytest.raises(ParseError):
        verify(vendor, tmp_path, endorsement)


def test_table_without_the_reports_key_is_refused(vendor: Vendor, tmp_path: Path) -> None:
    with pytest.raises(ParseError, match="no table of a host"):
        verify(vendor, tmp_path, table(vendor, "vlek"))


def test_quote_in_the_json_of_other_tools_is_read(tmp_path: Path) -> None:
    """Under ``quote`` as guest agents answer, or under the kind of TEE as clients of attestation services write, with its padding."""
    raw = (VECTORS / "intel" / "tdx-v4-uptodate.quote").read_bytes()
    wanted = load_evidence(VECTORS / "intel" / "tdx-v4-uptodate.quote")
    path, text = tmp_path / "evidence.json", base64.b64encode(raw).decode()
    for form in ({"quote": raw.hex(), "event_log": "[]"}, {"quote": "0x" + raw.hex()}, {"tdx": {"runtime_data": None, "quote": text}}):
        path.write_text(json.dumps(form))
        assert load_evidence(path) == wanted
    path.write_text(json.dumps(wanted.to_json()))
    assert load_evidence(path) == wanted
    for form, says in (
        ({"quote": text, "tdx": {"quote": text}}, "several quotes"),
        ({"quote": "no"}, "."),
        ({"quote": 7}, "evidence must"),
    ):
        path.write_text(json.dumps(form))
        with pytest.raises(ParseError, match=says):
            load_evidence(path)


def test_pck_chain_of_a_file_is_read_in_any_order(installation: Installation, now: Any, tmp_path: Path) -> None:
    attester = InsecureAttester(installation, Tee.SGX, "5a" * 32)
    quote = parse_quote(attester.quote(ReportData(bytes(64))).quote)
    named = replace(quote, signature=replace(quote.signature, cert_type=3, cert_data=bytes(404)))
    (tmp_path / "quote").write_bytes(named.to_bytes())
    verifier = Verifier(TrustRoots(simulated=installation.root_der), installation.collateral_source())
    blocks = [b"-----BEGIN" + block for block in quote.signature.cert_data.split(b"-----BEGIN")[1:]]
    for chain in (b"".join(blocks), b"\n# words\n".join(blocks) + b"\n\n", b"".join(reversed(blocks))):
        assert verifier.verify(load_evidence(tmp_path / "quote", chain), now).claims.tee is Tee.SGX


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (b"00ff", b"\0\xff"), (b"0x00FF\n", b"\0\xff"), (b"  00 ff\r\n0a\n", b"\0\xff\n"), (b"AP8K", b"\0\xff\n"), (b"+/8=", b"\xfb\xff"),
        (b"-_8=", b"\xfb\xff"), (b"\nA\nP8 K\t", b"\0\xff\n"), (b"abc", None), (b"0xfgh", None), (b"AP8K=AP8", None), (b"+/8=AAAA", None),
        (b"", b""), (b" \n", b" \n"), (b"\0\xff", b"\0\xff"), (b"{}", b"{}"), (b"-----BEGIN X-----", b"-----BEGIN X-----"),
        (b"-----", b"-----"), (b"----", b"\xfb\xef\xbe"), (b"00 ff.", b"00 ff."),
    ],
    ids=str,
)  # fmt: skip
def test_text_of_a_file_is_hex_or_base64_or_what_it_is(tmp_path: Path, text: bytes, data: bytes | None) -> None:
    (tmp_path / "file").write_bytes(text)
    if data is not None:
        assert read_file(tmp_path / "file") == data
        return
    with pytest.raises(ParseError, match="neither hex nor base64"):
        read_file(tmp_path / "file")


def test_file_has_a_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    assert len(read_file(tmp_path / "file")) == 1 << 20
    (tmp_path / "file").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(UsageError, match="too large to be evidence"):
        read_file(tmp_path / "file")
    with pytest.raises(UsageError, match="cannot read"):
        read_file(tmp_path / "none")


def test_kind_of_evidence_is_told_by_its_bytes(vendor: Vendor, tmp_path: Path) -> None:
    path = tmp_path / "evidence"
    report, leaf, tpm = vendor.report(), vendor.leaf(), MAGIC + bytes(10)
    for raw, endorsement, tee in ((report, leaf, Tee.SNP), (tpm, b"chain", Tee.TPM), (report, b"", Tee.SNP)):
        path.write_bytes(raw)
        assert load_evidence(path, endorsement) == Evidence(tee, raw, endorsement)
    for wrong in (report[:-1], report + b"\0", tpm[1:], b"", b"junk"):
        path.write_bytes(wrong)
        with pytest.raises(ParseError):
            load_evidence(path)


def test_own_json_is_read_alone_and_in_an_answer(tmp_path: Path) -> None:
    wanted = load_evidence(VECTORS / "intel" / "sgx-v3-confighard.quote")
    path = tmp_path / "evidence.json"
    for form in (wanted.to_json(), {"evidence": wanted.to_json(), "nonce": "1"}):
        path.write_text("\n " + json.dumps(form))
        assert load_evidence(path) == wanted


def test_quote_of_other_tools_is_under_the_name_of_its_kind(tmp_path: Path) -> None:
    wanted = load_evidence(VECTORS / "intel" / "sgx-v3-confighard.quote")
    path, text = tmp_path / "evidence.json", wanted.quote.hex()
    path.write_text(json.dumps({"sgx": {"quote": text}}))
    assert load_evidence(path) == wanted
    forms: list[dict[str, object]] = [
        {"tee": "sgx", "quote": text}, {"sgx": {"tee": "sgx", "quote": text}}, {"sgx": {"quote": 7}}, {"sgx": text},
        {"snp": {"quote": text}},
    ]  # fmt: skip
    for form in forms:
        path.write_text(json.dumps(form))
        with pytest.raises(ParseError, match=r"evidence must|fields"):
            load_evidence(path)


def test_key_of_a_report_is_named_by_three_bits(vendor: Vendor, tmp_path: Path) -> None:
    both = table(vendor, "vcek", "vlek")
    for flags, kind in ((0, "VCEK"), (4, "VLEK"), (7, "VLEK"), (8, "VCEK"), (0x20, "VCEK"), (0x24, "VLEK"), (0x3C, "VCEK")):
        (tmp_path / "report").write_bytes(vendor.report(flags=flags))
        chain = load_evidence(tmp_path / "report", both).chain
        assert common_name(x509.load_der_x509_certificate(chain).subject) == f"SEV-{kind}", flags


def test_pem_without_an_endorsement_keys_name_gives_its_first_certificate(vendor: Vendor, tmp_path: Path) -> None:
    (tmp_path / "report").write_bytes(vendor.report())
    chain = load_evidence(tmp_path / "report", pem(vendor.issuer(), vendor.root())).chain
    assert x509.load_der_x509_certificate(chain).subject == vendor.issuer().subject

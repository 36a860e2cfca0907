"""``confide attest show FILE`` and ``confide attest verify FILE``: for people who use nothing else of Confide."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.vendor_server import VendorServer

from confide.attest.collateral_sources import load_collateral

VECTORS = Path(__file__).parents[1] / "vectors"
INTEL = {entry["id"]: entry for entry in json.loads((VECTORS / "intel" / "manifest.json").read_text())}
QUOTE = VECTORS / INTEL["tdx-v4-uptodate"]["quote"]
COLLATERAL = VECTORS / INTEL["tdx-v4-uptodate"]["collateral"]
AT = datetime.fromtimestamp(INTEL["tdx-v4-uptodate"]["now"], UTC).isoformat()


@pytest.fixture
def amd(tmp_path: Path) -> Path:
    """Milan's collateral for VCEKs."""
    blocks = (VECTORS / "snp" / "certs" / "milan_ask_ark_asvk.pem").read_text().split("-----BEGIN CERTIFICATE-----")[1:3]
    chain = "".join("-----BEGIN CERTIFICATE-----" + block for block in blocks)
    path = tmp_path / "milan.json"
    path.write_text(json.dumps({"product": "Milan", "key": "vcek", "chain": chain, "crl": ""}))
    return path


@pytest.mark.parametrize(
    ("path", "kind", "fields"),
    [
        (QUOTE, "Intel TDX quote, version 4", {"MRTD": 184, "REPORTDATA": 568, "QE MRSIGNER": 898}),
        (VECTORS / INTEL["sgx-v3-debug"]["quote"], "Intel SGX quote, version 3", {"MRENCLAVE": 112, "REPORTDATA": 368}),
        (VECTORS / INTEL["tdx-v5-uptodate"]["quote"], "Intel TDX quote, version 5", {"body type": 48, "MRSERVICETD": 654}),
        (VECTORS / "snp" / "milan-vcek-valid.report", "AMD SEV-SNP report, version 2", {"MEASUREMENT": 0x90, "CHIP_ID": 0x1A0}),
        (VECTORS / "snp" / "milan-vcek-valid.vcek.der", "certificate, DER", {"product": None, "chip id": None}),
        (VECTORS / "snp" / "certs" / "milan_ask_ark_asvk.pem", "3 certificates, PEM", {"certificate 2 subject": None}),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_show_names_every_field_of_a_file(confide: Any, path: Path, kind: str, fields: dict[str, int | None]) -> None:
    shown = confide("attest", "show", path, "--json").json
    assert shown["kind"] == kind
    assert shown["verified"] is False
    offsets = {field["name"]: field["offset"] for field in shown["fields"]}
    assert fields.items() <= offsets.items()
    said = confide("attest", "show", path)
    assert said.out.startswith(f"{kind}; nothing is verified here\n")
    assert all(name in said.out for name in fields)


def test_show_says_what_flags_mean(confide: Any) -> None:
    assert "DEBUG: protects nothing" in confide("attest", "show", VECTORS / INTEL["sgx-v3-debug"]["quote"]).out
    assert "DEBUG: protects nothing" in confide("attest", "show", VECTORS / "snp" / "milan-debug-policy.report").out


def test_fields_cover_a_file_without_gaps(confide: Any) -> None:
    """Bytes that no field shows are zeros, or could not be there."""
    raw = (VECTORS / "snp" / "milan-azure.report").read_bytes()
    seen = bytearray(raw)
    for field in confide("attest", "show", VECTORS / "snp" / "milan-azure.report", "--json").json["fields"]:
        value = bytes.fromhex(field["value"])
        assert raw[field["offset"] : field["offset"] + len(value)] == value
        seen[field["offset"] : field["offset"] + len(value)] = bytes(len(value))
    assert not any(seen)


@pytest.mark.parametrize("form", ["raw", "hex", "0x", "base64", "base64url"])
def test_verify_reads_evidence_in_every_usual_form(confide: Any, tmp_path: Path, form: str) -> None:
    raw = QUOTE.read_bytes()
    written = {
        "raw": raw,
        "hex": raw.hex().encode() + b"\n",
        "0x": b"0x" + raw.hex().encode(),
        "base64": base64.encodebytes(raw),
        "base64url": base64.urlsafe_b64encode(raw),
    }
    (tmp_path / "quote").write_bytes(written[form])
    found = confide("attest", "verify", tmp_path / "quote", "--collateral", COLLATERAL, "--at", AT, "--json").json
    assert found["genuine"]
    assert found["verifiers"] == ["confide", "dcap-qvl"]
    assert found["claims"]["tcb_status"] == "UpToDate"
    assert found["accepted"] is None


def test_verify_reads_an_evidence_record(confide: Any, tmp_path: Path) -> None:
    from confide.attest.evidence import Evidence
    from confide.ids import Tee

    record = {"evidence": Evidence.from_device(Tee.TDX, QUOTE.read_bytes()).to_json(), "node": "worker-1"}
    (tmp_path / "record.json").write_text(json.dumps(record))
    said = confide("attest", "verify", tmp_path / "record.json", "--collateral", COLLATERAL, "--at", AT)
    assert said.status == 0
    assert "genuine: as of" in said.out
    assert "by confide and dcap-qvl" in said.out
    assert "MRTD" in confide("attest", "show", tmp_path / "record.json").out


def test_verify_of_an_amd_report_takes_its_certificate(confide: Any, amd: Path) -> None:
    report, leaf = VECTORS / "snp" / "milan-vcek-valid.report", VECTORS / "snp" / "milan-vcek-valid.vcek.der"
    said = confide("attest", "verify", report, "--endorsement", leaf, "--collateral", amd, "--at", "2025-06-01")
    assert said.status == 0
    assert "bootloader 3" in said.out
    assert confide("attest", "verify", report, "--collateral", amd, "--at", "2025-06-01").status == 3


def test_verify_appraises_by_a_policy(confide: Any, tmp_path: Path) -> None:
    claims = confide("attest", "verify", QUOTE, "--collateral", COLLATERAL, "--at", AT, "--json").json["claims"]
    policy = tmp_path / "p.json"
    registers = {name: [claims["registers"][name]] for name in ("rtmr1", "rtmr2")}
    policy.write_text(json.dumps({"name": "mine", "measurements": {"tdx": [claims["measurement"]]}, "registers": registers}))
    said = confide("attest", "verify", QUOTE, "--collateral", COLLATERAL, "--at", AT, "--policy", policy, "--json")
    assert (said.status, said.json["accepted"]) == (0, True)
    policy.write_text(json.dumps({"name": "mine", "measurements": {"tdx": ["ab" * 48]}, "registers": registers}))
    said = confide("attest", "verify", QUOTE, "--collateral", COLLATERAL, "--at", AT, "--policy", policy)
    assert said.status == 3
    assert "NO" in said.out


def test_verify_refuses_what_is_not_genuine_or_not_current(confide: Any, tmp_path: Path) -> None:
    raw = bytearray(QUOTE.read_bytes())
    raw[200] ^= 1
    (tmp_path / "changed").write_bytes(raw)
    said = confide("attest", "verify", tmp_path / "changed", "--collateral", COLLATERAL, "--at", AT)
    assert said.status == 3
    assert "error[evidence-invalid]" in said.err
    said = confide("attest", "verify", QUOTE, "--collateral", COLLATERAL, "--at", "2029-01-01T00:00:00Z")
    assert "error[collateral-invalid]" in said.err


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.mark.usefixtures("home")
def test_collateral_is_taken_as_other_tools_and_services_have_it(confide: Any, tmp_path: Path) -> None:
    """Answers of Intel's service as several files; AMD's chain as a cloud gives it, with the chip's certificate before it."""
    found = json.loads(COLLATERAL.read_text())
    tcb = f'{{"tcbInfo":{found["tcb_info"]},"signature":"{found["tcb_info_signature"]}"}}'
    identity = f'{{"enclaveIdentity":{found["qe_identity"]},"signature":"{found["qe_identity_signature"]}"}}'
    chains = found["tcb_info_issuer_chain"] + found["pck_crl_issuer_chain"]
    options: list[Any] = ["--at", AT]
    for number, content in enumerate([tcb, identity, chains, found["root_ca_crl"], bytes.fromhex(found["pck_crl"])]):
        path = tmp_path / f"part-{number}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        options += ["--collateral", path]
    assert confide("attest", "verify", QUOTE, *options, "--json").json["claims"]["tcb_status"] == "UpToDate"
    said = confide("attest", "verify", QUOTE, *options[:-2])
    assert (said.status, "error[collateral-invalid]: a part of the collateral is missing" in said.err) == (3, True)
    leaf = x509.load_der_x509_certificate((VECTORS / "snp" / "turin-v5.vcek.der").read_bytes()).public_bytes(Encoding.PEM)
    (tmp_path / "chain.pem").write_bytes(b"# VCEK\n" + leaf + (VECTORS / "snp" / "certs" / "turin_ask_ark.pem").read_bytes())
    given = ("--endorsement", tmp_path / "chain.pem", "--collateral", tmp_path / "chain.pem", "--at", "2026-01-01", "--json")
    assert confide("attest", "verify", VECTORS / "snp" / "turin-v5.report", *given).json["claims"]["platform"] == "Turin"


def test_collateral_of_no_known_form_is_refused_with_the_forms_that_are(confide: Any, tmp_path: Path) -> None:
    (tmp_path / "what.json").write_text('{"hello": "world"}')
    said = confide("attest", "verify", QUOTE, "--collateral", tmp_path / "what.json", "--at", AT)
    assert said.status == 3
    assert "error[collateral-invalid]: the JSON is of no form that collateral is known in" in said.err
    assert "platform_collaterals.json" in said.err


def test_collateral_is_taken_to_another_machine(confide: Any, tmp_path: Path) -> None:
    assert confide("attest", "collateral", "ls").err == "no collateral is kept here\n"
    assert confide("attest", "collateral", "export", tmp_path / "none.json").status == 2
    assert not (tmp_path / "none.json").exists()
    (tmp_path / "bundle.json").write_text(json.dumps({"format": "confide-collateral-v1", "sets": [json.loads(COLLATERAL.read_text())]}))
    said = confide("attest", "collateral", "import", tmp_path / "bundle.json")
    assert said.out.startswith("kept: tdx b0c06f000000 platform, good until 2025-")
    assert "b0c06f000000" in confide("attest", "collateral", "ls").out
    assert confide("attest", "verify", QUOTE, "--at", AT).status == 0
    assert confide("attest", "collateral", "export", tmp_path / "out.json", "--json").json["sets"] == 1
    exported = json.loads((tmp_path / "out.json").read_text())["sets"][0]
    assert exported["tcb_info"] == json.loads(COLLATERAL.read_text())["tcb_info"]
    assert confide("attest", "collateral", "export", tmp_path / "out.json").status == 2


def test_collateral_that_is_not_kept_is_fetched_unless_offline(confide: Any, home: Path) -> None:
    """The recorded set went stale since: the service answers, and the answer is not believed."""
    server = VendorServer()
    server.serve_intel(load_collateral(COLLATERAL))  # type: ignore[arg-type]
    (home / "config.toml").write_text(f'intel_service = "{server.url}"\namd_service = "{server.url}"\n')
    try:
        assert "no collateral" in confide("attest", "verify", QUOTE, "--offline").err
        assert server.asked.total() == 0
        assert "stale" in confide("attest", "verify", QUOTE).err
        assert server.asked.total() == 4
        said = confide("attest", "verify", VECTORS / "snp" / "milan-vcek-valid.report")
        assert "no certificate for this chip" in said.err
    finally:
        server.close()
    assert not list((home / "collateral").glob("*.json"))


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"{}", b"[]", b"\0" * 100, b"ab" * 300, b"-----BEGIN CERTIFICATE-----\nx", b"x" * 200_000]
)
def test_file_that_is_no_evidence_is_refused_clearly(confide: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    for said in (
        confide("attest", "show", tmp_path / "file"),
        confide("attest", "verify", tmp_path / "file", "--collateral", COLLATERAL),
    ):
        assert said.status in {2, 3, 5}
        assert said.err.startswith("error[")
        assert "internal" not in said.err


def test_device_that_never_ends_is_no_evidence(confide: Any) -> None:
    for command in (("verify",), ("policy", "check", "/dev/zero"), ("policy", "new", "--build"), ("collateral", "import")):
        said = confide("attest", *command, "/dev/zero")
        assert said.status == 2, command
        assert "not a regular file" in said.err, command


def test_options_that_make_no_sense_are_refused(confide: Any) -> None:
    assert confide("attest", "show", QUOTE, "--node", "driver").status == 2
    assert confide("attest", "verify", QUOTE, "--collateral", COLLATERAL, "--at", "yesterday").status == 2

"""What the vendors' services are asked, word for word, and what is made of answers that lack something.  Nothing here uses a network."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.amd import Vendor, tcb_version

from confide.attest.certs import parse_chain
from confide.attest.collateral import Collateral
from confide.attest.collateral_forms import pem_of
from confide.attest.collateral_sources import load_collateral
from confide.attest.pck_id import PckId
from confide.attest.snp_report import Report
from confide.attest.vendor_http import Answer, Http
from confide.attest.vendor_services import AMD_KDS, INTEL_PCS, INTEL_ROOT_CRL, AmdService, IntelService, checked_url, open_services
from confide.errors import CollateralError, UsageError
from confide.ids import Tee

VECTORS = Path(__file__).parents[2] / "vectors"
TDX, SGX = (load_collateral(VECTORS / "intel" / "collateral" / f"{name}.json") for name in ("tdx-B0C0-2026-08", "sgx-A067-2025-06"))
assert isinstance(TDX, Collateral)
assert isinstance(SGX, Collateral)
PCCS = "https://pccs.example:8081"
Question = tuple[str, dict[str, Any]]


@dataclass
class Recorded(Http):
    """Answers by address, and what was asked."""

    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Question] = field(default_factory=list)

    def get(self, url: str, **parameters: str | int) -> Answer | None:
        self.asked.append((url, parameters))
        return self.answers.get(url)


def quoted(chain: str) -> str:
    return urllib.parse.quote(chain)


def intels(found: Collateral, url: str) -> dict[str, Answer]:
    """What Intel's service, or a PCCS, answers for this set."""
    kind = found.tee.value
    tcb = f'{{"tcbInfo":{found.tcb_info},"signature":"{found.tcb_info_signature.hex()}"}}'.encode()
    identity = f'{{"enclaveIdentity":{found.qe_identity},"signature":"{found.qe_identity_signature.hex()}"}}'.encode()
    root = INTEL_ROOT_CRL if url == INTEL_PCS else f"{url}/sgx/certification/v4/rootcacrl"
    return {
        f"{url}/{kind}/certification/v4/tcb": Answer(tcb, {"tcb-info-issuer-chain": quoted(found.tcb_info_issuer_chain)}),
        f"{url}/{kind}/certification/v4/qe/identity": Answer(
            identity, {"sgx-enclave-identity-issuer-chain": quoted(found.qe_identity_issuer_chain)}
        ),
        f"{url}/sgx/certification/v4/pckcrl": Answer(found.pck_crl, {"sgx-pck-crl-issuer-chain": quoted(found.pck_crl_issuer_chain)}),
        root: Answer(found.root_ca_crl, {}),
    }


def again(found: Collateral) -> Collateral:
    """The set with its chains as this program writes PEM."""
    chains = {name: text for name, text in found.to_json().items() if name.endswith("_chain")}
    return Collateral.from_json({**found.to_json(), **{name: pem_of(parse_chain(text.encode())) for name, text in chains.items()}})


# --- Intel ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [TDX, SGX], ids=["tdx", "sgx"])
@pytest.mark.parametrize("url", [INTEL_PCS, PCCS])
def test_intels_service_is_asked_in_the_words_of_its_interface(found: Collateral, url: str) -> None:
    """Intel's own root list is at an address of its own; a PCCS has it beside the rest."""
    http, kind = Recorded(answers=intels(found, url)), found.tee.value
    assert IntelService(http, url).get(*found.platform) == again(found)
    assert http.asked == [
        (f"{url}/{kind}/certification/v4/tcb", {"fmspc": found.fmspc.upper(), "update": "standard"}),
        (f"{url}/{kind}/certification/v4/qe/identity", {"update": "standard"}),
        (f"{url}/sgx/certification/v4/pckcrl", {"ca": found.ca, "encoding": "der"}),
        (INTEL_ROOT_CRL if url == INTEL_PCS else f"{url}/sgx/certification/v4/rootcacrl", {}),
    ]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("url", [INTEL_PCS, PCCS])
def test_each_answer_of_intels_service_is_needed(url: str, number: int) -> None:
    answers = intels(TDX, url)
    missing = list(answers)[number]
    del answers[missing]
    with pytest.raises(CollateralError, match=r"does not know this platform|not where it should be") as caught:
        IntelService(Recorded(answers=answers), url).get(*TDX.platform)
    assert caught.value.facts["url"] == missing


def test_platform_is_not_repeated_at_any_length() -> None:
    with pytest.raises(CollateralError, match="does not know this platform") as caught:
        IntelService(Recorded(), PCCS).get("a" * 100, "platform", Tee.SGX)
    assert caught.value.facts["fmspc"] == "A" * 40
    with pytest.raises(CollateralError, match="not a platform") as caught:
        AmdService(Recorded()).get("a" * 100, "vcek", Tee.SNP)
    assert caught.value.facts["platform"] == "a" * 40


def _pck(body: str, header: str) -> IntelService:
    answer = Answer(body.encode(), {"sgx-pck-certificate-issuer-chain": quoted(header)})
    return IntelService(Recorded(answers={f"{PCCS}/sgx/certification/v4/pckcert": answer}), PCCS)


def test_chain_of_a_pck_is_its_leaf_and_the_issuers_of_a_header() -> None:
    wanted = PckId.of((VECTORS / "intel" / "sgx-v3-eppid-no-pck.quote").read_bytes())
    assert wanted is not None
    leaf, root = (pem_of([one]) for one in parse_chain(TDX.tcb_info_issuer_chain.encode()))
    assert _pck(leaf, root).pck_chain(wanted) == (leaf + root).encode()
    for body in ("", "nonsense", leaf + "more"):
        with pytest.raises(CollateralError, match="no PCK certificate"):
            _pck(body, root).pck_chain(wanted)
    with pytest.raises(CollateralError, match="several certificates where one belongs") as caught:
        _pck(leaf + root, root).pck_chain(wanted)
    assert caught.value.facts["length"] == 2
    with pytest.raises(CollateralError, match="lacks its issuer chain"):
        _pck(leaf, "").pck_chain(wanted)


# --- AMD --------------------------------------------------------------------------------------------------------------


def test_amds_service_is_asked_in_the_words_of_its_interface() -> None:
    for product in ("Milan", "Genoa", "Turin"):
        for kind in ("vcek", "vlek"):
            wanted, base = Vendor(product).collateral(kind), f"{AMD_KDS}/{kind}/v1/{product}"
            http = Recorded(answers={f"{base}/cert_chain": Answer(wanted.chain.encode(), {}), f"{base}/crl": Answer(wanted.crl, {})})
            assert AmdService(http).get(product, kind, Tee.SNP) == wanted
            assert http.asked == [(f"{base}/cert_chain", {}), (f"{base}/crl", {})]


@pytest.mark.parametrize(
    "name",
    [
        ("Rome", "vcek", Tee.SNP),
        ("../Genoa", "vcek", Tee.SNP),
        ("genoa", "vcek", Tee.SNP),
        ("Genoa", "pek", Tee.SNP),
        ("Genoa", "platform", Tee.SNP),
        ("Genoa", "vcek", Tee.TDX),
        ("b0c06f000000", "platform", Tee.TDX),
    ],
    ids=str,
)
def test_amds_service_is_not_asked_for_what_it_cannot_have(name: tuple[str, str, Tee]) -> None:
    http = Recorded()
    with pytest.raises(CollateralError, match="not a platform that collateral exists for"):
        AmdService(http).get(*name)
    assert http.asked == []


@pytest.mark.parametrize("missing", ["cert_chain", "crl"])
def test_both_answers_of_amds_service_are_needed(missing: str) -> None:
    wanted, base = Vendor("Genoa").collateral(), f"{AMD_KDS}/vcek/v1/Genoa"
    answers = {f"{base}/cert_chain": Answer(wanted.chain.encode(), {}), f"{base}/crl": Answer(wanted.crl, {})}
    del answers[f"{base}/{missing}"]
    with pytest.raises(CollateralError, match="does not know this product"):
        AmdService(Recorded(answers=answers)).get("Genoa", "vcek", Tee.SNP)


def products_asked(raw: bytes) -> list[str]:
    """The products that the service is asked for, as it knows none of these chips."""
    http = Recorded()
    with pytest.raises(CollateralError, match="no certificate for this chip"):
        AmdService(http).endorsement(Report.parse(raw))
    return [url.removeprefix(f"{AMD_KDS}/vcek/v1/").partition("/")[0] for url, _ in http.asked]


@pytest.mark.parametrize(
    ("cpu", "products"),
    [
        ((0x19, 0x00), ["Milan"]),
        ((0x19, 0x0F), ["Milan"]),
        ((0x19, 0x10), ["Genoa"]),
        ((0x19, 0xAF), ["Genoa"]),
        ((0x1A, 0x00), ["Turin"]),
        ((0x1A, 0x11), ["Turin"]),
        ((0x18, 0x01), ["Milan", "Genoa"]),
        ((0x1B, 0x01), ["Milan", "Genoa"]),
    ],
    ids=str,
)
def test_product_is_the_processors(cpu: tuple[int, int], products: list[str]) -> None:
    assert products_asked(Vendor("Genoa").report(cpu=cpu, tcb=0)) == products


@pytest.mark.parametrize(
    ("chip_id", "products"),
    [
        (b"\xc1" * 8, ["Turin"]),
        (b"\0" * 7 + b"\1", ["Turin"]),
        (b"\xc1" * 9, ["Milan", "Genoa"]),
        (b"\xc1" * 64, ["Milan", "Genoa"]),
        (b"\xc1" + bytes(62) + b"\1", ["Milan", "Genoa"]),
    ],
    ids=["8 bytes", "the eighth", "9 bytes", "64 bytes", "first and last"],
)
def test_product_of_a_report_that_does_not_say_it_is_of_its_chips_id(chip_id: bytes, products: list[str]) -> None:
    assert products_asked(Vendor("Genoa").report(version=2, chip_id=chip_id, tcb=0)) == products


def test_product_whose_tcb_it_cannot_be_is_not_asked_for() -> None:
    """Byte 2 is reserved on Milan and Genoa, and the TEE's number on Turin."""
    tcb = 1 << 16
    assert products_asked(Vendor("Genoa").report(version=2, tcb=tcb)) == []
    assert products_asked(Vendor("Turin").report(version=2, tcb=tcb)) == ["Turin"]


@pytest.mark.parametrize("product", ["Genoa", "Turin"])
def test_key_of_a_chip_is_asked_for_at_its_tcb(product: str) -> None:
    vendor = Vendor(product, tcb={"bootloader": 1, "tee": 2, "snp": 3, "microcode": 4})
    url = f"{AMD_KDS}/vcek/v1/{product}/{vendor.chip_id.hex()}"
    http = Recorded(answers={url: Answer(b"leaf", {})})
    report = Report.parse(vendor.report(tcb=tcb_version({**vendor.tcb, **({"fmc": 5} if product == "Turin" else {})}, product)))
    assert AmdService(http).endorsement(report) == b"leaf"
    fmc = {"fmcSPL": 5} if product == "Turin" else {}
    assert http.asked == [(url, {"blSPL": 1, "teeSPL": 2, "snpSPL": 3, "ucodeSPL": 4, **fmc})]


def test_chip_without_a_name_or_under_another_key_is_not_asked_for() -> None:
    http, vendor = Recorded(), Vendor("Genoa")
    for raw in (vendor.report(chip_id=b""), vendor.report(flags=4)):
        with pytest.raises(CollateralError, match="does not say which chip"):
            AmdService(http).endorsement(Report.parse(raw))
    assert http.asked == []


# --- addresses --------------------------------------------------------------------------------------------------------


def test_services_are_the_vendors_own_unless_others_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Http, "get", lambda _, url, **__: asked.append(url))
    for intel, amd in (("", ""), (PCCS, ""), ("", "https://kds.example"), (PCCS, "https://kds.example/")):
        services, asked[:] = open_services(intel, amd, None), []
        for service, name in zip(services, (("00" * 6, "platform", Tee.SGX), ("Milan", "vcek", Tee.SNP)), strict=True):
            with pytest.raises(CollateralError, match="does not know"):
                service.get(*name)
        assert asked[0].startswith(f"{intel or INTEL_PCS}/sgx/")
        assert asked[1].startswith(f"{(amd or AMD_KDS).rstrip('/')}/vcek/v1/Milan/")
    with pytest.raises(UsageError):
        open_services("http://pccs.example", "", None)


def test_address_that_is_refused_is_not_repeated_at_any_length() -> None:
    with pytest.raises(UsageError) as caught:
        checked_url("http://" + "a" * 1000)
    assert caught.value.facts["got"] == "http://" + "a" * 193

"""Evidence that came without the certificate of the key that vouches for it: fetched once, kept if it was right, asked anew if not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.amd import NOW as AMD_NOW
from support.amd import Vendor
from support.pccs import PCK_PATH, NamingAttester, asking, serve_machine, serve_pck
from support.vendor_server import VendorServer

from confide.attest.annotate import annotate
from confide.attest.collateral_sources import FixedCollateral
from confide.attest.endorsements import REMEMBER, Endorsements
from confide.attest.evidence import Evidence
from confide.attest.insecure import InsecureAttester, Installation
from confide.attest.insecure.documents import Machine
from confide.attest.pck_id import PckId
from confide.attest.quote import parse_quote
from confide.attest.roots import TrustRoots
from confide.attest.vendor_http import Http
from confide.attest.vendor_services import AmdService, IntelService
from confide.attest.verify import Verifier
from confide.errors import CollateralError, EvidenceInvalidError
from confide.ids import ReportData, Tee

NOW = datetime(2030, 6, 1, tzinfo=UTC)
DATA = ReportData(bytes(64))
EPPID = (Path(__file__).parents[2] / "vectors" / "intel" / "sgx-v3-eppid-no-pck.quote").read_bytes()


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("endorsed") / "tee", now=NOW)


@pytest.fixture
def server() -> Iterator[VendorServer]:
    one = VendorServer()
    yield one
    one.close()


def naming(vendor: Installation, tee: Tee = Tee.SGX, **changes: object) -> NamingAttester:
    return NamingAttester(InsecureAttester(vendor, tee, {Tee.SGX: "5a" * 32, Tee.TDX: "5a" * 48}[tee]), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("tee", "cert_type"), [(Tee.SGX, 3), (Tee.SGX, 2), (Tee.TDX, 3)])
def test_chain_is_fetched_once_and_is_in_what_was_verified(vendor: Installation, server: VendorServer, tee: Tee, cert_type: int) -> None:
    serve_machine(server, vendor)
    verifier, attester = asking(vendor, server.url), naming(vendor, tee, cert_type=cert_type)
    first = verifier.verify(attester.quote(DATA), NOW)
    assert first.claims.tcb_status == "UpToDate"
    verifier.verify(attester.quote(DATA), NOW)
    assert server.asked[PCK_PATH] == 1
    bare = Verifier(TrustRoots(simulated=vendor.root_der), vendor.collateral_source())
    assert bare.verify(first.evidence, NOW).claims == first.claims, "judged again from files alone"
    with pytest.raises(EvidenceInvalidError, match="does not carry"):
        bare.verify(attester.shown[0], NOW)
    with pytest.raises(EvidenceInvalidError, match="does not carry"):
        verifier.with_collateral(vendor.collateral_source()).verify(attester.shown[0], NOW)


def test_evidence_that_is_whole_asks_for_nothing(vendor: Installation, server: VendorServer) -> None:
    verifier = asking(vendor, server.url)
    verifier.verify(InsecureAttester(vendor, Tee.SGX, "5a" * 32).quote(DATA), NOW)
    with pytest.raises(EvidenceInvalidError):
        verifier.verify(Evidence(Tee.SGX, b"no quote"), NOW)
    assert server.asked.total() == 0


def test_wrong_chain_is_refused_and_asked_for_anew(vendor: Installation, server: VendorServer) -> None:
    """The certificate of another chip (PPID) has another key; one of another PCEID is not the one that the quote names."""
    verifier, attester = asking(vendor, server.url), naming(vendor)
    serve_machine(server, vendor, Machine.OUT_OF_DATE)
    for _ in range(2):
        with pytest.raises(EvidenceInvalidError, match="quoting enclave's report"):
            verifier.verify(attester.quote(DATA), NOW)
    assert server.asked[PCK_PATH] == 2, "what was not right is not remembered"
    serve_machine(server, vendor)
    verifier.verify(attester.quote(DATA), NOW)
    with pytest.raises(EvidenceInvalidError, match="PCEID"):
        verifier.verify(naming(vendor, pce_id=b"\1\0").quote(DATA), NOW)


def test_chain_of_another_vendor_is_refused(vendor: Installation, server: VendorServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = Installation.create(tmp_path_factory.mktemp("other") / "tee", now=NOW)
    serve_machine(server, other)
    with pytest.raises(EvidenceInvalidError, match="root"):
        asking(vendor, server.url).verify(naming(vendor).quote(DATA), NOW)


@pytest.mark.parametrize("reply", [None, (500, {}, b""), (200, {}, b"no certificate")], ids=["unknown", "down", "nonsense"])
def test_pccs_that_has_no_chain_is_missing_collateral(vendor: Installation, server: VendorServer, reply: object) -> None:
    if reply is not None:
        server.replies[PCK_PATH] = reply  # type: ignore[assignment]
    with pytest.raises(CollateralError):
        asking(vendor, server.url).verify(naming(vendor).quote(DATA), NOW)


def test_chain_is_asked_for_again_after_a_day_and_when_it_is_not_good_any_more(vendor: Installation, server: VendorServer) -> None:
    serve_machine(server, vendor)
    now = NOW
    chains = Endorsements(IntelService(Http(retries=0), server.url), clock=lambda: now)
    verifier = Verifier(TrustRoots(simulated=vendor.root_der), vendor.collateral_source(), chains)
    evidence = naming(vendor).quote(DATA)
    verifier.verify(evidence, NOW)
    now = NOW + REMEMBER - timedelta(seconds=1)
    verifier.verify(evidence, NOW)
    assert server.asked[PCK_PATH] == 1
    with pytest.raises(EvidenceInvalidError, match="valid at this time"):
        verifier.verify(evidence, NOW + timedelta(days=365 * 100))
    verifier.verify(evidence, NOW)
    assert server.asked[PCK_PATH] == 2
    now = NOW + 3 * REMEMBER
    verifier.verify(evidence, NOW)
    assert server.asked[PCK_PATH] == 3


def test_chain_serves_for_a_day_each_time_that_it_was_asked_for(vendor: Installation, server: VendorServer) -> None:
    serve_machine(server, vendor)
    now = NOW
    chains = Endorsements(IntelService(Http(retries=0), server.url), clock=lambda: now)
    verifier = Verifier(TrustRoots(simulated=vendor.root_der), vendor.collateral_source(), chains)
    evidence = naming(vendor).quote(DATA)
    asked = []
    for hours in (0, 23, 24, 25, 47, 48):
        now = NOW + timedelta(hours=hours)
        verifier.verify(evidence, NOW)
        asked.append(server.asked[PCK_PATH])
    assert asked == [1, 1, 2, 2, 2, 3]


def test_vcek_is_fetched_for_a_report_without_one(server: VendorServer) -> None:
    vendor = Vendor("Genoa")
    raw = vendor.report(version=3)
    path = f"/vcek/v1/Genoa/{vendor.chip_id.hex()}"
    leaf = vendor.leaf()
    server.replies[path] = (200, {}, leaf)
    http = Http(retries=0)
    sources = Endorsements(IntelService(http, server.url), AmdService(http, server.url))
    verifier = Verifier(TrustRoots(amd=vendor.roots), FixedCollateral(vendor.collateral()), sources)
    for _ in range(2):
        assert verifier.verify(Evidence(Tee.SNP, raw), AMD_NOW).evidence.chain == leaf
    assert server.asked[path] == 1
    only_intel = Endorsements(IntelService(http, server.url))
    for bare in (Evidence(Tee.SNP, vendor.report(flags=4)), Evidence(Tee.SNP, b"no report")):
        assert sources.complete(bare) == bare
    assert only_intel.complete(Evidence(Tee.SNP, raw)).chain == b""


def test_show_names_what_a_quote_asks_for(vendor: Installation) -> None:
    """Offsets are the quote's own, and values the bytes there."""
    for quote in (EPPID, naming(vendor, cert_type=2).quote(DATA).quote, naming(vendor, Tee.TDX).quote(DATA).quote):
        fields = {field.name: field for field in annotate(quote).fields}
        named = PckId.of(quote)
        assert named is not None
        for name, value in (("encrypted PPID", named.encrypted_ppid), ("PCESVN", named.pce_svn), ("PCEID", named.pce_id)):
            offset = fields[name].offset
            assert offset is not None
            assert quote[offset : offset + len(value)] == value == bytes.fromhex(fields[name].value)
        last = fields["PCEID"].offset
        assert last == len(quote) - 2
        assert "PCCS" in fields["certification data type"].meaning
        assert fields["certification data size"].value == str(len(named.encrypted_ppid) + 20)
        size = fields["certification data size"].offset
        assert size is not None
        assert int.from_bytes(quote[size : size + 4], "little") == len(named.encrypted_ppid) + 20
    whole = InsecureAttester(vendor, Tee.SGX, "5a" * 32).quote(DATA).quote
    assert "encrypted PPID" not in {field.name for field in annotate(whole).fields}


def test_chain_with_a_foreign_leaf_is_not_the_quotes(vendor: Installation, server: VendorServer) -> None:
    """A leaf of another machine under the right issuers."""
    good, other = vendor.pck_chain(Machine.GOOD), vendor.pck_chain(Machine.REVOKED)
    head = b"-----BEGIN CERTIFICATE-----"
    serve_pck(server, head + other.split(head)[1] + b"".join(head + part for part in good.split(head)[2:]))
    with pytest.raises(EvidenceInvalidError, match="quoting enclave's report"):
        asking(vendor, server.url).verify(naming(vendor).quote(DATA), NOW)


def test_record_of_a_named_certificate_can_be_completed_twice(vendor: Installation, server: VendorServer) -> None:
    serve_machine(server, vendor)
    verifier, bare = asking(vendor, server.url), naming(vendor).quote(DATA)
    whole = verifier.complete(bare)
    assert whole == verifier.complete(whole) == replace(bare, chain=whole.chain)
    assert parse_quote(whole.quote).signature.cert_type == 3

"""Which evidence a certificate is asked for, by which names, and what of it is remembered.  The services here are in memory."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.amd import Vendor, tcb_version

from confide.attest.endorsements import Endorsements
from confide.attest.evidence import Evidence
from confide.attest.pck_id import PckId
from confide.attest.quote import parse_quote
from confide.attest.snp_report import Report
from confide.ids import Tee

VECTORS = Path(__file__).parents[2] / "vectors"
EPPID = (VECTORS / "intel" / "sgx-v3-eppid-no-pck.quote").read_bytes()
WITH_CHAIN = (VECTORS / "intel" / "tdx-v4-uptodate.quote").read_bytes()
NOW = datetime(2030, 6, 1, tzinfo=UTC)


@dataclass
class Services:
    """Both vendors' services: what they were asked, and an answer for each question."""

    asked: list[PckId | Report] = field(default_factory=list)

    def pck_chain(self, wanted: PckId) -> bytes:
        self.asked.append(wanted)
        return b"PCK %d" % len(self.asked)

    def endorsement(self, report: Report) -> bytes:
        self.asked.append(report)
        return b"VCEK %d" % len(self.asked)


@pytest.fixture
def services() -> Services:
    return Services()


@pytest.fixture
def sources(services: Services) -> Endorsements:
    return Endorsements(services, services, clock=lambda: NOW)


def snp(vendor: Vendor, **changes: Any) -> Evidence:
    return Evidence(Tee.SNP, vendor.report(**changes))


def serves(sources: Endorsements, services: Services, evidence: Evidence) -> bool:
    """Whether what is remembered serves for this evidence."""
    before = len(services.asked)
    sources.complete(evidence)
    return len(services.asked) == before


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_key_of_a_chip_is_asked_for(sources: Endorsements, services: Services, product: str) -> None:
    """Turin's ids have 8 bytes, and zeros in the rest of the field."""
    evidence = snp(Vendor(product))
    assert sources.complete(evidence) == replace(evidence, chain=b"VCEK 1")
    assert services.asked == [Report.parse(evidence.quote)]


def test_named_certificate_is_asked_for(sources: Endorsements, services: Services) -> None:
    bare = Evidence(Tee.SGX, EPPID)
    assert sources.complete(bare) == replace(bare, chain=b"PCK 1")
    assert services.asked == [PckId.of(EPPID)]


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(Tee.SGX, EPPID, b"a chain"),
        Evidence(Tee.TPM, EPPID),
        Evidence(Tee.TPM, Vendor("Genoa").report()),
        Evidence(Tee.TDX, WITH_CHAIN),
        Evidence(Tee.SGX, EPPID[:-1]),
        Evidence(Tee.SNP, EPPID),
        snp(Vendor("Genoa"), chip_id=b""),
        snp(Vendor("Genoa"), flags=4),
        replace(snp(Vendor("Genoa")), chain=b"a leaf"),
    ],
    ids=["chain given", "TPM", "TPM and report", "chain inside", "cut", "no report", "no chip", "VLEK", "leaf given"],
)
def test_nothing_is_asked_or_remembered_for_evidence_that_names_nothing(
    sources: Endorsements, services: Services, evidence: Evidence
) -> None:
    assert sources.complete(evidence) is evidence
    sources.keep(evidence, replace(evidence, chain=b"kept"))
    sources.forget(evidence)
    assert sources.complete(evidence) is evidence
    assert services.asked == []


def test_reports_are_left_as_they_are_without_amds_service(services: Services) -> None:
    evidence = snp(Vendor("Genoa"))
    assert Endorsements(services).complete(evidence) is evidence


def test_nothing_is_remembered_of_what_was_completed_with_nothing(sources: Endorsements, services: Services) -> None:
    for bare in (Evidence(Tee.SGX, EPPID), snp(Vendor("Genoa"))):
        sources.keep(bare, bare)
        assert not serves(sources, services, bare)


def test_certificate_that_was_right_serves_until_it_was_wrong(sources: Endorsements, services: Services) -> None:
    for bare in (Evidence(Tee.SGX, EPPID), snp(Vendor("Genoa"))):
        whole = sources.complete(bare)
        assert not serves(sources, services, bare), "what was not found right is not remembered"
        sources.keep(bare, whole)
        assert serves(sources, services, bare)
        assert sources.complete(bare) == whole
        sources.forget(bare)
        assert not serves(sources, services, bare)


def test_time_is_this_machines_unless_another_is_given(services: Services) -> None:
    sources, bare = Endorsements(services), Evidence(Tee.SGX, EPPID)
    sources.keep(bare, replace(bare, chain=b"kept"))
    assert serves(sources, services, bare)


def test_certificate_serves_for_less_than_a_day(services: Services) -> None:
    now = NOW
    sources, bare = Endorsements(services, clock=lambda: now), Evidence(Tee.SGX, EPPID)
    sources.keep(bare, replace(bare, chain=b"kept"))
    now = NOW + timedelta(days=1)
    sources.keep(bare, replace(bare, chain=b"another"))
    assert sources.complete(bare).chain == b"another", "one that does not serve any more is replaced"
    now = NOW + timedelta(days=2)
    assert not serves(sources, services, bare)


def _named(**changes: bytes) -> Evidence:
    """The quote, naming another certificate."""
    quote = parse_quote(EPPID)
    parts = {"ppid": quote.signature.cert_data[:384], "cpu_svn": quote.signature.cert_data[384:400]}
    parts |= {"pce_svn": quote.signature.cert_data[400:402], "pce_id": quote.signature.cert_data[402:]}
    header = replace(quote.header, user_data=changes.pop("user_data", quote.header.user_data))
    signature = replace(quote.signature, cert_data=b"".join((parts | changes).values()))
    return Evidence(Tee.SGX, replace(quote, header=header, signature=signature).to_bytes())


def test_a_thousand_certificates_are_remembered(sources: Endorsements, services: Services) -> None:
    """Of more, the one that was remembered first is forgotten first."""
    quotes = [_named(ppid=number.to_bytes(384)) for number in range(1001)]
    for bare in quotes[:1000]:
        sources.keep(bare, replace(bare, chain=b"kept"))
    assert all(serves(sources, services, bare) for bare in quotes[:1000])
    sources.keep(quotes[1000], replace(quotes[1000], chain=b"kept"))
    assert [serves(sources, services, bare) for bare in (quotes[0], quotes[1], quotes[999], quotes[1000])] == [False, True, True, True]


def test_eight_requests_are_under_way_at_once() -> None:
    """Whoever may send evidence makes a request: a crowd of made-up names is no crowd of requests."""
    lock, full, end = threading.Lock(), threading.Event(), threading.Event()
    under_way, most = 0, 0

    class Slow(Services):
        def pck_chain(self, wanted: PckId) -> bytes:
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)
                if under_way == 8:
                    full.set()
            end.wait(10)
            with lock:
                under_way -= 1
            return super().pck_chain(wanted)

    slow = Slow()
    sources = Endorsements(slow)
    threads = [threading.Thread(target=sources.complete, args=(_named(ppid=number.to_bytes(384)),)) for number in range(20)]
    for thread in threads:
        thread.start()
    assert full.wait(10)
    time.sleep(0.1)  # for a ninth to begin, if it could
    end.set()
    for thread in threads:
        thread.join()
    assert (most, len(slow.asked)) == (8, 20)


@pytest.mark.parametrize(
    "changes",
    [{"ppid": bytes(384)}, {"cpu_svn": bytes(16)}, {"pce_svn": b"\xfe\xfe"}, {"pce_id": b"\xfe\xfe"}, {"user_data": bytes(20)}],
    ids=str,
)
def test_each_part_of_a_name_is_another_certificate(sources: Endorsements, services: Services, changes: dict[str, bytes]) -> None:
    same, other = _named(), _named(**changes)
    assert same == Evidence(Tee.SGX, EPPID)
    sources.keep(same, replace(same, chain=b"kept"))
    assert serves(sources, services, same)
    assert not serves(sources, services, other)


def test_each_chip_tcb_and_processor_is_another_certificate(sources: Endorsements, services: Services) -> None:
    vendor = Vendor("Genoa")
    good = snp(vendor)
    sources.keep(good, replace(good, chain=b"kept"))
    assert serves(sources, services, snp(vendor, report_data=b"\1" * 64)), "another report of the same chip"
    higher = tcb_version({**vendor.tcb, "microcode": vendor.tcb["microcode"] + 1}, "Genoa")
    for changes in ({"chip_id": b"\xc2" * 64}, {"tcb": higher}, {"cpu": (0x19, 0x01)}, {"cpu": (0x1A, 0x11)}, {"version": 2}):
        assert not serves(sources, services, snp(vendor, **changes))

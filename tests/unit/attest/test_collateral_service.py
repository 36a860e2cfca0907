"""The collateral service against servers that answer as the vendors do, and as they must not."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.amd import NOW as AMD_NOW
from support.amd import Vendor
from support.vendor_server import Reply, VendorServer

from confide.attest.collateral import Collateral
from confide.attest.collateral_service import CollateralService, bundle, import_bundle
from confide.attest.collateral_sources import AnyCollateral, CollateralStore, FixedCollateral, load_collateral
from confide.attest.evidence import Evidence
from confide.attest.roots import TrustRoots
from confide.attest.snp_report import Report
from confide.attest.vendor_http import Http
from confide.attest.vendor_services import AmdService, IntelService, checked_url
from confide.attest.verify import Verifier
from confide.errors import CollateralError, UsageError
from confide.ids import Tee

FOLDER = Path(__file__).parents[2] / "vectors" / "intel" / "collateral"
OLD, NEW = (load_collateral(FOLDER / f"tdx-B0C0-{when}.json") for when in ("2025-06", "2026-08"))
assert isinstance(OLD, Collateral)
assert isinstance(NEW, Collateral)
NOW = datetime(2026, 8, 20, tzinfo=UTC)
B0C0 = ("b0c06f000000", "platform", Tee.TDX)


@pytest.fixture
def server() -> Iterator[VendorServer]:
    made = VendorServer()
    yield made
    made.close()


@pytest.fixture
def http() -> Http:
    return Http(timeout_s=0.5, retries=3, backoff_s=0.01)


@pytest.fixture
def make(server: VendorServer, http: Http, tmp_path: Path) -> Callable[..., CollateralService]:
    def build(now: datetime = NOW, folder: str = "store", roots: TrustRoots | None = None) -> CollateralService:
        intel, amd = IntelService(http, server.url), AmdService(http, server.url)
        return CollateralService(CollateralStore(tmp_path / folder), roots or TrustRoots(), intel=intel, amd=amd, clock=lambda: now)

    return build


def same(one: AnyCollateral, other: AnyCollateral) -> bool:
    """Whether both say the same under the same signatures: PEM may be spelt otherwise."""
    assert isinstance(one, Collateral)
    assert isinstance(other, Collateral)
    names = ("tcb_info", "tcb_info_signature", "qe_identity", "qe_identity_signature", "pck_crl", "root_ca_crl")
    return all(getattr(one, name) == getattr(other, name) for name in names)


# --- what is right ----------------------------------------------------------------------------------------------------


def test_intels_answers_become_collateral_that_verifies_a_real_quote(server: VendorServer, make: Any, tmp_path: Path) -> None:
    server.serve_intel(NEW)
    service = make()
    assert same(service.get(*B0C0), NEW)
    quote = (FOLDER.parent / "tdx-v4-uptodate.quote").read_bytes()
    assert Verifier(TrustRoots(), service).verify(Evidence.from_device(Tee.TDX, quote), NOW).claims.tcb_status == "OutOfDate"
    assert [path.name for path in (tmp_path / "store").glob("*.json")] == ["tdx-b0c06f000000-platform.json"]


def test_sgx_and_pem_and_older_headers_are_read_too(server: VendorServer, make: Any) -> None:
    from cryptography import x509

    found = load_collateral(FOLDER / "sgx-606A-2025-08.json")
    assert isinstance(found, Collateral)
    server.serve_intel(found, "sgx")
    status, headers, body = server.replies["/sgx/certification/v4/tcb"]
    server.replies["/sgx/certification/v4/tcb"] = (status, {f"SGX-{name}": value for name, value in headers.items()}, body)
    pem = x509.load_der_x509_crl(found.pck_crl).public_bytes(Encoding.PEM)
    server.replies["/sgx/certification/v4/pckcrl"] = (200, server.replies["/sgx/certification/v4/pckcrl"][1], pem)
    assert same(make(found.issued + timedelta(hours=1)).get(found.fmspc, found.ca, Tee.SGX), found)


def test_amds_answers_become_collateral_that_verifies_a_report(server: VendorServer, make: Any) -> None:
    vendor = Vendor("Genoa")
    server.serve_amd(vendor.collateral())
    service = make(AMD_NOW, roots=TrustRoots(amd=vendor.roots))
    verifier = Verifier(TrustRoots(amd=vendor.roots), service)
    assert verifier.verify(vendor.evidence(), AMD_NOW).claims.platform == "Genoa"
    assert server.asked == {"/vcek/v1/Genoa/cert_chain": 1, "/vcek/v1/Genoa/crl": 1}


@pytest.mark.parametrize(("product", "version"), [("Milan", 2), ("Milan", 4), ("Genoa", 2), ("Genoa", 3), ("Turin", 2), ("Turin", 5)])
def test_certificate_of_a_chip_is_fetched_for_its_tcb(server: VendorServer, http: Http, product: str, version: int) -> None:
    vendor = Vendor(product)
    raw = vendor.report(version=version)
    server.replies[f"/vcek/v1/{product}/{vendor.chip_id.hex()}"] = (200, {}, vendor.leaf())
    seen: list[str] = []
    server.before = lambda path, _: seen.append(path)  # type: ignore[func-returns-value]
    found = AmdService(http, server.url).endorsement(Report.parse(raw))
    Verifier(TrustRoots(amd=vendor.roots), FixedCollateral(vendor.collateral())).verify(Evidence(Tee.SNP, raw, found), AMD_NOW)
    query = dict(urllib.parse.parse_qsl(seen[-1].partition("?")[2]))
    assert query["blSPL"] == "4"
    assert ("fmcSPL" in query) == (product == "Turin")


def test_chip_that_amd_does_not_know_or_that_is_masked_has_no_certificate(server: VendorServer, http: Http) -> None:
    vendor, service = Vendor("Genoa"), AmdService(http, server.url)
    with pytest.raises(CollateralError, match="no certificate"):
        service.endorsement(Report.parse(vendor.report()))
    for raw in (vendor.report(chip_id=b""), vendor.report(flags=4)):
        with pytest.raises(CollateralError, match="which chip"):
            service.endorsement(Report.parse(raw))


# --- when it is fetched -----------------------------------------------------------------------------------------------


def test_kept_set_is_used_until_it_goes_stale_soon(server: VendorServer, make: Any) -> None:
    server.serve_intel(NEW)
    make().get(*B0C0)
    asked = server.asked.total()
    assert same(make().get(*B0C0), NEW)
    assert server.asked.total() == asked
    make(NEW.epoch.stale_from - timedelta(days=2)).get(*B0C0)
    assert server.asked.total() == 2 * asked


def test_service_that_is_down_does_not_matter_while_the_kept_set_is_valid(server: VendorServer, make: Any) -> None:
    server.serve_intel(NEW)
    make().get(*B0C0)
    server.before = lambda *_: (503, {}, b"")
    soon = make(NEW.epoch.stale_from - timedelta(hours=1))
    assert same(soon.get(*B0C0), NEW)
    asked = server.asked.total()
    assert same(soon.get(*B0C0), NEW)
    assert server.asked.total() == asked, "a service that has just failed is left alone"
    with pytest.raises(CollateralError):
        make(NEW.epoch.stale_from).get(*B0C0)


def test_many_threads_and_two_services_fetch_once(server: VendorServer, make: Any) -> None:
    server.serve_intel(NEW)
    server.before = lambda *_: time.sleep(0.05)  # type: ignore[func-returns-value]
    services = [make(), make()]
    found: list[AnyCollateral] = []
    threads = [threading.Thread(target=lambda n=n: found.append(services[n % 2].get(*B0C0))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert set(server.asked.values()) == {1}


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_service_that_is_busy_is_asked_again(server: VendorServer, make: Any, status: int) -> None:
    server.serve_intel(NEW)
    server.before = lambda _path, count: (status, {"Retry-After": "0"}, b"") if count < 3 else None
    assert same(make().get(*B0C0), NEW)
    assert set(server.asked.values()) == {3}


# --- what is wrong ----------------------------------------------------------------------------------------------------


def _instead(path: str, reply: Reply) -> Callable[[VendorServer], None]:
    return lambda server: server.replies.update({path: reply})


TCB, CRL, ROOT_CRL = "/tdx/certification/v4/tcb", "/sgx/certification/v4/pckcrl", "/sgx/certification/v4/rootcacrl"


def _tcb(body: bytes, **headers: str) -> Callable[[VendorServer], None]:
    return lambda server: server.replies.update({TCB: (200, headers or server.replies[TCB][1], body)})


@pytest.mark.parametrize(
    "wrong",
    [
        _instead(TCB, (404, {}, b"")),
        _instead(TCB, (302, {"Location": "http://127.0.0.1:1/"}, b"")),
        _instead(TCB, (204, {}, b"")),
        _instead(TCB, (401, {}, b"")),
        _tcb(b""),
        _tcb(b"\xff"),
        _tcb(b"[]"),
        _tcb(b"[" * 100_000),
        _tcb(b"{}"),
        _tcb(b'{"tcbInfo":{},"signature":3}'),
        _tcb(b'{"tcbInfo":{},"tcbInfo":{"a":1},"signature":"00"}'),
        _tcb(b'{"tcbInfo":{},"signature":"00"}'),
        _tcb(b"x" * 300_000),
        lambda server: server.replies.update({TCB: (200, {}, server.replies[TCB][2])}),
        lambda server: server.replies.update({TCB: (200, {"TCB-Info-Issuer-Chain": "nonsense"}, server.replies[TCB][2])}),
        _instead(CRL, (200, {}, NEW.pck_crl)),
        _instead(ROOT_CRL, (200, {}, b"zz")),
        _instead(ROOT_CRL, (200, {}, b"")),
        _instead(ROOT_CRL, (200, {}, NEW.pck_crl.hex().encode())),
    ],
)
def test_wrong_answer_is_refused_and_nothing_is_kept(
    server: VendorServer, make: Any, tmp_path: Path, wrong: Callable[[VendorServer], None]
) -> None:
    server.serve_intel(NEW)
    wrong(server)
    with pytest.raises(CollateralError):
        make().get(*B0C0)
    assert list((tmp_path / "store").glob("*.json")) == []


def test_unsigned_change_of_a_document_is_refused_and_does_not_raise_the_mark(server: VendorServer, make: Any) -> None:
    """A false service must not be able to lock out the true one with numbers that only grow."""
    forged = dataclasses.replace(NEW, tcb_info=NEW.tcb_info.replace('"tcbEvaluationDataNumber":20', '"tcbEvaluationDataNumber":99'))
    assert forged.tcb_info != NEW.tcb_info
    server.serve_intel(forged)
    with pytest.raises(CollateralError, match="signature"):
        make().get(*B0C0)
    server.serve_intel(NEW)
    assert same(make().get(*B0C0), NEW)


def test_answer_for_another_platform_is_refused(server: VendorServer, make: Any) -> None:
    server.serve_intel(load_collateral(FOLDER / "tdx-806F05-2025-07.json"))  # type: ignore[arg-type]
    with pytest.raises(CollateralError, match="another platform"):
        make().get(*B0C0)


def test_stale_answer_is_refused(server: VendorServer, make: Any) -> None:
    server.serve_intel(OLD)
    with pytest.raises(CollateralError, match="stale"):
        make().get(*B0C0)


def test_older_answer_than_the_kept_set_is_refused(server: VendorServer, make: Any, tmp_path: Path) -> None:
    """A rolled-back service: validly signed, even still valid, and older than what was seen."""
    CollateralStore(tmp_path / "store").put(NEW)
    server.serve_intel(OLD)
    with pytest.raises(CollateralError):
        make(OLD.issued + timedelta(hours=1), folder="empty").get("b0c06f000000", "processor", Tee.TDX)
    back_then = OLD.issued + timedelta(hours=1)
    store = CollateralStore(tmp_path / "store")
    with pytest.raises(CollateralError, match="older"):
        store.put(OLD)
    assert same(make(back_then, folder="fresh").get(*B0C0), OLD)
    assert same(store.get(*B0C0), NEW)


def test_slow_service_is_given_up(server: VendorServer, tmp_path: Path) -> None:
    release = threading.Event()
    server.before = lambda *_: release.wait(5)  # type: ignore[assignment,return-value]
    service = IntelService(Http(timeout_s=0.1, retries=0), server.url)
    began = time.monotonic()
    with pytest.raises(CollateralError, match="cannot be reached"):
        service.get(*B0C0)
    release.set()
    assert time.monotonic() - began < 4


def test_nobody_there_is_an_error() -> None:
    with pytest.raises(CollateralError, match="cannot be reached"):
        IntelService(Http(timeout_s=0.2, retries=1, backoff_s=0), "http://127.0.0.1:1").get(*B0C0)


@pytest.mark.parametrize(
    ("chain", "crl"),
    [
        (b"", None),
        (b"nonsense", None),
        (None, b"nonsense"),
        (None, Vendor("Genoa").crl(signed_by="SEV-Genoa")),
        (Vendor("Milan").collateral().chain.encode(), None),
    ],
)
def test_wrong_answer_of_amds_is_refused(server: VendorServer, make: Any, chain: bytes | None, crl: bytes | None) -> None:
    vendor = Vendor("Genoa")
    server.serve_amd(vendor.collateral())
    for name, body in (("cert_chain", chain), ("crl", crl)):
        if body is not None:
            server.replies[f"/vcek/v1/Genoa/{name}"] = (200, {}, body)
    with pytest.raises(CollateralError):
        make(AMD_NOW, roots=TrustRoots(amd=vendor.roots)).get("Genoa", "vcek", Tee.SNP)


@pytest.mark.parametrize("name", [("Rome", "vcek"), ("../Genoa", "vcek"), ("Genoa", "pek"), ("Turin", "vlek")])
def test_product_that_amd_does_not_have_is_refused(server: VendorServer, http: Http, name: tuple[str, str]) -> None:
    with pytest.raises(CollateralError):
        AmdService(http, server.url).get(*name, Tee.SNP)


USERS = ["https://u:p@host", "https://:p@host"]
UNSAFE = ["http://pccs.example", "ftp://localhost", "https://", *USERS, "https://host?x=1", "https://host#x", "host"]


@pytest.mark.parametrize("url", UNSAFE)
def test_address_that_is_not_safe_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        checked_url(url)
    assert checked_url("https://pccs.example:8081/") == "https://pccs.example:8081"
    for local in ("http://localhost:8081", "http://127.0.0.1", "http://[::1]:8081"):
        assert checked_url(local) == local


# --- bundles ----------------------------------------------------------------------------------------------------------


def test_bundle_is_taken_elsewhere_whole_or_not_at_all(tmp_path: Path) -> None:
    milan, store = Vendor("Milan"), CollateralStore(tmp_path)
    roots = TrustRoots(amd=milan.roots)
    data = json.loads(json.dumps(bundle([NEW, milan.collateral()])))
    forged = {**data, "sets": [data["sets"][0], {**data["sets"][1], "crl": milan.crl(signed_by="x").hex()}]}
    with pytest.raises(CollateralError):
        import_bundle(store, forged, roots)
    assert store.sets() == []
    assert len(import_bundle(store, data, roots)) == 2
    assert {one.platform[0] for one in store.sets()} == {"b0c06f000000", "Milan"}
    assert import_bundle(store, json.loads(json.dumps(bundle([OLD]))), roots) == []
    assert store.get(*B0C0) == NEW


@pytest.mark.parametrize(
    "data",
    [{}, {"format": "confide-collateral-v1"}, {"format": "x", "sets": []}, {"format": "confide-collateral-v1", "sets": [1]}],
)
def test_bundle_that_is_none_is_refused(tmp_path: Path, data: Any) -> None:
    with pytest.raises(CollateralError):
        import_bundle(CollateralStore(tmp_path), data, TrustRoots())

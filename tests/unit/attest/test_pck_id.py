"""A quote that only names its PCK certificate is verified with the chain that a PCCS gives for it, and with no other."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.amd import Vendor as Amd
from tests.support.vendor_server import VendorServer

from confide.attest.certs import parse_chain
from confide.attest.collateral import Collateral
from confide.attest.collateral_sources import FixedCollateral, load_collateral
from confide.attest.evidence import Evidence
from confide.attest.evidence_files import with_given_chain
from confide.attest.insecure import InsecureAttester, Installation
from confide.attest.pck_id import PckId
from confide.attest.quote import Quote, parse_quote
from confide.attest.roots import TrustRoots
from confide.attest.tpm_format import MAGIC
from confide.attest.vendor_http import Http
from confide.attest.vendor_services import IntelService
from confide.attest.verify import Verifier
from confide.errors import CollateralError, EvidenceInvalidError, ParseError
from confide.ids import ReportData, Tee

VECTORS = Path(__file__).parents[2] / "vectors"
NOW = datetime(2030, 6, 1, tzinfo=UTC)
EPPID = (VECTORS / "intel" / "sgx-v3-eppid-no-pck.quote").read_bytes()
PATH = "/sgx/certification/v4/pckcert"


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("pck") / "tee", now=NOW)


@pytest.fixture
def server() -> Iterator[VendorServer]:
    one = VendorServer()
    yield one
    one.close()


def _named(vendor: Installation, cert_type: int = 3, data: bytes = bytes(404)) -> tuple[Quote, bytes]:
    """A genuine quote that names its PCK certificate, and the chain that it would have carried."""
    quote = parse_quote(InsecureAttester(vendor, Tee.SGX, "5a" * 32).quote(ReportData(bytes(64))).quote)
    signature = dataclasses.replace(quote.signature, cert_type=cert_type, cert_data=data)
    return dataclasses.replace(quote, signature=signature), quote.signature.cert_data


def _verify(vendor: Installation, quote: Quote, chain: bytes) -> str:
    verifier = Verifier(TrustRoots(simulated=vendor.root_der), FixedCollateral(vendor.collateral(Tee.SGX)))
    return verifier.verify(Evidence(Tee.SGX, quote.to_bytes(), chain), NOW).claims.tcb_status


def _serve(server: VendorServer, chain: bytes) -> None:
    pem = [b"-----BEGIN CERTIFICATE-----" + block for block in chain.rstrip(b"\0").split(b"-----BEGIN CERTIFICATE-----")[1:]]
    header = {"SGX-PCK-Certificate-Issuer-Chain": urllib.parse.quote(b"".join(pem[1:]))}
    server.replies[PATH] = (200, header, pem[0])


def _service(server: VendorServer) -> IntelService:
    return IntelService(Http(timeout_s=2, retries=1, backoff_s=0), server.url)


def test_real_quote_is_asked_for_by_what_it_names(server: VendorServer) -> None:
    wanted = PckId.of(EPPID)
    assert wanted is not None
    seen: list[str] = []
    server.before = lambda path, _: seen.append(path)  # type: ignore[func-returns-value]
    with pytest.raises(CollateralError, match="does not know"):
        _service(server).pck_chain(wanted)
    query = dict(urllib.parse.parse_qsl(seen[0].partition("?")[2]))
    data = parse_quote(EPPID).signature.cert_data
    assert seen[0].startswith(PATH)
    assert bytes.fromhex("".join(query[name] for name in ("encrypted_ppid", "cpusvn", "pcesvn", "pceid"))) == data
    assert query["qeid"] == "f194966d13237d179ffd8f4dbcdd237d"


def test_real_quote_needs_the_chain_of_its_own_machine() -> None:
    collateral = load_collateral(VECTORS / "intel" / "collateral" / "sgx-606A-2025-08.json")
    verifier = Verifier(TrustRoots(), FixedCollateral(collateral))
    other = parse_quote((VECTORS / "intel" / "sgx-v3-swhardening.quote").read_bytes()).signature.cert_data
    now = datetime.fromtimestamp(1757310618, UTC)
    with pytest.raises(EvidenceInvalidError, match="does not carry its PCK"):
        verifier.verify(Evidence(Tee.SGX, EPPID), now)
    with pytest.raises(EvidenceInvalidError, match="quoting enclave's report"):
        verifier.verify(Evidence(Tee.SGX, EPPID, other), now)


@pytest.mark.parametrize(("cert_type", "length"), [(2, 276), (3, 404)])
def test_quote_is_verified_with_the_chain_of_a_pccs(vendor: Installation, server: VendorServer, cert_type: int, length: int) -> None:
    quote, chain = _named(vendor, cert_type, bytes(length))
    _serve(server, chain)
    wanted = PckId.of(quote.to_bytes())
    assert wanted is not None
    assert _verify(vendor, quote, _service(server).pck_chain(wanted)) == "UpToDate"


def test_quote_that_carries_its_chain_asks_for_none_and_takes_no_second(vendor: Installation) -> None:
    _, chain = _named(vendor)
    whole = InsecureAttester(vendor, Tee.SGX, "5a" * 32).quote(ReportData(bytes(64)))
    assert PckId.of(whole.quote) is None
    with pytest.raises(EvidenceInvalidError, match="second one is refused"):
        _verify(vendor, parse_quote(whole.quote), chain)


def test_chain_of_another_pceid_is_refused(vendor: Installation) -> None:
    quote, chain = _named(vendor, 3, bytes(402) + b"\1\0")
    with pytest.raises(EvidenceInvalidError, match="PCEID"):
        _verify(vendor, quote, chain)


def test_refusal_without_the_chain_is_not_forgotten_once_it_was_there(vendor: Installation) -> None:
    """What vouches for a quote is remembered by the quote's bytes and the chain that came with it."""
    quote, chain = _named(vendor)
    verifier = Verifier(TrustRoots(simulated=vendor.root_der), FixedCollateral(vendor.collateral(Tee.SGX)))
    verifier.verify(Evidence(Tee.SGX, quote.to_bytes(), chain), NOW)
    with pytest.raises(EvidenceInvalidError, match="does not carry"):
        verifier.verify(Evidence(Tee.SGX, quote.to_bytes()), NOW)


@pytest.mark.parametrize(("cert_type", "length"), [(1, 36), (3, 403), (3, 405), (2, 404), (4, 404)])
def test_certification_data_of_another_type_or_length_is_refused(vendor: Installation, cert_type: int, length: int) -> None:
    quote, chain = _named(vendor, cert_type, bytes(length))
    if cert_type in {2, 3}:
        with pytest.raises(ParseError):
            PckId.of(quote.to_bytes())
    else:
        assert PckId.of(quote.to_bytes()) is None
    with pytest.raises(EvidenceInvalidError):
        _verify(vendor, quote, chain)


@pytest.mark.parametrize("reply", [(200, {}, b"certificate"), (200, {}, b""), (500, {}, b""), (401, {}, b"")], ids=str)
def test_answer_that_is_no_certificate_is_refused(server: VendorServer, reply: tuple[int, dict[str, str], bytes]) -> None:
    wanted = PckId.of(EPPID)
    assert wanted is not None
    server.replies[PATH] = reply
    with pytest.raises(CollateralError):
        _service(server).pck_chain(wanted)


def test_answer_without_issuers_or_with_several_certificates_is_refused(vendor: Installation, server: VendorServer) -> None:
    quote, chain = _named(vendor)
    wanted = PckId.of(quote.to_bytes())
    assert wanted is not None
    _serve(server, chain)
    status, headers, leaf = server.replies[PATH]
    for reply in ((status, {}, leaf), (status, headers, chain)):
        server.replies[PATH] = reply
        with pytest.raises(CollateralError):
            _service(server).pck_chain(wanted)


def test_chain_that_came_with_collateral_is_used_for_a_quote_without_one(vendor: Installation) -> None:
    quote, chain = _named(vendor)
    plain = vendor.collateral(Tee.SGX)
    given = Collateral.from_json({**plain.to_json(), "pck_certificate_chain": chain.decode()})
    assert Collateral.from_json(given.to_json()) == given
    found = with_given_chain(Evidence(Tee.SGX, quote.to_bytes()), [plain, given])
    assert len(parse_chain(found.chain)) == 3
    assert _verify(vendor, quote, found.chain) == "UpToDate"
    whole = InsecureAttester(vendor, Tee.SGX, "5a" * 32).quote(ReportData(bytes(64)))
    assert with_given_chain(whole, [given]) == whole


def test_name_of_a_machine_is_not_in_a_repr() -> None:
    """What names the machine for as long as it lives, encrypted as it is."""
    wanted = PckId.of(EPPID)
    assert wanted is not None
    assert repr(wanted).startswith(f"PckId(cpu_svn={wanted.cpu_svn!r}, pce_svn=")


def test_chain_of_collateral_is_given_to_no_other_evidence(vendor: Installation) -> None:
    quote, chain = _named(vendor)
    given = Collateral.from_json({**vendor.collateral(Tee.SGX).to_json(), "pck_certificate_chain": chain.decode()})
    for evidence in (
        Evidence(Tee.SGX, quote.to_bytes(), b"its own"), Evidence(Tee.SNP, Amd("Milan").report()), Evidence(Tee.TPM, MAGIC),
        Evidence(Tee.TPM, quote.to_bytes()), Evidence(Tee.SNP, quote.to_bytes()),
    ):  # fmt: skip
        assert with_given_chain(evidence, [given]) == evidence
    plain = Evidence(Tee.SGX, quote.to_bytes())
    assert with_given_chain(plain, [Amd("Milan").collateral("vcek"), given]).chain == chain
    assert with_given_chain(plain, [Amd("Milan").collateral("vcek")]) == plain


def test_collateral_without_a_machines_chain_is_the_same_as_with_none(vendor: Installation) -> None:
    plain = vendor.collateral(Tee.SGX)
    assert Collateral.from_json({**plain.to_json(), "pck_certificate_chain": None}).digest == plain.digest

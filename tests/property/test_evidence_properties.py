"""Formats of evidence: what goes in comes out, and whatever else comes in is refused with a leaf of our own."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.amd import Vendor
from support.simulated_evidence import MEASUREMENTS, NOW, fresh

from confide.attest.certs import SgxExtension
from confide.attest.collateral import Collateral
from confide.attest.collateral_service import bundle, check_signed, read_bundle
from confide.attest.collateral_sources import AnyCollateral, FixedCollateral, load_collateral
from confide.attest.evidence import Evidence, NodeContext
from confide.attest.insecure import InsecureAttester, Installation
from confide.attest.quote import Quote, parse_quote, without_padding
from confide.attest.roots import TrustRoots
from confide.attest.snp_report import Report, encode_signature
from confide.attest.tpm import TpmCollateral
from confide.attest.tpm_format import TpmEvidence
from confide.attest.verify import Verifier
from confide.canonical import b64url, canonical, parse_object
from confide.errors import AttestationError, CollateralError
from confide.ids import JobDigest, NodeId, ReportData, RunId, Tee

VECTORS = Path(__file__).parents[1] / "vectors" / "intel"
NAMES = ("sgx-v3-confighard", "tdx-v4-uptodate", "tdx-v5-uptodate")
QUOTES = [parse_quote(without_padding((VECTORS / f"{name}.quote").read_bytes())) for name in NAMES]
sizes = settings(max_examples=60, deadline=None)
labels = st.from_regex(r"[a-z0-9](?:[a-z0-9._-]{0,40}[a-z0-9])?", fullmatch=True)
coordinates = st.binary(min_size=32, max_size=32).map(b64url)
svns = st.integers(0, 255)


def there_and_back(value: Any) -> Any:
    return type(value).from_json(parse_object(canonical(value.to_json())))


@given(st.sampled_from(Tee), st.binary(min_size=1, max_size=3000), st.binary(max_size=3000))
@sizes
def test_evidence_reads_back_from_json(tee: Tee, quote: bytes, chain: bytes) -> None:
    evidence = Evidence(tee, quote, chain)
    assert there_and_back(evidence) == evidence


@given(st.binary(min_size=48, max_size=48), labels, labels, coordinates, coordinates)
@sizes
def test_context_reads_back_and_its_digest_is_of_every_field(job: bytes, run: str, node: str, x: str, y: str) -> None:
    context = NodeContext(JobDigest(job.hex()), RunId(run), NodeId(node), {"kty": "EC", "crv": "P-256", "x": x, "y": y})
    assert there_and_back(context) == context
    assert dataclasses.replace(context, node=NodeId(node + "0")).digest != context.digest
    assert json.loads(json.dumps(context.to_json())) == context.to_json()


@given(st.sampled_from(QUOTES), st.binary(max_size=200), st.binary(min_size=64, max_size=64))
@sizes
def test_quote_with_other_authentication_data_and_signature_reads_back(quote: Quote, auth: bytes, signature: bytes) -> None:
    other = dataclasses.replace(quote, signature=dataclasses.replace(quote.signature, auth_data=auth, signature=signature))
    assert parse_quote(other.to_bytes()) == other


@given(
    st.binary(min_size=16, max_size=16),
    st.lists(svns, min_size=16, max_size=16).map(tuple),
    st.integers(0, 65535),
    st.binary(min_size=24, max_size=24),
    st.integers(0, 2),
)
@sizes
def test_sgx_extension_reads_back(ppid: bytes, tcb: tuple[int, ...], pce_svn: int, rest: bytes, sgx_type: int) -> None:
    extension = SgxExtension(ppid, tcb, pce_svn, rest[:16], rest[16:18], rest[18:24], sgx_type)
    assert SgxExtension.parse(extension.to_der()) == extension


# --- what is built as vendors build it ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("vendor") / "tee", now=NOW)


places, masks = st.integers(0, 2**32), st.integers(1, 255)


@given(tee=st.sampled_from([Tee.SGX, Tee.TDX]), data=st.binary(min_size=64, max_size=64), at=places, mask=masks)
@sizes
def test_simulated_quote_reads_back_and_is_refused_with_any_one_byte_changed(
    vendor: Installation, tee: Tee, data: bytes, at: int, mask: int
) -> None:
    evidence = InsecureAttester(vendor, tee, MEASUREMENTS[tee]).quote(ReportData(data))
    quote = parse_quote(evidence.quote)
    assert (quote.to_bytes(), quote.body.report_data, quote.tee) == (evidence.quote, data, tee)
    verifier = fresh(vendor)
    assert verifier.verify(evidence, NOW).claims.report_data == data
    # Certificates are text, in which a line may end in more than one way: the bytes before them each count.
    at %= len(evidence.quote) - len(quote.signature.cert_data)
    changed = evidence.quote[:at] + bytes([evidence.quote[at] ^ mask]) + evidence.quote[at + 1 :]
    with pytest.raises(AttestationError):
        verifier.verify(Evidence(tee, changed), NOW)


AMD = Vendor("Genoa")
report_fields = st.fixed_dictionaries({
    "version": st.sampled_from([2, 3, 5]),
    "report_data": st.binary(min_size=64, max_size=64),
    "measurement": st.binary(min_size=48, max_size=48),
    "vmpl": st.integers(0, 3),
    "policy": st.integers(0, (1 << 26) - 1).map(lambda bits: bits | 1 << 17),
})  # fmt: skip


@given(report_fields, st.integers(0, 1183), st.integers(1, 255))
@sizes
def test_snp_report_says_what_was_put_into_it_and_is_refused_with_any_one_byte_changed(fields: dict[str, Any], at: int, mask: int) -> None:
    raw = AMD.report(**fields)
    report = Report.parse(raw)
    assert {name: getattr(report, name) for name in fields} == fields
    assert raw[672:] == encode_signature(*report.signature)
    verifier = Verifier(TrustRoots(amd=AMD.roots), FixedCollateral(COLLATERAL))
    changed = raw[:at] + bytes([raw[at] ^ mask]) + raw[at + 1 :]
    with pytest.raises(AttestationError):
        verifier.verify(Evidence(Tee.SNP, changed, LEAF), AMD.now)


LEAF, COLLATERAL = AMD.leaf(), AMD.collateral()
blobs = st.binary(max_size=80)
registers = st.lists(st.binary(min_size=32, max_size=32), max_size=4).map(tuple)


@given(st.binary(min_size=64, max_size=64), st.tuples(blobs, blobs, blobs), registers, blobs)
@sizes
def test_tpm_evidence_reads_back(data: bytes, parts: tuple[bytes, bytes, bytes], pcrs: tuple[bytes, ...], log: bytes) -> None:
    evidence = TpmEvidence(data, *parts, pcrs, log)
    assert TpmEvidence.parse(evidence.to_bytes()) == evidence


# --- collateral -------------------------------------------------------------------------------------------------------

INTEL_SETS = [load_collateral(path) for path in sorted((VECTORS / "collateral").glob("*.json"))]
amd_sets = st.builds(
    lambda serial, number, days: AMD.collateral(crl=AMD.crl(serial, number=number, until=AMD.now + timedelta(days=days))),
    st.integers(1, 2**64), st.integers(0, 2**40), st.integers(1, 300),
)  # fmt: skip
tpm_times = st.datetimes(timezones=st.just(UTC))
tpm_sets = st.builds(lambda root, end: TpmCollateral(root.hex(), end.isoformat()), st.binary(min_size=32, max_size=32), tpm_times)


@given(st.lists(st.one_of(st.sampled_from(INTEL_SETS), amd_sets, tpm_sets), max_size=5))
@sizes
def test_bundle_of_collateral_reads_back_under_the_same_digests(sets: list[AnyCollateral]) -> None:
    found = read_bundle(parse_object(json.dumps(bundle(sets))))
    assert found == sets
    assert [one.digest for one in found] == [one.digest for one in sets]
    assert [one.epoch for one in found] == [one.epoch for one in sets]


@given(st.sampled_from(INTEL_SETS), st.sampled_from(["tcb_info", "qe_identity", "root_ca_crl", "pck_crl", "tcb_info_signature"]), st.data())
@sizes
def test_collateral_with_any_one_byte_changed_is_refused(collateral: Collateral, name: str, data: st.DataObject) -> None:
    value = getattr(collateral, name)
    raw = value.encode() if isinstance(value, str) else value
    at, mask = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(1, 127))
    changed = raw[:at] + bytes([raw[at] ^ mask]) + raw[at + 1 :]
    forged = dataclasses.replace(collateral, **{name: changed.decode("utf-8", "replace") if isinstance(value, str) else changed})
    with pytest.raises(CollateralError):
        check_signed(forged, TrustRoots())

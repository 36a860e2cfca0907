"""Formats of evidence: what goes in comes out, and whatever else comes in is refused with a leaf of our own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from confide.attest.certs import SgxExtension
from confide.attest.evidence import Evidence, NodeContext
from confide.attest.quote import Quote, parse_quote, without_padding
from confide.canonical import b64url, canonical, parse_object
from confide.ids import JobDigest, NodeId, RunId, Tee

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
